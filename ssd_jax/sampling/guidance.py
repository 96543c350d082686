"""Guidance and thresholding: each takes a denoiser and returns another one.

A denoiser is any function denoise(x, t, label, *, stage) -> z_hat (`Denoise`). What is returned is a
`jax.tree_util.Partial`, so that parameters, scales and intervals stay arguments of the compiled programs and changing their
values compiles nothing. What is guided is the prediction of the clean image: as x_t is given, that is the same as guiding
the noise or the score.

Guided predictions may leave the range of images, so guide first and threshold last:

    clipped(classifier_free(network, 2.0, null_label=8), process.bounds)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float

from ssd_jax.errors import InputError, check_range, checked_arguments, section
from ssd_jax.sampling.denoise import Denoise, as_pytree

Interval = tuple[float, float]
MAX_GUIDANCE = 1000
TINY = 1e-12  # instead of a norm of 0


@section("guidance")
@dataclass(frozen=True)
class Guidance:
    """How strongly a denoiser is guided, where, and along what. Where one is asked for, a number is one of that scale.

    Attributes:
        scale: >= 0. 1 is none, at no cost; 0 is what one guides away from; above 1 the difference counts for more.
        interval: (low, high), guides only where low <= log-SNR <= high and is plain, at the plain cost, elsewhere
            (Kynkaanniemi et al. 2024; their noise level sigma is exp(-log_snr / 2)). None guides everywhere.
        parallel: weight, 0 to 1, of what guidance adds along the prediction (`_projected`); 1 is plain guidance.
        max_norm: largest root mean square, > 0, of what a scale of 2 adds; None bounds nothing.

    Raises:
        InputError: for values out of range, and for parallel or max_norm without effect, as the scale is 1.
    """

    scale: float
    interval: Interval | None = None
    parallel: float = 1.0
    max_norm: float | None = None

    def __post_init__(self):
        check_range("guidance.scale", self.scale, low=0, high=MAX_GUIDANCE)
        if self.interval is not None:
            low, high = self.interval
            if not low <= high:
                raise InputError(
                    f"guidance.interval is ({low}, {high}), but must be (low, high) in log-SNR with low <= high"
                )
        check_range("guidance.parallel", self.parallel, low=0)
        if self.parallel > 1:
            raise InputError(f"guidance.parallel is {self.parallel}, but must be <= 1")
        if self.max_norm is not None:
            check_range("guidance.max_norm", self.max_norm, low=0, open_low=True)
        if self.scale == 1 and (self.parallel != 1 or self.max_norm is not None):
            raise InputError(
                "guidance.parallel or guidance.max_norm is given, but guidance.scale is 1, which is none; give a scale "
                "above 1, e.g. 1.5"
            )


@checked_arguments
def classifier_free(
    denoise: Denoise,
    guidance: Guidance | float,
    *,
    null_label: int | float,
    log_snr: Float[np.ndarray, "timesteps"] | None = None,
) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): z = z_uncond + scale (z_cond - z_uncond).

    Both predictions come from one call of twice the batch.

    Args:
        denoise: a denoiser trained with label dropout, not clipped; returned itself if the scale is 1.
        guidance: its scale, or more of it. A scale of 0 is unconditional.
        null_label: the label of "any", `protocol.null_label` of the network: the number after the classes; NaN for vectors.
        log_snr: of every timestep, [T]; needed with an interval. `ScaleSpaceProcess.image_log_snr` means the same at every
            level.

    Raises:
        InputError: for guidance that cannot be used; when called, if there is no label.
    """
    guidance = as_guidance(guidance)
    weights, projection = _weights(guidance, log_snr), _projection(guidance)
    if guidance.scale == 1:
        return denoise
    return Partial(_classifier_free, as_pytree(denoise), weights, projection, null_label)


@checked_arguments
def autoguidance(
    denoise: Denoise,
    weak: Denoise,
    guidance: Guidance | float,
    *,
    log_snr: Float[np.ndarray, "timesteps"] | None = None,
) -> Denoise:
    """Autoguidance (Karras et al. 2024): z = z_weak + scale (z - z_weak), away from what a worse denoiser predicts.

    Args:
        denoise: a denoiser, not clipped; returned itself if the scale is 1.
        weak: one of the same process and task that is smaller or less trained.
        guidance, log_snr: as in `classifier_free`.

    Raises:
        InputError: for guidance that cannot be used.
    """
    guidance = as_guidance(guidance)
    weights, projection = _weights(guidance, log_snr), _projection(guidance)
    if guidance.scale == 1:
        return denoise
    return Partial(_autoguidance, as_pytree(denoise), as_pytree(weak), weights, projection)


def as_guidance(guidance: Guidance | float) -> Guidance:
    """A number as the guidance of that scale."""
    return guidance if isinstance(guidance, Guidance) else Guidance(guidance)


@checked_arguments
def clipped(denoise: Denoise, bounds: Sequence[float]) -> Denoise:
    """Predictions clipped to the range of images.

    Args:
        denoise: a denoiser.
        bounds: largest absolute value of clean images at each level, `ScaleSpaceProcess.bounds`; may be infinite.
    """
    return Partial(_clipped, as_pytree(denoise), np.asarray(bounds, np.float32))


@checked_arguments
def dynamically_thresholded(denoise: Denoise, quantile: float, bounds: Sequence[float]) -> Denoise:
    """Dynamic thresholding (Saharia et al. 2022): keeps strong guidance from saturating images.

    An image whose `quantile` of absolute values lies beyond the bound is clipped to that quantile and scaled back into the
    bound; the others are clipped to the bound. At a level whose bound is infinite, predictions stay as they are.

    Args:
        denoise: a denoiser.
        quantile: 0 < quantile <= 1, e.g. 0.995.
        bounds: as in `clipped`.

    Raises:
        InputError: for a quantile out of range.
    """
    check_range("threshold quantile", quantile, low=0, open_low=True)
    if quantile > 1:
        raise InputError(f"threshold quantile is {quantile}, but must be <= 1")
    return Partial(_dynamically_thresholded, as_pytree(denoise), quantile, np.asarray(bounds, np.float32))


def _weights(guidance: Guidance, log_snr: np.ndarray | None) -> np.ndarray:
    """scale - 1 at the timesteps that are guided and 0 at the others, float32 [T]; [1] if all are."""
    if guidance.interval is None:
        return np.array([guidance.scale - 1], np.float32)
    low, high = guidance.interval
    if log_snr is None:
        raise InputError("a guidance interval needs the log_snr of every timestep; give process.image_log_snr")
    guided = (low <= log_snr) & (log_snr <= high)
    if not guided.any():
        raise InputError(
            f"guidance.interval is ({low}, {high}), but holds no timestep: their log-SNR is {log_snr.min():.2f} to "
            f"{log_snr.max():.2f}; widen it"
        )
    return np.where(guided, guidance.scale - 1, 0).astype(np.float32)


def _projection(guidance: Guidance) -> tuple[float, float] | None:
    """What `_projected` takes; None, which costs nothing, where it changes nothing."""
    if guidance.parallel == 1 and guidance.max_norm is None:
        return None
    return guidance.parallel, np.inf if guidance.max_norm is None else guidance.max_norm


def _classifier_free(denoise, weights, projection, null_label, x, t, label=None, *, stage):
    if label is None:
        raise InputError("classifier-free guidance needs labels, but got none; give a label for every image")

    def both():  # twins side by side: both halves of a batch that is divided among devices would have to be exchanged
        labels = jnp.stack([label, jnp.full_like(label, null_label)], axis=1).reshape(-1, *label.shape[1:])
        twins = denoise(x.repeat(2, axis=0), t.repeat(2), labels, stage=stage)
        z = twins.reshape(x.shape[0], 2, *twins.shape[1:])
        return z[:, 0], z[:, 1]

    return _guided(weights, projection, t, lambda: denoise(x, t, label, stage=stage), both)


def _autoguidance(denoise, weak, weights, projection, x, t, label=None, *, stage):
    def plain():
        return denoise(x, t, label, stage=stage)

    return _guided(weights, projection, t, plain, lambda: (plain(), weak(x, t, label, stage=stage)))


def _guided(weights, projection, t, plain: Callable, both: Callable) -> jax.Array:
    """z + (scale - 1) (z - z_weak), exactly z where scale is 1; `plain` gives z and `both` gives z and z_weak."""
    weight = jnp.take(weights, t, mode="clip")  # a single one is that of all timesteps

    def apart():
        z, weak = both()
        difference = z - weak if projection is None else _projected(z - weak, z, *projection)
        return z + jnp.expand_dims(weight, range(1, z.ndim)) * difference

    # With an interval both branches are compiled, so that the steps outside it cost no more than without guidance.
    return apart() if len(weights) == 1 else jax.lax.cond((weight != 0).any(), apart, plain)


def _projected(difference: jax.Array, z: jax.Array, parallel, max_norm) -> jax.Array:
    """Adaptive projected guidance (Sadat et al. 2024) without momentum, for which a denoiser would have to remember.

    The difference d of two predictions of an image becomes d_orthogonal + parallel d_parallel, with respect to z: the part
    along z saturates colours, the other one makes images better. Before, its norm is bounded by max_norm; this is the root
    of the mean square over an image's values, which means the same at every resolution.
    """
    axes = tuple(range(1, z.ndim))
    norm = jnp.sqrt(jnp.mean(jnp.square(difference), axis=axes, keepdims=True))
    difference = difference * jnp.minimum(1.0, max_norm / jnp.maximum(norm, TINY))
    squared = jnp.maximum(jnp.sum(jnp.square(z), axis=axes, keepdims=True), TINY)
    along = jnp.sum(difference * z, axis=axes, keepdims=True) / squared * z
    return difference + (parallel - 1) * along


def _clipped(denoise, bounds, x, t, label=None, *, stage):
    return jnp.clip(denoise(x, t, label, stage=stage), -bounds[stage.out_level], bounds[stage.out_level])


def _dynamically_thresholded(denoise, quantile, bounds, x, t, label=None, *, stage):
    z, bound = denoise(x, t, label, stage=stage), bounds[stage.out_level]
    largest = jnp.quantile(jnp.abs(z), quantile, axis=tuple(range(1, z.ndim)), keepdims=True)
    threshold = jnp.maximum(largest, bound)
    return jnp.clip(z, -threshold, threshold) * jnp.where(jnp.isinf(bound), 1.0, bound / threshold)
