"""Tables of what commands find: the one place that lays out columns and formats numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

Row = Mapping[str, Any]  # column -> value; what a row lacks, or is None, shows as "-"


@dataclass(frozen=True)
class Table:
    """Rows under a title."""

    title: str
    rows: Sequence[Row]


def plain(rows: Sequence[Row], digits: int = 4) -> str:
    """Rows for the terminal: columns in the order in which they first appear, two spaces apart, numbers to the right.

    Args:
        rows: at least one.
        digits: significant ones of floats.
    """
    columns, cells, alignment = _cells(rows, digits)
    return tabulate([columns, *cells], tablefmt="plain", disable_numparse=True, colalign=alignment)


def markdown(rows: Sequence[Row], digits: int = 4) -> str:
    """The same as a Markdown table, which is aligned as plain text, too."""
    columns, cells, alignment = _cells(rows, digits)
    return tabulate(cells, columns, "pipe", disable_numparse=True, colalign=alignment)


def number(value: float, digits: int = 4) -> str:
    """`digits` significant ones, all those of the whole part; with an exponent below 0.001."""
    if value and abs(value) < 1e-3:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.0f}"


def size(shape: Sequence[int]) -> str:
    """A spatial shape: 64 for a square, else 24x48."""
    return str(shape[0]) if len(shape) == 2 and shape[0] == shape[1] else "x".join(map(str, shape))


def _cells(rows: Sequence[Row], digits: int) -> tuple[list[str], list[list[str]], list[str]]:
    """Columns, cells by row, and the alignment of every column."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    values = [[row.get(column) for column in columns] for row in rows]
    alignment = ["right" if any(map(_is_number, column)) else "left" for column in zip(*values, strict=True)]
    return columns, [[_cell(value, digits) for value in row] for row in values], alignment


def _cell(value: object, digits: int) -> str:
    if isinstance(value, float | np.floating):
        return number(float(value), digits)
    return "-" if value is None else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number)
