"""Convolutions of 3 pixels an axis over any number of axes. Arrays are [batch, *spatial, channels]."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

ZEROS = nnx.initializers.zeros


@dataclass(frozen=True)
class Axes:
    """The spatial axes of a network's arrays, and how its layers act on them.

    Attributes:
        number: of spatial axes.
        factorised: layers act on the last axes, space, and then on the first, time (Ho et al. 2022; Tran et al. 2018).
    """

    number: int = 2
    factorised: bool = False


def convolution(
    in_width: int,
    out_width: int,
    *,
    axes: Axes,
    strides: Sequence[int] | None = None,
    zero: bool = False,
    dtype: Any,
    rngs: nnx.Rngs,
) -> "nnx.Conv | FactorisedConvolution":
    """A convolution that pads by 1 on every side, its kernel optionally born zero; strides of 1 unless given."""
    strides = tuple(strides or (1,) * axes.number)
    if axes.factorised:
        return FactorisedConvolution(in_width, out_width, strides=strides, zero=zero, dtype=dtype, rngs=rngs)
    init = ZEROS if zero else nnx.initializers.lecun_normal()
    size, kind = (3,) * axes.number, {"kernel_init": init, "dtype": dtype, "rngs": rngs}
    return nnx.Conv(in_width, out_width, size, strides=strides, padding=1, **kind)


class FactorisedConvolution(nnx.Module):
    """A convolution over space, then one over time, which is born as the identity: of frames on their own at first.

    Both are convolutions of two axes, frames being images and the pixels of a frame one axis: XLA's of three are several
    times slower on CPUs.
    """

    def __init__(self, in_width: int, out_width: int, *, strides: Sequence[int], zero: bool, dtype: Any, rngs: nnx.Rngs):
        init = ZEROS if zero else nnx.initializers.lecun_normal()
        kinds = {"dtype": dtype, "rngs": rngs}
        size = (3,) * len(strides[1:])
        self.space = nnx.Conv(in_width, out_width, size, strides=strides[1:], padding=1, kernel_init=init, **kinds)
        over_time = {"strides": (strides[0], 1), "padding": ((1, 1), (0, 0)), "kernel_init": _identity}
        self.time = nnx.Conv(out_width, out_width, (3, 1), **over_time, **kinds)

    def __call__(self, x: Float[Array, "batch *spatial in_width"]) -> Float[Array, "batch *out_spatial out_width"]:
        """[batch, time, *space, in_width] -> [batch, *(spatial divided by the strides), out_width]."""
        x = self.space(x)  # all axes before the last ones are batch to it
        batch, frames, *space, width = x.shape
        x = self.time(x.reshape(batch, frames, -1, width))
        return x.reshape(batch, -1, *space, width)


def _identity(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """The kernel [3, 1, width, width] that leaves everything as it is."""
    return jnp.zeros(shape, dtype, out_sharding=out_sharding).at[1, 0].set(jnp.eye(shape[-1], dtype=dtype))
