"""The update that ends a training step."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from ssd_jax.training.config import TrainConfig
from ssd_jax.training.ema import ema_decay
from ssd_jax.training.optimizer import Optimized, adamw, learning_rate
from ssd_jax.training.state import TrainState, Tree


def updated(config: TrainConfig, used: Bool[Array, "parameters"], state: TrainState, gradient: Tree) -> TrainState:
    """Clips, takes a step of AdamW on the parameters that are used, averages; leaves all as it was if not finite.

    Args:
        config: optimizer, learning rate, clipping, decay of the average.
        used: which parameters, in flattened order, the step's stages read, bool [parameters]. A gradient of zero would not
            leave the others alone: Adam moves them on by the momentum that other stages gave them, and decay shrinks them.
        state: before.
        gradient: of the loss.
    """
    finite = jnp.isfinite(optax.tree.norm(gradient))
    gradient, _ = optax.clip_by_global_norm(config.gradient_clip).update(gradient, optax.EmptyState())
    rate = jnp.asarray(learning_rate(config)(state.step + 1))
    parameters, structure = jax.tree.flatten(state.parameters)
    adam = structure.flatten_up_to(state.adam)
    ema = {name: structure.flatten_up_to(average) for name, average in state.ema.items()}
    decay = ema_decay(config, state.step)
    for i, g in enumerate(structure.flatten_up_to(gradient)):
        old = Optimized(parameters[i], adam[i])
        new = adamw(config.optimizer, rate, g, old)
        parameters[i], adam[i] = jax.tree.map(partial(jnp.where, finite & used[i]), new, old)
        for average in ema.values():
            averaged = decay * average[i] + (1 - decay) * parameters[i]
            average[i] = jnp.where(finite, averaged, average[i])
    rebuild, skipped = structure.unflatten, 1 - finite.astype(jnp.int32)
    return TrainState(
        rebuild(parameters),
        {name: rebuild(average) for name, average in ema.items()},
        rebuild(adam),
        state.step + 1,
        state.skipped + skipped,
        skipped * (state.skipped_in_a_row + 1),
    )
