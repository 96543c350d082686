"""A folder of PNG, JPEG or WebP images of any size."""

import logging
import os
from collections import Counter
from functools import cached_property
from posixpath import normpath
from typing import SupportsIndex
from unicodedata import normalize

import numpy as np

from ssd_jax.data.encoded import EncodedImages, ImageLook
from ssd_jax.errors import InputError, few
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.decode import read
from ssd_jax.files.listing import fingerprint, list_images
from ssd_jax.files.paths import Path, in_bucket, opened, to_path

logger = logging.getLogger(__name__)


class FolderSource:
    """Images below a folder, cropped and resized; first-level sub-folders that hold images are the classes.

    An image that cannot be read is reported by name, with the reason and a running count, and is None. Classes are numbered
    in the order of their names, whatever the split file lists. An image beside the folders of the classes has label -1.

    Args:
        folder: searched by `list_images`.
        shape: (h, w) of the images.
        split_file: text file with one path a line, relative to `folder` or absolute; only these images are used, in this
            order.
        channels: 1, 3 or 4; if not given those of the images, as `EncodedImages` finds them.
        background: RGB, 0..255: shows through transparent images of 1 or 3 channels.
        crop: a key of CROPS.

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
        crop: str = "area",
    ):
        self._root = to_path(folder)
        listed = list_images(self._root)
        self.class_names = class_folders(listed)
        self._paths = _split(self._root, listed, to_path(split_file)) if split_file else listed
        self.labels = labels_of(self._paths, self.class_names)
        self._warn_of_classes()
        look, self._crop = ImageLook(shape, channels, background, crop), crop
        self._images = EncodedImages(
            lambda index: read(self._root / self._paths[index]), self._paths, str(self._root), look
        )
        self.channels = self._images.channels

    @cached_property
    def fingerprint(self) -> str:
        """Of the names, sizes and times of its images, of the list of them, and of how they are cut."""
        return f"folder {self._crop} {fingerprint(self._root, self._paths)}"

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        image = self._images[int(index)]
        return None if image is None else {"image": image, "label": self.labels[int(index)]}

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
        beside_classes = [] if in_bucket(self._root) else os.listdir(self._root)  # a bucket has no empty folders
        others = {name for name in beside_classes if not name.startswith(".")} - {*self.class_names, "__MACOSX"}
        empty = sorted(name for name in others if os.path.isdir(self._root / name))
        for what, names in {
            "folders without an image are no classes": empty,
            "classes without an image in data.split_file": unused,
            "images beside the folders of the classes are in no class": beside,
            "classes whose names differ in case or Unicode form alone": alike,
        }.items():
            if names:
                logger.warning("%r: %s: %s", folder, what, few(names))


def class_folders(paths: list[str]) -> tuple[str, ...]:
    """The first-level folders of relative paths, sorted: the classes."""
    return tuple(sorted({path[: path.index("/")] for path in paths if "/" in path}))


def labels_of(paths: list[str], class_names: tuple[str, ...]) -> np.ndarray:
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
        with opened(split_file) as file:
            lines = file.read().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InputError(f"{name} cannot be read as text: {reason}; give one path a line") from error
    whole = (str(root),) if in_bucket(root) else (os.path.abspath(root), os.path.realpath(root))
    roots = tuple(f"{path.rstrip('/')}/" for path in whole)
    paths = [_relative(line.strip(), roots) for line in lines if line.strip()]
    if not paths:
        raise InputError(f"{name} is empty; it must list paths of images below {str(root)!r}")
    there, counts = set(listed), Counter(paths)
    for what, wrong in {
        "path(s) outside the folder": [path for path in counts if path.startswith(("/", "../")) or "://" in path],
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
    scheme, separator, rest = line.replace(os.sep, "/").rpartition("://")
    path = scheme + separator + normpath(rest)
    return next((path.removeprefix(root) for root in roots if path.startswith(root)), path)
