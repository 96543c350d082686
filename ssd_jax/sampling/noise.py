"""Where the noise of a sample comes from: each image has keys of its own, so that it does not depend on its batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ssd_jax.errors import InputError


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
            return eps[0] * weights[0] if len(weights) == 1 else jnp.tensordot(weights, eps, 1)

        return jax.vmap(mixed)(self.keys, self.weights)


def seeded(key: Key[Array, ""], indices: Int[np.ndarray, "batch"]) -> NoiseSource:
    """The noise of images `indices` of the seed `key`."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(indices))
    return NoiseSource(keys[:, None], jnp.ones((len(indices), 1)))


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
    places = np.linspace(0, len(indices) - 1, num)
    legs = np.minimum(places.astype(int), len(indices) - 2)
    angles = np.pi / 2 * (places - legs)
    ends = np.asarray(indices)[legs[:, None] + np.arange(2)]
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.asarray(ends.ravel())).reshape(num, 2)
    return NoiseSource(keys, jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1), jnp.float32))
