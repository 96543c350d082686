"""Clips as animated WebP files, read as they were written to the bit."""

import io
import struct

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssd_jax.errors import InputError, one_line
from ssd_jax.files.channels import WHITE, Colour, with_channels
from ssd_jax.files.decode import check_size, read
from ssd_jax.files.paths import Path, opened, write_atomically

MILLISECONDS = 100  # that a frame is shown
ANIMATED, ALPHA, OVERWRITE = 2, 16, 2  # flags of a file, and of a frame that replaces what was there
HEADER = 21  # bytes, to the flags


def webp(clip: UInt8[np.ndarray, "frames h w channels"]) -> bytes:
    """What a WebP file of uint8 [frames, h, w, 1, 3 or 4] holds, as RGB or RGBA, lossless, endless.

    The container is made here: libwebp's encoder of animations, which Pillow and OpenCV use, drops frames that are like the
    one before, and colours where they are transparent.
    """
    height, width, channels = clip.shape[1:]
    size = _24_bits(width - 1) + _24_bits(height - 1)
    flags = ANIMATED | (ALPHA if channels == 4 else 0)
    chunks = [_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size), _chunk(b"ANIM", bytes(6))]  # without background, endless
    for frame in clip:
        header = _24_bits(0) * 2 + size + _24_bits(MILLISECONDS) + bytes([OVERWRITE])
        chunks.append(_chunk(b"ANMF", header + _still(frame)))
    return _chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def _still(frame: UInt8[np.ndarray, "h w channels"]) -> bytes:
    """The chunk of an image alone."""
    file = io.BytesIO()
    Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(file, "WEBP", lossless=True, exact=True)
    return file.getvalue()[12:]


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def _24_bits(number: int) -> bytes:
    return struct.pack("<I", number)[:3]


def write_clip(path: Path, clip: UInt8[np.ndarray, "frames h w channels"]) -> None:
    """Writes uint8 [frames, h, w, 1, 3 or 4], whole or not at all; parent folders are made."""
    encoded = webp(clip)
    write_atomically(path, lambda file: file.write(encoded))


def is_clip(path: Path) -> bool:
    """Whether a file is an animated WebP, by its header."""
    try:
        with opened(path) as file:
            header = file.read(HEADER)
    except OSError:
        return False
    return len(header) == HEADER and header[8:16] == b"WEBPVP8X" and bool(header[20] & ANIMATED)


def read_clip(
    path: Path, channels: int | None = None, background: Colour = WHITE
) -> UInt8[np.ndarray, "frames h w channels"]:
    """uint8 [frames, h, w, channels] of an animated WebP.

    Args:
        path: of the file.
        channels: 1, 3 or 4, as `with_channels` makes them; by default 3, or 4 of a file that knows transparency.
        background: seen through transparent frames.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        encoded = read(path)
        with Image.open(io.BytesIO(encoded), formats=("WEBP",)) as animation:
            count, frames = getattr(animation, "n_frames", 1), []
            check_size(animation.width, animation.height * count, len(encoded))
            for number in range(count):
                animation.seek(number)
                frames.append(np.asarray(animation.convert(animation.mode)))
    except Exception as error:  # a broken file raises almost anything
        raise _unreadable(path, error) from error
    clip = np.stack(frames)
    return clip if channels is None else with_channels(clip, channels, background)


def clip_shape(path: Path) -> tuple[int, int, int]:
    """(frames, h, w) of an animated WebP, no frame being decoded. Raises InputError if it cannot be read."""
    try:
        with opened(path) as encoded, Image.open(encoded, formats=("WEBP",)) as animation:
            return getattr(animation, "n_frames", 1), animation.height, animation.width
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is no clip that can be read ({one_line(error, 80)}); give an animated WebP file")
