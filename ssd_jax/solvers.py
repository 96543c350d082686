"""Sampling plans, on the host in float64: which timesteps to visit and the coefficients of every step.

Inside a stage every solver is a row of a table, x_s = k_x x_t + k_z z_hat + k_n xi; a change of resolution is the same row
read along the singular directions of M (equation 6). The last row of a plan is (0, 1, 0): equation (7), x_0 = z_hat.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import InputError, unknown_name
from ssd_jax.operators import SeparableOperator
from ssd_jax.process import PRIOR_LOG_SNR, LinearOperator, ScaleSpaceProcess
from ssd_jax.stages import Stage, make_stages


def _timestep(process: ScaleSpaceProcess) -> Float[np.ndarray, "t"]:
    return -np.arange(process.num_timesteps, dtype=np.float64)


SOLVERS = {"ancestral": 1.0, "ddim": 0.0}  # the eta of equation (6), unless one is given
SPACINGS = {
    # Bounded where the SNR is zero; the timestep decides where the SNR does not change.
    "log_snr": lambda process: np.maximum(process.image_log_snr, 2 * PRIOR_LOG_SNR) + 1e-6 * _timestep(process),
    "timestep": lambda process: _timestep(process),
}


@dataclass(frozen=True, eq=False)
class StagePlan:
    """The steps of one stage.

    Attributes:
        stage: the stage.
        timesteps: t of every network call, decreasing, int [steps].
        table: what the steps compute, float64. Of a stay stage (k_x, k_z, k_n), [steps, 3], or [steps, *shape, 3] along
            `basis`. Of an up stage the same along the singular directions of `operator`, [1, *shape, 3], or the
            `ScaleSpaceProcess.step_constants` if it is a MatrixFreeOperator, [1, 6].
        operator: M of an up stage, else None.
        basis: V per axis along which the rows of a stay stage stand, if the process blurs within the stage.
        target: what takes the sharp image that is predicted to the z_s of an up stage, None if nothing does.
    """

    stage: Stage
    timesteps: Int[np.ndarray, "steps"]
    table: Float[np.ndarray, "steps ..."]
    operator: LinearOperator | None = None
    basis: tuple[Float[np.ndarray, "_ _"], ...] | None = None
    target: SeparableOperator | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """A whole sampling run: stages in order, noisiest first."""

    process: ScaleSpaceProcess
    stages: tuple[StagePlan, ...]

    @cached_property
    def timesteps(self) -> Int[np.ndarray, "steps"]:
        """t of every network call, from T - 1 down to 0."""
        return np.concatenate([stage.timesteps for stage in self.stages])


def plan_steps(
    process: ScaleSpaceProcess,
    *,
    solver: str = "ddim",
    num_steps: int = 50,
    spacing: str = "log_snr",
    eta: float | None = None,
) -> Plan:
    """Lays out `num_steps` network calls and computes their coefficients.

    Every up-step's timestep is visited, and the calls between two of them are spaced evenly in `spacing` and in
    proportion to the distance; num_steps = T visits every timestep.

    Args:
        process: the process to run backwards.
        solver: "ancestral" (equation 4) or "ddim".
        num_steps: network calls, num_levels + 1 .. T.
        spacing: "log_snr" or "timestep".
        eta: 0 (DDIM) to 1 (ancestral); overrides the solver's own.

    Raises:
        InputError: for an unknown name or a number out of range.
    """
    if solver not in SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    if spacing not in SPACINGS:
        raise unknown_name("spacing", spacing, SPACINGS)
    eta = SOLVERS[solver] if eta is None else eta
    if not 0 <= eta <= 1:
        raise InputError(f"eta is {eta}, but must be between 0 (DDIM) and 1 (ancestral)")
    timesteps = _lay_out(process, num_steps, SPACINGS[spacing](process))
    targets = dict(zip(timesteps[:-1].tolist(), timesteps[1:].tolist(), strict=True))
    plans = []
    for stage in make_stages(process):
        own = timesteps[(timesteps >= stage.first) & (timesteps <= stage.last)]
        plan = _plan_up if stage.is_up else _plan_stay
        plans.append(plan(process, stage, own, targets, eta))
    return Plan(process, tuple(plans))


def _plan_stay(
    process: ScaleSpaceProcess, stage: Stage, timesteps: Int[np.ndarray, "t"], targets: dict[int, int], eta: float
) -> StagePlan:
    basis = process.frequency_basis(stage.in_level)
    shape = () if basis is None else process.level_shape(stage.in_level)
    rows = [process.reverse_coefficients(targets[t], t, eta) for t in timesteps.tolist() if t]
    if 0 in timesteps:
        rows.append(np.broadcast_to([0.0, 1.0, 0.0], (*shape, 3)))  # (7)
    return StagePlan(stage, timesteps, np.array(rows).reshape(len(timesteps), *shape, 3), basis=basis)


def _plan_up(
    process: ScaleSpaceProcess, stage: Stage, timesteps: Int[np.ndarray, "t"], targets: dict[int, int], eta: float
) -> StagePlan:
    (t,) = timesteps.tolist()
    s = targets[t]
    operator = process.transition_operator(s, t)
    separable = isinstance(operator, SeparableOperator)
    row = process.reverse_coefficients(s, t, eta) if separable else process.step_constants(s, t, eta)
    return StagePlan(stage, timesteps, row[None], operator=operator, target=process.target_operator(s))


def _lay_out(
    process: ScaleSpaceProcess, num_steps: int, coordinate: Float[np.ndarray, "t"]
) -> Int[np.ndarray, "{num_steps}"]:
    """Decreasing timesteps from T - 1 to 0 through every up-step, evenly spaced in `coordinate` (decreasing in t)."""
    starts = [process.first_timestep(level) for level in process.used_levels]
    ends = np.unique([*starts, process.num_timesteps - 1])[::-1]
    room = -np.diff(ends)
    if not len(room) < num_steps <= process.num_timesteps:
        raise InputError(
            f"num_steps is {num_steps}, but this process of {len(starts)} levels and {process.num_timesteps} "
            f"timesteps allows {len(room) + 1} to {process.num_timesteps}"
        )
    lengths = np.diff(coordinate[ends])
    counts = np.ones(len(room), int)
    for _ in range(num_steps - 1 - len(room)):
        counts[np.argmax(np.where(counts < room, lengths / counts, -1.0))] += 1
    timesteps = [ends[0]]
    for high, low, count in zip(ends[:-1], ends[1:], counts, strict=True):
        segment = np.arange(high, low - 1, -1)
        wanted = np.linspace(coordinate[high], coordinate[low], count + 1)[1:]
        nearest = np.rint(np.interp(wanted, coordinate[segment], np.arange(len(segment)))).astype(int)
        index = 0
        for i, position in enumerate(nearest):  # rounding may not visit a timestep twice or leave too few for the rest
            index = min(max(position, index + 1), len(segment) - 1 - (count - 1 - i))
            timesteps.append(segment[index])
    return np.array(timesteps)
