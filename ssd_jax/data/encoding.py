"""Encodings: what lies between the arrays of a source and x_0."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8


@runtime_checkable
class Encoding(Protocol):
    """From the arrays of a source to x_0 and back.

    Attributes:
        shape: spatial shape of x_0.
        channels: of x_0.
        bound: the largest absolute value of x_0; None if there is none, as for latents.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def channels(self) -> int: ...

    @property
    def bound(self) -> float | None: ...

    def encode(self, arrays: Num[Array | np.ndarray, "n ..."]) -> Float[Array, "n *shape channels"]:
        """x_0 of a batch of a source's arrays; traceable."""
        ...

    def decode(self, x0: Float[Array | np.ndarray, "n *shape channels"]) -> UInt8[np.ndarray, "n ..."]:
        """Pictures of a batch of x_0, on the host: uint8 [n, h, w, 1, 3 or 4]."""
        ...


@dataclass(frozen=True)
class PixelEncoding:
    """Pixels as they are, scaled from 0..255 to [-1, 1]: grey, RGB, or RGB and opacity."""

    shape: tuple[int, ...]
    channels: int

    @property
    def bound(self) -> float:
        """Of [-1, 1]."""
        return 1.0

    def encode(self, arrays: UInt8[Array | np.ndarray, "n *shape channels"]) -> Float[Array, "n *shape channels"]:
        """uint8 -> float32 in [-1, 1]."""
        return jnp.asarray(arrays).astype(jnp.float32) / 127.5 - 1

    def decode(self, x0: Float[Array | np.ndarray, "n *shape channels"]) -> UInt8[np.ndarray, "n *shape channels"]:
        """float, clipped to [-1, 1] -> uint8, rounded. Of any shape, so that states and predictions can be shown too."""
        pixels = np.asarray(jax.device_get(x0), np.float32)
        return np.rint((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)
