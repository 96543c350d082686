"""Pictures in and out: uint8 with 1, 3 or 4 channels, grids, strips, animations; PNG, GIF, WebP and .npz files."""

import zipfile
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from ssd_jax.errors import InputError
from ssd_jax.files.channels import WHITE, Colour, shown
from ssd_jax.files.decode import decode, read
from ssd_jax.files.paths import Path, opened, write_atomically

WIDTH = 768  # pixels that an enlarged grid has at least, from side to side


def grid(
    images: UInt8[np.ndarray, "n h w channels"],
    columns: int | None = None,
    padding: int = 2,
    background: Colour = WHITE,
) -> UInt8[np.ndarray, "height width _"]:
    """uint8 [n, h, w, 1, 3 or 4] -> one picture, row by row on white; as square as can be unless `columns` is given.

    Grey images make a grey picture, transparent ones are `shown` on `background`.
    """
    images = shown(images, background) if images.shape[-1] == 4 else images
    count, height, width, channels = images.shape
    columns = columns or _columns(count)
    rows = -(-count // columns)
    pitch_y, pitch_x = height + padding, width + padding
    picture = np.full((rows * pitch_y + padding, columns * pitch_x + padding, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * pitch_y + padding, (i % columns) * pitch_x + padding
        picture[top : top + height, left : left + width] = image
    return picture


def _columns(count: int) -> int:
    return int(np.ceil(np.sqrt(count)))


def enlarge(
    images: UInt8[np.ndarray, "n h w channels"], shape: tuple[int, ...]
) -> UInt8[np.ndarray, "n {shape[0]} {shape[1]} channels"]:
    """uint8 [n, h, w, channels] -> [n, *shape, channels] with visible pixels; shape is a multiple of (h, w)."""
    return images.repeat(shape[0] // images.shape[1], axis=1).repeat(shape[1] // images.shape[2], axis=2)


def enlarged_grid(
    images: UInt8[np.ndarray, "n h w _"], columns: int | None = None, background: Colour = WHITE
) -> UInt8[np.ndarray, "height width _"]:
    """`grid` of images enlarged by the least whole number that makes the picture WIDTH pixels wide."""
    columns, (height, width) = columns or _columns(len(images)), images.shape[1:3]
    factor = -(-WIDTH // (columns * width))
    return grid(enlarge(images, (factor * height, factor * width)), columns, background=background)


def denoising_strip(
    states: Sequence[UInt8[np.ndarray, "n _ _ channels"]],
    predictions: Sequence[UInt8[np.ndarray, "n _ _ channels"]],
    background: Colour = WHITE,
) -> UInt8[np.ndarray, "height width _"]:
    """Rows in pairs, one pair per image: the states x_t from noisiest to cleanest, and below them the predictions.

    Args:
        states, predictions: uint8 [n, h, w, channels] each, at resolutions that divide the last one's.
        background: of transparent images.
    """
    shape = states[-1].shape[1:3]
    rows = [
        enlarge(frame[None, i], shape)
        for i in range(len(states[0]))
        for frames in (states, predictions)
        for frame in frames
    ]
    return enlarged_grid(np.concatenate(rows), len(states), background)


def png(image: UInt8[np.ndarray, "h w channels"]) -> bytes:
    """What a PNG file of uint8 [h, w, 1, 3 or 4] holds."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}.get(image.shape[-1])
    return cv2.imencode(".png", image if order is None else cv2.cvtColor(image, order))[1].tobytes()


def write_png(path: Path, image: UInt8[np.ndarray, "h w channels"]) -> None:
    """Writes uint8 [h, w, 1, 3 or 4], whole or not at all; parent folders are made."""
    encoded = png(image)
    write_atomically(path, lambda file: file.write(encoded))


def read_image(path: Path, channels: int | None = None, background: Colour = WHITE) -> UInt8[np.ndarray, "h w _"]:
    """uint8 [h, w, channels] of a PNG, JPEG or WebP file; channels and background as in `decode`.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return decode(read(path), channels, background)
    except InputError as error:
        raise InputError(f"{path} is no image that can be read: {error}; give a PNG, JPEG or WebP file") from error


def size_of(path: Path) -> tuple[int, int]:
    """(h, w) of an image file as it is shown, upright, by its header alone. Raises InputError if it has none."""
    try:
        with opened(path) as encoded, Image.open(encoded) as file:
            turned = "exif" in file.info and file.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            width, height = file.size
            return (width, height) if turned else (height, width)
    except Exception as error:  # a broken file raises almost anything
        raise InputError(f"{path} is no image that can be read; give a PNG, JPEG or WebP file") from error


def growing(
    states: Sequence[UInt8[np.ndarray, "n _ _ channels"]],
    predictions: Sequence[UInt8[np.ndarray, "n _ _ channels"]] | None = None,
    width: int = 288,
    background: Colour = WHITE,
) -> UInt8[np.ndarray, "frames height width _"]:
    """Frames of an animation in which the pictures grow with their resolution: a grid of them at the centre of each.

    Args:
        states: uint8 [n, h, w, channels] each, from noisiest to cleanest, the last of them the largest.
        predictions: shown to the right of the states.
        width: pixels of a grid of the last states, enlarged by a whole number to at most this.
        background: of transparent images.
    """
    columns = [states] if predictions is None else [states, predictions]
    full = grid(states[-1], background=background).shape
    factor = max(width // full[1], 1)
    frames = np.full((len(states), full[0] * factor, len(columns) * full[1] * factor, full[2]), 255, np.uint8)
    for frame, *sides in zip(frames, *columns, strict=True):
        for i, side in enumerate(sides):
            picture = grid(side, background=background).repeat(factor, axis=0).repeat(factor, axis=1)
            top = (frame.shape[0] - picture.shape[0]) // 2
            left = (full[1] * factor - picture.shape[1]) // 2 + i * full[1] * factor
            frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return frames


def write_animation(
    path: Path,
    frames: UInt8[np.ndarray, "frames h w _"],
    milliseconds: int = 80,
    hold: int = 2000,
    background: Colour = WHITE,
) -> None:
    """Writes uint8 [frames, h, w, 1, 3 or 4] as a looping GIF or lossless WebP, as the suffix of `path` says.

    Args:
        path: ends in .gif or .webp.
        frames: at least one.
        milliseconds: each frame is shown.
        hold: milliseconds that the last one is.
        background: of transparent frames.
    """
    first, *others = map(Image.fromarray, shown(frames, background))
    durations = [milliseconds] * len(others) + [hold]
    options = {"save_all": True, "append_images": others, "duration": durations, "loop": 0, "lossless": True}
    write_atomically(path, lambda file: first.save(file, format=path.suffix[1:].upper(), **options))


def write_npz(path: Path, images: Iterable[UInt8[np.ndarray, "*shape channels"]], shape: tuple[int, ...]) -> None:
    """Writes images, or arrays of other axes, one by one as the array "images" of a compressed .npz: they need not fit into
    memory.

    Args:
        path: for `np.load(path)["images"]`.
        images: uint8 [*shape, channels], in order.
        shape: (number of images, *shape, channels).
    """
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}

    def write(file) -> None:
        archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED)
        with archive, archive.open("images.npy", "w", force_zip64=True) as array:
            np.lib.format.write_array_header_1_0(array, header)
            for image in images:
                array.write(image.tobytes())

    write_atomically(path, write)
