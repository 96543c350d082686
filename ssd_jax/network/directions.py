"""Directions along which the states of a stage and the sharp images that it predicts are diagonal (equation 6)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ssd_jax.process.dct import heat_rate_grid
from ssd_jax.process.matrix_free import MatrixFreeOperator
from ssd_jax.process.operators import along_axes
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.reverse import LEAST_RELATIVE_EIGENVALUE, from_left, from_right, lift
from ssd_jax.process.stages import Stage

TINY = 1e-30  # of float32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SeparableDirections:
    """Directions that are products of those of the axes.

    Attributes:
        left, right: U and V, one matrix per axis; () for the pixels themselves.
        gains: g / a_t, [*shape, 1] or a scalar; of a stay under blur the decay rates.
        times: of a stay under blur, tau_t, [T].
    """

    left: tuple[Any, ...]
    right: tuple[Any, ...]
    gains: Any
    times: Any = None

    def extremes(self, stage: Stage) -> Float[np.ndarray, "gains timesteps"]:
        """The least and largest g / a_t along directions that states of the stage have, and 0 where they lack some."""
        if self.times is None:
            seen = self.gains[self.gains > 0]
            return np.array([seen.min(), seen.max(), *self.gains[self.gains == 0][:1]])[:, None]
        times = self.times[stage.t_min : stage.t_max + 1]
        return np.maximum(np.exp(-np.outer([self.gains.max(), self.gains.min()], times)), TINY)

    def apply(self, skip: Callable, x: jax.Array, out: Callable, f: jax.Array, t: Any) -> jax.Array:
        """V (skip(g / a_t) U^T x + out(g / a_t) V^T f)."""
        gains = jnp.asarray(self.gains, x.dtype)
        if self.times is not None:
            gains = jnp.exp(-jnp.asarray(self.times, x.dtype)[t] * gains)
        y = lift(x, self.left, self.right) if self.left else x
        return along_axes(skip(gains) * y + out(gains) * along_axes(f, [v.T for v in self.right]), self.right)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MatrixFreeDirections:
    """The singular directions of an operator that is only a function, compared by identity."""

    operator: MatrixFreeOperator = field(metadata={"static": True})

    def extremes(self, stage: Stage) -> Float[np.ndarray, "gains timesteps"]:
        """As `SeparableDirections.extremes`: the least is what functions of K take for it, whatever it is."""
        largest = self.operator.lambda_max**0.5
        return np.array([LEAST_RELATIVE_EIGENVALUE**0.5 * largest, largest, 0.0])[:, None]

    def apply(self, skip: Callable, x: jax.Array, out: Callable, f: jax.Array, t: Any) -> jax.Array:
        """As `SeparableDirections.apply`."""
        unseen = out(jnp.zeros((), x.dtype))
        inward = from_left(self.operator, skip, x) + from_right(self.operator, out, unseen, f)
        return unseen * f + self.operator.adjoint(inward)


def directions_of(process: ScaleSpaceProcess, stage: Stage) -> SeparableDirections | MatrixFreeDirections:
    """Where the states of a stage are diagonal."""
    if stage.is_up:
        operator = process.level_operators[stage.in_level]
        if isinstance(operator, MatrixFreeOperator):
            return MatrixFreeDirections(operator)
        return SeparableDirections(operator.left, operator.right, operator.singular_values[..., None])
    basis = process.frequency_basis(stage.in_level)
    if basis is None:
        return SeparableDirections((), (), np.ones(()))
    rates = heat_rate_grid(process.level_shape(stage.in_level), process.shape)
    return SeparableDirections(basis, basis, rates[..., None], process.blur_times)
