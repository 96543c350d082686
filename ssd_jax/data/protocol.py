"""What a source is: random access to single images, all of one size; and reading one through."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Num

from ssd_jax.errors import InputError

CHANNELS = (1, 3, 4)  # grey; RGB; RGB and alpha
NONE_READABLE = "none of {} images of the data can be read; the warnings say why"


@runtime_checkable
class Source(Protocol):
    """What the pipeline asks of a data set.

    An item is {"image": uint8 [*shape, channels], "label": int32 scalar}, or None for an image that cannot be read. Label
    i is class_names[i]; sources without classes have none, and label 0. Or labels are vectors, float32 [size], all finite,
    and there are no classes. `labels` holds those of all items, int [len] or float [len, size], or None if they are not
    known without reading the items.

    A source may also have a `fingerprint`, a string that changes when its images do: by it statistics of them are kept.
    Those of a source without one are measured anew each time.
    """

    @property
    def channels(self) -> int: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def labels(self) -> np.ndarray | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None: ...


def image_batches(source: Source, limit: int | None = None, batch_size: int = 64) -> Iterator[np.ndarray]:
    """Images in order, each once: uint8 [batch, *shape, channels]; images that cannot be read are left out.

    Raises InputError if none can.

    Args:
        source: the data.
        limit: at most so many images, spread over the whole source.
        batch_size: of all batches but the last.
    """
    count = len(source) if limit is None else min(limit, len(source))
    indices = np.unique(np.linspace(0, len(source) - 1, count).astype(int)).tolist()
    items = (source[index] for index in indices)
    images = (item["image"] for item in items if item is not None)
    if not (chunk := list(islice(images, batch_size))):
        raise InputError(NONE_READABLE.format(count))
    while chunk:
        yield np.stack(chunk)
        chunk = list(islice(images, batch_size))


def labels_of(items: Sequence[dict[str, np.ndarray]]) -> Num[np.ndarray, "n *vector"]:
    """Of items, int32 [n] or float32 [n, size]."""
    labels = np.stack([item["label"] for item in items])
    return labels.astype(np.float32 if np.issubdtype(labels.dtype, np.floating) else np.int32)


class ReadableSource:
    """A source without None: an image that cannot be read is replaced by the next one, in the source's order, that can.

    So which image stands for it depends on its index alone, not on batches, processes or what was read before.
    """

    def __init__(self, source: Source):
        self.channels, self.class_names, self.labels = source.channels, source.class_names, source.labels
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        """Raises InputError if no image can be read."""
        for offset in range(len(self)):
            item = self._source[(int(index) + offset) % len(self)]
            if item is not None:
                return item
        raise InputError(NONE_READABLE.format(len(self)))
