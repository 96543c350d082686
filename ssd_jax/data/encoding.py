"""Encodings: what lies between the arrays of a source and x_0."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from ssd_jax.errors import InputError, check_range, section
from ssd_jax.network.autoencoder import Autoencoder


@section("encoding")
@dataclass(frozen=True)
class EncodingConfig:
    """The `encoding` section of a config: what x_0 is, pixels or latents.

    Attributes:
        autoencoder: the workdir of the run of an autoencoder, or a folder of its weights, whose latents `launch.prepare
            --latents` made of the data; a run keeps a copy of its own. Pixels if not given.
        digest: of its weights; recorded in the run.
        mean, deviation: of every channel of the latents, which are brought to 0 and 1; recorded in the run.
    """

    autoencoder: str | None = None
    digest: str | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def __post_init__(self):
        if len(self.mean) != len(self.deviation):
            raise InputError(
                f"encoding.mean has {len(self.mean)} entries and encoding.deviation {len(self.deviation)}; leave both out: "
                "they come with the data"
            )
        for each in self.deviation:
            check_range("encoding.deviation", each, low=0, open_low=True)


@runtime_checkable
class Encoding(Protocol):
    """From the arrays of a source to x_0 and back.

    Attributes:
        shape: spatial shape of x_0.
        channels: of x_0.
        bound: the largest absolute value of x_0; None if there is none, as for latents.
        dtype: of a source's arrays.
        picture_shape: of what is decoded, the channels last.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def channels(self) -> int: ...

    @property
    def bound(self) -> float | None: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def picture_shape(self) -> tuple[int, ...]: ...

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

    @property
    def dtype(self) -> np.dtype:
        """Of 0..255."""
        return np.dtype(np.uint8)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """That of x_0."""
        return (*self.shape, self.channels)

    def encode(self, arrays: UInt8[Array | np.ndarray, "n *shape channels"]) -> Float[Array, "n *shape channels"]:
        """uint8 -> float32 in [-1, 1]."""
        return jnp.asarray(arrays).astype(jnp.float32) / 127.5 - 1

    def decode(self, x0: Float[Array | np.ndarray, "n *shape channels"]) -> UInt8[np.ndarray, "n *shape channels"]:
        """float, clipped to [-1, 1] -> uint8, rounded. Of any shape, so that states and predictions can be shown too."""
        pixels = np.asarray(jax.device_get(x0), np.float32)
        return np.rint((np.clip(pixels, -1, 1) + 1) * 127.5).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class LatentEncoding:
    """Latents of an autoencoder, every channel brought to mean 0 and deviation 1.

    Attributes:
        shape: (h, w) of the latents.
        autoencoder: makes pictures of them.
        mean, deviation: of every channel.
    """

    shape: tuple[int, ...]
    autoencoder: Autoencoder
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    bound = None

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.autoencoder.config.latent_channels

    @property
    def dtype(self) -> np.dtype:
        """Of prepared latents."""
        return np.dtype(np.float32)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """Of pictures that have such latents."""
        return (*(side * self.autoencoder.config.factor for side in self.shape), self.autoencoder.channels)

    @cached_property
    def _pixels(self) -> PixelEncoding:
        return PixelEncoding(self.picture_shape[:-1], self.autoencoder.channels)

    def encode(self, arrays: Num[Array | np.ndarray, "n ..."]) -> Float[Array, "n *shape channels"]:
        """Of prepared latents, float32 [n, *shape, channels], or of pictures, uint8: those that are likeliest for them."""
        if arrays.dtype == np.uint8:
            arrays = encoded(self.autoencoder, self._pixels.encode(arrays))
        return (jnp.asarray(arrays) - np.asarray(self.mean, np.float32)) / np.asarray(self.deviation, np.float32)

    def decode(self, x0: Float[Array | np.ndarray, "n h w channels"]) -> UInt8[np.ndarray, "n height width _"]:
        """Pictures of x_0, on the host; of any size, so that states and predictions can be shown too."""
        latents = jnp.asarray(x0) * np.asarray(self.deviation, np.float32) + np.asarray(self.mean, np.float32)
        return self._pixels.decode(decoded(self.autoencoder, latents))


@jax.jit
def encoded(autoencoder: Autoencoder, pictures: Float[Array, "n h w channels"]) -> Float[Array, "n _ _ _"]:
    """The means of the latents of pictures in [-1, 1], compiled."""
    return autoencoder.encode(pictures).mean


@jax.jit
def decoded(autoencoder: Autoencoder, latents: Float[Array, "n h w channels"]) -> Float[Array, "n _ _ _"]:
    """Pictures, about in [-1, 1], of latents, compiled."""
    return autoencoder.decode(latents)
