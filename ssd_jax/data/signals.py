"""Signals of one axis, made when they are asked for."""

from collections.abc import Callable
from typing import SupportsIndex

import numpy as np
from jaxtyping import Float

COUNT = 8192  # signals
RANGE = (8, 247)  # of 0..255: from the least value to the largest that a signal may have; 0 is in the middle


Time = Float[np.ndarray, "length"]  # 0 <= time < 1


def _sines(time: Time, random: np.random.Generator) -> np.ndarray:
    """One to four sines of whole cycles, the weaker the faster."""
    cycles = random.choice(np.arange(1, 9), random.integers(1, 5), replace=False)[:, None]
    return (np.sin(2 * np.pi * (cycles * time + random.random(cycles.shape))) / cycles).sum(axis=0)


def _steps(time: Time, random: np.random.Generator) -> np.ndarray:
    """Constant between two to six steps."""
    count = random.integers(2, 7)
    return random.uniform(-1, 1, count + 1)[np.searchsorted(np.sort(random.random(count)), time)]


def _chirps(time: Time, random: np.random.Generator) -> np.ndarray:
    """A sine that becomes three to six times as fast."""
    start = random.uniform(1, 3)
    faster = start * (random.uniform(3, 6) - 1)
    return np.sin(2 * np.pi * (start * time + faster * time**2 / 2 + random.random()))


def _pulses(time: Time, random: np.random.Generator) -> np.ndarray:
    """One to four bells of both signs."""
    count = random.integers(1, 5)
    at, width = random.uniform(0.1, 0.9, (count, 1)), random.uniform(0.015, 0.06, (count, 1))
    height = random.choice([-1, 1], (count, 1)) * random.uniform(0.5, 1, (count, 1))
    return (height * np.exp(-(((time - at) / width) ** 2) / 2)).sum(axis=0)


# By the names of the classes: from times and a generator to what signals are in proportion to.
FAMILIES: dict[str, Callable[[Time, np.random.Generator], np.ndarray]] = {
    "sines": _sines,
    "steps": _steps,
    "chirps": _chirps,
    "pulses": _pulses,
}


class SignalSource:
    """COUNT signals, signal i of family i % 4; the FAMILIES are the classes. A signal depends on its number alone.

    The largest absolute value of a signal is at one end of RANGE.

    Args:
        shape: (length,).

    Attributes:
        channels: 1.
    """

    class_names = tuple(FAMILIES)
    channels = 1
    fingerprint = "signals 1"
    labels = np.arange(COUNT, dtype=np.int32) % len(FAMILIES)

    def __init__(self, shape: tuple[int, ...]):
        self._time = np.arange(shape[0]) / shape[0]

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        label = self.labels[index]
        signal = FAMILIES[self.class_names[label]](self._time, np.random.default_rng(int(index) % COUNT))
        levels = np.interp(signal / (np.abs(signal).max() or 1), (-1, 1), RANGE)
        return {"image": np.rint(levels).astype(np.uint8)[:, None], "label": label}
