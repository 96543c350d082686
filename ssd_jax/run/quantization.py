"""Rounded weights: what files may hold instead of float32. Computed with is float32, or what the network's dtype says."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssd_jax.errors import InputError, check_name

QUANTIZED = ("float16", "int8")


@dataclass(frozen=True, eq=False)
class Quantized:
    """An array as a file holds it.

    Attributes:
        numbers: float16, or int8 in -127 .. 127.
        scale: of int8, what 1 stands for: float32, one for each output and of length 1 along the other axes.
    """

    numbers: np.ndarray
    scale: np.ndarray | None = None

    def restored(self) -> np.ndarray:
        """The array that is computed with, float32."""
        array = self.numbers.astype(np.float32)
        return array if self.scale is None else array * self.scale


def is_quantized(array: jax.Array | np.ndarray) -> bool:
    """Whether an array is one to be rounded: kernels and embeddings, whose outputs come last, nearly all of a network."""
    return array.ndim > 1


def quantize(array: Float[np.ndarray, "..."], kind: str, axis: int = -1) -> Quantized:
    """A float32 array, rounded to the nearest; int8 so that the largest number of every output is 127.

    Args:
        array: of two axes or more.
        kind: of QUANTIZED.
        axis: of the outputs.

    Raises:
        InputError: if there is no such kind, or float16 cannot hold a number.
    """
    check_name("quantize", kind, QUANTIZED)
    if kind == "float16":
        if not (np.abs(array) <= np.finfo(np.float16).max).all():
            raise InputError("quantize is 'float16', but a weight is above 65504 or no number; take 'int8' or leave it out")
        return Quantized(array.astype(np.float16))
    others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
    largest = np.abs(array).max(others, keepdims=True)
    scale = np.where(largest, largest / np.float32(127), np.float32(1))
    return Quantized(np.rint(array / scale).astype(np.int8), scale)


def rounded(parameters: dict, kind: str | None) -> dict:
    """The float32 parameters that are computed with where these are held as a kind of QUANTIZED; themselves for None."""
    if kind is None:
        return parameters
    check_name("quantize", kind, QUANTIZED)

    def round_one(array: jax.Array) -> jax.Array:
        return jnp.asarray(quantize(np.asarray(array), kind).restored()) if is_quantized(array) else array

    return jax.tree.map(round_one, parameters)
