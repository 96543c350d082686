"""The `data` section of a config, and the registry of the sources that it names."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ssd_jax.data.array_record import ArrayRecordSource
from ssd_jax.data.arrays import ArraySource, balanced, divided
from ssd_jax.data.classes import check_distinct, compare_classes
from ssd_jax.data.clips import ClipSource
from ssd_jax.data.encoded import ImageLook
from ssd_jax.data.folder import FolderSource
from ssd_jax.data.huggingface import HuggingFaceSource
from ssd_jax.data.openmoji import OpenMojiSource
from ssd_jax.data.protocol import CHANNELS, Source
from ssd_jax.data.signals import SignalSource
from ssd_jax.data.tfds import TfdsSource
from ssd_jax.data.video import VideoSource
from ssd_jax.data.volumes import VolumeSource
from ssd_jax.data.webdataset import WebDatasetSource
from ssd_jax.errors import HOW_TO_REGISTER, InputError, check_name, check_range, section
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.crops import CROPS

WITHOUT_SPLIT_FILE = (
    "openmoji",
    "array_record",
    "tfds",
    "huggingface",
    "webdataset",
    "clips",
    "volumes",
    "signals",
    "video",
)
NAMED = ("openmoji",)  # whose images have names
WITHOUT_NAMES = ("folder", *(source for source in WITHOUT_SPLIT_FILE if source not in NAMED))
DRAWN = ("openmoji", "clips", "volumes", "signals")  # at their size, so that nothing is cut
MAX_HOLDOUT, MAX_NAME_SIZE = 2**31, 2**16
PYTHON = "python"  # the source of runs that were trained on an object of the caller's


@section("data")
@dataclass(frozen=True)
class DataConfig:
    """Where images come from, or clips, volumes and signals, which have more axes or fewer.

    Attributes:
        source: a key of SOURCES, e.g. "openmoji" (embedded), "folder" or "array_record"; "clips" of (frames, h, w),
            "volumes" of (depth, h, w) and "signals" of (length,) are made when they are asked for, "video" takes clips of
            (frames, h, w) from files.
        folder: root of the files. Of "folder" images, of "video" GIF, WebP and MP4 files, searched recursively, first-level
            sub-folders being classes; of "array_record" what `launch.prepare` wrote; of "webdataset" tar files.
        split_file: optional text file with one path a line, relative to folder or absolute: only these images are used.
        name: of a data set of "tfds", e.g. "celeb_a", or "huggingface", there also a folder.
        split: of the data set of that name.
        crop: how images of other sizes become as large as asked, a key of CROPS: "area" or, as published, "adm".
        classes: names of the classes, label i being classes[i]; what the source has if not given, and recorded in the run
            of a model with classes. Data with others are refused.
        name_size: numbers of the vector that the words of an image's name are hashed into (`words.hashed`), which is its
            label then; 0 if labels are classes, or vectors that the source has of its own.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and alpha); what the source has if not given, and recorded in the run.
        background: RGB, 0..255 each: what shows through transparent images where they have no channel for it.
        flip: mirror half of the images at random, left to right; not of signals.
        balance: draw all classes equally often.
        holdout: images that are kept out of training, for the loss on them (`train.evaluate_every`); which of the data they
            are depends on their number alone, and a run keeps it.
    """

    source: str = "openmoji"
    folder: str | None = None
    split_file: str | None = None
    name: str | None = None
    split: str = "train"
    crop: str = "area"
    classes: tuple[str, ...] | None = None
    name_size: int = 0
    channels: int | None = None
    background: Colour = WHITE
    flip: bool = False
    balance: bool = False
    holdout: int = 0

    def __post_init__(self):
        check_name("data.source", self.source, (*SOURCES, PYTHON), HOW_TO_REGISTER)
        check_name("data.crop", self.crop, CROPS)
        if self.split_file is not None and self.source in WITHOUT_SPLIT_FILE:
            raise InputError(f"data.split_file is given, but data.source {self.source!r} takes none; only folder does")
        if self.source in DRAWN and self.crop != "area":
            raise InputError(
                f"data.crop is {self.crop}, but what data.source {self.source} gives is drawn at its size: area"
            )
        check_range("data.name_size", self.name_size, low=0, high=MAX_NAME_SIZE)
        if self.name_size and self.source in WITHOUT_NAMES:
            raise InputError(
                f"data.name_size is {self.name_size}, but images of data.source {self.source!r} have no names; set it to "
                f"0, or take one of: {', '.join(NAMED)}"
            )
        if self.channels is not None:
            check_name("data.channels", self.channels, CHANNELS)
        if self.classes is not None:
            check_distinct("data.classes", self.classes)
        for value in self.background:
            check_range("data.background", value, low=0, high=256)
        check_range("data.holdout", self.holdout, low=0, high=MAX_HOLDOUT)


Shape = tuple[int, ...]


def _folder(config: DataConfig, shape: Shape) -> Source:
    folder = _given("data.folder", config.folder)
    return FolderSource(folder, shape, config.split_file, **_looks(config))


def _tfds(config: DataConfig, shape: Shape) -> Source:
    return TfdsSource(_given("data.name", config.name), config.split, shape, **_looks(config))


def _huggingface(config: DataConfig, shape: Shape) -> Source:
    return HuggingFaceSource(_given("data.name", config.name), config.split, shape, **_looks(config))


def _webdataset(config: DataConfig, shape: Shape) -> Source:
    return WebDatasetSource(_given("data.folder", config.folder), shape, **_looks(config))


def _array_record(config: DataConfig, shape: Shape) -> Source:
    return ArrayRecordSource(_given("data.folder", config.folder), shape, **_looks(config))


def _openmoji(config: DataConfig, shape: Shape) -> Source:
    look = {"channels": config.channels or 3, "background": config.background}
    return OpenMojiSource(shape, **look, name_size=config.name_size)


def _clips(config: DataConfig, shape: Shape) -> Source:
    return ClipSource(shape, channels=config.channels or 3, background=config.background)


def _volumes(config: DataConfig, shape: Shape) -> Source:
    _check_channels(config, VolumeSource.channels, "volumes are of RGB and opacity")
    return VolumeSource(shape)


def _signals(config: DataConfig, shape: Shape) -> Source:
    _check_channels(config, SignalSource.channels, "signals are of one value")
    return SignalSource(shape)


def _video(config: DataConfig, shape: Shape) -> Source:
    return VideoSource(_given("data.folder", config.folder), ImageLook(shape, **_looks(config)))


def _check_channels(config: DataConfig, channels: int, why: str) -> None:
    if config.channels not in (None, channels):
        raise InputError(f"data.channels is {config.channels}, but {why}; set --config.data.channels={channels}")


def _looks(config: DataConfig) -> dict[str, Any]:
    return {"channels": config.channels, "background": config.background, "crop": config.crop}


def _of_axes(axes: str, make: Callable[[DataConfig, Shape], Source]) -> Callable[[DataConfig, Shape], Source]:
    """`make` for shapes of such `axes` alone, e.g. "h, w". Raises InputError for others."""

    def checked(config: DataConfig, shape: Shape) -> Source:
        if len(shape) != len(axes.split(", ")):
            raise InputError(
                f"process.shape is {shape}, but data.source {config.source} has the axes ({axes}); set "
                "--config.process.shape"
            )
        return make(config, shape)

    return checked


# From a config and the spatial shape of the images to a source.
SOURCES: dict[str, Callable[[DataConfig, Shape], Source]] = {
    "openmoji": _of_axes("h, w", _openmoji),
    "folder": _of_axes("h, w", _folder),
    "array_record": _array_record,
    "tfds": _of_axes("h, w", _tfds),
    "huggingface": _of_axes("h, w", _huggingface),
    "webdataset": _of_axes("h, w", _webdataset),
    "clips": _of_axes("frames, h, w", _clips),
    "volumes": _of_axes("depth, h, w", _volumes),
    "signals": _of_axes("length", _signals),
    "video": _of_axes("frames, h, w", _video),
}


class Split(NamedTuple):
    """The images that are trained on, classes balanced if the config says so, and those held out; None without any."""

    training: Source
    holdout: Source | None


def make_split(config: DataConfig, shape: Shape, given: Source | np.ndarray | None = None) -> Split:
    """The data of a config, images of spatial `shape`, or a source or an array `given` by the caller.

    Raises:
        InputError: as `python_source`; if the source cannot be read, has no images to hold out or classes to balance, or is
            to be mirrored without a width.
    """
    if config.flip and len(shape) == 1:
        raise InputError(
            f"data.flip mirrors left to right, but process.shape is {shape}, of signals, whose order means something; set "
            "--config.data.flip=False"
        )
    source, holdout = _named_source(config, shape) if given is None else python_source(given, config, shape), None
    if config.holdout:
        source, holdout = divided(source, config.holdout)
    return Split(balanced(source) if config.balance else source, holdout)


def make_source(config: DataConfig, shape: Shape) -> Source:
    """What is trained on of the data that a config names, its images of spatial `shape`.

    Raises:
        InputError: if it cannot be read, or has other classes than the config says.
    """
    return make_split(config, shape).training


def _named_source(config: DataConfig, shape: Shape) -> Source:
    if config.source == PYTHON:
        raise InputError(
            "this run was trained on data given from Python, which no config can read again; give the data: "
            "ssd_jax.train(config, workdir, source=...), or --reference where images are compared with others"
        )
    source = SOURCES[config.source](config, shape)
    compare_classes(config.classes, source.class_names)
    return source


def python_source(source: Source | np.ndarray, config: DataConfig, shape: Shape) -> Source:
    """A source or an array of the caller's as a source of images of spatial `shape`: all of them.

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
    compare_classes(config.classes, found.class_names)
    return found


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


def _given(name: str, value: str | None) -> str:
    if value is None:
        raise InputError(f"{name} must be set for this data.source: --config.{name}=...")
    return value
