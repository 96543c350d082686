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
        images: clean images of the level of the plan's first timestep or a finer one; [1, ...] serves the whole batch.
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
    return process.noisy_state(images, t, eps, start=own)


@checked_arguments
def matching(denoise: Denoise, process: ScaleSpaceProcess, thumbnails: Float[Array, "batch *shape channels"]) -> Denoise:
    """Super-resolution: predictions z become z + A^+ (y - A z), the nearest images whose thumbnail A z is y.

    Noise-free null-space guidance (DDNM, Wang et al. 2023), with A from the prediction's level to the thumbnails'. The
    results leave the range of images a little where y does not fit it.

    Args:
        denoise: a denoiser, guided and clipped already.
        process: of the denoiser.
        thumbnails: y, clean images of one level in use; [1, ...] serves the whole batch.

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
        z, process, y = self.denoise(x, t, label, stage=stage), self.process, self.thumbnails
        if stage.out_level >= self.level:
            return jnp.broadcast_to(process.degrade(y, stage.out_level, start=self.level), z.shape)
        between = [used for used in process.used_levels if stage.out_level < used <= self.level]
        operator = compose([process.level_operators[used] for used in between])
        return z + pseudo_inverse(operator, y - operator.apply(z))


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
    the table still, x_t = c x_s + sqrt(sigma_t^2 - c^2 sigma_s^2) xi by (2). All steps within levels become first-order.

    Raises:
        InputError: if times < 1, or the process blurs.
    """
    check_range("resampling", times, low=1, high=1000)
    process = plan.process
    if process.dissipation is not None and times > 1:
        raise InputError(f"resampling is {times}, but must be 1 for a process that blurs")
    following = dict(zip(plan.timesteps.tolist(), plan.timesteps.tolist()[1:], strict=False))

    def again(part: Part) -> Part:
        if not isinstance(part, StayPlan) or times == 1:
            return part
        rows, timesteps = [], []
        for t, (k_x, k_z, *k_earlier, k_n) in zip(part.timesteps.tolist(), part.coefficients, strict=True):
            first_order = np.array([k_x, k_z + sum(k_earlier), *[0.0] * plan.carried, k_n])
            if t in following:
                a_s, a_t, var_s, var_t, *_ = process.step_constants(following[t], t, 0.0)
                c = a_t / a_s
                back = c * first_order
                back[-1] = np.sqrt(back[-1] ** 2 + var_t - c**2 * var_s)
                rows, timesteps = [*rows, *[back] * (times - 1)], [*timesteps, *[t] * (times - 1)]
            rows, timesteps = [*rows, first_order], [*timesteps, t]
        table = np.array(rows).reshape(-1, 3 + plan.carried)
        return replace(part, timesteps=np.array(timesteps, int), coefficients=table)

    return replace(plan, stages=tuple(map(again, plan.stages)))
