"""AdamW on a parameter, and the learning rate."""

from typing import Any, NamedTuple

import jax
import optax

from ssd_jax.training.config import OptimizerConfig, TrainConfig


class Optimized(NamedTuple):
    """A parameter and its moments, an optax ScaleByAdamState."""

    parameter: jax.Array
    moments: Any


def first_moments(parameter: jax.Array) -> Any:
    """Those of a parameter before the first update."""
    return optax.scale_by_adam().init(parameter)


def adamw(config: OptimizerConfig, rate: jax.Array, gradient: jax.Array, before: Optimized) -> Optimized:
    """The update of one parameter, which has moments of its own: see `updated`.

    Args:
        config: of it.
        rate: learning rate.
        gradient: clipped, like the parameter.
        before: the parameter and its moments.
    """
    decays = config.weight_decay > 0 and gradient.ndim > 1
    chain: Any = optax.chain(
        optax.scale_by_adam(config.b1, config.b2),
        *([optax.add_decayed_weights(config.weight_decay)] if decays else []),
        optax.scale_by_learning_rate(rate),  # pyright: ignore[reportArgumentType]  # an array will do
    )
    _, *stateless = chain.init(before.parameter)
    update, (moments, *_) = chain.update(gradient, (before.moments, *stateless), before.parameter)
    return Optimized(before.parameter + update, moments)


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Linear warm-up, then constant or cosine decay to 0 at `steps`; counts the steps taken, the present one included.

    A single step has no time to decay: it is taken at the peak.
    """
    warmup = max(config.warmup_steps, 1)  # optax takes 0 for never
    if not config.cosine_decay:
        return optax.warmup_constant_schedule(0.0, config.learning_rate, warmup)
    if config.steps == 1:
        return optax.constant_schedule(config.learning_rate)
    warmup = min(warmup, config.steps - 1)
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, config.steps)
