"""What the variational bound and the likelihood have in common: 8-bit pixels given the least noisy state, and checks."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Num

from ssd_jax.compilation import COMPILER_OPTIONS
from ssd_jax.errors import InputError
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.denoise import Denoise
from ssd_jax.sampling.plan import Plan

HALF_BIN = 1 / 255  # pixels are 2 / 255 apart in [-1, 1]


def check_plan(plan: Plan) -> None:
    """Raises InputError unless the plan leads from N(0, I) to a state with noise, which alone has a density."""
    process = plan.process
    if not process.prior_is_noise:
        raise InputError(
            f"x_T-1 of this process is not noise (log-SNR {process.log_snr[-1]:.2f}), so that its images have no "
            "likelihood: it must end in N(0, I), as with process.zero_terminal_snr=True"
        )
    if process.sigma[0] == 0:
        raise InputError("x_0 of this process has no noise, so that it has no density; log_snr[0] must be finite")
    if plan.timesteps[0] != process.num_timesteps - 1:
        raise InputError(
            f"plan begins at t = {plan.timesteps[0]}, but a likelihood is of a whole plan, from t = "
            f"{process.num_timesteps - 1}; leave its start out"
        )


@partial(jax.jit, static_argnames=("process", "stage"), compiler_options=COMPILER_OPTIONS)
def log_pixels(
    denoise: Denoise,
    images: Float[Array, "batch *shape channels"],
    x: Float[Array, "batch *shape channels"],
    label: Num[Array, "batch *vector"] | None,
    *,
    process: ScaleSpaceProcess,
    stage: Stage,
) -> Float[Array, "batch"]:
    """log P(image | x_{t=0}) in nats of 8-bit pixels: the discretised Gaussian of Ho et al. (2020), equation 13.

    Every pixel is N(z_hat, sigma_0^2 / a_0^2) over the bin of width 2 / 255 around its value; the bins of 0 and of 255 go
    on to infinity, so that the 256 probabilities sum to 1.

    Args:
        denoise: the denoiser, a pytree.
        images: x_0, float32 in [-1, 1], whole numbers of 0..255 scaled.
        x: states at t = 0.
        label: classes, int [batch], or None.
        process, stage: of the states; the stage of t = 0.
    """
    z = denoise(x, jnp.zeros(len(x), jnp.int32), label, stage=stage)
    deviation = process.sigma[0] / process.alpha[0]
    below = jnp.where(images < -1 + HALF_BIN, -jnp.inf, (images - HALF_BIN - z) / deviation)
    above = jnp.where(images > 1 - HALF_BIN, jnp.inf, (images + HALF_BIN - z) / deviation)
    mirrored = below + above > 0  # in the lower tail alone log_ndtr keeps its digits
    low, high = jnp.where(mirrored, -above, below), jnp.where(mirrored, -below, above)
    top = log_ndtr(high)
    return per_image(top + jnp.log(-jnp.expm1(log_ndtr(low) - top)))


def log_normal(eps: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    """log N(eps; 0, I) of every image, in nats."""
    return -per_image(jnp.square(eps) + math.log(2 * math.pi)) / 2


def per_image(values: Float[Array, "batch ..."]) -> Float[Array, "batch"]:
    """The sum over all that an image has."""
    return jnp.sum(values, axis=range(1, values.ndim))


def bits_per_dimension(nats: dict[str, Float[Array, "batch"]], images: jax.Array) -> dict[str, Float[Array, "batch"]]:
    """Nats of every image as bits per pixel and channel."""
    return {name: each / (math.log(2) * math.prod(images.shape[1:])) for name, each in nats.items()}
