"""Frames of GIF, WebP and MP4 files of any size and length."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence

from ssd_jax.errors import InputError, one_line
from ssd_jax.files.channels import WHITE, Colour, with_channels
from ssd_jax.files.decode import check_size, read
from ssd_jax.files.paths import Path, local_copy

ANIMATIONS = ("GIF", "WEBP")


def count_frames(path: Path) -> int:
    """How many frames a video has: of an MP4 as its header says. Raises InputError, saying why, if it cannot be read."""
    if _is_movie(path):
        with _movie(path) as movie:
            return max(int(movie.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
    with _animation(path) as animation:
        return getattr(animation, "n_frames", 1)


def read_frames(
    path: Path, first: int, channels: int, background: Colour = WHITE
) -> Iterator[UInt8[np.ndarray, "h w {channels}"]]:
    """The frames first, first + 1 .. of a video, one by one, as they are stored, however long each is shown.

    Args:
        path: ends in .gif, .webp or .mp4.
        first: 0 is the first one.
        channels: 1, 3 or 4, as `with_channels` makes them.
        background: seen through transparent frames.

    Raises:
        InputError: saying why, if they cannot be read.
    """
    frames = _movie_frames(path, first) if _is_movie(path) else _animation_frames(path, first)
    for frame in frames:
        yield with_channels(frame, channels, background)


def _is_movie(path: Path) -> bool:
    return path.suffix.lower() == ".mp4"


@contextmanager
def _movie(path: Path) -> Iterator[cv2.VideoCapture]:
    try:
        file = str(local_copy(path))
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror}") from error
    movie = cv2.VideoCapture(file, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])  # many are read at once
    if not movie.isOpened():
        raise InputError("it is corrupt, truncated or of an unknown format")
    try:
        yield movie
    finally:
        movie.release()


def _movie_frames(path: Path, first: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    with _movie(path) as movie:
        if first:
            movie.set(cv2.CAP_PROP_POS_FRAMES, first)
        while True:
            there, frame = movie.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _animation(path: Path) -> Image.Image:
    encoded = read(path)
    try:
        animation = Image.open(io.BytesIO(encoded), formats=ANIMATIONS)
    except Exception as error:  # a broken file raises almost anything
        raise InputError("it is empty" if not encoded else "it is corrupt or of an unknown format") from error
    check_size(animation.width, animation.height, len(encoded))
    return animation


def _animation_frames(path: Path, first: int) -> Iterator[UInt8[np.ndarray, "h w _"]]:
    with _animation(path) as animation:
        try:
            for number, frame in enumerate(ImageSequence.Iterator(animation)):
                if number >= first:
                    yield np.asarray(frame.convert("RGBA" if frame.has_transparency_data else "RGB"))
        except (OSError, EOFError, ValueError, SyntaxError) as error:
            raise InputError(f"it is corrupt or truncated ({one_line(error, 80)})") from error
