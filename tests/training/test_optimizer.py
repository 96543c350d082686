"""AdamW, as the update takes it."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssd_jax.config import TrainConfig
from ssd_jax.training.config import OptimizerConfig
from ssd_jax.training.state import TrainState, first_state
from ssd_jax.training.update import updated

PARAMETERS = {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.array([0.5, -2.0, 1.0])}
USED = jnp.array([True, True])


def config_of(**settings: float) -> TrainConfig:
    optimizer = OptimizerConfig(**settings)
    return TrainConfig(learning_rate=0.1, optimizer=optimizer, gradient_clip=1e9, warmup_steps=0, cosine_decay=False)


def after_steps(config: TrainConfig, used: jax.Array = USED, steps: int = 10) -> TrainState:
    """Of the descent of a bowl around 0.3."""
    state, step = first_state(PARAMETERS), jax.jit(partial(updated, config))
    for _ in range(steps):
        state = step(used, state, jax.tree.map(lambda p: p - 0.3, state.parameters))
    return state


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.5}, {"b1": 0.0, "weight_decay": 2.0}, {"b1": 0.5, "b2": 0.9}])
def test_it_is_the_adamw_of_optax_on_kernels(settings):
    chosen: dict[str, Any] = {"b1": 0.9, "b2": 0.99, "weight_decay": 0.0} | settings
    optimizer = optax.adamw(0.1, **chosen, mask={"kernel": True, "bias": False})
    parameters, state = PARAMETERS, optimizer.init(PARAMETERS)
    for _ in range(10):
        update, state = optimizer.update(jax.tree.map(lambda p: p - 0.3, parameters), state, parameters)
        parameters = optax.apply_updates(parameters, update)
    chex.assert_trees_all_close(after_steps(config_of(**settings)).parameters, parameters, rtol=1e-5)


def test_what_a_step_does_not_use_does_not_decay():
    state = after_steps(config_of(weight_decay=1.0), jnp.array([True, False]))  # bias, kernel
    np.testing.assert_array_equal(state.parameters["kernel"], PARAMETERS["kernel"])
    assert not state.adam["kernel"].mu.any() and state.adam["bias"].mu.any()
