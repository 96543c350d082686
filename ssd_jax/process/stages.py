"""Stages: the maximal runs of reverse steps with one (in_level, out_level).

A stage is static: one branch of the network, one compiled program.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Int


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

    def parts(self, count: int) -> tuple["Stage", ...]:
        """Its timesteps in parts of the same length, give or take one, noisiest first; one each if there are fewer."""
        ends = np.linspace(self.t_min, self.t_max + 1, min(count, self.t_max - self.t_min + 1) + 1).astype(int).tolist()
        return tuple(replace(self, t_min=first, t_max=end - 1) for first, end in reversed(tuple(pairwise(ends))))

    def __str__(self) -> str:
        return f"up{self.in_level}to{self.out_level}" if self.is_up else f"stay{self.in_level}"


def make_stages(levels: Int[np.ndarray, "timesteps"]) -> tuple[Stage, ...]:
    """All stages of a process in the order of sampling: noisiest first, an up stage after each level but 0.

    Args:
        levels: level of every timestep, int [T], from 0 and never falling.
    """
    stages = []
    for finer, level in reversed(tuple(pairwise((0, *np.unique(levels).tolist())))):
        timesteps = np.flatnonzero(levels == level)
        first, last = int(timesteps[0]), int(timesteps[-1])
        if level == 0 or last > first:
            stages.append(Stage(level, level, first + (level > 0), last))
        if level:
            stages.append(Stage(level, finer, first, first))
    return tuple(stages)
