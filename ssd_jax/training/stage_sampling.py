"""Which stages a training step gets, and how many images each of them.

A draw is an image with a timestep and noise. Stage s gets n_s draws a step on average, weighted by p_s / n_s each, so that
the expected loss is sum_s p_s loss_s whatever the n_s. Its program takes b_s draws; where n_s < b_s, the stage takes part
in a share n_s / b_s of the steps.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from ssd_jax.errors import InputError
from ssd_jax.process.stages import Stage
from ssd_jax.training.config import TrainConfig

UNIFORM_SHARE = 0.1  # of draws by "logit_normal" that are uniform all the same: no draw weighs more than 10
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples are spread over [0, 1) more evenly than those of any other number


def stage_probabilities(stages: Sequence[Stage], up_share: float) -> Float[np.ndarray, "stages"]:
    """Probability p_s that a training image belongs to each stage, [len(stages)], summing to 1.

    The up stages share `up_share` equally; the stay stages share the rest in proportion to their timesteps.
    """
    is_up = np.array([stage.is_up for stage in stages])
    timesteps = np.array([stage.t_max - stage.t_min + 1 for stage in stages], np.float64)
    if not is_up.any():
        up_share = 0.0
    stay = np.where(is_up, 0, timesteps)
    return np.where(is_up, up_share / max(is_up.sum(), 1), (1 - up_share) * stay / stay.sum())


@dataclass(frozen=True, eq=False)
class Allocation:
    """The draws of every stage.

    Attributes:
        stages: all stages of the process.
        probabilities: p_s, that an image belongs to each, [stages].
        batch_sizes: b_s, draws of a stage in a step that it takes part in, over all devices.
        rates: n_s / b_s, the share of the steps that a stage takes part in, 0 < rate <= 1.
        shares: of the draws of a stage that each of its parts gets (`Stage.parts`), summing to 1, for every stage.
        seed: of the turns of stages.
    """

    stages: tuple[Stage, ...]
    probabilities: Float[np.ndarray, "stages"]
    batch_sizes: tuple[int, ...]
    rates: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]
    seed: int

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the mean loss of the draws of a stage that takes part, b_s p_s / n_s."""
        return tuple(float(p) / rate for p, rate in zip(self.probabilities, self.rates, strict=True))

    @property
    def draws(self) -> tuple[float, ...]:
        """n_s, draws of every stage a step on average."""
        return tuple(size * rate for size, rate in zip(self.batch_sizes, self.rates, strict=True))

    def flops(self, of_draw: Callable[[Stage], float]) -> float:
        """Operations of a step on average, from those of a draw of each stage."""
        return sum(n * of_draw(stage) for stage, n in zip(self.stages, self.draws, strict=True))

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where the rates begin and end, laid end to end from a random place in [-1, 0) on."""
        ends = np.cumsum([0.0, *self.rates])
        whole = np.round(ends)
        return np.where(np.abs(ends - whole) < 1e-9, whole, ends) - np.random.default_rng(self.seed).random()

    def taking_part(self, step: int) -> list[Stage]:
        """The stages of a training step: the same on every process of a job.

        Systematic sampling (Madow 1949): of the rates laid end to end, those whose piece holds a point u, u + 1, ...
        Each has its rate for a probability, and the number of stages is the same in all steps, give or take one; u moves
        by the golden ratio from step to step, so that no stage waits much longer than it must.
        """
        points = np.floor(self._ends - step * GOLDEN % 1)
        return [stage for stage, passed in zip(self.stages, np.diff(points) > 0, strict=True) if passed]


def drawn_probabilities(log_snr: Float[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """Of every timestep to be drawn, if s = sigma / (a + sigma) is to have a logit from N(0, 1) (Esser et al. 2024).

    The logit of s is -l / 2, so that it is the density of N(0, 1) at l_t / 2 times the width of t there; across a change of
    resolution, where l jumps, that of the steps beside it. UNIFORM_SHARE of the draws are uniform.

    Args:
        log_snr: l_t, float64 [T].
    """
    half = np.nan_to_num(log_snr / 2, posinf=1e3, neginf=-1e3)
    step = -np.diff(half, prepend=half[:1], append=half[-1:])
    width = (step[:-1].clip(0) + step[1:].clip(0)) / ((step[:-1] > 0) * 1.0 + (step[1:] > 0)).clip(1)
    density = np.exp(-(half**2) / 2) * width
    return (1 - UNIFORM_SHARE) * density / density.sum() + UNIFORM_SHARE / len(half)


def wanted_draws(
    stages: Sequence[Stage],
    config: TrainConfig,
    flops: Callable[[Stage], float],
    log_snr: Float[np.ndarray, "t"] | None = None,
) -> Float[np.ndarray, "stages"]:
    """n_s, draws of every stage a step, as `config.allocation` shares them out of what a step may cost.

    "proportional": n_s ~ p_s. "cost_aware": n_s ~ p_s sqrt(v_s / c_s), for which the variance of a step's gradient,
    sum_s p_s^2 v_s / n_s, is least at its cost, sum_s c_s n_s (Neyman 1934); c_s are operations of a draw, and v_s the
    variances of its gradient by `timestep_shares`. A step may cost `config.flops_per_step`, in units of `config.batch_size`
    draws at full resolution; if that is not given, what so many proportional draws do. "logit_normal": of the stays as many
    as have such timesteps (`drawn_probabilities`), batch_size in all unless flops_per_step is given.

    Args:
        stages: of the process, the last of which stays at full resolution.
        config: of training.
        flops: operations of a draw of a stage, `Objective.flops`; called only if they matter.
        log_snr: of every timestep, `Objective.log_snr`, which "logit_normal" needs.

    Raises:
        InputError: if operations matter and are not known, or as `timestep_shares`.
    """
    probabilities, (variances, _) = stage_probabilities(stages, config.up_share), timestep_shares(stages, config, log_snr)
    share = probabilities
    if config.allocation == "logit_normal":
        stays = np.array([0.0 if stage.is_up else _drawn(stage, log_snr).sum() for stage in stages])
        share = np.where(stays > 0, stays * probabilities[stays > 0].sum() / stays.sum(), probabilities)
    if config.allocation != "cost_aware" and config.flops_per_step is None:
        return share * config.batch_size
    costs = np.array([flops(stage) for stage in stages])
    if not (costs > 0).all():
        raise InputError(
            "JAX's platform does not count the operations of programs, which train.allocation and train.flops_per_step "
            'need; use train.allocation="proportional" and no train.flops_per_step'
        )
    budget = config.batch_size * (probabilities @ costs)
    if config.flops_per_step is not None:
        budget = config.batch_size * config.flops_per_step * costs[-1]
    if config.allocation == "cost_aware":
        share = probabilities * np.sqrt(variances / costs)
    return share * budget / (share @ costs)


def relative_training_cost(stages: Sequence[Stage], up_share: float, cost: Callable[[int], float]) -> float:
    """What a training image costs, over one at full resolution, for a step's gradient as clean as one level's.

    (sum_s p_s sqrt(c_s))^2 / c_0: with the draws that `wanted_draws` shares out by cost, all of them equally noisy.

    Args:
        stages: of the process, the last of which stays at full resolution.
        up_share: of the images, as in `config.up_share`.
        cost: of the network call at t, in any unit (`analysis.cost.call_cost`); a draw's gradient costs in proportion.
    """
    costs = np.array([cost(stage.t_min) for stage in stages])
    return float(stage_probabilities(stages, up_share) @ np.sqrt(costs / costs[-1])) ** 2


def _drawn(stage: Stage, log_snr: Float[np.ndarray, "t"] | None) -> Float[np.ndarray, "own"]:
    """`drawn_probabilities` of the timesteps of a stage."""
    if log_snr is None:
        raise InputError(
            'train.allocation is "logit_normal", but what is trained has no noise; take "proportional" or "cost_aware"'
        )
    return drawn_probabilities(log_snr)[stage.t_min : stage.t_max + 1]


def timestep_shares(
    stages: Sequence[Stage], config: TrainConfig, log_snr: Float[np.ndarray, "t"] | None = None
) -> tuple[Float[np.ndarray, "stages"], tuple[tuple[float, ...], ...]]:
    """v_s, the variance of the gradient of a stage's draw, and the shares of its parts in its draws.

    With variances v_b of parts that hold p_b of its timesteps, sum_b p_b^2 v_b / q_b is least for shares q_b ~ p_b
    sqrt(v_b), and v_s = (sum_b p_b sqrt(v_b))^2 then. Without `config.gradient_variances` all are the same. With
    "logit_normal" shares are those of `drawn_probabilities`, by the log_snr of every timestep.

    Raises:
        InputError: if `config.gradient_variances` are not as many as there are parts.
    """
    parts = [stage.parts(config.timestep_parts) for stage in stages]
    if config.allocation == "logit_normal":
        masses = [np.array([_drawn(part, log_snr).sum() for part in own]) for own in parts]
        return np.ones(len(stages)), tuple(tuple((mass / mass.sum()).tolist()) for mass in masses)
    count, given = sum(map(len, parts)), config.gradient_variances
    if given and len(given) != count:
        of = f" in {count} parts" if config.timestep_parts > 1 else ""
        raise InputError(
            f"train.gradient_variances are {len(given)}, but the process has {len(stages)} stages{of}: "
            f"{', '.join(map(str, stages))}; give one of each, or none"
        )
    deviations, roots, shares = iter(np.sqrt(given) if given else np.ones(count)), [], []
    for own in parts:
        lengths = np.array([part.t_max + 1 - part.t_min for part in own])
        root = lengths / lengths.sum() * [next(deviations) for _ in own]
        roots.append(root.sum())
        shares.append(tuple((root / root.sum()).tolist()))
    return np.square(roots), tuple(shares)


def allocate(
    stages: Sequence[Stage],
    config: TrainConfig,
    num_devices: int,
    flops: Callable[[Stage], float],
    log_snr: Float[np.ndarray, "t"] | None = None,
) -> Allocation:
    """The draws of every stage, as `wanted_draws`, in whole units.

    "single": all draws of a step are of one stage. "mixed": stages with fewer than a unit of draws, the least multiple of
    `config.draws_multiple` that the devices divide in every round, take turns; others get whole units, as close to their
    share as that allows.

    Args:
        stages, config, flops, log_snr: as in `wanted_draws`.
        num_devices: that share the draws.

    Raises:
        InputError: if the devices do not divide `config.batch_size` in every round, or as `wanted_draws`.
    """
    batch_size, probabilities = config.batch_size, stage_probabilities(stages, config.up_share)
    smallest = num_devices * config.accumulate
    if batch_size % smallest:
        rounds = f" times train.accumulate={config.accumulate}" if config.accumulate > 1 else ""
        raise InputError(f"train.batch_size is {batch_size}, but must be a multiple of the {num_devices} device(s){rounds}")
    if config.stage_sampling == "single":
        sizes, rates = np.full(len(stages), batch_size), probabilities
    else:
        unit = min(math.lcm(config.draws_multiple, smallest), batch_size)
        wanted = wanted_draws(stages, config, flops, log_snr) / unit
        takes_turns = wanted < 1
        units = np.where(takes_turns, 1, np.maximum(wanted.astype(int) - len(stages), 1))
        # One unit at a time goes where most is wanting. All but the last few are dealt out at once.
        for _ in range(round(wanted[~takes_turns].sum()) - int(units[~takes_turns].sum())):
            units[np.argmax(np.where(takes_turns, -np.inf, wanted - units))] += 1
        sizes, rates = units * unit, np.where(takes_turns, wanted, 1.0)
    _, shares = timestep_shares(stages, config, log_snr)
    return Allocation(tuple(stages), probabilities, tuple(sizes.tolist()), tuple(rates.tolist()), shares, config.seed)
