"""Averages of any width from what was kept of one."""

import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.training.ema import power_exponent, reconstruction


def averages(steps, decay, width, total):
    """Of a random walk by their recursions: the run's own at `steps`, the power function's at the end; the walk's scale."""
    walk, gamma = np.cumsum(np.random.default_rng(0).standard_normal(total + 1)), power_exponent(width)
    kept, own, power = [], walk[0], 0.0
    for t in range(1, total + 1):
        left = min(decay, t / (9 + t))
        own = left * own + (1 - left) * walk[t]
        beta = (1 - 1 / t) ** (gamma + 1)
        power = beta * power + (1 - beta) * walk[t]
        if t in steps:
            kept.append(own)
    return np.array(kept), power, walk.std()


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("decay", [0.99, 0.998])
def test_the_reconstruction_is_the_average(width, decay):
    steps = list(range(50, 1501, 50))
    kept, power, scale = averages(steps, decay, width, 1500)
    factors = reconstruction(steps, decay, width)
    assert factors.sum() == pytest.approx(1, abs=1e-5) and np.abs(factors).max() < 3
    assert factors @ kept == pytest.approx(power, abs=0.02 * scale)


def test_kept_at_every_step_it_is_exact():
    steps = list(range(1, 41))
    kept, power, scale = averages(steps, 0.9, 0.08, 40)
    assert reconstruction(steps, 0.9, 0.08) @ kept == pytest.approx(power, abs=1e-5 * scale)


@pytest.mark.parametrize("gamma", [1.0, 6.94, 16.97])
def test_the_exponent_gives_the_width(gamma):
    i = np.arange(100_000) / 100_000
    weights = i**gamma / (i**gamma).sum()
    width = np.sqrt(weights @ i**2 - (weights @ i) ** 2)
    assert power_exponent(width) == pytest.approx(gamma, rel=1e-3)


def test_a_width_that_cannot_be_had_is_refused():
    with pytest.raises(InputError, match=r"ema_width is 0.01, but averages kept at 3 steps of 900 come no nearer .* \d+%"):
        reconstruction([300, 600, 900], 0.99, 0.01)
