"""Encoded images to arrays of one size."""

import cv2
import numpy as np


def decode(encoded: bytes) -> np.ndarray | None:
    """PNG, JPEG or WebP -> uint8 RGB [h, w, 3], turned upright by its EXIF tag; None if it cannot be decoded."""
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """Centre-crops uint8 [h, w, 3] to a square and resizes it to [size, size, 3]: area average downwards, cubic upwards."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[top : top + side, left : left + side]
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)
