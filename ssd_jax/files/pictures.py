"""What arrays of any number of spatial axes look like, and the file that each of them is.

Of two axes they are images. Of one they are signals, seen as curves and kept as images one pixel high. Of more they are
clips: what lies before height and width, be it time or depth, is gone through as the frames of an animation.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from ssd_jax.errors import InputError
from ssd_jax.files import images
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.clips import MILLISECONDS, clip_shape, is_clip, read_clip, write_clip
from ssd_jax.files.paths import Path

CURVE = 64  # pixels that a curve is high
STRIP = (8, 16)  # arrays in a strip, and frames of each, at most


def frames_of(arrays: UInt8[np.ndarray, "n *shape channels"]) -> UInt8[np.ndarray, "frames n h w _"]:
    """uint8 [n, *shape, channels] -> what each frame shows of every array; of images and signals there is one."""
    if arrays.ndim == 3:
        return _curves(arrays)[None]
    return arrays.reshape(len(arrays), -1, *arrays.shape[-3:]).swapaxes(0, 1)


def _curves(signals: UInt8[np.ndarray, "n length channels"]) -> UInt8[np.ndarray, "n h length _"]:
    """Black on white; of three channels each in its plane, of four the first three."""
    heights = np.rint((255 - signals[..., :3].astype(float)) * (CURVE - 1) / 255).astype(int)
    before = np.concatenate([heights[:, :1], heights[:, :-1]], axis=1)
    top, bottom = np.minimum(heights, before)[:, None], np.maximum(heights, before)[:, None]
    rows = np.arange(CURVE)[:, None, None]
    return np.where((rows >= top) & (rows <= bottom), 0, 255).astype(np.uint8)


def picture(
    arrays: UInt8[np.ndarray, "n *shape channels"],
    background: Colour = WHITE,
    arrange: Callable[..., np.ndarray] = images.grid,
) -> UInt8[np.ndarray, "frames height width _"]:
    """uint8 [n, *shape, channels] -> a grid of them, for `write_picture`.

    Args:
        arrays: to show.
        background: of transparent ones.
        arrange: `images.grid` or `images.enlarged_grid`.
    """
    return np.stack([arrange(frame, background=background) for frame in frames_of(arrays)])


def strip(
    arrays: UInt8[np.ndarray, "n *shape channels"], background: Colour = WHITE
) -> UInt8[np.ndarray, "height width _"]:
    """uint8 [n, *shape, channels] -> one picture where nothing can move: a row of frames of each of the first few clips.

    Of images and signals it is their enlarged grid.
    """
    frames = frames_of(arrays)
    if len(frames) == 1:
        return images.enlarged_grid(frames[0], background=background)
    rows, columns = STRIP
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, columns).round().astype(int)), :rows]
    return images.enlarged_grid(
        chosen.swapaxes(0, 1).reshape(-1, *chosen.shape[2:]), columns=len(chosen), background=background
    )


def write_picture(stem: Path, frames: UInt8[np.ndarray, "frames height width _"]) -> Path:
    """Writes stem.png, or stem.webp of more frames than one; returns which."""
    path = stem.with_name(f"{stem.name}{'.png' if len(frames) == 1 else '.webp'}")
    if len(frames) == 1:
        images.write_png(path, frames[0])
    else:
        images.write_animation(path, frames, MILLISECONDS, hold=MILLISECONDS)
    return path


def file_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(h, w) of the image, or (frames, h, w) of the clip that an array of spatial `shape` is as a file."""
    if len(shape) == 1:
        return (1, *shape)
    return shape if len(shape) == 2 else (math.prod(shape[:-2]), *shape[-2:])


def suffix_of(shape: tuple[int, ...]) -> str:
    """Of the file of an array of spatial `shape`."""
    return ".png" if len(shape) <= 2 else ".webp"


def write_array(path: Path, array: UInt8[np.ndarray, "*shape channels"]) -> None:
    """Writes uint8 [*shape, 1, 3 or 4], whole or not at all, lossless; `path` has its `suffix_of`."""
    *shape, channels = array.shape
    write = images.write_png if len(shape) <= 2 else write_clip
    write(path, array.reshape(*file_shape(tuple(shape)), channels))


def read_array(path: Path, shape: tuple[int, ...], channels: int) -> UInt8[np.ndarray, "*shape {channels}"]:
    """What `write_array` wrote: uint8 [*shape, channels]. Raises InputError if it is of another shape or cannot be read."""
    found = _read(path, shape, channels)
    if found.shape[:-1] != file_shape(shape):
        raise InputError(
            f"{path} is {found.shape[:-1]}, but must be {file_shape(shape)}; it was changed, or begun otherwise"
        )
    return found.reshape(*shape, channels)


def is_whole(path: Path, shape: tuple[int, ...], channels: int) -> bool:
    """Whether `path` holds an array of spatial `shape`. Grey clips are kept as RGB."""
    try:
        found = _read(path, shape, None).shape
    except InputError:
        return False
    return found == (*file_shape(shape), channels if len(shape) <= 2 else max(channels, 3))


def _read(path: Path, shape: tuple[int, ...], channels: int | None) -> np.ndarray:
    return images.read_image(path, channels) if len(shape) <= 2 else read_clip(path, channels)


def shape_of(path: Path, axes: int | None = None) -> tuple[int, ...]:
    """(h, w) of an image file, or (frames, h, w) of an animated WebP if `axes` is not 2, by the header alone.

    Raises:
        InputError: if it has none.
    """
    return clip_shape(path) if axes != 2 and is_clip(path) else images.size_of(path)
