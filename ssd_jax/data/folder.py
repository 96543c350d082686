"""A folder of PNG, JPEG or WebP images of any size."""

import logging
import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from posixpath import normpath
from typing import SupportsIndex
from unicodedata import normalize

import numpy as np

from ssd_jax.errors import InputError, few
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.crops import fit
from ssd_jax.files.decode import decode, read
from ssd_jax.files.listing import fingerprint, list_images

PROBED = 32  # images that tell how many channels a folder has
logger = logging.getLogger(__name__)


class FolderSource:
    """Images below a folder, centre-cropped and resized; first-level sub-folders that hold images are the classes.

    An image that cannot be read is reported by name, with the reason and a running count, and is None. Classes are numbered
    in the order of their names, whatever the split file lists. An image beside the folders of the classes has label -1.

    Args:
        folder: searched by `list_images`.
        shape: (h, w) of the images.
        split_file: text file with one path a line, relative to `folder` or absolute; only these images are used, in this
            order.
        channels: 1, 3 or 4; if not given those of the images: 1 if all are grey, 4 if all are transparent somewhere, else 3
            (judged by PROBED of them).
        background: RGB, 0..255: shows through transparent images of 1 or 3 channels.

    Raises:
        InputError: if the folder or the split file is missing or names no images, or others than the folder's, or if
            channels is 4 and no image is transparent.
    """

    def __init__(
        self,
        folder: str,
        shape: tuple[int, ...],
        split_file: str | None = None,
        *,
        channels: int | None = None,
        background: Colour = WHITE,
    ):
        self._root, self._shape, self._background = Path(folder), shape, background
        listed = list_images(self._root)
        self.class_names = tuple(sorted({path[: path.index("/")] for path in listed if "/" in path}))
        self._paths = _split(self._root, listed, Path(split_file)) if split_file else listed
        self.labels = _labels(self._paths, self.class_names)
        self._warn_of_classes()
        self._unreadable: set[int] = set()
        self.channels = self._probe(channels)

    @cached_property
    def fingerprint(self) -> str:
        """Of the names, sizes and times of its images, and of the list of them."""
        return f"folder {fingerprint(self._root, self._paths)}"

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        index = int(index)
        image = self._read(index, self.channels)
        return None if image is None else {"image": fit(image, self._shape), "label": self.labels[index]}

    def _read(self, index: int, channels: int | None = None) -> np.ndarray | None:
        """The image as it is, with its own channels unless told; None, having said why, if it cannot be read."""
        file = self._root / self._paths[index]
        try:
            return decode(read(file), channels, self._background)
        except InputError as error:
            if index not in self._unreadable:
                self._unreadable.add(index)
                logger.warning("image %r is left out: %s (%d so far)", str(file), error, len(self._unreadable))
            return None

    def _probe(self, channels: int | None) -> int:
        """The channels to read: those asked for, or those that the images have."""
        if channels in (1, 3):
            return channels
        chosen = np.unique(np.linspace(0, len(self) - 1, min(PROBED, len(self))).astype(int)).tolist()
        images = [image for image in (self._read(index) for index in chosen) if image is not None]
        transparent = [image.shape[-1] == 4 and image[..., 3].min() < 255 for image in images]
        if channels == 4 and not any(transparent):
            raise InputError(
                f"data.channels is 4, but none of {len(images)} images of {str(self._root)!r} that were read is "
                "transparent; set --config.data.channels=3 or 1"
            )
        if channels == 4 or (images and all(transparent)):
            return 4
        return 1 if images and all(image.shape[-1] == 1 for image in images) else 3

    def _warn_of_classes(self) -> None:
        """Says what classes may not be what was meant."""
        if not self.class_names:
            return
        folder, used = str(self._root), np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        beside = [self._paths[index] for index in np.flatnonzero(self.labels < 0)]
        unused = [name for name, count in zip(self.class_names, used, strict=True) if not count]
        folded = [normalize("NFC", name).casefold() for name in self.class_names]
        counts = Counter(folded)
        alike = [name for name, key in zip(self.class_names, folded, strict=True) if counts[key] > 1]
        others = {name for name in os.listdir(self._root) if not name.startswith(".")} - {*self.class_names, "__MACOSX"}
        empty = sorted(name for name in others if os.path.isdir(self._root / name))
        for what, names in {
            "folders without an image are no classes": empty,
            "classes without an image in data.split_file": unused,
            "images beside the folders of the classes are in no class": beside,
            "classes whose names differ in case or Unicode form alone": alike,
        }.items():
            if names:
                logger.warning("%r: %s: %s", folder, what, few(names))


def _labels(paths: list[str], class_names: tuple[str, ...]) -> np.ndarray:
    """The number of each path's class, int32 [len(paths)]: -1 without one, 0 if there are no classes."""
    if not class_names:
        return np.zeros(len(paths), np.int32)
    numbers = {name: number for number, name in enumerate(class_names)}
    found = (numbers[path[: path.index("/")]] if "/" in path else -1 for path in paths)
    return np.fromiter(found, np.int32, len(paths))


def _split(root: Path, listed: list[str], split_file: Path) -> list[str]:
    """The images that a split file lists, in its order, as paths relative to `root`."""
    name = f"data.split_file {str(split_file)!r}"
    try:
        lines = split_file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InputError(f"{name} cannot be read as text: {reason}; give one path a line") from error
    roots = tuple(f"{path.rstrip('/')}/" for path in (os.path.abspath(root), os.path.realpath(root)))
    paths = [_relative(line.strip(), roots) for line in lines if line.strip()]
    if not paths:
        raise InputError(f"{name} is empty; it must list paths of images below {str(root)!r}")
    there, counts = set(listed), Counter(paths)
    for what, wrong in {
        "path(s) outside the folder": [path for path in counts if path.startswith(("/", "../"))],
        "missing file(s)": [path for path in counts if path not in there],
        "path(s) more than once": [path for path, count in counts.items() if count > 1],
    }.items():
        if wrong:
            raise InputError(
                f"{name} names {len(wrong)} {what}, the first {wrong[0]!r}; it must list images below {str(root)!r}, "
                "each once"
            )
    return paths


def _relative(line: str, roots: tuple[str, ...]) -> str:
    """A path of a split file, relative to the folder if it lies below one of its names."""
    path = normpath(line.replace(os.sep, "/"))
    return next((path.removeprefix(root) for root in roots if path.startswith(root)), path)
