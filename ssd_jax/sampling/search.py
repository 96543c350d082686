"""Where to put few network calls: a search that minimises the exact Gaussian error.

The error is that of an ideal low-pass with the log-SNR and the levels of the process. It couples no frequencies, so that a
plan is judged by a scalar recursion for each value of the spectrum, in less than a millisecond.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import InputError, check_range
from ssd_jax.process.operators import dct
from ssd_jax.process.process import ScaleSpaceProcess, preserving_shift
from ssd_jax.process.spectrum import frequencies, kept, natural_spectrum
from ssd_jax.sampling.solvers import Solver
from ssd_jax.sampling.spacing import fixed_timesteps, lay_out

TILTS = (-0.5, 0.0, 0.5)  # changes of the spectrum's slope: a plan must not be good for one slope alone
MAX_EVALUATIONS = 2500  # of the error, in a search


class IdealChain:
    """A process with an ideal low-pass of the same log-SNR and levels, one frequency at a time.

    Attributes:
        stand_in: a process of signals with one frequency for each level that may be the coarsest to hold it.
        gain: of the coefficients at each level in use.
        solver: of the plans to judge.
        coarsest, variance, weight: of each group of equal DCT coefficients: index of the coarsest level in use that holds
            them, variance, and share of the relative error, [groups].
    """

    def __init__(
        self,
        process: ScaleSpaceProcess,
        spectrum: Float[np.ndarray, "*shape"],
        solver: Solver,
        tilts: Sequence[float] = (0.0,),
    ):
        levels = np.searchsorted(process.used_levels, process.levels)
        shift = preserving_shift(process.operators, process.levels)
        of_level = shift[[process.first_timestep(level) for level in process.used_levels]]
        gains = np.exp(-np.diff(of_level) / 2)
        shapes = [(2**power,) for power in range(len(gains), -1, -1)]
        operators = tuple(float(gain) * dct(shape) for gain, shape in zip(gains, shapes, strict=False))
        self.stand_in = ScaleSpaceProcess(shapes[0], process.log_snr, levels, operators)
        self.gain = np.cumprod([1.0, *gains])
        self.solver, self._coefficients = solver, cache(partial(solver.coefficients, self.stand_in))
        coarsest = sum(kept(process.shape, level).astype(int) for level in process.used_levels) - 1
        k = np.maximum(frequencies(process.shape), 1.0)
        tilted = [spectrum * k**tilt for tilt in tilts]
        tilted = [each * spectrum.sum() / each.sum() for each in tilted]
        keys = np.array([[np.ravel(coarsest), each.ravel().round(12)] for each in tilted]).swapaxes(0, 1).reshape(2, -1)
        groups, count = np.unique(keys, axis=1, return_counts=True)
        self.coarsest, self.variance = groups[0].astype(int), groups[1]
        self.weight = count / (len(tilts) * spectrum.sum())

    def error(self, timesteps: Sequence[int], *, draw_unseen: bool = False) -> float:
        """Relative error of the plan that visits `timesteps`, as `analysis.gaussian_error`; the mean over the tilts.

        Args:
            timesteps: from T - 1 to 0, through every up-step.
            draw_unseen: whether up-steps draw new detail with the data's variance, equation (6').
        """
        process, variance = self.stand_in, self.variance
        first = process.alpha[-1] ** 2 * self.gain[-1] ** 2 * variance + process.sigma[-1] ** 2
        x = (self.coarsest == len(self.gain) - 1) * (1.0 if process.prior_is_noise else first)
        m = self.solver.carried
        zero = np.zeros_like(x)
        p = [[x, *[zero] * m], *[[zero] * (1 + m)] * m]  # covariance of the state and the predictions before
        for before, t, s in self.solver.steps(timesteps):
            level, target, a = int(process.levels[t]), int(process.levels[s]), process.alpha[t]
            g = self.gain[level]
            z = a * g * self.gain[target] * variance / (a**2 * g**2 * variance + process.sigma[t] ** 2)
            k = self._coefficients(before, t, s)
            if level != target:  # along the first direction in the range of M, the last in its null space, none beyond
                seen, held = (self.coarsest >= level)[:, None], (self.coarsest >= target)[:, None]
                z, k = z * seen[:, 0], np.where(seen, k[0], k[-1]) * held
            k_x, k_z, *k_earlier, k_n = np.moveaxis(k, -1, 0)
            through = k_x + k_z * z
            across = [through * old for old in p[0]]  # covariance of the new state with what was before
            for k_i, row in zip(k_earlier, p[1:], strict=True):
                across = [covariance + k_i * old for covariance, old in zip(across, row, strict=True)]
            new = through * across[0]
            for k_i, covariance in zip(k_earlier, across[1:], strict=True):
                new = new + k_i * covariance
            new = new + k_n**2
            if draw_unseen:
                appears = (self.coarsest < level) & (self.coarsest >= target)
                new = new + appears * (process.alpha[s] * self.gain[target]) ** 2 * variance
            gains = [z, *[self.gain[target] / g] * (m - 1)]  # of the prediction, and of those before, M^+
            first = [new, *(gain * covariance for gain, covariance in zip(gains, across[:-1], strict=True))]
            older = [[gains[i] * gains[j] * p[i][j] for j in range(m)] for i in range(m)]
            p = [first, *([first[1 + i], *older[i]] for i in range(m))]
        a, sigma = process.alpha[0], process.sigma[0]
        drawn = a * variance / (a**2 * variance + sigma**2) * np.sqrt(p[0][0])
        return float((self.weight * (drawn - np.sqrt(variance)) ** 2).sum())


def optimal_timesteps(
    process: ScaleSpaceProcess,
    solver: Solver,
    start: Sequence[int],
    spectrum: Float[np.ndarray, "*shape"] | None = None,
    *,
    draw_unseen: bool = False,
    cost: Callable[[int], float] = lambda t: 1.0,
    budget: float | None = None,
) -> Int[np.ndarray, "steps"]:
    """The timesteps with the least error for Gaussian data that a local search finds within a budget.

    Changes of the slope of the spectrum (TILTS) count as much as the spectrum itself.

    Args:
        process: without blur.
        solver: of the plan.
        start: timesteps of a plan, from T - 1 to 0.
        spectrum: variance of every DCT coefficient of the data; a natural image's if not given.
        draw_unseen: whether the plan will draw new detail with the data's variance, equation (6').
        cost: of the network call at t; 1 by default, so that the budget is a number of calls.
        budget: what all calls may cost together; what those of `start` do if not given.

    Raises:
        InputError: for a process with blur.
    """
    if process.dissipation is not None:
        raise InputError("optimal timesteps are found for processes without blur only; choose another spacing")
    chain = IdealChain(process, natural_spectrum(process.shape) if spectrum is None else spectrum, solver, TILTS)
    budget = sum(map(cost, start)) if budget is None else budget
    search = _Search(process, lambda t: chain.error(t, draw_unseen=draw_unseen), start, cost, budget)
    search.shift()
    while search.relocate():
        search.shift()
    return np.array(search.timesteps)


def affordable_timesteps(
    process: ScaleSpaceProcess, budget: float, cost: Callable[[int], float]
) -> Int[np.ndarray, "steps"]:
    """The most timesteps, even in log-SNR, whose calls cost no more than `budget`. Raises InputError if none do."""
    check_range("budget", budget, low=0)
    least = len(fixed_timesteps(process))
    counts = range(least, process.num_timesteps + 1)

    def price(num_steps: int) -> float:
        return sum(map(cost, lay_out(process, num_steps, "log_snr").tolist()))

    index = bisect.bisect_right(counts, budget, key=price)
    if not index:
        raise InputError(f"the budget is {budget:g}, but the shortest plan costs {price(least):.3g}; give more")
    return lay_out(process, counts[index - 1], "log_snr")


class _Search:
    """Moves the calls of a plan, one at a time, wherever that lowers its error."""

    def __init__(
        self,
        process: ScaleSpaceProcess,
        error: Callable,
        start: Sequence[int],
        cost: Callable[[int], float],
        budget: float,
    ):
        self._error, self._cost, self._budget = error, cost, budget * (1 + 1e-9)
        self._fixed = frozenset(fixed_timesteps(process).tolist())
        self._evaluations = MAX_EVALUATIONS
        self.timesteps, self._best = list(start), error(start)

    def _accept(self, *plans: list[int]) -> bool:
        """Takes the best of some plans, if it can be paid and is better than the present one."""
        affordable = [plan for plan in plans if sum(map(self._cost, plan)) <= self._budget][: self._evaluations]
        self._evaluations -= len(affordable)
        errors = list(map(self._error, affordable))
        if better := min(errors, default=math.inf) < self._best * (1 - 1e-4):
            self._best = min(errors)
            self.timesteps = affordable[errors.index(self._best)]
        return better

    def shift(self) -> None:
        """Moves calls between their neighbours, by smaller and smaller strides."""
        for stride in (16, 8, 4, 2, 1):
            while any([self._shift_one(i, step) for i in range(len(self.timesteps)) for step in (stride, -stride)]):
                pass

    def _shift_one(self, i: int, step: int) -> bool:
        if self.timesteps[i] in self._fixed:
            return False
        new = [*self.timesteps[:i], self.timesteps[i] + step, *self.timesteps[i + 1 :]]
        return new[i - 1] > new[i] > new[i + 1] and self._accept(new)

    def relocate(self) -> bool:
        """Puts calls into a gap, paid for by what is left or by a call taken out elsewhere, if that helps."""
        for t in [None, *(t for t in self.timesteps if t not in self._fixed)]:
            rest = [other for other in self.timesteps if other != t]
            room = self._budget - sum(map(self._cost, rest))
            plans = []
            for i, (high, low) in enumerate(pairwise(rest), start=1):
                count = min(int(room / self._cost((high + low) // 2)), high - low - 1)
                if t is not None or count:
                    inside = np.linspace(high, low, count + 2).astype(int)[1:-1].tolist()
                    plans.append([*rest[:i], *inside, *rest[i:]])
            if self._accept(*plans):
                return True
        return False
