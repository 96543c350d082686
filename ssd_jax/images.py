"""Pictures out: uint8, grids, strips, PNG files."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from ssd_jax.files import write_atomically


def to_uint8(images) -> UInt8[np.ndarray, "..."]:
    """float [-1, 1], clipped -> uint8 0..255, rounded; any shape."""
    return np.rint((np.clip(np.asarray(images, np.float32), -1, 1) + 1) * 127.5).astype(np.uint8)


def grid(
    images: UInt8[np.ndarray, "n h w channels"], columns: int | None = None, padding: int = 2
) -> UInt8[np.ndarray, "height width channels"]:
    """uint8 [n, h, w, 3] -> one picture, row by row on white; as square as can be unless `columns` is given."""
    count, height, width, channels = images.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    pitch_y, pitch_x = height + padding, width + padding
    picture = np.full((rows * pitch_y + padding, columns * pitch_x + padding, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * pitch_y + padding, (i % columns) * pitch_x + padding
        picture[top : top + height, left : left + width] = image
    return picture


def enlarge(images: UInt8[np.ndarray, "n h w 3"], size: int) -> UInt8[np.ndarray, "n {size} {size} 3"]:
    """uint8 [n, h, w, 3] -> [n, size, size, 3] with visible pixels; size is a multiple of h and w."""
    return images.repeat(size // images.shape[1], axis=1).repeat(size // images.shape[2], axis=2)


def denoising_strip(
    states: Sequence[Float[np.ndarray, "n _ _ 3"]], predictions: Sequence[Float[np.ndarray, "n _ _ 3"]], size: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Rows in pairs, one pair per image: the states x_t from noisiest to cleanest, and below them the predictions.

    Args:
        states, predictions: float [n, h, w, 3] each, at resolutions that divide `size`.
        size: pixels of every picture in the strip.
    """
    rows = [
        enlarge(to_uint8(np.asarray(frame)[None, i]), size)
        for i in range(len(states[0]))
        for frames in (states, predictions)
        for frame in frames
    ]
    return grid(np.concatenate(rows), columns=len(states))


def write_png(path: Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes uint8 [h, w, 3] RGB, whole or not at all; parent folders are made."""
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    write_atomically(path, lambda file: file.write(encoded.tobytes()))
