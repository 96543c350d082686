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
from ssd_jax.process import ScaleSpaceProcess
from ssd_jax.stages import Stage, make_stages

SOLVERS = {"ancestral": 1.0, "ddim": 0.0}  # the eta of equation (6), unless one is given
SPACINGS = {
    "log_snr": lambda process: process.image_log_snr,
    "timestep": lambda process: -np.arange(process.num_timesteps, dtype=np.float64),
}


@dataclass(frozen=True, eq=False)
class StagePlan:
    """The steps of one stage.

    Attributes:
        stage: the stage.
        timesteps: t of every network call, decreasing, int [steps].
        table: (k_x, k_z, k_n) of every step: float64 [steps, 3], or [1, *shape, 3] along the singular directions of
            `operator` for an up stage.
        operator: M of an up stage, else None.
    """

    stage: Stage
    timesteps: Int[np.ndarray, "steps"]
    table: Float[np.ndarray, "steps *shape 3"]
    operator: SeparableOperator | None


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
        rows = [process.reverse_coefficients(targets[t], t, eta) if t else np.array([0.0, 1.0, 0.0]) for t in own.tolist()]
        operator = process.operators[stage.out_level] if stage.is_up else None
        plans.append(StagePlan(stage, own, np.array(rows).reshape(len(own), *np.shape(rows)[1:] or (3,)), operator))
    return Plan(process, tuple(plans))


def _lay_out(
    process: ScaleSpaceProcess, num_steps: int, coordinate: Float[np.ndarray, "t"]
) -> Int[np.ndarray, "{num_steps}"]:
    """Decreasing timesteps from T - 1 to 0 through every up-step, evenly spaced in `coordinate` (decreasing in t)."""
    starts = [process.first_timestep(level) for level in range(process.num_levels)]
    ends = np.unique([*starts, process.num_timesteps - 1])[::-1]
    room = -np.diff(ends)
    if not len(room) < num_steps <= process.num_timesteps:
        raise InputError(
            f"num_steps is {num_steps}, but this process of {process.num_levels} levels and {process.num_timesteps} "
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
