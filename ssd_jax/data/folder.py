"""A folder of PNG, JPEG or WebP images of any size."""

import hashlib
import logging
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from ssd_jax.errors import InputError
from ssd_jax.files.decode import decode, fit

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
logger = logging.getLogger(__name__)


class FolderSource:
    """Images below a folder, centre-cropped to a square and resized; first-level sub-folders are the classes.

    An image that cannot be decoded is reported by name, with a running count, and read as None.

    Args:
        folder: searched recursively.
        image_size: pixels on a side.
        split_file: text file with one path relative to `folder` per line; only these images are used.

    Raises:
        InputError: if the folder or the split file is missing or names no images, and, when read, if every image turns
            out to be corrupt.
    """

    def __init__(self, folder: str, image_size: int, split_file: str | None = None):
        self._root = Path(folder)
        self._image_size = image_size
        self._paths = _split(self._root, Path(split_file)) if split_file else _search(self._root)
        classes = sorted({path.parts[0] for path in self._paths if len(path.parts) > 1})
        self.num_classes = len(classes)
        labels = [classes.index(path.parts[0]) if len(path.parts) > 1 else 0 for path in self._paths]
        self.labels = np.array(labels, np.int32)
        self._corrupt: set[int] = set()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        index = int(index)
        path = self._root / self._paths[index]
        try:
            image = decode(path.read_bytes(), channels=3)
        except OSError:
            image = None
        if image is None:
            self._report(index)
            return None
        return {"image": fit(image, (self._image_size, self._image_size)), "label": self.labels[index]}

    def _report(self, index: int) -> None:
        if index in self._corrupt:
            return
        self._corrupt.add(index)
        logger.warning("skipping corrupt image %s (%d so far)", self._root / self._paths[index], len(self._corrupt))
        if len(self._corrupt) == len(self):
            raise InputError(f"all {len(self)} images of {self._root} are corrupt or of an unknown format")


def fingerprint(folder: str) -> str:
    """A hash that changes when an image below a folder is added, removed or written anew: of names, sizes and times."""
    files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    listing = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(listing).encode()).hexdigest()[:8]


def _search(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"data.folder is {str(root)!r}, which is not a folder that can be read")
    paths = sorted(path.relative_to(root) for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"data.folder {str(root)!r} holds no image ({', '.join(SUFFIXES)}) at any depth")
    return paths


def _split(root: Path, split_file: Path) -> list[Path]:
    try:
        lines = split_file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data.split_file {str(split_file)!r} cannot be read as text: {error}") from error
    paths = [Path(line.strip()) for line in lines if line.strip()]
    missing = [path for path in paths if not (root / path).is_file()]
    if missing or not paths:
        what = f"names {len(missing)} missing file(s), the first {str(missing[0])!r}" if missing else "is empty"
        raise InputError(f"data.split_file {str(split_file)!r} {what}; it must list paths relative to {str(root)!r}")
    return paths
