"""Where to change resolution: a search that minimises the exact Gaussian error (`sampling.search`) over processes."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.process.config import ProcessConfig, make_process, with_boundaries
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.spectrum import natural_spectrum
from ssd_jax.sampling.search import TILTS, IdealChain, affordable_timesteps, optimal_timesteps
from ssd_jax.sampling.solvers import Solver
from ssd_jax.sampling.spacing import fixed_timesteps


def optimal_boundaries(
    config: ProcessConfig,
    solver: Solver,
    budget: float,
    cost: Callable[[ScaleSpaceProcess], Callable[[int], float]],
    spectrum: Float[np.ndarray, "*shape"] | None = None,
) -> tuple[ProcessConfig, Int[np.ndarray, "steps"]]:
    """Where to change resolution, and the timesteps, so that a budget of operations buys the least error.

    A coordinate search over the timesteps at which levels begin, `optimal_timesteps` inside. The boundaries belong to the
    process: choose them before training.

    Args:
        config: the process to start from, of two levels or more.
        solver: of the plan.
        budget: what the calls of an image may cost together.
        cost: of the call at t, for any process that the search comes to.
        spectrum: as in `optimal_timesteps`.

    Raises:
        InputError: if the budget is below the shortest plan of `config`, or as `optimal_timesteps`.
    """
    before = make_process(config)
    variance = natural_spectrum(before.shape) if spectrum is None else spectrum

    @cache
    def found(starts: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        process = make_process(with_boundaries(config, starts))
        price = cost(process)
        if sum(map(price, fixed_timesteps(process).tolist())) > budget:
            return math.inf, ()
        first = affordable_timesteps(process, budget, price).tolist()
        timesteps = optimal_timesteps(process, solver, first, variance, cost=price, budget=budget).tolist()
        return IdealChain(process, variance, solver, TILTS).error(timesteps), tuple(timesteps)

    affordable_timesteps(before, budget, cost(before))
    starts = tuple(int(np.argmax(before.levels >= level)) for level in range(1, before.num_levels))
    for stride in (64, 32, 16, 8):
        better = True
        while better:
            moved = (
                (*starts[:i], starts[i] + step, *starts[i + 1 :]) for i in range(len(starts)) for step in (stride, -stride)
            )
            valid = [
                each for each in moved if sorted(each) == list(each) and each[0] > 0 and each[-1] < config.num_timesteps
            ]
            best = min([starts, *valid], key=lambda each: found(each)[0])
            better, starts = best != starts, best
    return with_boundaries(config, starts), np.array(found(starts)[1])
