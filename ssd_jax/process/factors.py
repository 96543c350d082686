"""Factors: by what the sides of each level are divided on the way to the next, 1 or 2 an axis.

One entry for each level but the last; the last one given holds for all further levels, and none means 2 on every axis. So
((1, 2, 2),) halves frames but not their number, at every level, and ((1, 2, 2), (2, 2, 2)) that number, too, from level 1.
"""

import math
from collections.abc import Sequence

from ssd_jax.errors import InputError

Factors = tuple[tuple[int, ...], ...]


def check_factors(name: str, factors: Factors) -> None:
    """Raises InputError unless the factors of every level, called `name`, are 1 or 2, not all of them 1."""
    for each in factors:
        if set(each) not in ({2}, {1, 2}):
            raise InputError(f"{name} is {factors}, but must hold tuples of 1 and 2, one number an axis, with a 2 in each")


def factors_of(level: int, factors: Factors, axes: int) -> tuple[int, ...]:
    """From `level` to the next, of so many axes."""
    return factors[min(level, len(factors) - 1)] if factors else (2,) * axes


def factors_between(shape: Sequence[int], smaller: Sequence[int]) -> tuple[int, ...]:
    """From the shape of one level to that of the next, rounded down."""
    return tuple(side // other for side, other in zip(shape, smaller, strict=True))


def divided_shapes(
    name: str, shape: Sequence[int], factors: Factors, num_levels: int, reason: str
) -> tuple[tuple[int, ...], ...]:
    """Spatial shapes of so many levels, finest first.

    Args:
        name: of the factors, for messages.
        shape: of level 0.
        factors: of the levels.
        num_levels: >= 1.
        reason: what gives the number of levels, for messages.

    Raises:
        InputError: if the factors are of another number of axes, or the sides of `shape` are not multiples of them.
    """
    shape, axes = tuple(shape), len(shape)
    if any(len(each) != axes for each in factors):
        raise InputError(
            f"{name} is {factors}, but process.shape is {shape}: give each level {axes} number(s), one an axis"
        )
    steps = [factors_of(level, factors, axes) for level in range(num_levels - 1)]
    multiples = tuple(map(math.prod, zip(*steps, strict=True))) or (1,) * axes
    if not shape or any(side < multiple or side % multiple for side, multiple in zip(shape, multiples, strict=True)):
        wanted = multiples[0] if len(set(multiples)) == 1 else f"{multiples}, axis by axis"
        raise InputError(
            f"process.shape is {shape}, but {num_levels} levels ({reason}) need positive multiples of {wanted}"
        )
    shapes = [shape]
    for step in steps:
        shapes.append(tuple(side // factor for side, factor in zip(shapes[-1], step, strict=True)))
    return tuple(shapes)
