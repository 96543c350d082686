"""How many levels, where to change them, and how much blur: a search that minimises the exact Gaussian error."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import InputError, check_range
from ssd_jax.process.config import ProcessConfig, make_process, with_boundaries
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.spectrum import lost_information, natural_spectrum
from ssd_jax.sampling.search import MAX_EVALUATIONS, TILTS, Budget, IdealChain, affordable_timesteps, optimal_timesteps
from ssd_jax.sampling.solvers import Solver
from ssd_jax.sampling.spacing import fixed_timesteps

BLURS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # pixels
STRIDES = (128, 64, 32, 16, 8)  # timesteps of 1000
GLANCE = 300  # evaluations of the error that a process gets before it is chosen


def optimal_process(
    config: ProcessConfig,
    solver: Solver,
    budget: float,
    cost: Callable[[ScaleSpaceProcess], Callable[[int], float]],
    spectrum: Float[np.ndarray, "*shape"] | None = None,
    *,
    excess: Callable[[ScaleSpaceProcess], float] = lambda process: 0.0,
) -> tuple[ProcessConfig, Int[np.ndarray, "steps"]]:
    """The process, and the timesteps, with which a budget of operations buys the least error.

    A coordinate search over the timesteps at which levels begin (beyond the last: not at all) and over blur, a short search
    of the timesteps inside (`optimal_timesteps`). Levels and blur belong to the process: choose them before training.

    Args:
        config: the process to start from; no more levels are used than it has.
        solver: of the plan.
        budget: what the calls of an image may cost together.
        cost: of the call at t, for any process that the search comes to.
        spectrum: as in `optimal_timesteps`.
        excess: by what share a process exceeds what else it must keep to, 0 if it does not.

    Raises:
        InputError: if the budget is not above 0, or no process within the limits is found.
    """
    check_range("budget", budget, low=0, open_low=True)
    spectrum = natural_spectrum(config.shape) if spectrum is None else spectrum

    @cache
    def search(starts: tuple[int, ...], blur: float, evaluations: int) -> tuple[float, float, tuple[int, ...]]:
        """(excess, error, timesteps): what exceeds the limits less is better, whatever its error."""
        process = make_process(_config(config, starts, blur))
        own = Budget(budget, cost(process))
        over = max(own.price(fixed_timesteps(process).tolist()) / budget - 1, excess(process), 0.0)
        if over:
            return over, math.inf, ()
        first = affordable_timesteps(process, solver, own).tolist()
        found = optimal_timesteps(process, solver, first, spectrum, budget=own, evaluations=evaluations).tolist()
        return 0.0, IdealChain(process, spectrum, solver, TILTS).error(found), tuple(found)

    levels, end = make_process(config).levels, config.num_timesteps
    present = (
        tuple(int(np.argmax(levels >= i)) if i <= levels[-1] else end for i in range(1, config.num_levels)),
        config.blur,
    )

    def better(present: tuple[tuple[int, ...], float], stride: int) -> tuple[tuple[int, ...], float] | None:
        now = search(*present, GLANCE)[:2]
        return next((each for each in _neighbours(*present, stride, end) if search(*each, GLANCE)[:2] < now), None)

    strides, before = dict.fromkeys(max(each * end // 1000, 1) for each in STRIDES), None
    while present != before:
        before = present
        for stride in strides:
            while (found := better(present, stride)) is not None:
                present = found
    over, _, timesteps = search(*present, MAX_EVALUATIONS)
    if over:
        raise InputError(
            f"no process of at most {config.num_levels} level(s) was found that keeps to all limits; the closest exceeds "
            f"one by {over:.0%}: allow more"
        )
    return _config(config, *present), np.array(timesteps)


def largest_leap(process: ScaleSpaceProcess, spectrum: Float[np.ndarray, "*shape"]) -> float:
    """What the change of resolution that loses most takes of what a state tells of an image, in nats; 0 without changes.

    The difference of `spectrum.lost_information` at t between the levels before and after, times the pixels.
    """

    def lost(t: int, level: int) -> float:
        blur_time = 0.0 if process.dissipation is None else float(process.dissipation[t])
        lost = lost_information(float(process.image_log_snr[t]), spectrum, process.level_shape(level), blur_time)
        return float(lost) * spectrum.size

    changes = [(process.first_timestep(level), before, level) for before, level in pairwise(process.used_levels)]
    return max((lost(t, level) - lost(t, before) for t, before, level in changes), default=0.0)


def _config(config: ProcessConfig, starts: tuple[int, ...], blur: float) -> ProcessConfig:
    return replace(with_boundaries(config, [start for start in starts if start < config.num_timesteps]), blur=blur)


def _neighbours(starts: tuple[int, ...], blur: float, stride: int, end: int) -> list[tuple[tuple[int, ...], float]]:
    """(starts, blur) with the starts of some levels in a row moved together, or with the next blur."""
    found = []
    for i, j in combinations(range(len(starts) + 1), 2):
        for step in (stride, -stride):
            each = *starts[:i], *(min(start + step, end) for start in starts[i:j]), *starts[j:]
            if sorted(each) == list(each) and each[0] > 0:
                found.append((each, blur))
    near = [each for each in BLURS if each != blur]
    smaller, larger = [each for each in near if each < blur], [each for each in near if each > blur]
    found += [(starts, each) for each in (*smaller[-1:], *larger[:1])]
    return found
