"""Sources: random access to single images, all of one size."""

from collections.abc import Iterator
from itertools import islice
from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np

from ssd_jax.config import DataConfig, ModelConfig
from ssd_jax.data.folder import FolderSource
from ssd_jax.data.openmoji import OpenMojiSource
from ssd_jax.data.tfds import TfdsSource
from ssd_jax.errors import InputError


@runtime_checkable
class Source(Protocol):
    """What the pipeline asks of a data set.

    An item is {"image": uint8 [size, size, 3], "label": int32 scalar}, or None for an image that cannot be read. Sources
    without classes have num_classes = 0 and label 0. `labels` holds those of all items, int [len], or None if they are
    not known without reading the items.
    """

    num_classes: int

    @property
    def labels(self) -> np.ndarray | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None: ...


def make_source(config: DataConfig, image_size: int) -> Source:
    """The source that a config names, its images image_size pixels on a side. Raises InputError if it cannot be read."""
    source = _open(config, image_size)
    return BalancedSource(source) if config.balance else source


def _open(config: DataConfig, image_size: int) -> Source:
    match config.source:
        case "openmoji":
            return OpenMojiSource(image_size)
        case "folder":
            return FolderSource(_given("data.folder", config.folder), image_size, config.split_file)
        case _:
            return TfdsSource(_given("data.tfds_name", config.tfds_name), config.tfds_split, image_size)


def image_batches(source: Source, limit: int | None = None, batch_size: int = 64) -> Iterator[np.ndarray]:
    """Images in order, each once: uint8 [batch, size, size, 3]; images that cannot be read are left out.

    Args:
        source: the data.
        limit: at most so many images, spread over the whole source.
        batch_size: of all batches but the last.
    """
    count = len(source) if limit is None else min(limit, len(source))
    indices = np.unique(np.linspace(0, len(source) - 1, count).astype(int)).tolist()
    items = (source[index] for index in indices)
    images = (item["image"] for item in items if item is not None)
    while chunk := list(islice(images, batch_size)):
        yield np.stack(chunk)


class BalancedSource:
    """A source in which all classes are as large as the largest: the others' images come round again.

    Raises:
        InputError: if the source has no classes, or does not know its labels.
    """

    def __init__(self, source: Source):
        if source.labels is None or source.num_classes == 0:
            raise InputError(
                "data.balance is set, but the data has no classes known beforehand; set --config.data.balance=False"
            )
        self.num_classes = source.num_classes
        self._source = source
        members = [np.flatnonzero(source.labels == label) for label in range(source.num_classes)]
        largest = max(len(indices) for indices in members)
        self._indices = np.concatenate([np.resize(indices, largest) for indices in members if len(indices)])
        self.labels = source.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        return self._source[int(self._indices[index])]


def _given(name: str, value: str | None) -> str:
    if value is None:
        raise InputError(f"{name} must be set for this data.source: --config.{name}=...")
    return value


def check_classes(source: Source, config: ModelConfig) -> None:
    """Raises InputError if the source has labels that the network has no class for, or none for one that needs them."""
    if not config.num_classes:
        return
    if source.num_classes == 0:
        raise InputError(
            f"model.num_classes is {config.num_classes}, but the data has no labels; set --config.model.num_classes=0 or "
            "use a source with classes (an image folder with one sub-folder per class)"
        )
    if source.num_classes > config.num_classes:
        raise InputError(
            f"the data has labels 0..{source.num_classes - 1}, but model.num_classes is {config.num_classes}; set "
            f"--config.model.num_classes={source.num_classes}"
        )
