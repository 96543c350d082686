"""How `launch.benchmark` measures, and what its parts hand back."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ssd_jax.build import Experiment, build
from ssd_jax.config import Config
from ssd_jax.network.parameterisation import DataStatistics

from ..common.report import Table

Tables = dict[str, Table]  # by what they measure


@dataclass(frozen=True)
class Timing:
    """Wall time of one contestant.

    Attributes:
        seconds: median of its runs.
        first: seconds of the run before them, which compiled.
    """

    seconds: float
    first: float


def built(config: Config) -> Experiment:
    """What a config stands for where only its cost matters: as if its data, which nobody measures, had a variance of 1."""
    return build(config, DataStatistics((1.0,) * config.process.num_timesteps))


def time_in_turns(contestants: Mapping[Any, Callable[[], Any]], repeats: int) -> dict[Any, Timing]:
    """Times functions that take turns, so that a busy machine disturbs all of them; one run of each before, to compile."""
    first = {name: _seconds(function) for name, function in contestants.items()}
    rounds = [{name: _seconds(function) for name, function in contestants.items()} for _ in range(repeats)]
    return {name: Timing(float(np.median([each[name] for each in rounds])), first[name]) for name in contestants}


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - started
