"""Starting anywhere: variations, super-resolution and inpainting with any model, none of them trained for.

A state of one's own goes in as `start` of `sample`, with a plan that begins at its timestep. What is known of the result
goes into the denoiser: its predictions are replaced where the truth is known, and as every step keeps the marginals (1) of
what it is told (equation 5), the states follow. The last step returns the prediction (7): what is known comes out exactly.

    variation         plan_steps(process, start=timestep_of(process, 0.6)) and noised(plan, images, noise)
    super-resolution  matching(denoise, process, thumbnails), and start from noised thumbnails
    inpainting        inpainting(denoise, process, images, known), with resampled(plan, 4) if seams show
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Shaped

from ssd_jax.errors import InputError, check_range, checked_arguments
from ssd_jax.process.operators import heat
from ssd_jax.process.process import ScaleSpaceProcess, compose
from ssd_jax.process.reverse import pseudo_inverse
from ssd_jax.sampling.denoise import Denoise, as_pytree
from ssd_jax.sampling.noise import NoiseSource
from ssd_jax.sampling.parts import Part, StayPlan
from ssd_jax.sampling.plan import Plan
from ssd_jax.sampling.sampler import start_noise


@checked_arguments
def timestep_of(process: ScaleSpaceProcess, strength: float) -> int:
    """t at `strength`, a share of all timesteps: 0 < strength <= 1, where 1 leaves nothing of an image.

    Raises:
        InputError: for a strength out of range.
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength is {strength}, but must be > 0 and <= 1")
    return round(strength * (process.num_timesteps - 1))


@checked_arguments
def level_of(process: ScaleSpaceProcess, shape: tuple[int, ...], what: str = "image") -> int:
    """The level whose states have the spatial `shape`. Raises InputError if none does."""
    shapes = {process.level_shape(level): level for level in process.used_levels}
    if shape not in shapes:
        sizes, given = (" or ".join("x".join(map(str, each)) for each in some) for some in (shapes, [shape]))
        raise InputError(f"the {what} is {given} pixels, but must be {sizes}; resize it")
    return shapes[shape]


@checked_arguments
def noised(
    plan: Plan, images: Float[Array, "_ *shape channels"], noise: NoiseSource
) -> Float[Array, "batch *small_shape channels"]:
    """The state that a plan begins with, equation (1), for `sample(..., start=)`.

    Args:
        plan: from `plan_steps`, with a `start`.
        images: clean images as large as the level of the plan's first timestep or a finer one; [1, ...] serves the whole
            batch. Small ones are shrunk, not blurred: what a process blurs before their level follows here.
        noise: of every image, `noise.seeded` or `noise.interpolated`.

    Raises:
        InputError: if the images have the size of no such level.
    """
    process, t = plan.process, int(plan.timesteps[0])
    level, own = int(process.levels[t]), level_of(process, images.shape[1:-1])
    if own > level:
        size = "x".join(map(str, process.level_shape(level)))
        raise InputError(f"the plan begins at t = {t} with {size} pixels, which the image has not; start it later")
    eps = start_noise(noise, process.num_timesteps, (*process.level_shape(level), images.shape[-1]))
    return process.noisy_state(_entering(process, images, own, own), t, eps, start=own)


def _entering(process: ScaleSpaceProcess, images: Any, level: int, entered: int) -> Any:
    """Images of `level`, blurred as the sharp images of the level `entered` are."""
    time = process.entry_blur(entered)
    return heat(process.level_shape(level), time, process.shape).apply(images) if time else images


@checked_arguments
def matching(denoise: Denoise, process: ScaleSpaceProcess, thumbnails: Float[Array, "batch *shape channels"]) -> Denoise:
    """Super-resolution: predictions z become z + A^+ (y - A z), the nearest images whose thumbnail A z is y.

    Noise-free null-space guidance (DDNM, Wang et al. 2023), with A the operators from the prediction's level to the
    thumbnails'. Where the process blurs, y is blurred as the predictions of a lower level are; those of level 0 are not.
    The results leave the range of images a little where y does not fit it.

    Args:
        denoise: a denoiser, guided and clipped already.
        process: of the denoiser.
        thumbnails: y, clean images shrunk to the size of one level in use; [1, ...] serves the whole batch.

    Raises:
        InputError: if the thumbnails have the size of no level.
    """
    level = level_of(process, thumbnails.shape[1:-1], "thumbnail")
    return _Matching(as_pytree(denoise), thumbnails, process, level)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Matching:
    denoise: Denoise
    thumbnails: Any
    process: ScaleSpaceProcess = field(metadata={"static": True})
    level: int = field(metadata={"static": True})

    def __call__(self, x, t, label=None, *, stage):
        z, process, y, own = self.denoise(x, t, label, stage=stage), self.process, self.thumbnails, stage.out_level
        if own >= self.level:
            small = compose(process.operators[self.level : own]).apply(y) if own > self.level else y
            return jnp.broadcast_to(_entering(process, small, own, own), z.shape)
        operator = compose(process.operators[own : self.level])
        return z + pseudo_inverse(operator, _entering(process, y, self.level, own) - operator.apply(z))


@checked_arguments
def inpainting(
    denoise: Denoise,
    process: ScaleSpaceProcess,
    images: Float[Array, "batch *shape channels"],
    known: Shaped[Array | np.ndarray, "..."],
) -> Denoise:
    """Inpainting: predictions are replaced by the image where it is known.

    At a coarser level a pixel may be known in part; there the prediction stands for the rest: z becomes
    A (known x_0) + (1 - A known / A 1) z, A the operator from level 0.

    Args:
        denoise: a denoiser, guided and clipped already.
        process: of the denoiser.
        images: x_0, [batch, *process.shape, channels]; [1, ...] serves the whole batch.
        known: what to keep, bool or 0..1, [*process.shape] or [batch, *process.shape].

    Raises:
        InputError: if the image or the mask has another shape.
    """
    if images.shape[1:-1] != process.shape:
        raise InputError(f"the image is {images.shape[1:-1]} pixels, but must be {process.shape}; resize it")
    if known.shape not in (process.shape, (images.shape[0], *process.shape)):
        raise InputError(f"the mask is {known.shape} pixels, but must be {process.shape}, as the image is")
    share = jnp.broadcast_to(jnp.asarray(known, images.dtype)[..., None], (images.shape[0], *process.shape, 1))
    given, rest = {}, {}
    for level in process.used_levels:
        given[level] = process.degrade(share * images, level)
        rest[level] = 1 - process.degrade(share, level) / process.degrade(jnp.ones_like(share), level)
    return Partial(_inpainting, as_pytree(denoise), given, rest)


def _inpainting(denoise, given, rest, x, t, label=None, *, stage):
    return given[stage.out_level] + rest[stage.out_level] * denoise(x, t, label, stage=stage)


@checked_arguments
def resampled(plan: Plan, times: int) -> Plan:
    """RePaint (Lugmayr et al. 2022): every step within a level is made `times` times, noising back in between.

    What was painted so gets to agree with what is known, for `times` as many network calls. There and back is one row of
    the table still, x_t = c x_s + sqrt(sigma_t^2 - c^2 sigma_s^2) xi by (2), frequency by frequency where the process
    blurs. All steps within levels become first-order.

    Raises:
        InputError: if times < 1, or if a step of the plan has two calls already.
    """
    check_range("resampling", times, low=1, high=1000)
    process = plan.process
    if times > 1 and (np.diff(plan.timesteps) >= 0).any():
        raise InputError(
            "resampling goes there and back between the calls of a plan, but a step of this one has two; take "
            "another solver than heun"
        )
    following = dict(zip(plan.timesteps.tolist(), plan.timesteps.tolist()[1:], strict=False))

    def again(part: Part) -> Part:
        if not isinstance(part, StayPlan) or times == 1:
            return part
        rows, timesteps = [], []
        for t, row in zip(part.timesteps.tolist(), part.coefficients, strict=True):
            k_x, k_z, *k_earlier, k_n = np.moveaxis(row, -1, 0)
            first_order = np.stack([k_x, k_z + sum(k_earlier), *[np.zeros_like(k_x)] * plan.carried, k_n], axis=-1)
            if t in following:
                c = process.forward_gain(following[t], t)
                back = c[..., None] * first_order
                back[..., -1] = np.sqrt(back[..., -1] ** 2 + process.sigma[t] ** 2 - (c * process.sigma[following[t]]) ** 2)
                rows, timesteps = [*rows, *[back] * (times - 1)], [*timesteps, *[t] * (times - 1)]
            rows, timesteps = [*rows, first_order], [*timesteps, t]
        table = np.array(rows).reshape(-1, *part.coefficients.shape[1:])
        return replace(part, timesteps=np.array(timesteps, int), coefficients=table)

    return replace(plan, stages=tuple(map(again, plan.stages)))
