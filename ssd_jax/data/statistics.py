"""Statistics of the data that a run keeps: how much its clean images vary, at every timestep."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.fft import dctn

from ssd_jax.network.parameterisation import DataStatistics
from ssd_jax.process.dct import heat_rate_grid
from ssd_jax.process.process import ScaleSpaceProcess


def measure_statistics(
    images: Float[Array | np.ndarray, "n *shape channels"], process: ScaleSpaceProcess
) -> DataStatistics:
    """The statistics of images for a process; a few hundred images say enough.

    Args:
        images: x_0, float32 [n, *process.shape, channels].
        process: of which the z_t are.
    """
    variances = np.zeros(process.num_timesteps)
    for level in process.used_levels:
        z = np.asarray(process.degrade(jnp.asarray(images), level), np.float64)
        coefficients = np.asarray(dctn(z, axes=range(1, z.ndim - 1), norm="ortho"))
        squares = np.mean(coefficients**2, axis=(0, -1))  # by frequency
        rates = heat_rate_grid(process.level_shape(level), process.shape)
        here = process.levels == level
        times, inverse = np.unique(process.blur_times[here], return_inverse=True)
        blurred = np.array([np.mean(np.exp(-2 * time * rates) * squares) for time in times])
        variances[here] = np.maximum(blurred - z.mean() ** 2, 0)[inverse]  # blur leaves means as they are
    return DataStatistics(tuple(variances.tolist()))
