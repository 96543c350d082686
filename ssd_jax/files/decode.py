"""Encoded images to arrays, and arrays of any size to one."""

import io

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ssd_jax.files.channels import WHITE, Colour, with_channels


def decode(encoded: bytes, channels: int | None = None, background: Colour = WHITE) -> UInt8[np.ndarray, "h w _"] | None:
    """PNG, JPEG or WebP -> uint8 [h, w, channels], turned upright by its EXIF tag; None if it cannot be decoded.

    Palettes are looked up, and 16 bits a channel cut to the upper 8.

    Args:
        encoded: what the file holds.
        channels: 1, 3 or 4 as `with_channels` makes them; by default what the file has, grey and alpha being 4.
        background: RGB, 0..255, seen through transparent images.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as file:
            image = _with_alpha(file) if file.has_transparency_data else _without_alpha(encoded, file.mode)
    except Exception:  # a broken file raises almost anything
        return None
    return image if image is None or channels is None else with_channels(image, channels, background)


def _with_alpha(file: Image.Image) -> UInt8[np.ndarray, "h w 4"]:
    upright = ImageOps.exif_transpose(file)
    if not file.mode.startswith("I"):
        return np.array(upright.convert("RGBA"))
    deep = np.asarray(upright)  # 16 bits of grey, one value of which is transparent: nothing that Pillow converts
    grey = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    return np.dstack([grey, np.where(deep == file.info["transparency"], 0, 255).astype(np.uint8)])


def _without_alpha(encoded: bytes, mode: str) -> UInt8[np.ndarray, "h w _"] | None:
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        return None
    grey = mode in ("1", "L") or mode.startswith("I")
    return image[..., :1].copy() if grey else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def fit(
    image: UInt8[np.ndarray, "_ _ channels"], shape: tuple[int, ...]
) -> UInt8[np.ndarray, "{shape[0]} {shape[1]} channels"]:
    """Centre-crops an image to the proportions of `shape` and resizes it: area average downwards, cubic upwards.

    Args:
        image: uint8 [h', w', 1, 3 or 4]. What is transparent lends its colour to no neighbour, and may lose it.
        shape: (h, w) of the result.
    """
    (height, width), (h, w) = image.shape[:2], shape
    if height * w > width * h:
        height = max(round(width * h / w), 1)
    else:
        width = max(round(height * w / h), 1)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    image = image[top : top + height, left : left + width]
    how = cv2.INTER_AREA if height * width > h * w else cv2.INTER_CUBIC
    if image.shape[-1] < 4:
        return cv2.resize(image, (w, h), interpolation=how).reshape(h, w, -1)
    opacity = image[..., 3:] / np.float32(255)
    resized = cv2.resize(np.concatenate([image[..., :3] * opacity, opacity], axis=-1), (w, h), interpolation=how)
    opacity = resized[..., 3:].clip(0, 1)
    colour = np.divide(resized[..., :3], opacity, out=np.zeros_like(resized[..., :3]), where=opacity > 0)
    return np.rint(np.concatenate([colour.clip(0, 255), 255 * opacity], axis=-1)).astype(np.uint8)
