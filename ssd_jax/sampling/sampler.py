"""Sampling on the device: run a stage, step up to the next resolution, down the whole chain.

One compiled program per stage, whatever the number of steps, the solver or the coefficients: those are data.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tqdm import tqdm

from ssd_jax.errors import InputError
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import along_axes
from ssd_jax.process.reverse import matrix_free_up_step, up_step
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.denoise import Denoise, as_pytree
from ssd_jax.sampling.noise import NoiseSource, seeded
from ssd_jax.sampling.plan import Plan, StagePlan


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


def sample(
    denoise: Denoise,
    plan: Plan,
    key: jax.Array,
    batch_size: int = 16,
    *,
    label: Int[Array | np.ndarray, "{batch_size}"] | None = None,
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
    noise = seeded(key, np.arange(first_index, first_index + batch_size))
    *_, last = iterate(denoise, plan, noise, label=label, start=start, memory_limit=memory_limit, channels=channels)
    return last.x


def iterate(
    denoise: Denoise,
    plan: Plan,
    noise: NoiseSource,
    *,
    label: Int[Array | np.ndarray, "batch"] | None = None,
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
        label: classes, int [batch], handed to `denoise`.
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
    denoise = as_pytree(denoise)
    x = _first_state(plan, noise, start, channels)
    label = None if label is None else jnp.asarray(label, jnp.int32)
    z, calls = x, 0
    for part in plan.stages:
        steps = len(part.timesteps)
        if part.operator is not None:
            t, row = np.int32(part.timesteps[0]), np.float32(part.table[0])
            target = () if part.target is None else part.target.matrices
            program, arguments, static = _run_up, (denoise, x, z, noise, label, t, row, target), {"stage": part.stage}
            if isinstance(part.operator, MatrixFreeOperator):
                program, static = _run_matrix_free_up, {**static, "operator": part.operator}
            else:
                arguments = (*arguments, part.operator.left, part.operator.right)
            x, z = program(*arguments, **static, chunk=_fitting(program, arguments, static, noise, memory_limit))
            calls += 1
            yield Snapshot(part.stage, calls, x, z)
            continue
        rows, static = _padded(part, plan.process.num_timesteps), {"stage": part.stage}
        bounds = np.int32(0), np.int32(0)
        chunk = _fitting(_run_stay, (denoise, x, z, noise, label, rows, part.basis, *bounds), static, noise, memory_limit)
        for first in range(0, steps, every or max(steps, 1)):
            stop = min(first + (every or steps), steps)
            bounds = np.int32(first), np.int32(stop)
            x, z = _run_stay(denoise, x, z, noise, label, rows, part.basis, *bounds, **static, chunk=chunk)
            yield Snapshot(part.stage, calls + stop, x, z)
        calls += steps


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
        bar.set_postfix_str(f"{snapshot.x.shape[1]} px", refresh=False)
        pending = snapshot
        yield snapshot
    if pending is not None:
        pending.x.block_until_ready()
        bar.update(pending.calls - done)


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


def _padded(part: StagePlan, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Timesteps, table and the steps whose noise to draw, at a multiple of `rows`: plans of any length share one program.

    A table along frequencies is too large for that: its plans share a program with those of as many steps.
    """
    order = np.argsort(part.timesteps, kind="stable")
    in_order = part.timesteps[order]
    visits = np.empty_like(order)  # how often each timestep came before
    visits[order] = np.arange(len(order)) - np.searchsorted(in_order, in_order)
    draws = part.timesteps + 2 * rows * visits  # a timestep that comes again needs new noise; T is that of the start
    padding = -len(part.timesteps) % rows if part.basis is None else 0
    pads = [(0, padding)] + [(0, 0)] * (part.table.ndim - 1)
    timesteps, draws = (np.pad(np.int32(each), (0, padding)) for each in (part.timesteps, draws))
    return timesteps, np.pad(np.float32(part.table), pads), draws


def _fitting(program, arguments, static: dict, noise: NoiseSource, limit: int | None) -> int:
    """Images at a time, over all devices, for which `program` keeps to `limit`: the batch size, or a divisor of it."""
    batch, devices = len(noise.keys), len(noise.keys.sharding.device_set)
    if limit is None:
        return batch
    sizes = [size for size in range(devices, batch + 1, devices) if batch % size == 0] or [batch]
    while True:
        compiled = program.lower(*arguments, **static, chunk=sizes[-1]).compile()  # the call will find it compiled
        needed = compiled.memory_analysis().temp_size_in_bytes
        if needed <= limit:
            return sizes[-1]
        sizes, largest = sizes[:-1], sizes[-1]
        if not sizes:
            raise InputError(
                f"memory_limit is {limit} bytes, but stage {static['stage']} needs {needed} for {largest} image(s) on "
                f"{devices} device(s); raise it"
            )
        sizes = [size for size in sizes if size <= largest * limit / needed] or sizes[:1]


def _by_chunks(run: Callable, chunk: int, *arrays):
    """run(*arrays), `chunk` images at a time, each chunk divided among the devices as the whole batch is."""
    batch = len(arrays[0])
    if chunk == batch:
        return run(*arrays)
    leaves, structure = jax.tree.flatten(arrays)
    parts = [leaf.reshape(chunk, batch // chunk, *leaf.shape[1:]).swapaxes(0, 1) for leaf in leaves]
    results = jax.lax.map(lambda part: run(*structure.unflatten(part)), parts)
    return jax.tree.map(lambda array: array.swapaxes(0, 1).reshape(batch, *array.shape[2:]), results)


@partial(jax.jit, static_argnames=("stage", "chunk"))
def _run_stay(denoise, x, z, noise, label, rows, basis, start, stop, *, stage, chunk):
    """Rows start .. stop - 1 of a stay stage, along `basis` if there is one."""
    timesteps, table, draws = rows

    def run(x, z, noise, label):
        def step(i, carry):
            x, z_prev = carry
            t, (k_x, k_z, k_p, k_n) = timesteps[i], jnp.moveaxis(table[i], -1, 0)[..., None]
            z = denoise(x, jnp.full(x.shape[:1], t), label, stage=stage)
            xi = jax.lax.cond((k_n > 0).any(), lambda: noise.draw(draws[i], x.shape[1:]), lambda: jnp.zeros_like(x))
            if basis is None:
                return k_x * x + k_z * z + k_p * z_prev + k_n * xi, z
            x, along, before = (along_axes(array, [v.T for v in basis]) for array in (x, z, z_prev))
            return along_axes(k_x * x + k_z * along + k_p * before + k_n * xi, basis), z

        return jax.lax.fori_loop(start, stop, step, (x, z))

    return _by_chunks(run, chunk, x, z, noise, label)


@partial(jax.jit, static_argnames=("stage", "chunk"))
def _run_up(denoise, x, z_prev, noise, label, t, coefficients, target, left, right, *, stage, chunk):
    """The one step of an up stage."""

    def run(x, z_prev, noise, label):
        z = denoise(x, jnp.full(x.shape[:1], t), label, stage=stage)
        return up_step(x, along_axes(z, target), noise.draw(t, z.shape[1:]), coefficients, left, right, z_prev), z

    return _by_chunks(run, chunk, x, z_prev, noise, label)


@partial(jax.jit, static_argnames=("operator", "stage", "chunk"))
def _run_matrix_free_up(denoise, x, z_prev, noise, label, t, constants, target, *, operator, stage, chunk):
    """The one step of an up stage whose operator is a MatrixFreeOperator, always of first order: z_prev is not used."""

    def run(x, noise, label):
        z = denoise(x, jnp.full(x.shape[:1], t), label, stage=stage)
        return matrix_free_up_step(operator, x, along_axes(z, target), noise.draw(t, z.shape[1:]), constants), z

    return _by_chunks(run, chunk, x, noise, label)
