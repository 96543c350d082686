"""Folders of images or clips: claimed for what they will hold, filled without drawing anything twice, read in batches."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

import ssd_jax
from ssd_jax.config import as_dict
from ssd_jax.data.encoding import Encoding
from ssd_jax.data.protocol import CHANNELS
from ssd_jax.errors import InputError, one_line
from ssd_jax.files import pictures
from ssd_jax.files.json_file import json_text, parse_json, read_json, write_json
from ssd_jax.files.listing import fingerprint, list_images
from ssd_jax.files.npz import stored_arrays
from ssd_jax.files.paths import Path, check_new, check_writable, exists, is_folder, local_copy
from ssd_jax.processes import first_does
from ssd_jax.sampling.sampler import with_progress

READ_AT_A_TIME = 64  # images


def origin(trained: ssd_jax.Trained) -> dict:
    """Which model it is, wherever its workdir lies: by its config, its step and a digest of its weights."""
    config = as_dict(trained.config)
    defining: dict[str, Any] = {section: config[section] for section in ("model", "process", "denoiser")}
    if trained.config.encoding.digest is not None:
        defining["autoencoder"] = trained.config.encoding.digest
    text = json_text(defining | {"channels": trained.encoding.channels, "background": config["data"]["background"]})
    return {"model": hashlib.sha256(text.encode()).hexdigest()[:16], "step": trained.step, "weights": trained.digest}


def claim(out: Path, record: dict) -> None:
    """Makes `out` the folder of the images that `record` describes: samples.json is written first, by the first process.

    Raises:
        InputError: if `out` holds anything else, or cannot be written to.
    """
    first_does(partial(_claim, out, record))


def _claim(out: Path, record: dict) -> None:
    file, record = out / "samples.json", parse_json(json_text(record))
    check_writable(out)
    if not exists(file):
        check_new(out)
        write_json(file, record)
    found = read_json(file)
    if not isinstance(found, dict) or "workdir" in found:
        raise InputError(
            f"{str(out)!r} was begun by an older version, whose samples.json does not say which weights drew; choose "
            "another folder, nothing is overwritten"
        )
    if found != record:
        name = next(name for name in {**record, **found} if found.get(name) != record.get(name))
        raise InputError(
            f"{str(out)!r} holds other images: their {name} is {one_line(repr(found.get(name)), 80)}, not "
            f"{record.get(name)!r}; choose another folder, nothing is overwritten"
        )


def fill(
    out: Path,
    num: int,
    batch: int,
    encoding: Encoding,
    calls: int,
    draw: Callable[[int, int], Iterator[ssd_jax.Snapshot]],
) -> list[Path]:
    """Draws the images 0 .. num - 1 that are not whole in `out`, and writes each as soon as it is drawn.

    Those of other axes than two are what `files.pictures.write_array` makes of them: clips, or images one pixel high.

    Args:
        out: folder, claimed already.
        num: images.
        batch: images at a time, over all devices; rounded up to a multiple of them.
        encoding: of the images.
        calls: network calls of an image, for the progress bar.
        draw: (images, first index) -> their snapshots.

    Returns:
        All files in order.
    """
    shape, channels = encoding.picture_shape[:-1], encoding.picture_shape[-1]
    paths = [_path(out, index, shape) for index in range(num)]
    check_sizes(out, num, encoding)
    there = _there(out, num, shape)
    missing = {i for i in range(num) if i not in there or not pictures.is_whole(there[i], shape, channels)}
    devices = jax.device_count()
    batch = -(-min(batch, num) // devices) * devices
    firsts = batches_of(missing, batch)
    with tqdm(total=len(firsts) * calls, desc="sampling", unit="call", disable=not firsts) as bar:
        for first in firsts:
            *_, last = with_progress(draw(batch, first), bar)
            write = partial(_write, encoding.decode(last.x), first, {index: paths[index] for index in missing})
            first_does(write)
    return paths


def _write(drawn: np.ndarray, first: int, paths: dict[int, Path]) -> None:
    """Those of the images first .. that have a path."""
    for index, array in enumerate(drawn, first):
        if index in paths:
            pictures.write_array(paths[index], array)


def check_sizes(out: Path, num: int, encoding: Encoding) -> None:
    """Raises InputError if one of the images 0 .. num - 1 in `out` is of another size than those that are to be drawn."""
    shape = pictures.file_shape(encoding.picture_shape[:-1])
    for path in _there(out, num, encoding.picture_shape[:-1]).values():
        if (size := _size_if_any(path, len(shape))) is not None:
            _check_size(path, size, shape, "the images drawn are")


def _there(out: Path, num: int, shape: tuple[int, ...]) -> dict[int, Path]:
    """The files of the images 0 .. num - 1 that are there, by number, of one listing."""
    names = {path.name for path in out.iterdir()} if is_folder(out) else set()
    paths = {index: _path(out, index, shape) for index in range(num)}
    return {index: path for index, path in paths.items() if path.name in names}


def _path(out: Path, index: int, shape: tuple[int, ...]) -> Path:
    return out / f"{index:06d}{pictures.suffix_of(shape)}"


def batches_of(missing: Iterable[int], batch: int) -> list[int]:
    """First indices of the batches that draw all `missing` images."""
    firsts: list[int] = []
    for index in sorted(missing):
        if not firsts or index >= firsts[-1] + batch:
            firsts.append(index)
    return firsts


def image_files(folder: Path) -> list[Path]:
    """All images of `list_images`. Raises InputError if there are none."""
    return [folder / path for path in list_images(folder)]


def read_batches(paths: list[Path], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The images or clips of files as they are, uint8 RGB and alpha [batch, *shape, 4]. Raises InputError for others."""
    for start in range(0, len(paths), READ_AT_A_TIME):
        yield np.stack([pictures.read_array(path, shape, channels=4) for path in paths[start : start + READ_AT_A_TIME]])


@dataclass(frozen=True)
class ImageSet:
    """Images or clips that lie on disk.

    Attributes:
        name: says which they are, and changes when they do.
        count: how many.
        shape: (h, w) of each, or (frames, h, w).
        batches: reads them, uint8 [n, *shape, 1, 3 or 4].
    """

    name: str
    count: int
    shape: tuple[int, ...]
    batches: Callable[[], Iterator[np.ndarray]]


def open_images(path: Path, shape: tuple[int, ...] | None = None) -> ImageSet:
    """The images below a folder, or in an .npz file as "arr_0" (ADM's sample batches) or "images" (`launch.sample`'s).

    A folder whose first file is an animated WebP is one of clips. Elsewhere such a file is its first frame.

    Args:
        path: of the folder or file.
        shape: (h, w), or (frames, h, w) of clips, that they must have; by default that of the first.

    Raises:
        InputError: naming the first image of another size, or if there are none; no image is decoded for it.
    """
    if path.is_dir():
        listed = list_images(path)
        paths = [path / each for each in listed]
        expected, like = (pictures.shape_of(paths[0]), f"{paths[0]} is") if shape is None else (shape, "the images are")
        for each in paths:
            _check_size(each, pictures.shape_of(each, len(expected)), expected, like)
        return ImageSet(f"files {fingerprint(path, listed)}", len(paths), expected, partial(read_batches, paths, expected))
    try:
        arrays, status = stored_arrays(path), local_copy(path).stat()
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be read: {error.strerror}; give a folder of images or an .npz file"
        ) from error
    found = next((arrays[name] for name in ("arr_0", "images") if name in arrays), None)
    if found is None or found.dtype != np.uint8 or len(found.shape) not in (4, 5) or found.shape[-1] not in CHANNELS:
        held = ", ".join(f"{each.name} ({each.dtype} {list(each.shape)})" for each in arrays.values())
        raise InputError(
            f"{str(path)!r} holds {one_line(held) or 'nothing'}, but must hold images, uint8 [n, h, w, 1, 3 or 4], "
            "or clips, [n, frames, h, w, 1, 3 or 4], as arr_0 or images"
        )
    count, *sides, _ = found.shape
    if not found.size:
        raise InputError(f"{str(path)!r} holds no image: {found.name} is {list(found.shape)}")
    if shape is not None:
        _check_size(path, tuple(sides), shape, "the images are")
    name = f"{path} {status.st_size} {status.st_mtime_ns}"
    return ImageSet(name, count, tuple(sides), partial(found.batches, READ_AT_A_TIME))


def _size_if_any(path: Path, axes: int) -> tuple[int, ...] | None:
    """That of a file of an image or a clip; None if there is none, or only a part of one."""
    try:
        return pictures.shape_of(path, axes)
    except InputError:
        return None


def _check_size(path: Path, size: tuple[int, ...], expected: tuple[int, ...], others: str) -> None:
    if size != expected:
        found, wanted = map(_size_text, (size, expected))
        raise InputError(
            f"{path} is {found} pixels, but {others} {wanted}; crop or resize it to {wanted}: images are taken as they are"
        )


def _size_text(shape: tuple[int, ...]) -> str:
    """ "32x16" of (h, w) = (16, 32), "8 frames of 32x16" of clips."""
    *frames, height, width = shape
    return "".join(f"{each} frames of " for each in frames) + f"{width}x{height}"
