"""How noisy the gradient of a draw is in every stage: what `train.allocation="cost_aware"` shares draws out by.

Adam divides the gradient of every parameter by the root mean square of what steps gave it, so that noise counts by that
measure: v_s = sum_i Var_s(g_i) / E[G_i^2], over parameters i, where a step's gradient is G = sum_s p_s (mean of n_s draws'
gradients): E[G_i^2] = (sum_s p_s E_s[g_i])^2 + sum_s p_s^2 Var_s(g_i) / n_s.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ssd_jax.process.stages import Stage
from ssd_jax.training.objective import Batch, Denoising


class GradientMoments(NamedTuple):
    """Of the gradient of a stage's draw: mean and variance of every parameter, float32 [parameters], flattened."""

    mean: Float[Array | np.ndarray, "parameters"]
    variance: Float[Array | np.ndarray, "parameters"]


@partial(jax.jit, static_argnames=("objective", "stage"))
def gradient_moments(
    objective: Denoising,
    stage: Stage,
    parameters: dict,
    draws: Batch,
    key: Key[Array, ""],
    shares: Float[Array, "parts"],
) -> GradientMoments:
    """Estimates from draws, one at a time (Welford 1962).

    Args:
        objective: that is trained.
        stage: whose gradient it is.
        parameters: at which.
        draws: two or more, with their numbers, as a training step has them.
        key: of all that is random about them.
        shares: of the draws that parts of the stage's timesteps get, [parts]; with 1 for one of them and 0 for the others
            the gradient is p_b times that of part b, which holds p_b of the timesteps.
    """
    loss = partial(objective.loss, stage, shares=shares)

    def add(moments: GradientMoments, counted: tuple[jax.Array, Batch]) -> tuple[GradientMoments, None]:
        count, draw = counted
        gradient = jax.grad(loss)(parameters, jax.tree.map(lambda array: array[None], draw), key)
        flat = jnp.concatenate([leaf.ravel().astype(jnp.float32) for leaf in jax.tree.leaves(gradient)])
        off = flat - moments.mean
        mean = moments.mean + off / count
        return GradientMoments(mean, moments.variance + off * (flat - mean)), None

    size, num = sum(leaf.size for leaf in jax.tree.leaves(parameters)), len(draws["number"])
    zeros = jnp.zeros(size, jnp.float32)
    moments, _ = jax.lax.scan(add, GradientMoments(zeros, zeros), (jnp.arange(1.0, num + 1), draws))
    return GradientMoments(moments.mean, moments.variance / (num - 1))


def gradient_variances(
    moments: Sequence[GradientMoments], probabilities: Float[np.ndarray, "stages"], draws: Float[np.ndarray, "stages"]
) -> Float[np.ndarray, "stages"]:
    """v_s of every stage.

    Args:
        moments: of every stage.
        probabilities: p_s.
        draws: n_s of the steps whose gradients Adam has seen.
    """
    mean = sum(p * np.asarray(each.mean, np.float64) for p, each in zip(probabilities, moments, strict=True))
    shares = zip(probabilities**2 / draws, moments, strict=True)
    squares = mean**2 + sum(share * np.asarray(each.variance, np.float64) for share, each in shares)
    scales = np.divide(1, squares, out=np.zeros_like(squares), where=squares > 0)
    return np.array([scales @ np.asarray(each.variance, np.float64) for each in moments])
