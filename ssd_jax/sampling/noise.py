"""Where the noise of a sample comes from: each image has keys of its own, so that it does not depend on its batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ssd_jax.errors import INDEX_LIMIT, InputError, brief, check_range, checked_arguments

MAX_IMAGES = 2**24  # in a batch


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NoiseSource:
    """The noise of image i is sum_j weights[i, j] eps_j with eps_j ~ N(0, I) from keys[i, j].

    Attributes:
        keys: [batch, mixed]; a transformation of JAX may put placeholders here, as in any pytree.
        weights: float32 [batch, mixed]; the squares of an image's weights sum to 1, so that its noise is N(0, I) too.
    """

    keys: Any
    weights: Any

    def draw(self, step: Int[Array | np.ndarray, ""] | np.int32 | int, shape: tuple[int, ...]) -> Float[Array, "batch ..."]:
        """eps ~ N(0, I), float32 [batch, *shape]; independent for every int `step`."""

        def mixed(keys, weights):
            eps = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, step), shape))(keys)
            return eps[0] * weights[0] if len(weights) == 1 else jnp.tensordot(weights, eps, 1, precision="highest")

        return jax.vmap(mixed)(self.keys, self.weights)


def image_indices(num: int, first_index: int = 0, name: str = "num") -> Int[np.ndarray, "{num}"]:
    """first_index .. first_index + num - 1. Raises InputError, with the `name` of `num`, for what cannot be."""
    check_range(name, num, low=1, high=MAX_IMAGES)
    check_range("first_index", first_index, low=0, high=INDEX_LIMIT - num + 1)
    return np.arange(first_index, first_index + num)


@checked_arguments
def seeded(key: Key[Array, ""], indices: Int[np.ndarray, "batch"]) -> NoiseSource:
    """The noise of images `indices` of the seed `key`. Raises InputError for indices that are not 0 .. 2^32 - 1."""
    _check_indices(indices)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(indices))
    return NoiseSource(keys[:, None], jnp.ones((len(indices), 1)))


@checked_arguments
def interpolated(key: Key[Array, ""], indices: Sequence[int], num: int) -> NoiseSource:
    """Spherical interpolation of all noise, x_{T-1} and that of every step: a path from image to image.

    Noise of two keys mixes with weights cos and sin of an angle, which is slerp of vectors that are orthogonal, as
    independent noise in many dimensions is; so the mixture is N(0, I) exactly, and every image on the way a fair sample.

    Args:
        key: the seed.
        indices: of the images to pass through, at least 2.
        num: images on the path, evenly spread, first and last included; at least 2. Image 0 is that of indices[0].

    Raises:
        InputError: for too few indices or images.
    """
    if len(indices) < 2 or num < 2:
        raise InputError(f"interpolation has {len(indices)} indices and {num} images, but needs at least 2 of each")
    check_range("num", num, low=2, high=MAX_IMAGES)
    _check_indices(indices)
    places = np.linspace(0, len(indices) - 1, num)
    legs = np.minimum(places.astype(int), len(indices) - 2)
    angles = np.pi / 2 * (places - legs)
    ends = np.asarray(indices)[legs[:, None] + np.arange(2)]
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(ends.ravel())).reshape(num, 2)
    return NoiseSource(keys, jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1), jnp.float32))


def _check_indices(given: Sequence[int] | np.ndarray) -> None:
    try:
        indices = np.asarray(given)
    except ValueError:  # lists in a list
        indices = np.empty(0)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer) or not len(indices):
        raise InputError(f"indices of images are {brief(given)}, but must be whole numbers, one or more")
    if indices.min() < 0 or indices.max() >= INDEX_LIMIT:
        raise InputError(f"indices of images are {indices.min()} .. {indices.max()}, but must be >= 0 and < {INDEX_LIMIT}")
