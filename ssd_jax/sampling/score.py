"""The score of the marginals of a process, from what a denoiser says of their clean images."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from ssd_jax.errors import InputError
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.denoise import Denoise


def score(
    denoise: Denoise,
    process: ScaleSpaceProcess,
    x: Float[Array, "batch *shape channels"],
    t: Int[Array, "batch"],
    label: Num[Array, "batch *vector"] | None = None,
    *,
    stage: Stage,
) -> Float[Array, "batch *shape channels"]:
    """grad_x log p_t(x) of the marginal (1), by Tweedie's formula; traceable.

        score = (a_t E[z_t | x] - x) / sigma_t^2,    z_t = A_t x_0

    The noise of (1) is white at the state's own resolution, so that nothing is to be inverted, whatever A_t; E[z_t | x] is
    z_hat, a sharp image at stage.out_level, brought to the state's level and blur.

    Args:
        denoise: the denoiser; its score is the marginal's where it is E[z | x].
        process: of the states.
        x: states x_t, all of `stage`.
        t: their timesteps, int [batch].
        label: int [batch] or float [batch, size], handed to `denoise`.
        stage: the stage of the timesteps (`process.stages`).

    Raises:
        InputError: if some timestep of the stage has no noise, sigma_t = 0: its marginal has no density.
    """
    quiet = next((t for t in range(stage.t_min, stage.t_max + 1) if process.sigma[t] == 0), None)
    if quiet is not None:
        raise InputError(f"x_{quiet} of this process has no noise, so that it has no score; give it a finite log-SNR")
    z = denoise(x, t, label, stage=stage)
    mean = process.noisy_state(z, t, jnp.zeros_like(x), level=stage.in_level, start=stage.out_level)
    variance = jnp.asarray(process.sigma**2, x.dtype)[t]
    return (mean - x) / jnp.expand_dims(variance, range(1, x.ndim))
