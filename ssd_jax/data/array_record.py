"""Images or clips prepared once for training: ArrayRecord shards in a folder, read at random, nothing decoded twice.

A folder holds dataset.json, which is written last, the labels in labels.npy, and shards. A record is a label, a
little-endian int32, and an image of the final size as a lossless WebP, which is smaller than PNG and decoded as fast; of
clips, volumes and signals all rows one below the other. Or instead of it the latents of an image, little-endian float32 as
they lie.
"""

import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex, get_args, get_origin

import cv2
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from ssd_jax.data.encoded import ImageLook
from ssd_jax.errors import InputError, as_type, field_types, one_line
from ssd_jax.files.channels import WHITE, Colour, with_channels
from ssd_jax.files.json_file import read_json
from ssd_jax.files.paths import Path, bytes_of, in_bucket, local_copy, opened, to_path

FORMAT, FORMAT_OF_LATENTS = 1, 2  # of dataset.json and the records
MANIFEST, LABELS = "dataset.json", "labels.npy"
LONGEST = 2**14 - 1  # side of a WebP file
LABEL, NUMBER = np.dtype("<i4"), np.dtype("<f4")

logger = logging.getLogger(__name__)


def check_shape(shape: Sequence[int]) -> None:
    """Raises InputError if arrays of this spatial shape have more rows than a record holds."""
    rows = math.prod(shape[:-1])
    if max(rows, shape[-1]) > LONGEST:
        raise InputError(
            f"process.shape is {tuple(shape)}, of {rows} rows of {shape[-1]} pixels, but a record holds at most {LONGEST} "
            "of either: take fewer frames, or train on the source itself"
        )


def encode_record(image: UInt8[np.ndarray, "*shape channels"], label: int) -> bytes:
    """A label and an array of 1, 3 or 4 channels, its colours kept where they are transparent."""
    file = io.BytesIO()
    rows = image.reshape(-1, *image.shape[-2:])
    picture = Image.fromarray(rows[..., 0] if rows.shape[-1] == 1 else rows)
    picture.save(file, "WEBP", lossless=True, exact=True, method=0)  # more effort takes far longer for little
    return np.array(label, LABEL).tobytes() + file.getvalue()


def decode_record(
    record: bytes, shape: tuple[int, ...], channels: int
) -> tuple[UInt8[np.ndarray, "*shape {channels}"], int]:
    """What `encode_record` was given. Raises InputError if it is no image, ValueError if one of another shape."""
    image = cv2.imdecode(np.frombuffer(record, np.uint8, offset=LABEL.itemsize), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError("a record holds no image that can be read")
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[-1] == 3 else cv2.COLOR_BGRA2RGBA, dst=image)
    image = image[..., :1] if channels == 1 else with_channels(image, channels)
    return image.reshape(*shape, channels), label_of(record)


def encode_latents(latents: Float[np.ndarray, "h w channels"], label: int) -> bytes:
    """A label and latents."""
    return np.array(label, LABEL).tobytes() + latents.astype(NUMBER).tobytes()


def decode_latents(record: bytes, shape: tuple[int, ...]) -> tuple[Float[np.ndarray, "..."], int]:
    """What `encode_latents` was given. Raises ValueError if it is of another shape."""
    return np.frombuffer(record, NUMBER, offset=LABEL.itemsize).reshape(shape).astype(np.float32), label_of(record)


def label_of(record: bytes) -> int:
    """The label of a record."""
    return int(np.frombuffer(record, LABEL, 1)[0])


@dataclass(frozen=True)
class Shard:
    """A file of records: its name, how many images it holds, its size and SHA-256."""

    file: str
    images: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Latents:
    """What is stored instead of images.

    Attributes:
        autoencoder: the digest of the weights of what made them, the means of its Gaussians.
        shape: (h, w, channels) of an image's.
        mean, deviation: of every channel, over images and places.
    """

    autoencoder: str
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True)
class Manifest:
    """What dataset.json says of prepared images.

    Attributes:
        shape: spatial, (h, w) of images.
        channels: 1, 3 or 4.
        crop: how they were cut, a key of CROPS.
        background: RGB, seen through those that were transparent.
        class_names: of the labels; none if there are no classes.
        class_counts: images of each class.
        images: how many there are.
        left_out: how many of the data could not be read.
        source: fingerprint of the data, if they have one.
        shards: in order.
        latents: what the records hold instead of the images; None if they hold these.
    """

    shape: tuple[int, ...]
    channels: int
    crop: str
    background: Colour
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    images: int
    left_out: int
    source: str | None
    shards: tuple[Shard, ...]
    latents: Latents | None


def read_manifest(folder: Path) -> Manifest:
    """Of a folder that `launch.prepare` finished. Raises InputError if it is none."""
    file = folder / MANIFEST
    try:
        found = read_json(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"data.folder {str(folder)!r} holds no {MANIFEST}, which launch.prepare writes last: give a folder that it "
            "made, or run it again to finish this one"
        ) from error
    if not isinstance(found, dict) or found.pop("format", None) != (FORMAT_OF_LATENTS if found.get("latents") else FORMAT):
        raise InputError(f"{str(file)!r} is of another version, or not of launch.prepare; prepare the data again")
    found.setdefault("latents", None)
    try:
        return Manifest(**{name: _read_field(name, kind, found[name]) for name, kind in field_types(Manifest).items()})
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{str(file)!r} is damaged ({one_line(error)}); prepare the data again") from error


def _read_field(name: str, kind: Any, value: Any) -> Any:
    """A field of the manifest. Tuples may be longer than those of configs."""
    if name == "latents" and isinstance(value, dict):
        return Latents(**{each: as_type(each, value[each], kind) for each, kind in field_types(Latents).items()})
    if get_origin(kind) is not tuple or ... not in get_args(kind):
        return as_type(name, value, kind)
    of = get_args(kind)[0]
    if of is Shard:
        fields = field_types(Shard)
        return tuple(Shard(**{each: as_type(each, shard[each], kind) for each, kind in fields.items()}) for shard in value)
    return tuple(as_type(name, each, of) for each in value)


class ArrayRecordSource:
    """Images, or clips, volumes or signals, that `launch.prepare` wrote.

    Args:
        folder: where it wrote them.
        shape: spatial, which must be theirs.
        channels: 1, 3 or 4; their own if not given.
        background: RGB, 0..255: shows through images of 4 channels if fewer are asked for.
        crop: what they must have been cut by.

    An item of a folder of latents has them in place of the image, float32 (h, w, channels) as they were made.
    An image whose record is damaged is reported and is None.

    Raises:
        InputError: if they are not there, not whole or not finished, or were prepared for another shape, crop, background
            or channels.
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
        self._folder = to_path(folder)
        manifest = read_manifest(self._folder)
        _compare(folder, manifest, ImageLook(shape, channels, background, crop))
        self.channels, self._own, self._background = channels or manifest.channels, manifest.channels, background
        self.class_names, self._manifest = manifest.class_names, manifest
        self._unreadable: set[int] = set()
        self._records = ArrayRecordDataSource(_whole(self._folder, manifest.shards))
        self.labels = _labels(self._folder / LABELS, manifest.images)
        self.fingerprint = " ".join(["array_record", *(shard.sha256[:16] for shard in manifest.shards)])

    def __len__(self) -> int:
        return self._manifest.images

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray] | None:
        try:
            image, label = self._decoded(self._records[int(index)])
        except Exception as error:  # of ArrayRecord, for flipped bits
            if int(index) not in self._unreadable:
                self._unreadable.add(int(index))
                told = (int(index), str(self._folder), one_line(error), len(self._unreadable))
                logger.warning("image %d of %r is left out: %s (%d so far)", *told)
            return None
        return {"image": image, "label": np.asarray(label, np.int32)}

    def _decoded(self, record: bytes) -> tuple[np.ndarray, int]:
        """The image of a record, or its latents, and its label."""
        if self._manifest.latents is not None:
            return decode_latents(record, self._manifest.latents.shape)
        image, label = decode_record(record, self._manifest.shape, self._own)
        return with_channels(image, self.channels, self._background), label


def _labels(file: Path, count: int) -> np.ndarray:
    """Of all images, int32 [count]. Raises InputError if the file does not hold them."""
    try:
        with opened(file) as found:
            labels = np.load(io.BytesIO(found.read()))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{str(file)!r} cannot be read: {one_line(error)}; prepare the data again") from error
    if labels.shape != (count,) or labels.dtype != np.int32:
        raise InputError(f"{str(file)!r} does not hold the labels of {count} images; prepare the data again")
    return labels


def _compare(folder: str, manifest: Manifest, look: ImageLook) -> None:
    """Raises InputError unless images were prepared to look as a config says."""
    flags = {"process.shape": (manifest.shape, look.shape), "data.crop": (manifest.crop, look.crop)}
    if manifest.channels < 4:
        flags["data.background"] = (manifest.background, look.background)
    for name, (before, now) in flags.items():
        if tuple(before) != tuple(now):
            raise InputError(
                f"{folder!r} was prepared with {name} {before}, but it is {now}; set --config.{name}={before}, or prepare "
                "the data again"
            )
    if manifest.latents is not None and look.channels not in (None, manifest.channels):
        raise InputError(
            f"data.channels is {look.channels}, but {folder!r} holds latents of images of {manifest.channels}; leave it out"
        )
    if look.channels == 4 and manifest.channels != 4:
        raise InputError(f"data.channels is 4, but {folder!r} was prepared with {manifest.channels}; set it to 3 or 1")


def _whole(folder: Path, shards: Sequence[Shard]) -> list[str]:
    """The paths of shards, as ArrayRecord wants them: on this machine, to which those of a bucket are copied.

    Raises:
        InputError: if one is missing or has another size.
        OSError: if one cannot be copied.
    """
    paths = []
    for shard in tqdm(shards, "copying shards", disable=not in_bucket(folder)):
        path = folder / shard.file
        size = bytes_of(path)
        if size is None:
            raise InputError(f"shard {str(path)!r} is missing; copy it again, or prepare again")
        if size != shard.bytes:
            raise InputError(f"shard {str(path)!r} has {size} bytes, but {shard.bytes} were written; copy it again")
        paths.append(f"{local_copy(path)}[0:{shard.images}]")
    return paths
