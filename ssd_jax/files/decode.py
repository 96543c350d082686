"""Encoded images to arrays."""

import io

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ssd_jax.errors import InputError, one_line
from ssd_jax.files.channels import WHITE, Colour, with_channels
from ssd_jax.files.paths import Path, in_bucket, opened

# Formats that are read whatever the suffix says; of the others that Pillow knows some run programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
SIGNATURES = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"BM", b"GIF8", b"II*", b"MM\0*")  # of what is damaged rather than unknown
SMALL = 24_000_000  # pixels that an image may always have; more need a file that is not
LARGEST = 178_956_970  # pixels, Pillow's limit
LONGEST = 2**20  # pixels a side, OpenCV's limit
PIXELS_PER_BYTE = 50  # at most, of large images: more are bombs rather than pictures
LARGEST_FILE = 2**30  # bytes
ORIENTATION = 0x0112  # the EXIF tag
BAND = 2**20  # pixels that are converted at a time, so that no copy of the whole image is made


def read(path: Path) -> bytes:
    """What an image's file holds. Raises InputError, saying why, if it cannot be read or is larger than LARGEST_FILE, and
    OSError if a bucket cannot be reached."""
    try:
        with opened(path) as file:
            encoded = file.read(LARGEST_FILE + 1)
    except OSError as error:
        if in_bucket(path) and not isinstance(error, FileNotFoundError):
            raise  # of the network, not of the image, which must not be taken for damaged
        raise InputError(f"it cannot be read: {error.strerror}") from error
    if len(encoded) > LARGEST_FILE:
        raise InputError(f"it is larger than {LARGEST_FILE >> 20} MiB")
    return encoded


def decode(encoded: bytes, channels: int | None = None, background: Colour = WHITE) -> UInt8[np.ndarray, "h w _"]:
    """PNG, JPEG or WebP -> uint8 [h, w, channels], turned upright by its EXIF tag; of an animation the first frame.

    Palettes are looked up, and 16 bits a channel cut to the upper 8.

    Args:
        encoded: what the file holds.
        channels: 1, 3 or 4 as `with_channels` makes them; by default what the file has, grey and alpha being 4.
        background: RGB, 0..255, seen through transparent images.

    Raises:
        InputError: saying why in a few words if it cannot be decoded; what is too large is refused before memory is taken.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as file:
            check_size(file.width, file.height, len(encoded))
            image = _decoded(file, encoded)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"it is too large to decode: more than {LARGEST / 1e6:.0f} million pixels") from error
    except UnidentifiedImageError as error:
        known = encoded.startswith(SIGNATURES)
        raise InputError(
            "it is empty" if not encoded else "it is corrupt or truncated" if known else "it is of an unknown format"
        ) from error
    except Exception as error:  # a broken file raises almost anything
        raise InputError(f"it is corrupt or truncated ({one_line(error, 80)})") from error
    if channels is None or channels == image.shape[-1]:
        return image
    converted = np.empty((*image.shape[:2], channels), np.uint8)
    for rows in _bands(*image.shape[:2]):
        converted[rows] = with_channels(image[rows], channels, background)
    return converted


def check_size(width: int, height: int, size: int) -> None:
    """Raises InputError if an image of `size` bytes has too many pixels to be one."""
    pixels = width * height
    if pixels > LARGEST or max(width, height) > LONGEST:
        raise InputError(
            f"it is too large to decode: {width}x{height}, but at most {LARGEST / 1e6:.0f} million pixels, {LONGEST} a side"
        )
    if pixels > max(SMALL, PIXELS_PER_BYTE * size):
        raise InputError(
            f"it claims {width}x{height} pixels in {size} bytes; of more than {SMALL / 1e6:.0f} million pixels, "
            f"{PIXELS_PER_BYTE} or fewer must lie in a byte"
        )


def _decoded(file: Image.Image, encoded: bytes) -> UInt8[np.ndarray, "h w _"]:
    if file.has_transparency_data:
        return _with_alpha(file, encoded)
    if file.info.get("default_image"):  # of an APNG: the picture to show where it cannot move, which OpenCV skips
        return _banded(_upright(file), "RGB")
    grey = file.mode in ("1", "L") or file.mode.startswith("I")
    if grey:
        return _opencv(encoded, cv2.IMREAD_GRAYSCALE)[..., None]
    return _reordered(_opencv(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _with_alpha(file: Image.Image, encoded: bytes) -> UInt8[np.ndarray, "h w 4"]:
    """With the one transparent colour of a PNG compared at the depth of the file, which Pillow does at 8 bits alone."""
    key, bits = file.info.get("transparency"), encoded[24]  # of a PNG's header
    if file.mode.startswith("I"):
        deep = np.asarray(_upright(file))
        grey = np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        return np.dstack([grey, np.where(deep == key, 0, 255).astype(np.uint8)])
    if file.format == "PNG" and file.mode == "RGB" and bits == 16:
        colour = _opencv(encoded, cv2.IMREAD_UNCHANGED)[..., 2::-1].astype(np.uint16)
        alpha = np.where((colour == np.array(key)).all(axis=-1), 0, 255).astype(np.uint8)
        transparent = Image.fromarray(np.dstack([(colour >> 8).astype(np.uint8), alpha]))
        transparent.getexif().update(file.getexif())
        return _banded(_upright(transparent), "RGBA")
    if file.format == "PNG" and file.mode == "L" and bits < 8 and isinstance(key, int):
        file.info["transparency"] = key * 255 // (2**bits - 1)
    if file.format == "WEBP" and getattr(file, "n_frames", 1) == 1 and file.getexif().get(ORIENTATION, 1) == 1:
        image = _opencv(encoded, cv2.IMREAD_UNCHANGED)  # the same pixels, in a third of the memory
        if image.shape[-1] == 4:
            return _reordered(image, cv2.COLOR_BGRA2RGBA)
    return _banded(_upright(file), "RGBA")


def _opencv(encoded: bytes, how: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), how)
    if image is None:
        raise InputError("it is corrupt or truncated")
    return image


def _reordered(image: np.ndarray, how: int) -> np.ndarray:
    """With the channels in another order, in place."""
    for rows in _bands(*image.shape[:2]):
        cv2.cvtColor(image[rows], how, dst=image[rows])
    return image


def _upright(file: Image.Image) -> Image.Image:
    """The image turned as its EXIF tag says, without a copy where it says nothing."""
    ImageOps.exif_transpose(file, in_place=True)
    return file


def _banded(image: Image.Image, mode: str) -> UInt8[np.ndarray, "h w _"]:
    """An image in another mode of Pillow's, as an array."""
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows in _bands(image.height, image.width):
        pixels[rows] = np.asarray(image.crop((0, rows.start, image.width, rows.stop)).convert(mode))
    return pixels


def _bands(height: int, width: int) -> list[slice]:
    """Rows of about BAND pixels each."""
    step = max(BAND // max(width, 1), 1)
    return [slice(start, min(start + step, height)) for start in range(0, height, step)]
