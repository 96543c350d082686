"""Sampling plans, on the host in float64: which timesteps to visit and the coefficients of every step (`solvers`).

The last row of a plan is (0, 1, 0 .. 0): equation (7), x_0 = z.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float, Int
from tabulate import tabulate

from ssd_jax.errors import InputError, check_range, checked_arguments, unknown_name
from ssd_jax.process.dct import dct_basis
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import SeparableOperator, identity
from ssd_jax.process.process import ScaleSpaceProcess, compose
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.parts import MatrixFreeUpPlan, Part, StayPlan, UpPlan
from ssd_jax.sampling.search import even_timesteps, optimal_timesteps
from ssd_jax.sampling.solvers import SOLVERS, Solver
from ssd_jax.sampling.spacing import SPACING_NAMES, SPACINGS, check_timesteps

DEFAULT_STEPS = 30


@dataclass(frozen=True, eq=False)
class Plan:
    """A whole sampling run. `print(plan)` shows it as a table.

    Attributes:
        process: the process that it runs backwards.
        stages: a part for each stage, noisiest first.
        carried: m, the earlier predictions that the rows of its parts may use.
    """

    process: ScaleSpaceProcess
    stages: tuple[Part, ...]
    carried: int = 1

    @cached_property
    def timesteps(self) -> Int[np.ndarray, "steps"]:
        """t of every step, from the start (T - 1) down to 0."""
        return np.concatenate([part.timesteps for part in self.stages])

    @property
    def calls(self) -> int:
        """Network calls for an image."""
        return sum(part.calls for part in self.stages)

    def describe(self, flops: Sequence[float] | None = None) -> str:
        """One line a stage: resolution, timesteps and log-SNR of its first and last call, calls.

        Args:
            flops: of one call of each stage (`cost.PlanCost.stages`), for a column of what the stages cost.
        """
        rows = [("stage", "resolution", "t", "log-SNR", "calls", *(["GFLOPs"] if flops else []))]
        spent = [part.calls * each / 1e9 for part, each in zip(self.stages, flops or [], strict=bool(flops))]
        for i, part in enumerate(self.stages):
            ends = [int(t) for t in part.timesteps[[0, -1]]] if len(part.timesteps) else []
            size = "x".join(map(str, self.process.level_shape(part.stage.out_level)))
            log_snr = " .. ".join(f"{self.process.log_snr[t]:.2f}" for t in ends)
            own = (str(part.stage), size, " .. ".join(map(str, ends)), log_snr, str(part.calls))
            rows.append((*own, *(f"{cost:.4g}" for cost in spent[i : i + 1])))
        rows.append(("all", "", "", "", str(self.calls), *([f"{sum(spent):.4g}"] if spent else [])))
        return tabulate(rows, tablefmt="plain", stralign="right", disable_numparse=True)

    def __str__(self) -> str:
        return self.describe()


@checked_arguments
def plan_steps(
    process: ScaleSpaceProcess,
    *,
    solver: str = "dpmpp_2m",
    num_steps: int | None = None,
    spacing: str | Sequence[int] | np.ndarray = "log_snr",
    eta: float | None = None,
    spectrum: Float[np.ndarray, "*shape"] | None = None,
    start: int | None = None,
) -> Plan:
    """Lays out network calls and computes their coefficients.

    Every up-step's timestep is visited, and the calls between two of them are spaced evenly in `spacing` and in
    proportion to the distance; num_steps = T visits every timestep.

    Args:
        process: the process to run backwards.
        solver: a key of SOLVERS.
        num_steps: network calls, levels + 1 .. T; 30 by default. "heun", which calls twice a step, may need one fewer.
        spacing: "log_snr", "timestep", "edm_rho", "optimal" (`optimal_timesteps`), or the timesteps themselves.
        eta: 0 (no fresh noise within a level) to 1 (ancestral); overrides the solver's own. Of "heun" its churn, 1 for the
            most that Karras et al. (2022) allow.
        spectrum: variance of every DCT coefficient of the data, > 0, [*process.shape] (`spectrum`). If given, up-steps draw
            the detail that x_t never saw with the variance it has in the data (equation 6'); and "optimal" is so for it.
        start: timestep of the first call, for a state of one's own (`editing.noised`): of the whole plan what lies
            below it remains. T - 1 if not given.

    Raises:
        InputError: for an unknown name, a number out of range, timesteps that are no plan, or a bad spectrum.
    """
    if solver not in SOLVERS:
        raise unknown_name("solver", solver, SOLVERS)
    chosen = SOLVERS[solver] if eta is None else replace(SOLVERS[solver], eta=eta)
    if not 0 <= chosen.eta <= 1:
        raise InputError(f"eta is {eta}, but must be between 0 (no fresh noise within a level) and 1 (ancestral)")
    if chosen.deterministic and chosen.eta:
        raise InputError(f"eta is {eta}, but solver {solver!r} draws no noise; leave eta out, or take 'dpmpp_2m_sde'")
    if spectrum is not None and (spectrum.shape != process.shape or not ((spectrum > 0) & (spectrum < np.inf)).all()):
        raise InputError(f"spectrum has shape {spectrum.shape}, but must be positive and of shape {process.shape}")
    timesteps = _timesteps(process, chosen, num_steps, spacing, spectrum).tolist()
    if len(timesteps) < 2 * len(process.used_levels):
        warnings.warn(f"{len(timesteps)} steps are fewer than two a level; give more", stacklevel=2)
    if start is not None:
        check_range("start", start, low=0, high=process.num_timesteps)
        timesteps = [start, *(t for t in timesteps if t < start)]
    calls, steps = list(chosen.calls(process, timesteps)), list(chosen.steps(process, timesteps))

    def part(stage: Stage) -> Part:
        own = [i for i, t in enumerate(calls) if stage.t_min <= t <= stage.t_max]
        if stage.is_up:
            return _plan_up(process, stage, chosen, steps[own[0]], spectrum)
        basis = process.frequency_basis(stage.in_level)
        shape = () if basis is None else process.level_shape(stage.in_level)
        last = np.zeros((*shape, 3 + chosen.carried))
        last[..., 1] = 1  # (7)
        rows = [chosen.coefficients(process, *steps[i]) if i < len(steps) else last for i in own]
        table = np.array(rows).reshape(len(own), *last.shape)
        return StayPlan(stage, np.array([calls[i] for i in own], int), table, process.num_timesteps, basis)

    stages = (part(stage) for stage in process.stages if stage.t_min <= timesteps[0])
    return Plan(process, tuple(stages), chosen.carried)


def _timesteps(
    process: ScaleSpaceProcess,
    solver: Solver,
    num_steps: int | None,
    spacing: str | Sequence[int] | np.ndarray,
    spectrum: Float[np.ndarray, "*shape"] | None,
) -> Int[np.ndarray, "steps"]:
    if not isinstance(spacing, str):
        timesteps = check_timesteps(process, spacing)
        if num_steps not in (None, len(timesteps)):
            raise InputError(f"num_steps is {num_steps}, but {len(timesteps)} timesteps are given; leave num_steps out")
        return timesteps
    if spacing not in SPACING_NAMES:
        raise unknown_name("spacing", spacing, [*SPACING_NAMES, "a list of timesteps"])
    num_steps, even = DEFAULT_STEPS if num_steps is None else num_steps, spacing if spacing in SPACINGS else "log_snr"
    timesteps = even_timesteps(process, solver, num_steps, even)
    if spacing == even:
        return timesteps
    start = tuple(timesteps.tolist())
    return _optimal_timesteps(process, solver, start, None if spectrum is None else spectrum.astype(float).tobytes())


@lru_cache(maxsize=16)  # a search takes seconds, and a run draws many batches with one plan
def _optimal_timesteps(
    process: ScaleSpaceProcess, solver: Solver, start: tuple[int, ...], spectrum: bytes | None
) -> Int[np.ndarray, "steps"]:
    array = None if spectrum is None else np.frombuffer(spectrum).reshape(process.shape)
    return optimal_timesteps(process, solver, start, array, draw_unseen=array is not None)


def _plan_up(
    process: ScaleSpaceProcess,
    stage: Stage,
    solver: Solver,
    step: tuple[tuple[int, ...], int, int],
    spectrum: Float[np.ndarray, "*shape"] | None,
) -> UpPlan | MatrixFreeUpPlan:
    _, t, s = step
    operator, target, between = process.transition_operator(s, t), process.target_operator(s), process.level_operators
    if isinstance(operator, MatrixFreeOperator):
        if spectrum is not None:
            message = "spectrum is given, but an operator of this process is a function, whose null space is not known"
            raise InputError(message)
        constants = process.step_constants(s, t, 0.0 if solver.twice else solver.eta)
        return MatrixFreeUpPlan(stage, constants, operator, target, between[stage.in_level])
    coefficients, sharp = solver.coefficients(process, *step), between[stage.in_level]
    assert isinstance(operator, SeparableOperator) and isinstance(sharp, SeparableOperator)
    if spectrum is not None:
        unseen = process.alpha[s] ** 2 * unseen_variance(process, s, t, spectrum)
        coefficients[..., -1] = np.sqrt(coefficients[..., -1] ** 2 + unseen)
    return UpPlan(stage, coefficients, operator, target, sharp)


def unseen_variance(
    process: ScaleSpaceProcess, s: int, t: int, spectrum: Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "..."]:
    """Var_i of equation (6'): the variance of z_s along the right singular directions of M that x_t knows nothing of.

    Args:
        process: with a separable change of resolution between t and s.
        s, t: timesteps, s < t.
        spectrum: variance of the DCT coefficients of the data.

    Returns:
        float64 [*in_shape of M], 0 outside the null space of M.
    """
    operator = process.transition_operator(s, t)
    assert isinstance(operator, SeparableOperator)
    level = int(process.levels[s])
    parts = [process.level_operators[used] for used in process.used_levels[1:] if used <= level]
    whole = compose([identity(process.shape), *parts, process.target_operator(s) or identity(process.level_shape(level))])
    assert isinstance(whole, SeparableOperator)
    variance = spectrum
    for axis, (v, matrix) in enumerate(zip(operator.right, whole.matrices, strict=True)):
        weights = (v.T @ matrix @ dct_basis(matrix.shape[1]).T) ** 2
        variance = np.moveaxis(np.tensordot(weights, variance, (1, axis)), 0, axis)
    return np.where(operator.in_range, 0.0, variance)
