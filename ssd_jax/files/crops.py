"""Images of any size to one size: crops of their middle."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssd_jax.errors import InputError
from ssd_jax.files.channels import from_premultiplied, premultiplied
from ssd_jax.files.decode import LARGEST


def area(
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
    return from_premultiplied(cv2.resize(premultiplied(image), (w, h), interpolation=how), 4)


def adm(
    image: UInt8[np.ndarray, "_ _ channels"], shape: tuple[int, ...]
) -> UInt8[np.ndarray, "{shape[0]} {shape[1]} channels"]:
    """As Dhariwal & Nichol (2021) and the published loader prepare images: halved by averaging while it is at least twice
    too large, resized by Pillow's bicubic filter until it just covers `shape`, its middle cut out.

    Args:
        image: uint8 [h', w', 1, 3 or 4]. What is transparent lends its colour to no neighbour.
        shape: (h, w) of the result.

    Raises:
        InputError: for an image that would be enlarged to more than LARGEST pixels before it is cut.
    """
    scale = max(shape[0] / image.shape[0], shape[1] / image.shape[1])
    if scale**2 * image.shape[0] * image.shape[1] > LARGEST:
        raise InputError(f"it is {image.shape[1]}x{image.shape[0]}, too thin to be cut by adm; take area")
    (h, w), picture = shape, Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    while picture.height >= 2 * h and picture.width >= 2 * w:
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BOX)
    scale = max(h / picture.height, w / picture.width)
    size = round(picture.width * scale), round(picture.height * scale)
    resized = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)).reshape(size[1], size[0], -1)
    top, left = (size[1] - h) // 2, (size[0] - w) // 2
    return resized[top : top + h, left : left + w]


# By the names that `data.crop` has for them.
CROPS: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {"area": area, "adm": adm}
