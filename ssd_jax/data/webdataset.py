"""Tar files in the WebDataset layout: the files of an example have one name, and tell by their suffixes what they are."""

import logging
import pathlib
import tarfile
from collections import Counter
from typing import NamedTuple, SupportsIndex

import numpy as np
from tqdm import tqdm

from ssd_jax.data.encoded import EncodedImages, ImageLook
from ssd_jax.errors import InputError, one_line
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.listing import IMAGES, fingerprint, objects_below
from ssd_jax.files.paths import Path, in_bucket, local_copy, to_path

CLASS = ".cls"  # suffix of a class's number, as text
MAX_CLASSES = 2**20
BLOCK = 512  # bytes; one of zeros ends a tar file

logger = logging.getLogger(__name__)


class _Member(NamedTuple):
    """Where a file lies in a tar file that is not compressed."""

    tar: int
    start: int
    size: int


class WebDatasetSource:
    """The images of tar files, in the order of their names, and their classes, if each has a .cls file; the names of the
    classes are their numbers. Only where images lie is kept in memory. One that cannot be read is reported and is None.

    Args:
        folder: of .tar files, at any depth.
        shape: (h, w) of the images.
        channels: 1, 3 or 4; if not given those of the images, as `EncodedImages` finds them.
        background: RGB, 0..255: shows through transparent images of 1 or 3 channels.
        crop: a key of CROPS.

    Raises:
        InputError: if there are no tar files, one is damaged or compressed, none holds an image, some but not all images
            have a class, or an example has several images.
    """

    def __init__(
        self,
        folder: str,
        shape: tuple[int, ...],
        *,
        channels: int | None = None,
        background: Colour = WHITE,
        crop: str = "area",
    ):
        tars = _tars(to_path(folder))
        if not tars:
            raise InputError(f"{folder!r} holds no .tar file at any depth; give a folder of WebDataset's tar files")
        self._tars = list(tars.values())
        self._members: list[_Member] = []
        names, labels = [], []
        others: Counter[str] = Counter()
        for number, tar in enumerate(tqdm(tars, "listing tar files", disable=len(tars) < 8)):
            for name, (member, label) in _listed(number, tars[tar], others).items():
                self._members.append(member)
                names.append(f"{tar}/{name}")
                labels.append(label)
        if others:
            told = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
            logger.warning("%r: left out images that are not read: %s; convert them to use them", folder, told)
        self.labels, self.class_names = _classes(folder, labels)
        look = ImageLook(shape, channels, background, crop)
        self._images = EncodedImages(self._read, names, folder, look)
        self.channels = self._images.channels
        self.fingerprint = f"webdataset {crop} {fingerprint(to_path(folder), tars)}"

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        image = self._images[int(index)]
        return None if image is None else {"image": image, "label": self.labels[int(index)]}

    def _read(self, index: int) -> bytes:
        member = self._members[index]
        try:
            with open(self._tars[member.tar], "rb") as file:
                file.seek(member.start)
                return file.read(member.size)
        except OSError as error:
            raise InputError(f"it cannot be read: {error.strerror}") from error


def _tars(folder: Path) -> dict[str, pathlib.Path]:
    """The tar files below a folder by their relative paths; those of a bucket are copied to this machine."""
    if in_bucket(folder):
        names = sorted(name for name in objects_below(folder) if name.endswith(".tar"))
        return {name: local_copy(folder / name) for name in tqdm(names, "copying tar files", disable=not names)}
    assert isinstance(folder, pathlib.Path)
    return {str(tar.relative_to(folder)): tar for tar in sorted(folder.rglob("*.tar"))}


def _listed(number: int, tar: pathlib.Path, others: Counter[str]) -> dict[str, tuple[_Member, int | None]]:
    """The image of every example of a tar file, by its name, and its class; counts `others`, images that are not read."""
    images: dict[str, tuple[str, _Member]] = {}
    classes: dict[str, int] = {}
    try:
        with tarfile.open(tar, "r:") as file:
            for each in file:
                key, suffix = _split(each.name)
                if not each.isfile():
                    continue
                if suffix.endswith(CLASS):
                    if suffix != CLASS:
                        raise InputError(
                            f"{str(tar)!r} has {each.name}, but a name must have no dot before {CLASS}; rename it"
                        )
                    content = file.extractfile(each)
                    text = content.read(BLOCK).strip() if content else b""
                    classes[key] = int(text) if text.isdigit() else -1
                elif suffix.endswith(IMAGES.suffixes):
                    if key in images:
                        several = f"{images[key][0]}, {each.name}"
                        raise InputError(f"{str(tar)!r} has several images of one example: {several}; keep one of them")
                    images[key] = each.name, _Member(number, each.offset_data, each.size)
                elif suffix.endswith(IMAGES.others):
                    others[suffix[suffix.rindex(".") :]] += 1
            end = file.offset
        with open(tar, "rb") as raw:  # tarfile takes whatever is no header for the end
            raw.seek(end)
            if raw.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError("it is damaged or cut short")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(
            f"{str(tar)!r} cannot be read as a tar file without compression: {one_line(error)}; copy it again"
        ) from error
    return {name: (member, classes.get(key)) for key, (name, member) in images.items()}


def _split(name: str) -> tuple[str, str]:
    """The name of an example and what comes after its first dot: "a/b.seg.png" -> ("a/b", ".seg.png")."""
    folder, slash, base = name.rpartition("/")
    key, dot, suffix = base.partition(".")
    return f"{folder}{slash}{key}", f"{dot}{suffix.lower()}"


def _classes(folder: str, labels: list[int | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The labels of all images and the names of the classes. Raises InputError unless all images have a class or none."""
    if not labels:
        raise InputError(f"the .tar files of {folder!r} hold no image ({', '.join(IMAGES.suffixes)})")
    known = [label for label in labels if label is not None]
    if not known:
        return np.zeros(len(labels), np.int32), ()
    if max(known) >= MAX_CLASSES:
        raise InputError(f"{folder!r} has class {max(known)}, but classes are numbers from 0 to {MAX_CLASSES - 1}")
    if len(known) < len(labels) or min(known) < 0:
        wrong = len(labels) - sum(label >= 0 for label in known)
        raise InputError(
            f"{wrong} of {len(labels)} images of {folder!r} have no class, a number from 0 in a {CLASS} file; give one to "
            "all of them or to none"
        )
    return np.array(known, np.int32), tuple(map(str, range(max(known) + 1)))
