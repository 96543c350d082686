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

from ssd_jax.errors import InputError
from ssd_jax.flexi_unet import IMAGE_CHANNELS
from ssd_jax.matrix_free import MatrixFreeOperator
from ssd_jax.operators import along_axes
from ssd_jax.reverse import matrix_free_up_step, up_step
from ssd_jax.solvers import Plan, StagePlan
from ssd_jax.stages import Stage


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
    denoise: Callable,
    plan: Plan,
    key: jax.Array,
    batch_size: int = 16,
    *,
    label: Int[Array | np.ndarray, "{batch_size}"] | None = None,
    first_index: int = 0,
    start: Float[Array, "{batch_size} *small_shape channels"] | None = None,
) -> Float[Array, "{batch_size} *shape channels"]:
    """Draws images.

    Image i depends on (key, first_index + i) and its label only, not on batch_size.

    Args:
        denoise: any function (x, t, label, *, stage) -> z_hat; x is [batch, h, w, 3] at stage.in_level, t int [batch],
            z_hat the estimated clean image at stage.out_level. If it is a pytree (`Denoiser`,
            `jax.tree_util.Partial`) its leaves are arguments of the compiled programs, else constants.
        plan: from `plan_steps`.
        key: the seed.
        batch_size: images to draw.
        label: classes, int [batch_size], handed to `denoise`.
        first_index: index of the first image.
        start: x_{T-1}; drawn from N(0, I) if not given.

    Raises:
        InputError: if `start` is missing although N(0, I) is not the distribution of x_{T-1}, or has a wrong shape.

    Returns:
        float32 [batch_size, *process.shape, 3].
    """
    *_, last = iterate(denoise, plan, key, batch_size, label=label, first_index=first_index, start=start)
    return last.x


def iterate(
    denoise: Callable,
    plan: Plan,
    key: jax.Array,
    batch_size: int = 16,
    *,
    label: Int[Array | np.ndarray, "{batch_size}"] | None = None,
    first_index: int = 0,
    start: Float[Array, "{batch_size} *small_shape channels"] | None = None,
    every: int | None = None,
) -> Iterator[Snapshot]:
    """`sample`, stage by stage: yields a snapshot after each stage, and within it after every `every` network calls."""
    if jax.tree_util.all_leaves([denoise]):  # not a pytree: a function
        denoise = jax.tree_util.Partial(denoise)
    indices = jnp.arange(first_index, first_index + batch_size)
    process = plan.process
    shape = (batch_size, *process.level_shape(process.num_levels - 1), IMAGE_CHANNELS)
    if start is None and not process.prior_is_noise:
        raise InputError(
            f"x_T-1 of this process is not noise (its log-SNR is {process.log_snr[-1]:.2f}): give degraded images as start"
        )
    if start is not None and start.shape != shape:
        raise InputError(f"start has shape {start.shape}, but x_T-1 of this process has shape {shape}")
    keys, noise = _prior(key, indices, np.int32(process.num_timesteps), shape=shape)
    x = noise if start is None else start
    label = None if label is None else jnp.asarray(label, jnp.int32)
    z, calls = x, 0
    for part in plan.stages:
        steps = len(part.timesteps)
        if part.operator is not None:
            t, row = np.int32(part.timesteps[0]), np.float32(part.table[0])
            target = () if part.target is None else part.target.matrices
            if isinstance(part.operator, MatrixFreeOperator):
                x, z = _run_matrix_free_up(denoise, x, keys, label, t, row, target, part.operator, stage=part.stage)
            else:
                left, right = part.operator.left, part.operator.right
                x, z = _run_up(denoise, x, z, keys, label, t, row, target, left, right, stage=part.stage)
            calls += 1
            yield Snapshot(part.stage, calls, x, z)
            continue
        timesteps, table = _padded(part, process.num_timesteps)
        for first in range(0, steps, every or max(steps, 1)):
            stop = min(first + (every or steps), steps)
            bounds = np.int32(first), np.int32(stop)
            x, z = _run_stay(denoise, x, z, keys, label, timesteps, table, part.basis, *bounds, stage=part.stage)
            yield Snapshot(part.stage, calls + stop, x, z)
        calls += steps


def _padded(part: StagePlan, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps and table at a fixed number of rows, so that plans of any length share one program.

    A table along frequencies is too large for that: its plans share a program with those of as many steps.
    """
    padding = rows - len(part.timesteps) if part.basis is None else 0
    pads = [(0, padding)] + [(0, 0)] * (part.table.ndim - 1)
    return np.pad(np.int32(part.timesteps), (0, padding)), np.pad(np.float32(part.table), pads)


@partial(jax.jit, static_argnames="shape")
def _prior(key, indices, t, shape):
    """One key per image and x_{T-1} ~ N(0, I)."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return keys, _noise(keys, t, shape)


def _noise(keys: jax.Array, t: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """xi ~ N(0, I) of the step that leaves timestep t, from each image's own key."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, t), shape[1:]))(keys)


@partial(jax.jit, static_argnames="stage")
def _run_stay(denoise, x, z, keys, label, timesteps, table, basis, start, stop, *, stage):
    """Rows start .. stop - 1 of a stay stage, along `basis` if there is one."""

    def step(i, carry):
        x, z_prev = carry
        t, (k_x, k_z, k_p, k_n) = timesteps[i], jnp.moveaxis(table[i], -1, 0)[..., None]
        z = denoise(x, jnp.full(x.shape[:1], t), label, stage=stage)
        noise = jax.lax.cond((k_n > 0).any(), lambda: _noise(keys, t, x.shape), lambda: jnp.zeros_like(x))
        if basis is None:
            return k_x * x + k_z * z + k_p * z_prev + k_n * noise, z
        x, along, before = (along_axes(array, [v.T for v in basis]) for array in (x, z, z_prev))
        return along_axes(k_x * x + k_z * along + k_p * before + k_n * noise, basis), z

    return jax.lax.fori_loop(start, stop, step, (x, z))


@partial(jax.jit, static_argnames="stage")
def _run_up(denoise, x, z_prev, keys, label, t, coefficients, target, left, right, *, stage):
    """The one step of an up stage."""
    z = denoise(x, jnp.full(x.shape[:1], t), label, stage=stage)
    return up_step(x, along_axes(z, target), _noise(keys, t, z.shape), coefficients, left, right, z_prev), z


@partial(jax.jit, static_argnames=("operator", "stage"))
def _run_matrix_free_up(denoise, x, keys, label, t, constants, target, operator, *, stage):
    """The one step of an up stage whose operator is a MatrixFreeOperator."""
    z = denoise(x, jnp.full(x.shape[:1], t), label, stage=stage)
    return matrix_free_up_step(operator, x, along_axes(z, target), _noise(keys, t, z.shape), constants), z
