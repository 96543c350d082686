"""Moving averages of the parameters, by name; samples are drawn with one."""

import jax
import jax.numpy as jnp

from ssd_jax.training.config import TrainConfig

MAIN = "main"  # the average that samples are drawn with


def ema_decay(config: TrainConfig, step: jax.Array) -> jax.Array:
    """The share of the average that the update after `step` others leaves: less at first, to forget the random start."""
    return jnp.minimum(config.ema_decay, (1 + step) / (10 + step))
