"""A convolutional network with fixed random weights, that tells pictures apart by shape and texture; nothing to download.

Random weights keep much of what makes features good for comparing images (Saxe et al. 2011, "On Random Weights and
Unsupervised Feature Learning").
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.lax import Precision, conv_general_dilated
from jaxtyping import Array, Float

WIDTHS = (13, 16, 32, 64)  # with the image's 3 channels they make 128


def random_kernels(seed: int) -> list[Float[np.ndarray, "3 3 _ _"]]:
    """Uniform weights that about keep the mean square of activations; the first sees no flat colour.

    From the raw words of the generator: these never change, while NumPy's distributions may.
    """
    generator, kernels = np.random.PCG64(seed), []
    for width_in, width_out in zip((3, *WIDTHS), WIDTHS, strict=False):
        shape = (3, 3, width_in, width_out)
        uniform = (generator.random_raw(int(np.prod(shape))) >> np.uint64(11)) * 2.0**-53
        kernels.append(((2 * uniform - 1) * np.sqrt(6 / (9 * width_in))).reshape(shape).astype(np.float32))
    kernels[0] -= kernels[0].mean(axis=(0, 1))
    return kernels


def feature_maps(
    images: Float[Array, "n h w 3"], kernels: Sequence[Float[np.ndarray, "3 3 _ _"]]
) -> list[Float[Array, "n _ _ _"]]:
    """What every layer, a 3x3 convolution with leaky ReLU at half the resolution of the one before, makes of images.

    Args:
        images: [n, h, w, 3] in [-1, 1], of at least 16 px.
        kernels: of `random_kernels`.
    """
    x, maps = images, []
    for depth, kernel in enumerate(kernels):
        if depth:
            x = nnx.avg_pool(x, (2, 2), (2, 2))
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        layout = ("NHWC", "HWIO", "NHWC")
        x = conv_general_dilated(
            x, jnp.asarray(kernel), (1, 1), "VALID", dimension_numbers=layout, precision=Precision.HIGHEST
        )
        x = nnx.leaky_relu(x, 0.2)
        maps.append(x)
    return maps
