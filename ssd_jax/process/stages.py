"""Stages: the maximal runs of reverse steps with one (in_level, out_level), and which of them a training step gets.

A stage is static: one branch of the network, one compiled program.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from ssd_jax.errors import InputError
from ssd_jax.process.process import ScaleSpaceProcess


@dataclass(frozen=True)
class Stage:
    """Reverse steps from timesteps t_min <= t <= t_max, states at in_level, predictions at out_level.

    `out_level` is `in_level` (a stay stage) or the next finer level in use (an up stage, which has a single timestep).
    """

    in_level: int
    out_level: int
    t_min: int
    t_max: int

    @property
    def is_up(self) -> bool:
        """Whether the stage changes resolution."""
        return self.in_level != self.out_level

    def __str__(self) -> str:
        return f"up{self.in_level}to{self.out_level}" if self.is_up else f"stay{self.in_level}"


def make_stages(process: ScaleSpaceProcess) -> tuple[Stage, ...]:
    """All stages in the order of sampling: noisiest first, an up stage after each level but 0."""
    stages = []
    for finer, level in reversed(tuple(pairwise((0, *process.used_levels)))):
        timesteps = np.flatnonzero(process.levels == level)
        first, last = int(timesteps[0]), int(timesteps[-1])
        if level == 0 or last > first:
            stages.append(Stage(level, level, first + (level > 0), last))
        if level:
            stages.append(Stage(level, finer, first, first))
    return tuple(stages)


def stage_probabilities(stages: Sequence[Stage], up_share: float) -> Float[np.ndarray, "stages"]:
    """Probability that a training image belongs to each stage, [len(stages)], summing to 1.

    The up stages share `up_share` equally; the stay stages share the rest in proportion to their timesteps.
    """
    is_up = np.array([stage.is_up for stage in stages])
    timesteps = np.array([stage.t_max - stage.t_min + 1 for stage in stages], np.float64)
    if not is_up.any():
        up_share = 0.0
    stay = np.where(is_up, 0, timesteps)
    return np.where(is_up, up_share / max(is_up.sum(), 1), (1 - up_share) * stay / stay.sum())


def split_batch(batch_size: int, probabilities: Float[np.ndarray, "stages"], num_devices: int) -> Int[np.ndarray, "stages"]:
    """How many images of a mixed batch go to each stage: multiples of `num_devices`, at least one of them each.

    The sizes follow the probabilities as closely as that allows; the loss weights each stage's mean by its exact
    probability, so the expected loss does not depend on the rounding.

    Raises:
        InputError: if batch_size is no multiple of num_devices or too small to serve every stage.
    """
    num_stages = len(probabilities)
    if batch_size % num_devices or batch_size < num_stages * num_devices:
        raise InputError(
            f"train.batch_size is {batch_size}, but mixed training of {num_stages} stages on {num_devices} device(s) "
            f"needs a multiple of {num_devices} that is at least {num_stages * num_devices}; raise it, use fewer "
            'levels, or set train.stage_sampling = "single"'
        )
    units = batch_size // num_devices
    sizes = np.ones(num_stages, int)
    for _ in range(units - num_stages):
        sizes[np.argmax(probabilities * units - sizes)] += 1
    return sizes * num_devices


def pick_stage(stages: Sequence[Stage], probabilities: Float[np.ndarray, "stages"], seed: int, step: int) -> Stage:
    """The stage of training step `step` in "single" stage sampling: the same on every process of a job."""
    return stages[np.random.default_rng((seed, step)).choice(len(stages), p=probabilities)]
