"""How `launch.benchmark` measures, and what its parts hand back: tables of named numbers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of equal keys."""

    title: str
    rows: list[Row]


Tables = dict[str, Table]


@dataclass(frozen=True)
class Timing:
    """Wall time of one contestant.

    Attributes:
        seconds: median of its runs.
        first: seconds of the run before them, which compiled.
    """

    seconds: float
    first: float


def time_in_turns(contestants: Mapping[Any, Callable[[], Any]], repeats: int) -> dict[Any, Timing]:
    """Times functions that take turns, so that a busy machine disturbs all of them; one run of each before, to compile."""
    first = {name: _seconds(function) for name, function in contestants.items()}
    rounds = [{name: _seconds(function) for name, function in contestants.items()} for _ in range(repeats)]
    return {name: Timing(float(np.median([each[name] for each in rounds])), first[name]) for name in contestants}


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - started


def markdown(rows: Sequence[Row]) -> str:
    """Rows of equal keys as a Markdown table that is aligned as plain text, too."""
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [f"| {' | '.join(map(str.rjust, line, widths))} |" for line in cells]
    rule = f"|{'|'.join('-' * (width + 1) + ':' for width in widths)}|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:.2e}" if value and abs(value) < 1e-3 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
