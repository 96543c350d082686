"""What noisy states tell of the images of a data set, exactly, with the data set itself for the distribution of images.

`spectrum.information` counts for Gaussian data, whose fine detail tells nothing of coarse structure. That of real images
does: a state of lower resolution knows less even of the image at that resolution. Here is how much less.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from ssd_jax.errors import InputError
from ssd_jax.process.process import ScaleSpaceProcess


def noisy_states(
    process: ScaleSpaceProcess, images: Float[Array, "batch *shape channels"], t: int, key: jax.Array
) -> Float[Array, "batch *small_shape channels"]:
    """x_t of clean images, equation (1); the noise depends on (key, t) only."""
    shape = (len(images), *process.level_shape(int(process.levels[t])), images.shape[-1])
    return process.noisy_state(images, t, jax.random.normal(jax.random.fold_in(key, t), shape))


def log_likelihoods(
    process: ScaleSpaceProcess,
    images: Float[Array, "n *shape channels"],
    states: Float[Array, "batch *small_shape channels"],
    t: int,
) -> Float[Array, "batch n"]:
    """log p(x_t | x_0 = image) of every state and every image, up to a constant.

    Args:
        process: without blur.
        images: the data set, float32 in [-1, 1].
        states: x_t.
        t: their timestep.

    Raises:
        InputError: for a process with blur.
    """
    if process.dissipation is not None:
        raise InputError("likelihoods of images are computed for processes without blur only")
    alpha, sigma = float(process.alpha[t]), float(process.sigma[t])
    sharp = process.degrade(images, int(process.levels[t])).reshape(len(images), -1)
    flat = states.reshape(len(states), -1)
    squares = jnp.square(flat).sum(1)[:, None] + alpha**2 * jnp.square(sharp).sum(1)
    return (alpha * jnp.matmul(flat, sharp.T, precision="highest") - squares / 2) / sigma**2


def state_information(
    process: ScaleSpaceProcess,
    images: Float[Array, "n *shape channels"],
    chosen: Int[np.ndarray, "batch"],
    t: int,
    key: jax.Array,
) -> float:
    """I(x_t; x_0) for x_0 drawn evenly from `images`: nats per image, between 0 and log n.

    Args:
        process, images: as in `log_likelihoods`.
        chosen: indices of the images over whose states the mean is taken.
        t: the timestep.
        key: of the noise.
    """
    logs = log_likelihoods(process, images, noisy_states(process, images[chosen], t, key), t)
    own = logs[np.arange(len(chosen)), chosen]
    return float(jnp.mean(own - logsumexp(logs, axis=1)) + np.log(len(images)))


def posterior_error(
    process: ScaleSpaceProcess,
    images: Float[Array, "n *shape channels"],
    chosen: Int[np.ndarray, "batch"],
    targets: Float[Array, "n *target_shape channels"],
    t: int,
    key: jax.Array,
) -> float:
    """Mean squared error of the best guess of a target from x_t, its mean over the images that x_t may come from.

    The image that a state was made from is left out, so that it cannot be recognised: what is learned is from the others.

    Args:
        process, images, chosen, t, key: as in `state_information`.
        targets: what to guess, of every image; e.g. the images at a lower resolution.
    """
    logs = log_likelihoods(process, images, noisy_states(process, images[chosen], t, key), t)
    weights = jax.nn.softmax(logs.at[np.arange(len(chosen)), chosen].set(-jnp.inf), axis=1)
    flat = targets.reshape(len(targets), -1)
    return float(jnp.mean(jnp.square(jnp.matmul(weights, flat, precision="highest") - flat[chosen])))
