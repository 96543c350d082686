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
SMALL = 2**20  # elements


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
    fetched = jax.device_get([leaf if _is_small(leaf) else _on_device(leaf) for _, leaf in leaves])
    words = [_on_host(each) if _is_small(leaf) else each for (_, leaf), each in zip(leaves, fetched, strict=True)]
    return {
        "/".join(map(_name, path)): Digest(kind(leaf), "".join(f"{word:08x}" for word in each[:2]), not each[2])
        for (path, leaf), each in zip(leaves, np.array(words).tolist(), strict=True)
    }


def _is_small(array: Any) -> bool:
    """Whether this process has all of an array, and fetching it takes less time than compiling a program for its shape."""
    return array.size <= SMALL and (not isinstance(array, jax.Array) or array.is_fully_replicated)


def kinds(tree: Any) -> dict[str, str]:
    """dtype and shape of every array by its path; `jax.ShapeDtypeStruct`s will do."""
    return {name: kind(leaf) for name, leaf in named(tree).items()}


def named(tree: Any) -> dict[str, Any]:
    """Every array of a pytree by its path, in flattened order."""
    return {"/".join(map(_name, path)): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def kind(array: Any) -> str:
    """dtype and shape, e.g. "float32[3, 8]"."""
    return f"{array.dtype}{list(array.shape)}"


def combined(of: dict[str, Digest]) -> str:
    """One digest of many arrays and their names: 16 hexadecimal digits."""
    listing = sorted((name, each.kind, each.value) for name, each in of.items())
    return hashlib.sha256(repr(listing).encode()).hexdigest()[:16]


@jax.jit
def _on_device(array: jax.Array) -> jax.Array:
    """`_words`, compiled."""
    bits = jax.lax.bitcast_convert_type(array, _unsigned(array.dtype)) if array.dtype != jnp.bool_ else array
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    return jnp.stack(_words(array, bits, place))


def _on_host(array: np.ndarray) -> np.ndarray:
    """`_words` by NumPy, of arrays for which compiling takes longer."""
    array = np.ascontiguousarray(array).reshape(-1)
    bits = array.view(_unsigned(array.dtype)) if array.dtype != np.bool_ else array
    return np.stack(_words(array, bits, np.arange(bits.size, dtype=np.uint32)))


def _unsigned(dtype: np.dtype) -> np.dtype:
    """Of the same size, at most 32 bits."""
    return np.dtype(f"uint{8 * min(dtype.itemsize, 4)}")


def _words(array: Any, bits: Any, place: Any) -> list[Any]:
    """Two sums over all elements, mod 2^32, and 1 if any is not finite; uint32 each.

    Every summand is a bijection of its element's bits, so that a change of one element always changes both sums; and a
    different one at every place, so that a permutation does as well.
    """
    sums = [_mixed(bits.astype(np.uint32) ^ _mixed(place + np.uint32(seed))).sum(dtype=np.uint32) for seed in SEEDS]
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return [
        *sums,
        (~(jnp if isinstance(array, jax.Array) else np).isfinite(array)).any().astype(np.uint32)
        if floating
        else np.uint32(0),
    ]


def _mixed(x: Any) -> Any:
    """The finaliser of MurmurHash3: a bijection of 32 bits that has every bit of the one depend on all of the other."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _name(key: Any) -> str:
    """Of a key of a path: dicts, dataclasses, named tuples and sequences have them by different attributes."""
    return str(next(getattr(key, name) for name in ("key", "name", "idx") if hasattr(key, name)))
