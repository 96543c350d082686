"""What folders, tar files and Hugging Face have in common: encoded images by their number."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from ssd_jax.errors import InputError
from ssd_jax.files.channels import WHITE, Colour
from ssd_jax.files.crops import CROPS
from ssd_jax.files.decode import decode

T = TypeVar("T")

PROBED = 32  # images that tell how many channels data have
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageLook:
    """What images of any size, depth and transparency become.

    Attributes:
        shape: (h, w).
        channels: 1, 3 or 4, or None for what they have.
        background: RGB, 0..255: shows through transparent images of 1 or 3 channels.
        crop: a key of CROPS.
    """

    shape: tuple[int, ...]
    channels: int | None = None
    background: Colour = WHITE
    crop: str = "area"


class Readable:
    """Says what cannot be read: each of it once, by name, with the reason and a running count.

    Args:
        what: it is, e.g. "image".
        names: of all that is below `where`.
        where: it lies.
    """

    def __init__(self, what: str, names: Sequence[str], where: str):
        self._what, self._names, self._where = what, names, where
        self._unreadable: set[int] = set()

    def tried(self, index: int, function: Callable[[], T]) -> T | None:
        """What the function makes of one of them; None, having said why, if it raises InputError."""
        try:
            return function()
        except InputError as error:
            if index not in self._unreadable:
                self._unreadable.add(index)
                file = os.path.join(self._where, self._names[index])
                logger.warning("%s %r is left out: %s (%d so far)", self._what, file, error, len(self._unreadable))
            return None


class EncodedImages:
    """Images of one size and number of channels. One that cannot be read is reported by name, with the reason and a running
    count, and is None.

    Args:
        read: from a number to what its file holds; raises InputError, saying why, if that cannot be read.
        names: of all images below `where`, for messages.
        where: they lie.
        look: that they are given; without channels those of the images: 1 if all are grey, 4 if all are transparent
            somewhere, else 3 (judged by PROBED of them).

    Raises:
        InputError: if channels is 4 and no image is transparent.
    """

    def __init__(self, read: Callable[[int], bytes], names: Sequence[str], where: str, look: ImageLook):
        self._read, self._count, self._where, self._look = read, len(names), where, look
        self._tried = Readable("image", names, where).tried
        self.channels = self._probe(look.channels)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "..."] | None:
        return self._tried(index, lambda: CROPS[self._look.crop](self._decoded(index, self.channels), self._look.shape))

    def _decoded(self, index: int, channels: int | None = None) -> np.ndarray:
        """The image as it is, with its own channels unless told."""
        return decode(self._read(index), channels, self._look.background)

    def _probe(self, channels: int | None) -> int:
        """The channels to read: those asked for, or those that the images have."""
        if channels in (1, 3):
            return channels
        chosen = np.unique(np.linspace(0, len(self) - 1, min(PROBED, len(self))).astype(int)).tolist()
        tried = (self._tried(index, partial(self._decoded, index)) for index in chosen)
        images = [image for image in tried if image is not None]
        transparent = [image.shape[-1] == 4 and image[..., 3].min() < 255 for image in images]
        if channels == 4 and not any(transparent):
            raise InputError(
                f"data.channels is 4, but none of {len(images)} images of {self._where!r} that were read is "
                "transparent; set --config.data.channels=3 or 1"
            )
        if channels == 4 or (images and all(transparent)):
            return 4
        return 1 if images and all(image.shape[-1] == 1 for image in images) else 3
