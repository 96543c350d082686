"""Sampling: all parts of a plan, one after the other, down the whole chain."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, Key, Num
from tqdm import tqdm

from ssd_jax.errors import InputError, check_range, checked_arguments
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.denoise import Denoise, as_label, as_pytree
from ssd_jax.sampling.noise import NoiseSource, image_indices, seeded
from ssd_jax.sampling.parts import Part, State
from ssd_jax.sampling.plan import Plan


@dataclass(frozen=True)
class Snapshot:
    """Where a sampling run stands.

    Attributes:
        stage: the stage that has just been run.
        calls: network calls made so far.
        x: the state, [batch, h, w, channels].
        z: the last prediction of the clean image, at the resolution of x.
    """

    stage: Stage
    calls: int
    x: Float[Array, "batch *shape channels"]
    z: Float[Array, "batch *shape channels"]


@checked_arguments
def sample(
    denoise: Denoise,
    plan: Plan,
    key: Key[Array, ""],
    batch_size: int = 16,
    *,
    label: Num[Array | np.ndarray, "{batch_size} *vector"] | None = None,
    first_index: int = 0,
    start: Float[Array, "{batch_size} *small_shape channels"] | None = None,
    memory_limit: int | None = None,
    channels: int = 3,
) -> Float[Array, "{batch_size} *shape channels"]:
    """Draws images.

    Image i depends on (key, first_index + i) and its label only, not on batch_size.

    Args:
        denoise, plan, label, start, memory_limit, channels: as in `iterate`.
        key: the seed.
        batch_size: images to draw.
        first_index: index of the first image.

    Raises:
        InputError: as `iterate`.

    Returns:
        float32 [batch_size, *process.shape, channels].
    """
    noise = seeded(key, image_indices(batch_size, first_index, "batch_size"))
    *_, last = iterate(denoise, plan, noise, label=label, start=start, memory_limit=memory_limit, channels=channels)
    return last.x


@checked_arguments
def iterate(
    denoise: Denoise,
    plan: Plan,
    noise: NoiseSource,
    *,
    label: Num[Array | np.ndarray, "batch *vector"] | None = None,
    start: Float[Array, "batch *small_shape channels"] | None = None,
    memory_limit: int | None = None,
    every: int | None = None,
    channels: int = 3,
) -> Iterator[Snapshot]:
    """Draws images stage by stage: yields a snapshot after each stage, and within it after every `every` network calls.

    Args:
        denoise: the denoiser.
        plan: from `plan_steps`.
        noise: of every image (`noise.seeded`, `noise.interpolated`), which says how many to draw, and on which devices.
        label: of every image, int [batch] or float [batch, size], handed to `denoise`.
        start: the state at the plan's first timestep; if that is T - 1 and none is given, drawn from N(0, I).
        memory_limit: bytes that the intermediate results of a compiled program may take on each device. A stage that would
            take more gets the batch in parts, one after the other, while stages of lower resolution still take it whole.
            `denoise` must then hold nothing that is one for each image.
        every: network calls between two snapshots; None for one after each stage only.
        channels: of the images, if there is no `start` to tell.

    Raises:
        InputError: if `start` is missing although N(0, I) is not its distribution, or has a wrong shape; or if a single
            image a device needs more than `memory_limit`.
    """
    for name, value in {"memory_limit": memory_limit, "every": every, "channels": channels}.items():
        if value is not None:
            check_range(name, value, low=1)
    if label is not None and len(label) != len(noise.keys):
        raise InputError(f"label has shape {label.shape}, but must be one for each of the {len(noise.keys)} images")
    return _run(as_pytree(denoise), plan, noise, as_label(label), start, memory_limit, every, channels)


def _run(denoise, plan, noise, label, start, memory_limit, every, channels) -> Iterator[Snapshot]:
    x = _first_state(plan, noise, start, channels)
    state = State(x, (x,) * plan.carried)
    for part in plan.stages:
        chunk = part.program(denoise, state, noise, label).fitting_chunk(memory_limit)
        for first, stop in _pieces(part, every):
            state = part.run(denoise, state, noise, label, first, stop, chunk)
            yield Snapshot(part.stage, state.calls, state.x, state.earlier[0])


def with_progress(snapshots: Iterator[Snapshot], bar: tqdm) -> Iterator[Snapshot]:
    """Passes snapshots on and moves `bar`, in network calls.

    The bar waits for the snapshot before the latest one, so that it says what the device has done and the device always has
    work: nothing waits for single steps.
    """
    done, pending = 0, None
    for snapshot in snapshots:
        if pending is not None:
            pending.x.block_until_ready()
            bar.update(pending.calls - done)
            done = pending.calls
        bar.set_postfix_str(f"{snapshot.x.shape[-2]} px", refresh=False)
        pending = snapshot
        yield snapshot
    if pending is not None:
        pending.x.block_until_ready()
        bar.update(pending.calls - done)


def _pieces(part: Part, every: int | None) -> list[tuple[int, int]]:
    """The steps of a part as ranges (start, stop) of at most `every` network calls, but of one step at least."""
    steps = len(part.timesteps)
    stride = steps if every is None else max(every * steps // max(part.calls, 1), 1)
    return [(start, min(start + stride, steps)) for start in range(0, steps, stride or 1)]


def _first_state(
    plan: Plan, noise: NoiseSource, start: Float[Array, "..."] | None, channels: int
) -> Float[Array, "batch ..."]:
    """The state at the plan's first timestep, [batch, *shape, channels]."""
    process, first = plan.process, int(plan.timesteps[0])
    last = (channels,) if start is None else start.shape[-1:]
    shape = (*process.level_shape(int(process.levels[first])), *last)
    name = "T-1" if first == process.num_timesteps - 1 else str(first)
    if start is None and first < process.num_timesteps - 1:
        raise InputError(f"the plan begins at t = {first}, where states are not noise: give x_{name} as start")
    if start is None and not process.prior_is_noise:
        raise InputError(
            f"x_T-1 of this process is not noise (its log-SNR is {process.log_snr[-1]:.2f}): give degraded images as start"
        )
    if start is not None and start.shape != (len(noise.keys), *shape):
        raise InputError(f"start has shape {start.shape}, but x_{name} of this plan has shape {(len(noise.keys), *shape)}")
    return start_noise(noise, process.num_timesteps, shape) if start is None else start


@partial(jax.jit, static_argnames=("num_timesteps", "shape"))
def start_noise(noise: NoiseSource, num_timesteps: int, shape: tuple[int, ...]) -> Float[Array, "batch ..."]:
    """eps ~ N(0, I) of the state that a plan begins with, [batch, *shape]."""
    return noise.draw(num_timesteps, shape)
