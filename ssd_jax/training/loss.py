"""The training loss: weighted squared error of the predicted clean image, one stage at a time."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num

from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage

TINY = 1e-15  # at which exp(-log^2 / 2) is 0 in float32
SIGMOID_BIAS = 2.0  # Kingma & Gao 2023: of SNRs far above e^2 all weigh e^2
LEARNED = "learned"  # the weighting that is trained, by `log_variance`
Shares = Sequence[float] | Float[Array, "parts"]  # of draws that each part of a stage's timesteps gets

LossWeighting = Callable[[Any, Any], Any]


def _logit_normal(snr):
    """The density of s = sigma / (a + sigma) whose logit is N(0, 1)."""
    ratio = jnp.maximum(snr**0.5, TINY)  # (1 - s) / s
    normal = jnp.exp(-(jnp.log(ratio) ** 2) / 2) / math.sqrt(2 * math.pi)
    return normal * (1 + ratio) ** 2 / ratio  # over ds / dlogit


# w of (SNR of x_t, variance of the sharp image's pixels), of the squared error of z; along a direction with g = a_t that is
# w c_out^2 of that of what the network says, so that one w is the right one for every parameterisation.
LOSS_WEIGHTINGS: dict[str, LossWeighting] = {
    "min_snr": lambda snr, _: jnp.minimum(snr, 5.0),  # Hang et al. 2023
    "snr": lambda snr, _: snr,  # of the error of eps: 1
    "constant": lambda snr, _: jnp.ones_like(snr),
    "sigmoid": lambda snr, _: snr / (1 + snr * math.exp(-SIGMOID_BIAS)),  # of that of eps: sigmoid(bias - log SNR)
    "edm": lambda snr, variance: snr + 1 / variance,  # 1 / c_out^2 of "edm" (Karras et al. 2022)
    "flow": lambda snr, _: (1 + snr**0.5) ** 2,  # of the error of the velocity: 1 (Liu et al. 2023)
    "logit_normal": lambda snr, _: (1 + snr**0.5) ** 2 * _logit_normal(snr),  # as of s drawn so (Esser et al. 2024)
    LEARNED: lambda snr, _: snr + 1,  # of the error of v: 1; `log_variance` makes up for it
}


def stage_loss(
    denoiser: Callable[..., jax.Array],
    process: ScaleSpaceProcess,
    stage: Stage,
    images: Float[Array, "batch *shape channels"],
    label: Num[Array, "batch *vector"] | None,
    keys: Key[Array, "batch"],
    weighting: str,
    *,
    variance: float = 1.0,
    log_variance: Callable[[jax.Array], jax.Array] | None = None,
    shares: Shares = (1.0,),
    label_dropout: float = 0.0,
    null_label: int | float | None = None,
    training: bool = True,
) -> Float[Array, ""]:
    """Mean over images of w(SNR_t) |z_hat - z_s|^2 / dim, with s = max(t - 1, 0): its expectation is over uniform t.

    With a log-variance u_t: of e^(-u_t) times that, plus u_t.

    The target is the clean image at stage.out_level, where x_s lives; the SNR is that of x_t. z_hat is affine in the
    network's output F, so that this is also w |C_out (F - F*)|^2 / dim with F* = `Parameterisation.target`: whatever a
    network predicts, its loss is the error of z, and losses can be compared.

    Args:
        denoiser: what is trained, or any function with the signature of `Denoiser.__call__`.
        images: x_0, float32 [batch, *process.shape, channels] in [-1, 1].
        label: int [batch] or float [batch, size], or None.
        keys: one per image, for its timestep, noise, dropout and label dropout: they do not depend on the batch.
        weighting: a key of LOSS_WEIGHTINGS.
        variance: of the pixels of the target, for weightings that depend on it.
        log_variance: u of timesteps.
        shares: of the images that get a t of each part of the stage (`Stage.parts`); they are weighted to make up for it.
        label_dropout: probability that an image's label is replaced by `null_label` (Ho & Salimans 2022).
        null_label: the label of "any", `protocol.null_label` of the network; needed if labels are dropped.
        training: whether dropout is on and labels are dropped.

    Returns:
        float32 scalar.
    """
    time_keys, noise_keys, dropout_keys, label_keys = jax.vmap(partial(jax.random.split, num=4), out_axes=1)(keys)
    t = jax.vmap(partial(_timestep, stage, shares))(time_keys)
    target = process.degrade(images, stage.out_level)
    shape = (*process.level_shape(stage.in_level), images.shape[-1])
    noise = jax.vmap(lambda key: jax.random.normal(key, shape, images.dtype))(noise_keys)
    x = process.noisy_state(target, t, noise, level=stage.in_level, start=stage.out_level)
    if training and label is not None and null_label is not None:
        dropped = jax.vmap(lambda key: jax.random.bernoulli(key, label_dropout))(label_keys)
        label = jnp.where(jnp.expand_dims(dropped, range(1, label.ndim)), null_label, label)
    predicted = denoiser(x, t, label, stage=stage, dropout_keys=dropout_keys if training else None)
    weight = LOSS_WEIGHTINGS[weighting](jnp.exp(jnp.asarray(process.log_snr, jnp.float32))[t], variance)
    losses = weight * jnp.mean(jnp.square(predicted - target), axis=range(1, target.ndim))
    if log_variance is not None:
        u = log_variance(t)
        losses = jnp.exp(-u) * losses + u
    if len(shares) > 1:
        losses = losses * _importance(stage, shares, t)
    return jnp.mean(losses)


def _timestep(stage: Stage, shares: Shares, key: Key[Array, ""]) -> Int[Array, ""]:
    """A timestep of the stage, from its parts by their shares."""
    if len(shares) == 1:
        return jax.random.randint(key, (), stage.t_min, stage.t_max + 1)
    first, end = _ends(stage, len(shares))
    part_key, time_key = jax.random.split(key)
    part = jnp.searchsorted(jnp.cumsum(jnp.asarray(shares, jnp.float32))[:-1], jax.random.uniform(part_key), side="right")
    return jax.random.randint(time_key, (), first[part], end[part])


def _importance(stage: Stage, shares: Shares, t: Int[Array, "batch"]) -> Float[Array, "batch"]:
    """The probability of these timesteps if all were alike, over the one that they have."""
    first, end = _ends(stage, len(shares))
    part = jnp.sum(t[:, None] < first, axis=1)  # noisiest first
    return (end - first)[part] / (stage.t_max + 1 - stage.t_min) / jnp.asarray(shares, jnp.float32)[part]


def _ends(stage: Stage, count: int) -> tuple[Int[Array, "parts"], Int[Array, "parts"]]:
    """Where the parts of a stage begin, and end before."""
    parts = stage.parts(count)
    return jnp.array([part.t_min for part in parts]), jnp.array([part.t_max + 1 for part in parts])
