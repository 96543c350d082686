"""One Grain pipeline for every source: shuffle, repeat, share out among processes, flip, batch."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grain
import jax
import numpy as np

from ssd_jax.data.protocol import ReadableSource, Source
from ssd_jax.errors import InputError, check_seed


@dataclass(frozen=True)
class Batches:
    """An endless iterator of a process's batches. Its state is that of the whole job, whatever the number of processes.

    Attributes:
        iterator: of this process's batches; its state counts their images.
        processes: of the job.
    """

    iterator: grain.DatasetIterator
    processes: int

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self.iterator)

    def get_state(self) -> dict[str, Any]:
        """{"next_index": images that all processes have had}, for checkpoints."""
        return {"next_index": self.iterator.get_state()["next_index"] * self.processes}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on where `get_state` was called, with as many processes as there are now."""
        self.iterator.set_state({"next_index": state["next_index"] // self.processes})


def make_iterator(source: Source, *, batch_size: int, seed: int, flip: bool) -> Batches:
    """This process's batches. Those of all processes together do not depend on how many there are.

    Args:
        source: the images; those that cannot be read are replaced as in `ReadableSource`.
        batch_size: images per batch over all processes; divisible by their number.
        seed: of the order and the flips, 0 <= seed < 2^32.
        flip: mirror half of the images at random.

    Yields:
        {"image": uint8 [batch, *shape, channels], "label": int32 [batch]} with batch = batch_size / processes.

    Raises:
        InputError: for other seeds and numbers of images.
    """
    check_seed("seed", seed)
    if batch_size % jax.process_count():
        raise InputError(f"train.batch_size is {batch_size}, but must be divisible by {jax.process_count()} processes")
    data = grain.MapDataset.source(ReadableSource(source)).seed(seed).shuffle().repeat()
    if flip:
        data = data.random_map(_Flip())  # before the images are shared out: by their place in the whole
    data = data[jax.process_index() :: jax.process_count()]
    threads = max(1, (os.cpu_count() or 1) // 2)  # decoding releases the GIL; more threads than this slow the host down
    items = data.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * batch_size))
    return Batches(iter(items.batch(batch_size // jax.process_count(), drop_remainder=True)), jax.process_count())


class _Flip(grain.transforms.RandomMap):
    def random_map(self, element: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {**element, "image": element["image"][:, ::-1]} if rng.integers(2) else element
