"""Which images or videos a folder holds: the one lister for training, references, samples and fingerprints."""

import errno
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from ssd_jax.errors import InputError, few
from ssd_jax.files.paths import Path, as_os_errors, buckets, exists, in_bucket, is_folder


@dataclass(frozen=True)
class Kind:
    """Of files: what they are called, by which suffixes they are listed, and by which those that are not read are known."""

    name: str
    suffixes: tuple[str, ...]
    others: tuple[str, ...]


IMAGES = Kind(
    "image",
    (".png", ".jpg", ".jpeg", ".webp"),
    (
        *(".avif", ".bmp", ".dng", ".exr", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm"),
        *(".pgm", ".ppm", ".psd", ".svg", ".tga", ".tif", ".tiff"),
    ),
)
VIDEOS = Kind(
    "video", (".gif", ".webp", ".mp4"), (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv")
)
# What our commands write beside the images that they draw.
PRODUCTS = ("grid.png", "grid.webp", "animation.gif", "animation.webp")
RECORD = "samples.json"  # and what says that they did
WORKDIR = ("config.json", "checkpoints")  # what shows that a folder is a workdir,
IN_WORKDIR = ("samples.png", "denoising.png")  # and what our commands write there
GRID = re.compile(r"step_\d{7,}\.(png|webp)")  # and, of training, into the folder samples in it
logger = logging.getLogger(__name__)


@dataclass
class _Noticed:
    """What a walk for files of a kind leaves out, to be told once."""

    kind: Kind
    dangling: list[str] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)

    def is_listed(self, path: str) -> bool:
        """Whether a file is one to list, by its name; notes what it is otherwise."""
        lower = path.lower()
        if lower.endswith(self.kind.others):
            self.suffixes[lower[lower.rindex(".") :]] += 1
        if not lower.endswith(self.kind.suffixes):
            return False
        if path.rpartition("/")[2] in PRODUCTS:
            self.products.append(path)
            return False
        return True


@dataclass(frozen=True)
class _Visit:
    """A folder on the way: what is left of it, and where it lies."""

    prefix: str  # of the relative paths of what it holds
    above: tuple[tuple[int, int], ...]  # device and inode of it and the folders on the way to it
    entries: Iterator[os.DirEntry[str]]  # sorted, without what our commands wrote beside images


def list_images(folder: Path) -> list[str]:
    """The images at any depth below a folder: relative paths with forward slashes, sorted part by part.

    Links are followed, but not around a loop. Left out are hidden names and `__MACOSX`, the grids and animations that our
    commands write beside the images that they draw and into workdirs and, with a warning, what has a name of theirs
    (PRODUCTS) elsewhere, links that lead nowhere and images of other suffixes than those of IMAGES. Whether an image can be
    read shows when it is read.

    Raises:
        InputError: if there is no such folder, it or one below it cannot be read, or it holds no image.
    """
    return _listed(folder, IMAGES)


def list_videos(folder: Path) -> list[str]:
    """The GIF, WebP and MP4 files below a folder, as `list_images` lists images."""
    return _listed(folder, VIDEOS)


def _listed(folder: Path, kind: Kind) -> list[str]:
    if not is_folder(folder):
        raise InputError(f"{str(folder)!r} is not a folder that can be read; give a folder of {kind.name}s")
    noticed = _Noticed(kind)
    paths = list(_walk_bucket(folder, noticed) if in_bucket(folder) else _walk(str(folder), noticed))
    others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(noticed.suffixes.items()))
    if noticed.dangling:
        logger.warning("%r: left out links that lead nowhere: %s", str(folder), few(noticed.dangling))
    if noticed.products:
        logger.warning("%r: left out %s, a grid or animation by its name; rename it", str(folder), few(noticed.products))
    if not paths:
        instead = f", but {others}, which are not read; convert them" if others else ""
        raise InputError(f"{str(folder)!r} holds no {kind.name} ({', '.join(kind.suffixes)}) at any depth{instead}")
    if others:
        logger.warning("%r: left out %ss that are not read: %s; convert them to use them", str(folder), kind.name, others)
    return paths


def _walk(root: str, noticed: _Noticed) -> Iterator[str]:
    visits = [_visit(root, "", ())]
    while visits:
        here = visits[-1]
        for entry in here.entries:
            name = entry.name
            if name.startswith(".") or name == "__MACOSX":
                continue
            kind = _kind(entry)
            if kind == "folder":
                visits.append(_visit(entry.path, f"{here.prefix}{name}/", here.above))
                break
            if kind == "nothing":
                noticed.dangling.append(here.prefix + name)
            elif kind == "file" and noticed.is_listed(here.prefix + name):
                yield here.prefix + name
        else:
            visits.pop()


def _walk_bucket(root: Path, noticed: _Noticed) -> Iterator[str]:
    """The same of a bucket, which has neither links nor folders of its own."""
    paths = sorted(objects_below(root), key=lambda path: path.split("/"))
    names: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/")
        for i, part in enumerate(parts):
            names.setdefault("/".join(parts[:i]), set()).add(part)
    ours: dict[str, set[str]] = {}
    for folder, held in names.items():
        here = root / folder
        inside_run = here.name == "samples" and all(exists(here.parent / each) for each in WORKDIR)
        ours[folder] = _products(held, inside_run)
    for path in paths:
        folder, _, name = path.rpartition("/")
        left_out = any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
        if not left_out and name not in ours[folder] and noticed.is_listed(path):
            yield path


def objects_below(folder: Path) -> dict[str, dict]:
    """All objects below a folder of a bucket: what is known of each, by its relative path."""
    prefix = str(folder).removeprefix("gs://").rstrip("/") + "/"
    with as_os_errors(folder):
        return {path.removeprefix(prefix): of for path, of in buckets().find(str(folder), detail=True).items()}


def _visit(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> _Visit:
    """Opens a folder; one that lies on the way to itself holds nothing more."""
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return _Visit(prefix, above, iter(()))
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    run, name = os.path.split(os.path.abspath(folder))
    inside_run = name == "samples" and all(os.path.exists(os.path.join(run, each)) for each in WORKDIR)
    ours = _products({entry.name for entry in entries}, inside_run)
    return _Visit(prefix, (*above, identity), (entry for entry in entries if entry.name not in ours))


def _products(names: set[str], inside_run: bool) -> set[str]:
    """Which of the names in a folder, maybe the samples of a run, are grids and animations that our commands wrote."""
    ours = {*PRODUCTS} if RECORD in names else set()
    if inside_run:
        ours |= set(filter(GRID.fullmatch, names))
    if names.issuperset(WORKDIR):
        ours |= {*IN_WORKDIR}
    return ours


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "nothing", "other"]:
    """What an entry is, or what its link leads to."""
    try:
        if entry.is_file():
            return "file"
        if entry.is_dir():
            return "folder"
        return "nothing" if entry.is_symlink() and not os.path.exists(entry.path) else "other"
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return "nothing"
        raise _unreadable(entry.path, error) from error


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError(f"{path!r} cannot be read: {error.strerror}; make it readable, or move it out of the images")


def fingerprint(folder: Path, paths: Iterable[str | Path]) -> str:
    """A hash that changes when one of the images at `paths` below `folder` is renamed or written anew, or the list changes.

    Of names, sizes and times: nothing is read.
    """
    digest, objects = hashlib.sha256(), objects_below(folder) if in_bucket(folder) else None
    for path in paths:
        if objects is not None:
            found = objects.get(str(path), {})
            told = f"{found.get('size')} {found.get('generation')}"
        else:
            told = _size_and_time(os.path.join(folder, path))
        digest.update(f"{path}\0{told}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _size_and_time(path: str) -> str:
    try:
        status = os.stat(path)
        return f"{status.st_size} {status.st_mtime_ns}"
    except OSError as error:  # what is gone is another image, too
        return str(error.errno)
