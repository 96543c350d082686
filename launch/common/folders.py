"""Folders of images: claimed for what they will hold, filled without drawing anything twice, read in batches."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import ssd_jax
from ssd_jax.data.encoding import Encoding
from ssd_jax.data.folder import SUFFIXES
from ssd_jax.errors import InputError
from ssd_jax.files import images
from ssd_jax.files.paths import write_atomically
from ssd_jax.sampling.sampler import with_progress

READ_AT_A_TIME = 64  # images


def claim(out: Path, record: dict) -> None:
    """Makes `out` the folder of the images that `record` describes: samples.json is written first.

    Raises:
        InputError: if `out` holds anything else.
    """
    file, record = out / "samples.json", json.loads(json.dumps(record))
    if not file.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{str(out)!r} is not an empty folder; choose another, nothing is overwritten")
        write_atomically(file, lambda stream: stream.write(json.dumps(record, indent=2).encode()))
    try:
        found = dict(json.loads(file.read_text()))
    except ValueError as error:
        raise InputError(f"{file} cannot be read; choose another folder, nothing is overwritten") from error
    if found != record:
        name = next(name for name in {**record, **found} if found.get(name) != record.get(name))
        raise InputError(
            f"{str(out)!r} holds other images: their {name} is {found.get(name)!r}, not {record.get(name)!r}; "
            "choose another folder, nothing is overwritten"
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
    paths, shape = [out / f"{index:06d}.png" for index in range(num)], (*encoding.shape, encoding.channels)
    missing = {index for index, path in enumerate(paths) if not images.is_whole(path, shape)}
    devices = jax.local_device_count()
    batch = -(-min(batch, num) // devices) * devices
    firsts = batches_of(missing, batch)
    with tqdm(total=len(firsts) * calls, desc="sampling", unit="call", disable=not firsts) as bar:
        for first in firsts:
            *_, last = with_progress(draw(batch, first), bar)
            pictures = encoding.decode(last.x)
            for index in missing.intersection(range(first, first + batch)):
                images.write_png(paths[index], pictures[index - first])
    return paths


def batches_of(missing: Iterable[int], batch: int) -> list[int]:
    """First indices of the batches that draw all `missing` images."""
    firsts: list[int] = []
    for index in sorted(missing):
        if not firsts or index >= firsts[-1] + batch:
            firsts.append(index)
    return firsts


def image_files(folder: Path) -> list[Path]:
    """All images below a folder but the grid that `launch.sample` makes, sorted. Raises InputError if there are none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.name != "grid.png")
    if not paths:
        raise InputError(f"{str(folder)!r} holds no image ({', '.join(SUFFIXES)}) at any depth")
    return paths


def read_batches(paths: list[Path]) -> Iterator[np.ndarray]:
    """The images of files as they are, uint8 RGB and alpha [batch, h, w, 4]. Raises InputError if their sizes differ."""
    first = images.read_image(paths[0], channels=4).shape
    for start in range(0, len(paths), READ_AT_A_TIME):
        batch = {path: images.read_image(path, channels=4) for path in paths[start : start + READ_AT_A_TIME]}
        for path, image in batch.items():
            if image.shape != first:
                sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (first, image.shape))
                raise InputError(f"{path} and {paths[0]} are of different sizes, {sizes}; give images of one size")
        yield np.stack(list(batch.values()))
