"""How noisy gradients are: against single gradients, and by what Adam makes of them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.training.gradient_noise import GradientMoments, gradient_moments, gradient_variances
from ssd_jax.training.step import draws
from tests.conftest import tiny_config
from tests.networks import dense_objective


def test_moments_are_those_of_single_gradients():
    config = tiny_config(loss_weighting="constant")
    config = replace(config, model=replace(config.model, num_classes=3))
    objective, parameters = dense_objective(config, hidden=8, dropout=0.3)
    objective = replace(objective, weighting="constant")
    rng, key, stage = np.random.default_rng(0), jax.random.key(1), objective.process.stages[0]
    batch = {"image": rng.integers(0, 256, (5, 8, 8, 3), np.uint8), "label": np.array([0, 1, 2, 0, 1], np.int32)}
    found = gradient_moments(objective, stage, parameters, draws(batch, 0, 5), key, jnp.ones(1))
    gradient, single = jax.jit(jax.grad(lambda p, d: objective.loss(stage, p, d, key))), []
    for i in range(5):
        leaves = jax.tree.leaves(gradient(parameters, draws(batch, i, 1)))
        single.append(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    np.testing.assert_allclose(found.mean, np.mean(single, axis=0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.variance, np.var(single, axis=0, ddof=1), rtol=1e-3, atol=1e-9)
    assert np.mean(found.variance) > 1e-6


def test_a_part_alone_is_as_a_stage_of_its_timesteps():
    """But for which of them it draws: in the mean over many draws."""
    config = tiny_config(loss_weighting="constant")
    config = replace(config, model=replace(config.model, num_classes=3))
    objective, parameters = dense_objective(config, hidden=8, dropout=0.0)
    objective = replace(objective, weighting="constant")
    stage, size = objective.process.stages[-1], 2000
    batch = {"image": np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), np.uint8), "label": np.arange(9) % 3}
    given, key = draws(batch, 0, size), jax.random.key(1)
    for i, part in enumerate(stage.parts(2)):
        alone = jnp.array([1.0 - i, float(i)])
        found = gradient_moments(objective, stage, parameters, given, key, alone)
        own = gradient_moments(objective, part, parameters, given, key, jnp.ones(1))
        share = (part.t_max + 1 - part.t_min) / (stage.t_max + 1 - stage.t_min)
        assert np.linalg.norm(found.mean / share - own.mean) < 0.2 * np.linalg.norm(own.mean)
        assert float(found.variance.sum()) / share**2 == pytest.approx(float(own.variance.sum()), rel=0.1)


def test_noise_counts_by_what_adam_divides_by():
    """Two stages of a draw each: the second parameter's gradient is a hundred times the first's, and counts no more."""
    first = GradientMoments(np.array([1.0, 0.0, 0.0]), np.array([4.0, 0.0, 0.0]))
    second = GradientMoments(np.array([1.0, 100.0, 0.0]), np.array([0.0, 4e4, 0.0]))
    found = gradient_variances([first, second], np.array([0.5, 0.5]), np.array([1.0, 2.0]))
    squares = np.array([1 + 4 / 4, 50.0**2 + 4e4 / 8])  # of a step's gradient; the third parameter is not used
    np.testing.assert_allclose(found, [4 / squares[0], 4e4 / squares[1]])
    scaled = GradientMoments(second.mean * np.array([1, 7, 1]), second.variance * np.array([1, 49, 1]))
    assert gradient_variances([first, scaled], np.array([0.5, 0.5]), np.array([1.0, 2.0])) == pytest.approx(found)
