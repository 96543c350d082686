"""Feature sets: functions from images to the vectors that distances compare. Those of this module need no weights file."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float, UInt8

from ssd_jax.errors import check_seed
from ssd_jax.network.random_features import feature_maps, random_kernels
from ssd_jax.process.dct import dct_basis

HIGHEST = Precision.HIGHEST  # float32 whatever the accelerator's default
LOW_PASS = 10  # DCT indices below this are kept on either axis


@dataclass(frozen=True)
class FeatureSet:
    """A feature function, and the name under which statistics of its features are saved.

    Attributes:
        name: says all that the features depend on; statistics of other names are refused.
        function: uint8 [n, h, w, 3] -> float32 arrays [n, d] by name: "pool", which Frechet and kernel distance, precision,
            recall and memorisation use, and optionally "spatial", which the sFID uses, and "probabilities" of classes, for
            the Inception Score. Any function that `jax.jit` can compile will do; one with many weights is best a
            `jax.tree_util.Partial` of them, which hands them to compiled code instead of writing them into it.
    """

    name: str
    function: Callable[[UInt8[Array, "n h w 3"]], dict[str, Float[Array, "n _"]]]


def low_pass_pixels() -> FeatureSet:
    """What images look like from far away: their orthonormal DCT coefficients with both indices below 10.

    Pixels are in [-1, 1], channels apart: 300 features from 10 px on, so distances are in pixel units.
    """
    return FeatureSet("low_pass", _low_pass)


def _low_pass(images: UInt8[Array, "n h w 3"]) -> dict[str, Float[Array, "n _"]]:
    rows, columns = (dct_basis(size)[:LOW_PASS].astype(np.float32) for size in images.shape[1:3])
    pixels = images.astype(jnp.float32) / 127.5 - 1
    coefficients = jnp.einsum("ih,jw,nhwc->nijc", rows, columns, pixels, precision=HIGHEST)
    return {"pool": coefficients.reshape(len(images), -1)}


def random_convolutions(seed: int = 0) -> FeatureSet:
    """Shape and texture as an untrained network sees them: 256 means and standard deviations over all pixels.

    They are those of the image's channels (in [-1, 1]) and of the four layers of `network.random_features`, the first of
    which sees no flat colour, which would drown the rest. For images of at least 16 px.

    Args:
        seed: of the weights, 0 <= seed < 2^32; they are the same on every platform.

    Raises:
        InputError: for other seeds.
    """
    check_seed("seed", seed)
    kernels = random_kernels(seed)

    def function(images: UInt8[Array, "n h w 3"]) -> dict[str, Float[Array, "n 256"]]:
        x = images.astype(jnp.float32) / 127.5 - 1
        moments = [moment for each in (x, *feature_maps(x, kernels)) for moment in (each.mean((1, 2)), each.std((1, 2)))]
        return {"pool": jnp.concatenate(moments, axis=-1)}

    return FeatureSet(f"random_convolutions-{seed}", function)
