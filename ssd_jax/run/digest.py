"""Digests of arrays: what tells whether weights are those that were saved.

Computed where the arrays lie, with integers alone, so that a digest does not depend on how many devices hold an array, nor
on the order in which they add.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SEEDS = (0x243F6A88, 0x85A308D3)  # of the two words of a digest


@dataclass(frozen=True)
class Digest:
    """Of one array.

    Attributes:
        kind: dtype and shape, e.g. "float32[3, 8]".
        value: 64 bits, as 16 hexadecimal digits.
        finite: whether all its numbers are.
    """

    kind: str
    value: str
    finite: bool


def digests(tree: Any) -> dict[str, Digest]:
    """The digest of every array of a pytree by its path, e.g. "ema/main/stem/kernel"; waits for them."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    words = jax.device_get([_words(leaf) for _, leaf in leaves])
    return {
        "/".join(map(_name, path)): Digest(kind(leaf), "".join(f"{word:08x}" for word in each[:2]), not each[2])
        for (path, leaf), each in zip(leaves, np.array(words).tolist(), strict=True)
    }


def kinds(tree: Any) -> dict[str, str]:
    """dtype and shape of every array by its path; `jax.ShapeDtypeStruct`s will do."""
    return {"/".join(map(_name, path)): kind(leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def kind(array: Any) -> str:
    """dtype and shape, e.g. "float32[3, 8]"."""
    return f"{array.dtype}{list(array.shape)}"


def combined(of: dict[str, Digest]) -> str:
    """One digest of many arrays and their names: 16 hexadecimal digits."""
    listing = sorted((name, each.kind, each.value) for name, each in of.items())
    return hashlib.sha256(repr(listing).encode()).hexdigest()[:16]


@jax.jit
def _words(array: jax.Array) -> jax.Array:
    """uint32 [3]: two sums over all elements, mod 2^32, and 1 if any is not finite.

    Every summand is a bijection of its element's bits, so that a change of one element always changes both sums; and a
    different one at every place, so that a permutation does as well.
    """
    array = jnp.asarray(array)
    array = array.astype(jnp.uint8) if array.dtype == jnp.bool_ else array
    bits = jax.lax.bitcast_convert_type(array, f"uint{8 * min(array.dtype.itemsize, 4)}").astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    sums = [jnp.sum(_mixed(bits ^ _mixed(place + np.uint32(seed))), dtype=jnp.uint32) for seed in SEEDS]
    wrong = jnp.any(~jnp.isfinite(array)) if jnp.issubdtype(array.dtype, jnp.floating) else jnp.zeros((), bool)
    return jnp.stack([*sums, wrong.astype(jnp.uint32)])


def _mixed(x: jax.Array) -> jax.Array:
    """The finaliser of MurmurHash3: a bijection of 32 bits that has every bit of the one depend on all of the other."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _name(key: Any) -> str:
    """Of a key of a path: dicts, dataclasses, named tuples and sequences have them by different attributes."""
    return str(next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)))
