"""The training loss: weighted squared error of the predicted clean image, one stage at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage

LOSS_WEIGHTINGS = {
    "min_snr": lambda snr: jnp.minimum(snr, 5.0),  # Hang et al. 2023
    "snr": lambda snr: snr,
    "constant": jnp.ones_like,
}


def stage_loss(
    denoiser: Callable[..., jax.Array],
    process: ScaleSpaceProcess,
    stage: Stage,
    images: Float[Array, "batch h w channels"],
    label: Int[Array, "batch"] | None,
    key: jax.Array,
    weighting: str,
    *,
    label_dropout: float = 0.0,
    null_label: int | None = None,
) -> Float[Array, ""]:
    """Mean over images of w(SNR_t) |z_hat - z_s|^2 / dim, with t uniform in the stage and s = max(t - 1, 0).

    The target is the clean image at stage.out_level, where x_s lives; the SNR is that of x_t. z_hat is affine in the
    network's output F, so that this is also w |C_out (F - F*)|^2 / dim with F* = `Parameterisation.target`: whatever a
    network predicts, its loss is the error of z, and losses can be compared.

    Args:
        denoiser: what is trained, or any function with the signature of `Denoiser.__call__`; dropout is on.
        images: x_0, float32 [batch, *process.shape, channels] in [-1, 1].
        label: classes, int [batch], or None.
        key: for timesteps, noise, dropout and label dropout.
        weighting: a key of LOSS_WEIGHTINGS.
        label_dropout: probability that an image's label is replaced by `null_label` (Ho & Salimans 2022).
        null_label: the label of "any class"; needed if labels are dropped.

    Returns:
        float32 scalar.
    """
    time_key, noise_key, dropout_key, label_key = jax.random.split(key, 4)
    t = jax.random.randint(time_key, images.shape[:1], stage.t_min, stage.t_max + 1)
    target = process.degrade(images, stage.out_level)
    shape = (len(images), *process.level_shape(stage.in_level), images.shape[-1])
    noise = jax.random.normal(noise_key, shape, images.dtype)
    x = process.noisy_state(target, t, noise, level=stage.in_level, start=stage.out_level)
    if label is not None and null_label is not None:
        label = jnp.where(jax.random.bernoulli(label_key, label_dropout, label.shape), null_label, label)
    predicted = denoiser(x, t, label, stage=stage, train=True, rngs=nnx.Rngs(dropout=dropout_key))
    weight = LOSS_WEIGHTINGS[weighting](jnp.exp(jnp.asarray(process.log_snr, jnp.float32))[t])
    return jnp.mean(weight * jnp.mean(jnp.square(predicted - target), axis=range(1, target.ndim)))
