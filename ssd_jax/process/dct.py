"""The DCT-II, in which blur with reflecting borders is diagonal: its basis, and how fast each frequency decays."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from jaxtyping import Float


def dct_basis(n: int) -> Float[np.ndarray, "n n"]:
    """The orthonormal DCT-II, [frequency, pixel]."""
    frequency, pixel = np.arange(n)[:, None], np.arange(n) + 0.5
    return np.where(frequency, np.sqrt(2 / n), np.sqrt(1 / n)) * np.cos(np.pi * frequency * pixel / n)


def heat_rates(n: int, full: int) -> Float[np.ndarray, "n"]:
    """Decay rate of each DCT frequency of n pixels under the heat equation, in 1 / pixels^2 of `full` pixels as long."""
    return (np.pi * np.arange(n) / full) ** 2


def heat_rate_grid(shape: Sequence[int], full_shape: Sequence[int]) -> Float[np.ndarray, "..."]:
    """`heat_rates` of every frequency of an image, the sum over its axes: [*shape]."""
    return reduce(np.add.outer, [heat_rates(n, full) for n, full in zip(shape, full_shape, strict=True)])
