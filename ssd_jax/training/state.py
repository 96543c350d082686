"""What training replaces at every step."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ssd_jax.sharding import shardings
from ssd_jax.training.ema import MAIN
from ssd_jax.training.optimizer import first_moments

Tree = Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a training step replaces.

    Attributes:
        parameters: pure dict of float32 arrays.
        ema: their moving averages, by name.
        adam: an optax ScaleByAdamState per parameter, each with its own count, so that parameters off a step's path
            keep their moments and their bias correction.
        step: steps taken, int32.
        skipped: steps whose update was not finite and was left out, int32.
        skipped_in_a_row: the last of these, since an update that was finite, int32.
    """

    parameters: Tree
    ema: dict[str, Tree]
    adam: Tree
    step: Any
    skipped: Any
    skipped_in_a_row: Any

    def as_dict(self) -> dict[str, Tree]:
        """The state as a dict, for checkpoints."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def first_state(parameters: Tree) -> TrainState:
    """The TrainState before the first step."""
    zero = jnp.zeros((), jnp.int32)
    ema, adam = {MAIN: jax.tree.map(jnp.copy, parameters)}, jax.tree.map(first_moments, parameters)
    return TrainState(parameters, ema, adam, zero, zero, zero)


def abstract_state(parameters: Tree) -> TrainState:
    """Shapes and types of the TrainState of such parameters."""
    return jax.eval_shape(first_state, parameters)


def init_state(init_parameters: Callable[[jax.Array], Tree], seed: int, mesh: jax.sharding.Mesh) -> TrainState:
    """A fresh TrainState, born divided among the devices of the mesh.

    Args:
        init_parameters: key -> parameters.
        seed: of the key.
        mesh: the devices.
    """

    def init() -> TrainState:
        return first_state(init_parameters(jax.random.key(seed, impl="rbg")))  # compiles in a quarter of threefry's time

    return jax.jit(init, out_shardings=shardings(jax.eval_shape(init), mesh))()
