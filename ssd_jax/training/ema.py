"""Moving averages of the parameters, by name; samples are drawn with one.

Of what a run keeps of its average on the way, averages of any width can be put together afterwards (Karras et al. 2024,
"Analyzing and Improving the Training Dynamics of Diffusion Models", section 3): all are weighted sums of the same
parameters theta_1 .. theta_T, so that a sum of some comes as close to another as their weights do. The wanted one is a
power-function average, in which theta_i has the weight (i/T)^(gamma+1) - ((i-1)/T)^(gamma+1).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssd_jax.errors import InputError
from ssd_jax.training.config import TrainConfig

MAIN = "main"  # the average that samples are drawn with
WIDEST = 0.28  # of the power functions whose exponent is positive; 0.2887 is that of a plain mean
LARGEST_MISMATCH = 0.2  # of the weights, root mean square, over that of the wanted weights
CELLS = 4096  # of the steps, at least: weights change little within one


def ema_decay(config: TrainConfig, step: jax.Array) -> jax.Array:
    """The share of the average that the update after `step` others leaves: less at first, to forget the random start."""
    return jnp.minimum(config.ema_decay, (1 + step) / (10 + step))


def power_exponent(width: float) -> float:
    """gamma of the power function whose standard deviation is `width` of the training (Karras et al. 2024, equation 8).

    width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)); 0 < width < WIDEST.
    """
    t = width**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def reconstruction(steps: Sequence[int], decay: float, width: float) -> Float[np.ndarray, "kept"]:
    """The factors of kept averages whose sum is nearest to the power-function average at the last of them.

    Args:
        steps: that had been taken when each was kept, rising.
        decay: `TrainConfig.ema_decay` of the run.
        width: standard deviation of the weights over the length of the training, 0 < width < WIDEST.

    Raises:
        InputError: if what was kept cannot give this width within LARGEST_MISMATCH.
    """
    last = steps[-1]
    # Ends of cells of steps: all steps that were kept at are, and 0, so that what training began with is a cell of its own.
    ends = np.unique([0, *steps, *np.linspace(1, last, min(CELLS, last)).astype(int)])
    before = np.arange(last)
    left = np.maximum(np.minimum(decay, (1 + before) / (10 + before)), 1e-30)  # as `ema_decay`
    log_left = np.concatenate([[0.0], np.cumsum(np.log(left))])
    # The weight, in each of the averages, of all parameters up to a step: what later ones have left of it.
    up_to = [np.exp(np.minimum(log_left[step] - log_left[ends], 0)) for step in steps]
    wanted_up_to = (ends / last) ** (power_exponent(width) + 1)
    # Densities times sqrt(length): sums of squares are then those over single steps.
    scale = np.sqrt(np.diff(ends, prepend=-1))
    basis = np.stack([np.diff(each, prepend=0.0) / scale for each in up_to], axis=1)
    target = np.diff(wanted_up_to, prepend=0.0) / scale
    total = 1e3 * np.linalg.norm(target)  # all weights together are 1, above all
    factors, *_ = np.linalg.lstsq(np.vstack([basis, np.full(len(steps), total)]), np.append(target, total), rcond=None)
    mismatch = np.linalg.norm(basis @ factors - target) / np.linalg.norm(target)
    if mismatch > LARGEST_MISMATCH:
        raise InputError(
            f"ema_width is {width:g}, but averages kept at {len(steps)} steps of {last} come no nearer to it than "
            f"{mismatch:.0%}; take another one below {WIDEST}, or train with a smaller train.snapshot_every"
        )
    return factors
