"""Any source, once through, into the shards that `ArrayRecordSource` reads."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Float, UInt8
from tqdm import tqdm

from ssd_jax.data.array_record import (
    FORMAT,
    FORMAT_OF_LATENTS,
    LABELS,
    MANIFEST,
    Latents,
    Manifest,
    check_shape,
    decode_latents,
    encode_latents,
    encode_record,
    label_of,
    read_manifest,
)
from ssd_jax.data.classes import vector_size
from ssd_jax.data.protocol import NONE_READABLE, Source
from ssd_jax.errors import InputError, brief, few, one_line
from ssd_jax.files.channels import Colour
from ssd_jax.files.json_file import json_text, parse_json, read_json, write_json
from ssd_jax.files.lease import lease
from ssd_jax.files.paths import Path, bytes_of, check_new, check_writable, exists, local_copy, new_file, write_atomically

T = TypeVar("T")

BEGUN = "preparing.json"  # what is being prepared, until all of it is
LEASE = "lock.json"  # of who prepares it
SHARD = 2**27  # bytes of a shard's images as arrays
AHEAD = 8  # images that wait for each thread
ENCODED = 32  # images that are encoded as latents together
MEASURED = 4096  # latents whose mean and deviation are taken for those of all


@dataclass(frozen=True)
class ToLatents:
    """What makes latents of images.

    Attributes:
        autoencoder: the digest of its weights.
        shape: (h, w, channels) of the latents of an image.
        encode: from images to latents.
    """

    autoencoder: str
    shape: tuple[int, int, int]
    encode: Callable[[UInt8[np.ndarray, "n height width _"]], Float[np.ndarray, "n h w channels"]]


def prepare(
    source: Source,
    out: Path,
    *,
    shape: tuple[int, ...],
    crop: str,
    background: Colour,
    latents: ToLatents | None = None,
) -> Manifest:
    """Writes all images or clips of a source that can be read, in its order; goes on where it stopped.

    Args:
        source: of images of `shape`, cut by `crop`, what was transparent shown on `background`.
        out: folder to be made. dataset.json is written last, so that what is half done is never taken for whole.
        shape: spatial, (h, w) of images.
        crop: a key of CROPS.
        background: RGB, 0..255.
        latents: what makes the latents that are stored in place of the images.

    Raises:
        InputError: if none of the images can be read, or `out` holds anything else, or other data, or they are too large.
    """
    check_shape(shape)
    if size := vector_size(source):
        raise InputError(
            f"the labels of the data are vectors of {size} numbers, but records hold numbers of classes alone; set "
            "--config.data.name_size=0, or train on the source itself"
        )
    asked = {"shape": shape, "channels": source.channels, "crop": crop, "background": background}
    asked |= {"class_names": source.class_names, "source": getattr(source, "fingerprint", None)}
    asked["autoencoder"] = None if latents is None else latents.autoencoder
    asked = parse_json(json_text({"format": FORMAT if latents is None else FORMAT_OF_LATENTS, **asked}))
    check_writable(out)
    begun = next((out / name for name in (MANIFEST, BEGUN) if exists(out / name)), None)
    if begun is not None:
        _compare(begun, asked)
    else:
        check_new(out)
    if exists(out / MANIFEST):
        return read_manifest(out)
    write_json(out / BEGUN, asked)
    with lease(out / LEASE):
        return _prepared(source, out, asked, latents)


def _prepared(source: Source, out: Path, asked: dict[str, Any], latents: ToLatents | None) -> Manifest:
    """Writes what is missing of the shards, then what they are together."""
    shards = _write_shards(source, out, tuple(asked["shape"]), latents)
    done = [_told(shard) for shard in shards]
    labels = np.array([label for each in done for label in each.pop("labels")], np.int32)
    if not len(labels):
        raise InputError(NONE_READABLE.format(len(source)))
    write_atomically(out / LABELS, lambda file: np.save(file, labels))
    counts = np.bincount(labels[labels >= 0], minlength=len(source.class_names))[: len(source.class_names)].tolist()
    summary = {"class_counts": counts, "images": len(labels), "left_out": len(source) - len(labels), "shards": done}
    summary["latents"] = None if latents is None else asdict(_measured(shards, latents))
    write_json(out / MANIFEST, asked | summary)
    for each in (BEGUN, *(_beside(out / shard["file"]).name for shard in done)):
        (out / each).unlink()
    return read_manifest(out)


def _compare(file: Path, asked: dict[str, Any]) -> None:
    """Raises InputError, naming what differs, if what is asked for is not what a folder was begun with."""
    found = read_json(file)
    if asked["source"] is None:
        raise InputError(
            f"{str(file.parent)!r} was begun before, and these data have no fingerprint to tell whether they are the same; "
            "choose another folder, nothing is overwritten"
        )
    for name, value in asked.items():
        if not isinstance(found, dict) or found.get(name) != value:
            before = brief(found.get(name)) if isinstance(found, dict) else "unreadable"
            raise InputError(
                f"{str(file.parent)!r} was begun with other data: {name} was {before} and is {brief(value)}; choose "
                "another folder, nothing is overwritten"
            )


def _measured(shards: Sequence[Path], latents: ToLatents) -> Latents:
    """What is stored, with mean and deviation of MEASURED of them, spread over all."""
    records = ArrayRecordDataSource([str(local_copy(shard)) for shard in shards])
    chosen = np.unique(np.linspace(0, len(records) - 1, min(MEASURED, len(records))).astype(int)).tolist()
    sums = np.zeros((2, latents.shape[-1]))
    for index in chosen:
        found = decode_latents(records[index], latents.shape)[0].astype(np.float64)
        sums += np.stack([found.mean((0, 1)), np.square(found).mean((0, 1))])
    mean, square = sums / len(chosen)
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    if not (np.isfinite(deviation).all() and deviation.all()):
        raise InputError(
            f"a channel of the latents is not finite or always the same (deviations {few(deviation.tolist())}); give "
            "another autoencoder"
        )
    return Latents(latents.autoencoder, latents.shape, tuple(mean.tolist()), tuple(deviation.tolist()))


def _write_shards(source: Source, out: Path, shape: tuple[int, ...], latents: ToLatents | None) -> list[Path]:
    """The shards' files; those that are there are not written again."""
    each = max(SHARD // (int(np.prod(shape)) * source.channels), 1)
    starts = range(0, len(source), each)
    files = [out / f"images-{i:05}-of-{len(starts):05}.array_record" for i in range(len(starts))]
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(desc="images", total=len(source), unit="img") as bar,
    ):
        for file, start in zip(files, starts, strict=True):
            indices = range(start, min(start + each, len(source)))
            if exists(_beside(file)):
                bar.update(len(indices))
            else:
                records = _ahead(pool, partial(_record, source), indices)
                if latents is not None:
                    records = _encoded(_ahead(pool, source.__getitem__, indices), latents)
                _write_shard(file, records, bar)
    return files


def _write_shard(file: Path, records: Iterable[bytes | None], bar: tqdm) -> None:
    """A shard and, beside it, what it holds; the latter last."""
    labels = []
    with new_file(file) as temporary:
        writer = _writing(file, ArrayRecordWriter, str(temporary), "group_size:1,uncompressed")
        for record in records:
            bar.update()
            if record is not None:
                _writing(file, writer.write, record)
                labels.append(label_of(record))
        _writing(file, writer.close)
        with open(temporary, "rb") as written:
            told = {
                "bytes": os.fstat(written.fileno()).st_size,
                "sha256": hashlib.file_digest(written, "sha256").hexdigest(),
            }
    write_json(_beside(file), {"file": file.name, "images": len(labels), **told, "labels": labels})


def _writing(file: Path, function: Callable[..., T], *arguments: Any) -> T:
    """Calls something of ArrayRecord's. Raises InputError if it cannot write."""
    try:
        return function(*arguments)
    except RuntimeError as error:
        raise InputError(
            f"{str(file)!r} cannot be written: {one_line(error)}; make room, and run the same again"
        ) from error


def _beside(shard: Path) -> Path:
    return shard.with_suffix(".json")


def _told(shard: Path) -> dict[str, Any]:
    """What stands beside a shard. Raises InputError if the shard is not as it was written."""
    told = read_json(_beside(shard))
    if bytes_of(shard) != told["bytes"]:
        raise InputError(f"{str(shard)!r} is not as it was written; delete {_beside(shard).name!r} and run the same again")
    return told


def _record(source: Source, index: int) -> bytes | None:
    item = source[index]
    return None if item is None else encode_record(item["image"], int(item["label"]))


def _encoded(items: Iterable[dict[str, np.ndarray] | None], latents: ToLatents) -> Iterator[bytes | None]:
    """The records of latents of items, which are encoded ENCODED at a time: the last ones filled up, to compile once."""
    items = iter(items)
    while batch := list(islice(items, ENCODED)):
        there = [item for item in batch if item is not None]
        images = [item["image"] for item in there]
        made = iter(latents.encode(np.stack([*images, *images[:1] * (ENCODED - len(images))])) if images else ())
        for item in batch:
            yield None if item is None else encode_latents(next(made), int(item["label"]))


def _ahead(pool: Executor, function: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
    """What `function` makes of each, in order, some of them being made while others are used."""
    waiting: deque = deque()
    for index in indices:
        waiting.append(pool.submit(function, index))
        if len(waiting) > AHEAD * (os.cpu_count() or 1):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
