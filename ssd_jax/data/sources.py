"""Sources: random access to single images, all of one size; and the `data` section of a config that names them."""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Protocol, SupportsIndex, runtime_checkable
from unicodedata import normalize

import numpy as np
from jaxtyping import Int

from ssd_jax.data.folder import FolderSource
from ssd_jax.data.openmoji import OpenMojiSource
from ssd_jax.data.tfds import TfdsSource
from ssd_jax.errors import HOW_TO_REGISTER, InputError, check_name, check_range, few, section
from ssd_jax.files.channels import WHITE, Colour

CHANNELS = (1, 3, 4)  # grey; RGB; RGB and alpha
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval", "evaluation"}
NONE_READABLE = "none of {} images of the data can be read; the warnings say why"
PYTHON = "python"  # the source of runs that were trained on an object of the caller's

logger = logging.getLogger(__name__)


@section("data")
@dataclass(frozen=True)
class DataConfig:
    """Where images come from.

    Attributes:
        source: a key of SOURCES, e.g. "openmoji" (embedded), "folder" or "tfds".
        folder: root of an image folder, searched recursively; first-level sub-folders are its classes.
        split_file: optional text file with one path a line, relative to folder or absolute: only these images are used.
        tfds_name: name of a prepared TFDS data set, e.g. "celeb_a"; read as array_record.
        tfds_split: its split.
        classes: names of the classes, label i being classes[i]; what the source has if not given, and recorded in the run
            of a model with classes. Data with others are refused.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha); what the source has if not given, and recorded in the run.
        background: RGB, 0..255 each: what shows through transparent images where they have no channel for it.
        flip: mirror half of the images at random.
        balance: draw all classes equally often.
    """

    source: str = "openmoji"
    folder: str | None = None
    split_file: str | None = None
    tfds_name: str | None = None
    tfds_split: str = "train"
    classes: tuple[str, ...] | None = None
    channels: int | None = None
    background: Colour = WHITE
    flip: bool = False
    balance: bool = False

    def __post_init__(self):
        check_name("data.source", self.source, (*SOURCES, PYTHON), HOW_TO_REGISTER)
        if self.channels is not None:
            check_name("data.channels", self.channels, CHANNELS)
        if self.classes is not None:
            _check_distinct("data.classes", self.classes)
        for value in self.background:
            check_range("data.background", value, low=0, high=256)


@runtime_checkable
class Source(Protocol):
    """What the pipeline asks of a data set.

    An item is {"image": uint8 [*shape, channels], "label": int32 scalar}, or None for an image that cannot be read. Label
    i is class_names[i]; sources without classes have none, and label 0. `labels` holds those of all items, int [len], or
    None if they are not known without reading the items.

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


Shape = tuple[int, ...]


def _folder(config: DataConfig, shape: Shape) -> Source:
    folder = _given("data.folder", config.folder)
    return FolderSource(folder, shape, config.split_file, channels=config.channels, background=config.background)


def _tfds(config: DataConfig, shape: Shape) -> Source:
    name = _given("data.tfds_name", config.tfds_name)
    return TfdsSource(name, config.tfds_split, shape, channels=config.channels, background=config.background)


def _openmoji(config: DataConfig, shape: Shape) -> Source:
    return OpenMojiSource(shape, channels=config.channels or 3, background=config.background)


# From a config and the spatial shape of the images to a source.
SOURCES: dict[str, Callable[[DataConfig, Shape], Source]] = {"openmoji": _openmoji, "folder": _folder, "tfds": _tfds}


def make_source(config: DataConfig, shape: Shape) -> Source:
    """The source that a config names, its images of spatial `shape`.

    Raises:
        InputError: if it cannot be read, or has other classes than the config says.
    """
    if config.source == PYTHON:
        raise InputError(
            "this run was trained on data given from Python, which no config can read again; give the data: "
            "ssd_jax.train(config, workdir, source=...), or --reference where images are compared with others"
        )
    source = SOURCES[config.source](config, shape)
    _compare_classes(config.classes, source.class_names)
    return BalancedSource(source) if config.balance else source


def python_source(source: Source | np.ndarray, config: DataConfig, shape: Shape) -> Source:
    """A source or an array of the caller's as a source of images of spatial `shape`.

    Raises:
        InputError: if it is neither, its images have another shape, or it has other classes than the config says.
    """
    found = ArraySource(source) if isinstance(source, np.ndarray) else source
    if not isinstance(found, Source):
        raise InputError(
            f"source is {type(source).__name__}, but must be an array, uint8 [n, h, w, channels], or have channels, "
            "class_names, labels, len() and [index] (ssd_jax.data.Source)"
        )
    first = next((item for item in (found[i] for i in range(len(found))) if item is not None), None)
    expected = (*shape, found.channels)
    if first is None or first["image"].shape != expected or first["image"].dtype != np.uint8:
        given = "none that can be read" if first is None else f"{first['image'].dtype} {first['image'].shape}"
        raise InputError(f"the images of source are {given}, but process.shape and its channels ask for uint8 {expected}")
    _compare_classes(config.classes, found.class_names)
    return BalancedSource(found) if config.balance else found


def _compare_classes(expected: tuple[str, ...] | None, found: Sequence[str]) -> None:
    """Raises InputError, naming those that differ, unless label i has one name in both."""
    if expected is None:
        return
    before, now = ({normalize("NFC", name): number for number, name in enumerate(names)} for names in (expected, found))
    differences = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "moved": [f"{name} from {before[name]} to {now[name]}" for name in now if before.get(name, now[name]) != now[name]],
    }
    if any(differences.values()):
        told = "; ".join(f"{what}: {few(names)}" for what, names in differences.items() if names)
        raise InputError(
            f"the data have other classes than data.classes says, which the model knows by number ({told}); restore them, "
            "or train anew in another --workdir"
        )


def _check_distinct(name: str, names: Sequence[str]) -> None:
    several = [each for each, count in Counter(names).items() if count > 1]
    if several:
        raise InputError(f"{name} names {few(several)} more than once; every class must have a name of its own")


def recorded(config: DataConfig, source: Source, *, labelled: bool, from_python: bool = False) -> DataConfig:
    """The config as it is kept with a run: with the channels that the source has, and where it came from.

    Args:
        config: of the data.
        source: what was made of it.
        labelled: whether the model has classes, whose names are then kept.
        from_python: whether the source was the caller's.

    Raises:
        InputError: if the config asks for other channels than the source has.
    """
    if config.channels not in (None, source.channels):
        raise InputError(
            f"data.channels is {config.channels}, but the data have {source.channels}; correct the one or leave it out"
        )
    classes = tuple(source.class_names) if labelled else config.classes
    return replace(config, channels=source.channels, classes=classes, source=PYTHON if from_python else config.source)


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


class ArraySource:
    """Images in memory.

    Args:
        images: uint8 [n, *shape, channels].
        labels: int [n], indices into class_names; all 0 without classes.
        class_names: of the classes.

    Raises:
        InputError: for another type, or labels that do not fit.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Int[np.ndarray, "n"] | None = None,
        class_names: tuple[str, ...] = (),
    ):
        if images.dtype != np.uint8 or images.ndim < 3 or images.shape[-1] not in CHANNELS or not len(images):
            raise InputError(
                f"images are {images.dtype} {images.shape}, but must be uint8 [n, h, w, channels], 0..255, with "
                f"{', '.join(map(str, CHANNELS))} channels"
            )
        self.labels = np.zeros(len(images), np.int32) if labels is None else np.asarray(labels, np.int32)
        largest = max(len(class_names), 1) - 1
        if self.labels.shape != (len(images),) or self.labels.min() < 0 or self.labels.max() > largest:
            raise InputError(f"labels are {self.labels.shape}, but must be int [{len(images)}] in 0..{largest}")
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


class BalancedSource:
    """A source in which all classes are as large as the largest: the others' images come round again.

    Raises:
        InputError: if the source has no classes, does not know its labels, or has images in no class.
    """

    def __init__(self, source: Source):
        if source.labels is None or not source.class_names:
            raise InputError(
                "data.balance is set, but the data has no classes known beforehand; set --config.data.balance=False"
            )
        _check_labels(source)
        self.channels, self.class_names = source.channels, source.class_names
        self._source = source
        members = [np.flatnonzero(source.labels == label) for label in range(len(source.class_names))]
        largest = max(len(indices) for indices in members)
        self._indices = np.concatenate([np.resize(indices, largest) for indices in members if len(indices)])
        self.labels = source.labels[self._indices]

    @cached_property
    def fingerprint(self) -> str | None:
        """Of the source and of how often each image comes."""
        inner = getattr(self._source, "fingerprint", None)
        return None if inner is None else f"balanced {_digest(self._indices)} {inner}"

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        return self._source[int(self._indices[index])]


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()[:16]


def _given(name: str, value: str | None) -> str:
    if value is None:
        raise InputError(f"{name} must be set for this data.source: --config.{name}=...")
    return value


def check_classes(source: Source, num_classes: int) -> None:
    """Raises InputError unless the labels of the source are those of a model's classes; warns of what may not be meant."""
    names = tuple(source.class_names)
    if names and all(name.lower() in SPLITS for name in names):
        splits = f"the classes of the data are {few(names)}, which are splits of data rather than classes"
        if num_classes:
            raise InputError(f"{splits}; set --config.data.folder to one of these folders, .../{names[0]}")
        logger.warning("%s: the model trains on all of them", splits)
    if not num_classes:
        return
    if not names:
        raise InputError(
            f"model.num_classes is {num_classes}, but the data has no labels; set --config.model.num_classes=0 or "
            "use a source with classes (an image folder with one sub-folder per class)"
        )
    if len(names) != num_classes:
        raise InputError(
            f"the data has labels 0..{len(names) - 1} ({few(names)}), but model.num_classes is {num_classes}; set "
            f"--config.model.num_classes={len(names)}"
        )
    _check_distinct("the data", names)
    _check_labels(source)


def _check_labels(source: Source) -> None:
    """Raises InputError if an image is in none of the source's classes; where labels are not known, looks at one image."""
    labels, classes = source.labels, len(source.class_names)
    if labels is None:
        labels = np.array([item["label"] for item in [source[0]] if item is not None], np.int64)
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        raise InputError(
            f"{len(outside)} of {len(source)} images of the data are in no class, with labels such as {labels[outside[0]]} "
            f"while there are 0..{classes - 1}; move them into folders of classes, or leave them out by a split file"
        )
