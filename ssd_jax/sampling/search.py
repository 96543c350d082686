"""Where to put few network calls: a search that minimises the exact Gaussian error.

The error is that of an ideal low-pass with the log-SNR and the levels of the process. It couples no frequencies, so that a
plan is judged by a small recursion for each value of the spectrum, under blur for each frequency; of a plan that differs
from a known one in a call or two, only those steps are taken again, in about a millisecond.
"""

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import InputError, check_range
from ssd_jax.process.dct import dct_basis, heat_rate_grid
from ssd_jax.process.operators import SeparableOperator
from ssd_jax.process.process import ScaleSpaceProcess, preserving_shift
from ssd_jax.process.spectrum import frequencies, kept, natural_spectrum
from ssd_jax.sampling.solvers import Solver
from ssd_jax.sampling.spacing import fixed_timesteps, lay_out

TILTS = (-0.5, 0.0, 0.5)  # changes of the spectrum's slope: a plan must not be good for one slope alone
KEPT_STEPS = 512  # a search changes a plan in few places at a time
MAX_GROUPS = 4096  # of coefficients that are told apart exactly; of more, those that are ALIKE count as the same
ALIKE = 0.05  # relative difference of variance and of blur
KEPT_GROUPS = 64  # by levels in use, in a search for a process
MAX_EVALUATIONS = 2500  # of the error, in a search that may take its time


@dataclass(frozen=True)
class Budget:
    """What the network calls of a plan may cost together.

    Attributes:
        total: >= 0, in any unit.
        cost: of the call at t; 1 by default, so that the total is a number of calls.
    """

    total: float
    cost: Callable[[int], float] = lambda t: 1.0

    def price(self, timesteps: Iterable[int]) -> float:
        """Of calls at `timesteps`."""
        return sum(map(self.cost, timesteps))


class IdealChain:
    """A process with an ideal low-pass of the same log-SNR, levels and blur, one frequency at a time.

    Attributes:
        stand_in: the process whose coefficients serve: of images, where it blurs; else of signals with a frequency for each
            level that may be the coarsest to hold it, whose coefficients all others share.
        sharp: gain of the coefficients of every group from x_0 to the sharp image of each level in use, [levels, groups].
        solver: of the plans to judge.
        coarsest, variance, weight: of each group of equal (or, where there are many, similar) DCT coefficients: index of
            the coarsest level in use that holds them, variance, and share of the relative error, [groups].
    """

    def __init__(
        self,
        process: ScaleSpaceProcess,
        spectrum: Float[np.ndarray, "*shape"],
        solver: Solver,
        tilts: Sequence[float] = (0.0,),
        draw_unseen: bool = False,
    ):
        levels = np.searchsorted(process.used_levels, process.levels)
        shift = preserving_shift(process.operators, process.levels)
        first = [process.first_timestep(level) for level in process.used_levels]
        gains = np.exp(-np.diff(shift[first]) / 2)
        blurs = process.dissipation is not None
        level_shapes = tuple(process.level_shape(level) for level in process.used_levels)
        shapes = level_shapes if blurs else [(2**power,) for power in range(len(gains), -1, -1)]
        operators = tuple(float(g) * _low_pass(*pair) for g, pair in zip(gains, pairwise(shapes), strict=True))
        self.stand_in = ScaleSpaceProcess(shapes[0], process.log_snr, levels, operators, process.dissipation)
        self.solver, self._draw_unseen = solver, draw_unseen
        self._step = lru_cache(KEPT_STEPS)(self._find_step)
        given = np.asarray(spectrum, np.float64).tobytes()
        groups = _groups(level_shapes, blurs, given, tuple(tilts), MAX_GROUPS)
        self.coarsest, self._rate, self.variance, self.weight, where = groups
        self._places = np.unravel_index(where, process.shape)
        if not blurs:
            self._places = (2 ** (len(gains) - self.coarsest) // 2,)
        time = np.zeros(len(first)) if process.dissipation is None else process.dissipation[first] * (np.array(first) > 0)
        self.sharp = np.cumprod([1.0, *gains])[:, None] * np.exp(-np.multiply.outer(time, self._rate))
        self._known = [], [self._first()], [self._last()]

    def _blurred(self, t: int) -> Float[np.ndarray, "groups"]:
        """Gain from the sharp image of t's level to z_t."""
        return np.exp(-self.stand_in.blur_times[t] * self._rate)

    def _find_step(self, before: tuple[int, ...], t: int, s: int) -> tuple[np.ndarray, np.ndarray]:
        """L and k_n^2 of the step from t to s for every group: u' = L u + k_n n, for u = (x, the predictions before).

        Returns:
            float64 [1 + m, 1 + m, groups] and [groups].
        """
        process, variance, m = self.stand_in, self.variance, self.solver.carried
        level, target = int(process.levels[t]), int(process.levels[s])
        mean = process.alpha[t] * self.sharp[level] * self._blurred(t)
        z = mean * self.sharp[target] * variance / (mean**2 * variance + process.sigma[t] ** 2)
        z_s, held = z, self.coarsest >= level
        if level != target:  # the prediction meets x_s blurred, and knows nothing of what x_t does not hold
            z = z * held
            z_s = z * self._blurred(s)
        k_x, k_z, *k_earlier, k_n = self._row(before, t, s)
        through = np.zeros((1 + m, 1 + m, len(variance)))
        through[0, 0] = k_x + k_z * z_s
        through[0, 1 : 1 + len(k_earlier)] = np.reshape(k_earlier, (len(k_earlier), -1))
        through[1, 0] = z
        older = range(1, m)
        lift = np.divide(self.sharp[target], self.sharp[level], out=np.zeros_like(z), where=held)  # M^+
        through[[i + 1 for i in older], list(older)] = lift
        noise = np.broadcast_to(k_n**2, variance.shape)
        if self._draw_unseen:
            appears = ~held & (self.coarsest >= target)
            noise = noise + appears * (process.alpha[s] * self.sharp[target] * self._blurred(s)) ** 2 * variance
        return through, noise

    def _row(self, before: tuple[int, ...], t: int, s: int) -> Float[np.ndarray, "k *groups"]:
        """(k_x, k_z, k_1 .. k_j, k_n) of the step from t to s for every group; 0 for those that s does not hold."""
        row = self.solver.coefficients(self.stand_in, before, t, s)
        if row.ndim > 1:
            held = self.coarsest >= self.stand_in.levels[s]
            places = tuple(np.where(held, place, 0) for place in self._places)
            row = row[places] * held[:, None]
        return np.moveaxis(row, -1, 0)

    def _first(self) -> Float[np.ndarray, "k k groups"]:
        """Covariance of u before the first step: there are no predictions yet."""
        process, m = self.stand_in, self.solver.carried
        mean = process.alpha[-1] * self.sharp[-1] * self._blurred(-1)
        drawn = 1.0 if process.prior_is_noise else mean**2 * self.variance + process.sigma[-1] ** 2
        covariance = np.zeros((1 + m, 1 + m, len(self.variance)))
        covariance[0, 0] = (self.coarsest == len(self.sharp) - 1) * drawn
        return covariance

    def compare_with(self, timesteps: Sequence[int]) -> None:
        """Keeps what makes the error of plans quick to tell that differ from this one in few places."""
        steps = list(self.solver.steps(self.stand_in, timesteps))
        forward = [self._first()]
        for step in steps:
            through, noise = self._step(*step)
            covariance = np.einsum("ibg,jbg->ijg", np.einsum("iag,abg->ibg", through, forward[-1]), through)
            covariance[0, 0] += noise
            forward.append(covariance)
        backward = [self._last()]
        for step in reversed(steps):
            backward.append(self._back(step, *backward[-1]))
        self._known = steps, forward, backward[::-1]

    def _last(self) -> tuple[np.ndarray, np.ndarray]:
        weights = np.zeros((1 + self.solver.carried, len(self.variance)))
        weights[0] = 1.0
        return weights, np.zeros_like(self.variance)

    def _back(self, step: tuple, weights: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From w, b after a step to those before: Var(x_0) = w^T Cov(u) w + b, b what fresh noise adds from there on."""
        through, noise = self._step(*step)
        return np.einsum("ig,ijg->jg", weights, through), rest + noise * weights[0] ** 2

    def error(self, timesteps: Sequence[int]) -> float:
        """Relative error of the plan that visits `timesteps`, as `analysis.gaussian_error`; the mean over the tilts.

        Args:
            timesteps: from T - 1 to 0, through every up-step.
        """
        steps = list(self.solver.steps(self.stand_in, timesteps))
        known, forward, backward = self._known
        same = min(len(steps), len(known))
        head = next((i for i in range(same) if steps[i] != known[i]), same)
        tail = next((i for i in range(same - head) if steps[-1 - i] != known[-1 - i]), same - head)
        weights, rest = backward[len(known) - tail]
        for step in reversed(steps[head : len(steps) - tail]):
            weights, rest = self._back(step, weights, rest)
        last = np.einsum("jg,jg->g", np.einsum("ig,ijg->jg", weights, forward[head]), weights) + rest
        process, variance = self.stand_in, self.variance
        mean, sigma = process.alpha[0] * self._blurred(0), process.sigma[0]
        drawn = mean * variance / (mean**2 * variance + sigma**2) * np.sqrt(last)
        return float((self.weight * (drawn - np.sqrt(variance)) ** 2).sum())


@lru_cache(KEPT_GROUPS)
def _groups(
    shapes: tuple[tuple[int, ...], ...],
    blurs: bool,
    spectrum: bytes,
    tilts: tuple[float, ...],
    most: int,
) -> tuple[np.ndarray, ...]:
    """DCT coefficients that count as one: coarsest, rate of blur, variance, weight, and the place of one of them, [groups].

    Args:
        shapes: of the used levels, finest first.
        spectrum: float64 bytes, so that processes with the same levels share what takes long for large images.
        most: that are told apart exactly.
    """
    shape = shapes[0]
    variance = np.frombuffer(spectrum).reshape(shape)
    k = np.maximum(frequencies(shape), 1.0)
    tilted = [variance * k**tilt for tilt in tilts]
    tilted = [each * variance.sum() / each.sum() for each in tilted]
    coarsest = np.sum([kept(shape, smaller) for smaller in shapes], axis=0) - 1
    rate = heat_rate_grid(shape, shape) if blurs else np.zeros(shape)
    one = np.ravel(coarsest), rate.ravel().round(12)
    keys = np.array([[*one, each.ravel().round(12)] for each in tilted]).swapaxes(0, 1).reshape(3, -1)
    groups, where, count = np.unique(keys, axis=1, return_index=True, return_counts=True)
    if len(where) > most:
        alike = np.array([keys[0], *np.round(np.log(keys[1:] + 1e-12) / ALIKE)])
        _, where, count = np.unique(alike, axis=1, return_index=True, return_counts=True)
        groups = keys[:, where]
    return groups[0].astype(int), groups[1], groups[2], count / (len(tilts) * variance.sum()), where % coarsest.size


def _low_pass(shape: Sequence[int], to: Sequence[int]) -> SeparableOperator:
    """Keeps the lower frequencies of every axis, orthonormal: `operators.dct` to any shape."""
    return SeparableOperator(tuple(dct_basis(m).T @ dct_basis(n)[:m] for n, m in zip(shape, to, strict=True)))


def optimal_timesteps(
    process: ScaleSpaceProcess,
    solver: Solver,
    start: Sequence[int],
    spectrum: Float[np.ndarray, "*shape"] | None = None,
    *,
    draw_unseen: bool = False,
    budget: Budget | None = None,
    evaluations: int = MAX_EVALUATIONS,
) -> Int[np.ndarray, "steps"]:
    """The timesteps with the least error for Gaussian data that a local search finds within a budget.

    Changes of the slope of the spectrum (TILTS) count as much as the spectrum itself.

    Args:
        process: to be run backwards.
        solver: of the plan.
        start: timesteps of a plan, from T - 1 to 0.
        spectrum: variance of every DCT coefficient of the data; a natural image's if not given.
        draw_unseen: whether the plan will draw new detail with the data's variance, equation (6').
        budget: of the plan; as many calls as that of `start` has if not given.
        evaluations: of the error, at most.
    """
    variance = natural_spectrum(process.shape) if spectrum is None else spectrum
    chain = IdealChain(process, variance, solver, TILTS, draw_unseen)
    budget = budget or Budget(float(len(solver.calls(process, start))))
    search = _Search(chain, fixed_timesteps(process), start, budget, evaluations)
    search.shift()
    while search.relocate():
        search.shift()
    return np.array(search.timesteps)


def even_timesteps(process: ScaleSpaceProcess, solver: Solver, num_steps: int, spacing: str) -> Int[np.ndarray, "steps"]:
    """The timesteps, even in `spacing`, that a plan of num_steps calls visits: as many, or of fewer steps of two calls."""
    timesteps = lay_out(process, num_steps, spacing)
    return affordable_timesteps(process, solver, Budget(float(num_steps)), spacing) if solver.twice else timesteps


def affordable_timesteps(
    process: ScaleSpaceProcess, solver: Solver, budget: Budget, spacing: str = "log_snr"
) -> Int[np.ndarray, "steps"]:
    """The most timesteps, even in `spacing`, whose calls are within a budget.

    Raises InputError if not even the fewest are.
    """
    check_range("budget", budget.total, low=0)
    least = len(fixed_timesteps(process))
    counts = range(least, process.num_timesteps + 1)

    def price(count: int) -> float:
        return budget.price(solver.calls(process, lay_out(process, count, spacing).tolist()))

    index = bisect.bisect_right(counts, budget.total, key=price)
    if not index:
        raise InputError(f"the budget is {budget.total:g}, but the shortest plan costs {price(least):.3g}; give more")
    return lay_out(process, counts[index - 1], spacing)


class _Search:
    """Moves the calls of a plan, one at a time, wherever that lowers its error."""

    def __init__(
        self,
        chain: IdealChain,
        fixed: Int[np.ndarray, "ends"],
        start: Sequence[int],
        budget: Budget,
        evaluations: int,
    ):
        self._chain, self._fixed, self._evaluations = chain, frozenset(fixed.tolist()), evaluations
        self._budget, self._most = budget, budget.total * (1 + 1e-9)
        self.timesteps, self._best = list(start), chain.error(start)
        chain.compare_with(start)

    def _price(self, plan: Sequence[int]) -> float:
        return self._budget.price(self._chain.solver.calls(self._chain.stand_in, plan))

    def _accept(self, *plans: list[int]) -> bool:
        """Takes the best of some plans, if it can be paid and is better than the present one."""
        affordable = [plan for plan in plans if self._price(plan) <= self._most][: self._evaluations]
        self._evaluations -= len(affordable)
        errors = list(map(self._chain.error, affordable))
        if better := min(errors, default=math.inf) < self._best * (1 - 1e-4):
            self._best = min(errors)
            self.timesteps = affordable[errors.index(self._best)]
            self._chain.compare_with(self.timesteps)
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
            room = self._most - self._price(rest)
            plans = []
            for i, (high, low) in enumerate(pairwise(rest), start=1):
                count = min(int(room / self._budget.cost((high + low) // 2)), high - low - 1)
                if t is not None or count:
                    inside = np.linspace(high, low, count + 2).astype(int)[1:-1].tolist()
                    plans.append([*rest[:i], *inside, *rest[i:]])
            if self._accept(*plans):
                return True
        return False
