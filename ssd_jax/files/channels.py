"""Channels of images: 1 is grey, 3 RGB, 4 RGB and alpha (0 transparent, 255 opaque)."""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ssd_jax.errors import InputError

Colour = tuple[int, int, int]  # RGB, 0..255
WHITE: Colour = (255, 255, 255)
LUMA = (0.299, 0.587, 0.114)  # what R, G and B add to the brightness (ITU-R BT.601)


def shown(images: UInt8[np.ndarray, "*n h w _"], background: Colour = WHITE) -> UInt8[np.ndarray, "*n h w 3"]:
    """Images as they are seen: grey repeated, transparent ones on `background`; RGB as it is.

    Args:
        images: uint8 [.., h, w, 1, 3 or 4].
        background: RGB, 0..255.

    Raises:
        InputError: for any other number of channels.
    """
    match images.shape[-1]:
        case 1:
            return images.repeat(3, axis=-1)
        case 3:
            return images
        case 4:
            colour, alpha = images[..., :3].astype(np.uint16), images[..., 3:].astype(np.uint16)
            mixed = colour * alpha + np.array(background, np.uint16) * (255 - alpha)
            return ((mixed + 127) // 255).astype(np.uint8)  # rounded
        case channels:
            raise InputError(f"images have {channels} channels, but must have 1 (grey), 3 (RGB) or 4 (RGB and alpha)")


def mask_of(image: UInt8[np.ndarray, "h w _"]) -> Bool[np.ndarray, "h w"]:
    """Where a mask says to paint: where it is white; or, if what it shows is of one colour, where it is opaque.

    Args:
        image: uint8 [h, w, 1, 3 or 4]. Beside black and white that can be seen, transparent is black.

    Raises:
        InputError: if it shows other colours and varies in transparency, so that either may be meant; or nothing to paint.
    """
    if image.shape[-1] < 4 or (image[..., 3] == 255).all():
        mask = with_channels(image, 1)[..., 0] >= 128
    else:
        opaque = image[..., 3] >= 128
        seen = image[opaque, :3].astype(int)
        dark, light = (seen <= 32).all(axis=-1), (seen >= 223).all(axis=-1)
        alike = len(seen) == 0 or (np.ptp(seen, axis=0) <= 32).all()
        if not alike and not (dark | light).all():
            raise InputError(
                "the mask has several colours and is transparent in places, so that it may mean either; give one that is "
                "white where to paint and black elsewhere"
            )
        mask = opaque.copy()
        if not alike or opaque.all():
            mask[opaque] = light
    if not mask.any():
        raise InputError("the mask has nothing to paint: it must be white, or opaque and of one colour, where to paint")
    return mask


def with_channels(
    images: UInt8[np.ndarray, "*n h w _"], channels: int, background: Colour = WHITE
) -> UInt8[np.ndarray, "*n h w {channels}"]:
    """Images with another number of channels.

    Args:
        images: uint8 [.., h, w, 1, 3 or 4].
        channels: 1, the brightness of what is `shown`; 3, what is `shown`; 4, opaque where there was no alpha.
        background: RGB, 0..255, seen through transparent images.

    Raises:
        InputError: for any other number of channels, of the images or asked for.
    """
    if channels not in (1, 3, 4):
        raise InputError(f"channels is {channels}, but must be 1 (grey), 3 (RGB) or 4 (RGB and alpha)")
    if images.shape[-1] == channels:
        return images
    colour = shown(images, background)
    if channels == 1:
        return np.rint(colour @ np.array(LUMA, np.float32)[:, None]).astype(np.uint8)
    return colour if channels == 3 else np.concatenate([colour, np.full_like(colour[..., :1], 255)], axis=-1)


def premultiplied(images: UInt8[np.ndarray, "*n h w 4"]) -> Float[np.ndarray, "*n h w 4"]:
    """Colour times opacity, 0..255, and opacity, 0..1: float32. In this form images can be averaged and interpolated, and
    what is transparent lends its colour to no neighbour."""
    opacity = images[..., 3:] / np.float32(255)
    return np.concatenate([images[..., :3] * opacity, opacity], axis=-1)


def from_premultiplied(
    images: Float[np.ndarray, "*n h w 4"], channels: int, background: Colour = WHITE
) -> UInt8[np.ndarray, "*n h w {channels}"]:
    """What `premultiplied` was given, with 4 channels, or as `with_channels` shows it with 1 or 3 on a background."""
    colour, opacity = images[..., :3], images[..., 3:].clip(0, 1)
    if channels == 4:
        colour = np.divide(colour, opacity, out=np.zeros_like(colour), where=opacity > 0)
        return np.rint(np.concatenate([colour.clip(0, 255), 255 * opacity], axis=-1)).astype(np.uint8)
    seen = colour + (1 - opacity) * np.array(background, np.float32)
    seen = seen @ np.array(LUMA, np.float32)[:, None] if channels == 1 else seen
    return np.rint(seen.clip(0, 255)).astype(np.uint8)
