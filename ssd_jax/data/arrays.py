"""Sources made of others: of arrays of images; of other sources, with classes balanced or images held out."""

import hashlib
from functools import cached_property
from typing import SupportsIndex

import numpy as np
from jaxtyping import Int, Num

from ssd_jax.data.classes import check_labels
from ssd_jax.data.protocol import CHANNELS, Source
from ssd_jax.errors import InputError


class ArraySource:
    """Images in memory.

    Args:
        images: uint8 [n, *shape, channels].
        labels: int [n], indices into class_names, all 0 without classes; or vectors, float [n, size].
        class_names: of the classes.

    Raises:
        InputError: for another type, or labels that do not fit.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Num[np.ndarray, "n *vector"] | None = None,
        class_names: tuple[str, ...] = (),
    ):
        if images.dtype != np.uint8 or images.ndim < 3 or images.shape[-1] not in CHANNELS or not len(images):
            raise InputError(
                f"images are {images.dtype} {images.shape}, but must be uint8 [n, h, w, channels], 0..255, with "
                f"{', '.join(map(str, CHANNELS))} channels"
            )
        self.labels = np.zeros(len(images), np.int32) if labels is None else _labels(labels)
        vectors, largest = self.labels.ndim == 2 and not class_names, max(len(class_names), 1) - 1
        if len(self.labels) != len(images) or not (vectors or (self.labels.ndim == 1 and _within(self.labels, largest))):
            raise InputError(
                f"labels are {self.labels.dtype} {self.labels.shape}, but must be int [{len(images)}] in 0..{largest}"
                + ("" if class_names else f", or float [{len(images)}, size]")
            )
        self._images, self.class_names = images, tuple(class_names)

    @property
    def channels(self) -> int:
        """The last axis."""
        return self._images.shape[-1]

    @cached_property
    def fingerprint(self) -> str:
        """Of the images themselves."""
        return f"array {self._images.shape} {_digest(self._images)}"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        return {"image": self._images[index], "label": self.labels[index]}


class SelectedSource:
    """Some images of a source, in another order or several times.

    Args:
        source: of all.
        indices: int [n], which.
        name: of the selection, for the fingerprint.
    """

    def __init__(self, source: Source, indices: Int[np.ndarray, "n"], name: str):
        self.channels, self.class_names = source.channels, source.class_names
        self.labels = None if source.labels is None else source.labels[indices]
        self._source, self._indices, self._name = source, indices, name

    @cached_property
    def fingerprint(self) -> str | None:
        """Of the source and of how often each image comes."""
        inner = getattr(self._source, "fingerprint", None)
        return None if inner is None else f"{self._name} {_digest(self._indices)} {inner}"

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        return self._source[int(self._indices[index])]


def balanced(source: Source) -> SelectedSource:
    """A source in which all classes are as large as the largest: the others' images come round again.

    Raises:
        InputError: if the source has no classes, does not know its labels, or has images in no class.
    """
    if source.labels is None or not source.class_names:
        raise InputError(
            "data.balance is set, but the data has no classes known beforehand; set --config.data.balance=False"
        )
    check_labels(source)
    members = [np.flatnonzero(source.labels == label) for label in range(len(source.class_names))]
    largest = max(len(indices) for indices in members)
    indices = np.concatenate([np.resize(each, largest) for each in members if len(each)])
    return SelectedSource(source, indices, "balanced")


def divided(source: Source, count: int) -> tuple[SelectedSource, SelectedSource]:
    """All images of a source but `count`, and these: spread evenly over it, so that sorted classes all give their share.

    Raises:
        InputError: unless fewer are held out than there are.
    """
    if count >= len(source):
        raise InputError(f"data.holdout is {count}, but the data have {len(source)} images; hold out fewer")
    held = ((np.arange(count) + 0.5) * len(source) / count).astype(int)
    rest = np.setdiff1d(np.arange(len(source)), held)
    return SelectedSource(source, rest, "without"), SelectedSource(source, held, "only")


def _labels(labels: np.ndarray) -> np.ndarray:
    """Vectors as float32, else int32."""
    return np.asarray(labels, np.float32 if np.issubdtype(labels.dtype, np.floating) and labels.ndim == 2 else np.int32)


def _within(labels: np.ndarray, largest: int) -> bool:
    return bool(labels.min() >= 0 and labels.max() <= largest)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]
