"""One Grain pipeline for every source: shuffle, repeat, share out among processes, flip, batch."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grain
import jax
import numpy as np

from ssd_jax.data.protocol import ReadableSource, Source, labels_of
from ssd_jax.errors import InputError, check_seed

THREADS = 16  # that decode, at most; or half the cores: they release the GIL for decoding alone, and wait for each other


class Batches:
    """An endless iterator of a process's batches. Its state is that of the whole job, whatever the number of processes.

    Args:
        source: of the images.
        order: endless, of the whole job: numbers of images, and whether to mirror them.
        batch_size: over all processes; divisible by their number.
    """

    def __init__(self, source: ReadableSource, order: grain.MapDataset, batch_size: int):
        self._source, self._order, self._batch_size = source, order, batch_size
        self.set_state({"next_index": 0})

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """{"next_index": images that all processes have had}, for checkpoints."""
        return {"next_index": self._start + self._iterator.get_state()["next_index"] * self._batch_size}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `get_state` was called, with as many processes and images a batch as there are now."""
        self._start = state["next_index"]
        mine = self._order[self._start + jax.process_index() :: jax.process_count()]
        # What is handed on is light until a thread makes a whole batch of it: over images Grain takes as long as decoding.
        batches = mine.batch(self._batch_size // jax.process_count(), drop_remainder=True).map(_Read(self._source))
        threads = min(max(1, (os.cpu_count() or 1) // 2), THREADS)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)
        self._iterator = iter(batches.to_iter_dataset(options))


def make_iterator(source: Source, *, batch_size: int, seed: int, flip: bool) -> Batches:
    """This process's batches. Those of all processes together do not depend on how many there are.

    Args:
        source: the images; those that cannot be read are replaced as in `ReadableSource`.
        batch_size: images per batch over all processes; divisible by their number.
        seed: of the order and the flips, 0 <= seed < 2^32.
        flip: mirror half of the images at random, along the last spatial axis: left to right.

    Yields:
        {"image": uint8 [batch, *shape, channels], "label": int32 [batch] or float32 [batch, size]}, of batch_size /
        processes images.

    Raises:
        InputError: for other seeds and numbers of images.
    """
    check_seed("seed", seed)
    if batch_size % jax.process_count():
        raise InputError(f"train.batch_size is {batch_size}, but must be divisible by {jax.process_count()} processes")
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    order = order.random_map(_Flip()) if flip else order.map(_AsItIs())
    return Batches(ReadableSource(source), order, batch_size)


class _Flip(grain.transforms.RandomMap):
    def random_map(self, element: int, rng: np.random.Generator) -> tuple[int, bool]:
        return element, bool(rng.integers(2))


class _AsItIs(grain.transforms.Map):
    def map(self, element: int) -> tuple[int, bool]:
        return element, False


@dataclass(frozen=True)
class _Read(grain.transforms.Map):
    """From numbers of images, and whether to mirror them, to a batch."""

    source: ReadableSource

    def map(self, element: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
        items = [self.source[index] for index in element[0]]
        pairs = zip((item["image"] for item in items), element[1], strict=True)
        images = [image[..., ::-1, :] if flip else image for image, flip in pairs]
        return {"image": np.stack(images), "label": labels_of(items)}
