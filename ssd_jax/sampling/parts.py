"""The parts of a plan, one for each stage, and how each runs itself on the device.

Every step is a row of coefficients (k_x, k_z, k_1 .. k_m, k_n),

    x_s = k_x x_t + k_z z + k_1 z_1 + .. + k_m z_m + k_n xi,

where z is the prediction at t and z_1 .. z_m are those before it, the latest first. A change of resolution is the same row
read along the singular directions of M (equation 6). There is one compiled program per stage, whatever the number of steps,
the solver or the coefficients: those are data.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from ssd_jax.compilation import COMPILER_OPTIONS
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import SeparableOperator, along_axes
from ssd_jax.process.process import LinearOperator
from ssd_jax.process.reverse import matrix_free_up_step, pseudo_inverse, up_step
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.chunks import Program, by_chunks
from ssd_jax.sampling.denoise import Denoise
from ssd_jax.sampling.noise import NoiseSource

Labels = Num[Array | jax.ShapeDtypeStruct, "batch *vector"] | None  # int [batch] or float [batch, size]


@dataclass(frozen=True, eq=False)
class State:
    """Where a sampling run stands.

    Attributes:
        x: the state, float32 [batch, h, w, channels].
        earlier: z_1 .. z_m, the predictions before, at the resolution of x; what is not predicted yet weighs nothing.
        calls: network calls made so far.
    """

    x: Any  # arrays, or to lower programs without running them their shapes and types
    earlier: tuple[Any, ...]
    calls: int = 0


@dataclass(frozen=True, eq=False)
class StayPlan:
    """Steps within a level.

    Attributes:
        stage: the stage.
        timesteps: t of every step, decreasing, int [steps].
        coefficients: a row for each step, float64 [steps, 3 + m], or [steps, *shape, 3 + m] along `basis`.
        num_timesteps: T.
        basis: V per axis along which the rows stand, if the process blurs within the level.
    """

    stage: Stage
    timesteps: Int[np.ndarray, "steps"]
    coefficients: Float[np.ndarray, "steps *shape k"]
    num_timesteps: int
    basis: tuple[Float[np.ndarray, "_ _"], ...] | None = None

    @property
    def calls(self) -> int:
        """Network calls: one a step."""
        return len(self.timesteps)

    def program(
        self,
        denoise: Denoise,
        state: State,
        noise: NoiseSource,
        label: Labels,
        start: int = 0,
        stop: int | None = None,
    ) -> Program:
        """What makes the steps start .. stop - 1, of all if not given."""
        bounds = {"start": np.int32(start), "stop": np.int32(len(self.timesteps) if stop is None else stop)}
        arguments = _arguments(denoise, state, noise, label) | {"rows": self._rows, "basis": self.basis, **bounds}
        return Program(_stay, arguments, {"stage": self.stage}, noise)

    def run(
        self,
        denoise: Denoise,
        state: State,
        noise: NoiseSource,
        label: Num[Array, "batch *vector"] | None,
        start: int,
        stop: int,
        chunk: int | None = None,
    ) -> State:
        """The state after the steps start .. stop - 1, `chunk` images at a time."""
        x, earlier = self.program(denoise, state, noise, label, start, stop)(chunk)
        return State(x, earlier, state.calls + stop - start)

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Timesteps, coefficients and the steps whose noise to draw, at a multiple of T.

        So plans of any length share one program. Coefficients along frequencies are too large for that: their plans share a
        program with those of as many steps.
        """
        order = np.argsort(self.timesteps, kind="stable")
        in_order = self.timesteps[order]
        visits = np.empty_like(order)  # how often each timestep came before
        visits[order] = np.arange(len(order)) - np.searchsorted(in_order, in_order)
        # A timestep that comes again needs new noise; T is that of the start.
        draws = self.timesteps + 2 * self.num_timesteps * visits
        padding = -len(self.timesteps) % self.num_timesteps if self.basis is None else 0
        pads = [(0, padding)] + [(0, 0)] * (self.coefficients.ndim - 1)
        timesteps, draws = (np.pad(np.int32(each), (0, padding)) for each in (self.timesteps, draws))
        return timesteps, np.pad(np.float32(self.coefficients), pads), draws


@dataclass(frozen=True, eq=False)
class UpPlan:
    """The one step of a change of resolution, whose M is separable.

    Attributes:
        stage: the stage.
        coefficients: the row along the singular directions of `operator`, float64 [*in_shape, 3 + m].
        operator: M.
        target: what takes the sharp image that is predicted to z_s; None if nothing does.
        level_operator: what takes it to the sharp image of the level below: M itself in a process without blur.
    """

    stage: Stage
    coefficients: Float[np.ndarray, "*shape k"]
    operator: SeparableOperator
    target: SeparableOperator | None
    level_operator: SeparableOperator

    calls = 1

    @property
    def timesteps(self) -> Int[np.ndarray, "1"]:
        """t of the step."""
        return np.array([self.stage.t_min])

    def program(
        self,
        denoise: Denoise,
        state: State,
        noise: NoiseSource,
        label: Labels,
    ) -> Program:
        """What makes the step."""
        tables = {"t": np.int32(self.stage.t_min), "row": np.float32(self.coefficients), "target": _matrices(self.target)}
        lift = [np.linalg.pinv(matrix) for matrix in self.level_operator.matrices] if len(state.earlier) > 1 else []
        tables |= {"left": self.operator.left, "right": self.operator.right, "lift": lift}
        arguments = _arguments(denoise, state, noise, label) | tables
        return Program(_up, arguments, {"stage": self.stage}, noise)

    def run(
        self,
        denoise: Denoise,
        state: State,
        noise: NoiseSource,
        label: Num[Array, "batch *vector"] | None,
        start: int = 0,
        stop: int = 1,
        chunk: int | None = None,
    ) -> State:
        """The state after the step, one level finer; there is but the one, from `start` 0 to `stop` 1."""
        x, earlier = self.program(denoise, state, noise, label)(chunk)
        return State(x, earlier, state.calls + 1)


@dataclass(frozen=True, eq=False)
class MatrixFreeUpPlan:
    """The one step of a change of resolution, whose M is only a function; always of first order.

    Attributes:
        stage, operator, target, level_operator: as in `UpPlan`.
        constants: `ScaleSpaceProcess.step_constants`, float64 [6].
    """

    stage: Stage
    constants: Float[np.ndarray, "6"]
    operator: MatrixFreeOperator
    target: SeparableOperator | None
    level_operator: LinearOperator

    calls = 1

    @property
    def timesteps(self) -> Int[np.ndarray, "1"]:
        """t of the step."""
        return np.array([self.stage.t_min])

    def program(
        self,
        denoise: Denoise,
        state: State,
        noise: NoiseSource,
        label: Labels,
    ) -> Program:
        """What makes the step."""
        tables = {"t": np.int32(self.stage.t_min), "constants": np.float32(self.constants)}
        arguments = _arguments(denoise, state, noise, label) | tables | {"target": _matrices(self.target)}
        static = {"stage": self.stage, "operator": self.operator, "level_operator": self.level_operator}
        return Program(_matrix_free_up, arguments, static, noise)

    def run(
        self,
        denoise: Denoise,
        state: State,
        noise: NoiseSource,
        label: Num[Array, "batch *vector"] | None,
        start: int = 0,
        stop: int = 1,
        chunk: int | None = None,
    ) -> State:
        """The state after the step, one level finer; there is but the one, from `start` 0 to `stop` 1."""
        x, earlier = self.program(denoise, state, noise, label)(chunk)
        return State(x, earlier, state.calls + 1)


Part = StayPlan | UpPlan | MatrixFreeUpPlan


def _arguments(denoise: Denoise, state: State, noise: NoiseSource, label: Any) -> dict[str, Any]:
    """What the programs of all parts take; the rest are tables of the plan."""
    return {"denoise": denoise, "x": state.x, "earlier": state.earlier, "noise": noise, "label": label}


def _matrices(operator: SeparableOperator | None) -> tuple[np.ndarray, ...]:
    return () if operator is None else operator.matrices


@partial(jax.jit, static_argnames=("stage", "chunk"), compiler_options=COMPILER_OPTIONS)
def _stay(denoise, x, earlier, noise, label, rows, basis, start, stop, *, stage, chunk):
    """Rows start .. stop - 1 of a StayPlan, along `basis` if there is one."""
    timesteps, table, draws = rows

    def run(x, earlier, noise, label):
        def step(i, carry):
            x, earlier = carry
            t, (k_x, k_z, *k_earlier, k_n) = timesteps[i], jnp.moveaxis(table[i], -1, 0)[..., None]
            z = denoise(x, jnp.full(x.shape[:1], t), label, stage=stage)
            xi = jax.lax.cond((k_n > 0).any(), lambda: noise.draw(draws[i], x.shape[1:]), lambda: jnp.zeros_like(x))
            along = (x, z, *earlier)
            if basis is not None:
                along = [along_axes(array, [v.T for v in basis]) for array in along]
            total = k_x * along[0]
            for k, array in zip((k_z, *k_earlier), along[1:], strict=True):
                total = total + k * array
            total = total + k_n * xi
            return total if basis is None else along_axes(total, basis), (z, *earlier[:-1])

        return jax.lax.fori_loop(start, stop, step, (x, earlier))

    return by_chunks(run, chunk, x, earlier, noise, label)


@partial(jax.jit, static_argnames=("stage", "chunk"), compiler_options=COMPILER_OPTIONS)
def _up(denoise, x, earlier, noise, label, t, row, target, left, right, lift, *, stage, chunk):
    """The step of an UpPlan; `lift` is M^+ per axis, for the earlier predictions that are carried on."""

    def run(x, earlier, noise, label):
        z = denoise(x, jnp.full(x.shape[:1], t), label, stage=stage)
        x = up_step(x, along_axes(z, target), noise.draw(t, z.shape[1:]), row, left, right, earlier)
        return x, (z, *(along_axes(y, lift) for y in earlier[:-1]))

    return by_chunks(run, chunk, x, earlier, noise, label)


@partial(jax.jit, static_argnames=("operator", "level_operator", "stage", "chunk"), compiler_options=COMPILER_OPTIONS)
def _matrix_free_up(denoise, x, earlier, noise, label, t, constants, target, *, operator, level_operator, stage, chunk):
    """The step of a MatrixFreeUpPlan."""
    carried_on = earlier[:-1]

    def run(x, carried_on, noise, label):
        z = denoise(x, jnp.full(x.shape[:1], t), label, stage=stage)
        x = matrix_free_up_step(operator, x, along_axes(z, target), noise.draw(t, z.shape[1:]), constants)
        return x, (z, *(pseudo_inverse(level_operator, y) for y in carried_on))

    return by_chunks(run, chunk, x, carried_on, noise, label)
