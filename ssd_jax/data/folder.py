"""A folder of PNG, JPEG or WebP images of any size."""

import hashlib
import logging
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from ssd_jax.errors import InputError
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.decode import decode, fit

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PROBED = 32  # images that tell how many channels a folder has
logger = logging.getLogger(__name__)


class FolderSource:
    """Images below a folder, centre-cropped and resized; first-level sub-folders are the classes.

    An image that cannot be decoded is reported by name, with a running count, and read as None.

    Args:
        folder: searched recursively.
        shape: (h, w) of the images.
        split_file: text file with one path relative to `folder` per line; only these images are used.
        channels: 1, 3 or 4; if not given those of the images: 1 if all are grey, 4 if all are transparent somewhere, else 3
            (judged by PROBED of them).
        background: RGB, 0..255: shows through transparent images of 1 or 3 channels.

    Raises:
        InputError: if the folder or the split file is missing or names no images, if channels is 4 and no image is
            transparent, and, when read, if every image turns out to be corrupt.
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
        self._paths = _split(self._root, Path(split_file)) if split_file else _search(self._root)
        self.class_names = tuple(sorted({path.parts[0] for path in self._paths if len(path.parts) > 1}))
        numbers = {name: number for number, name in enumerate(self.class_names)}
        self.labels = np.array([numbers.get(path.parts[0], 0) for path in self._paths], np.int32)
        self._corrupt: set[int] = set()
        self.channels = self._probe(channels)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        index = int(index)
        image = self._read(index, self.channels)
        if image is None:
            self._report(index)
            return None
        return {"image": fit(image, self._shape), "label": self.labels[index]}

    def _read(self, index: int, channels: int | None = None) -> np.ndarray | None:
        """The image as it is, with its own channels unless told; None if it cannot be read."""
        try:
            return decode((self._root / self._paths[index]).read_bytes(), channels, self._background)
        except OSError:
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
