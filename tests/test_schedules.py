import numpy as np
import pytest

from ssd_jax.schedules import NOISE_SCHEDULES, RESOLUTION_SCHEDULES, cosine, linear, resolution_levels


def test_linear_is_ddpm():
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(linear(1000), np.log(alpha_bar / (1 - alpha_bar)), atol=1e-12)


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_log_snr_decreases(name, steps):
    log_snr = NOISE_SCHEDULES[name](steps)
    assert log_snr.shape == (steps,) and np.isfinite(log_snr).all() and (np.diff(log_snr) < 0).all()


def test_cosine_is_the_published_curve():
    u = (np.arange(1, 900) / 1000 + 0.008) / 1.008 * np.pi / 2
    alpha_bar = np.cos(u) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(cosine(1000)[:899], np.log(alpha_bar / (1 - alpha_bar)), rtol=1e-9)


# First timestep of each level but 0: 3 levels, T = 1000, as the published code lays them out.
PUBLISHED = {
    ("equal", 1.0): (333, 666),
    ("convex_decay", 0.5): (555, 889),
    ("convex_decay", 0.25): (802, 987),
    ("convex_decay", 2.0): (184, 423),
    ("sigmoid_like", 2.0): (440, 560),
    ("tanh_like", 2.0): (223, 777),
}


@pytest.mark.parametrize(("name", "gamma"), PUBLISHED)
def test_resolution_schedules_match_the_published_ones(name, gamma):
    levels = resolution_levels(name, 1000, 3, gamma)
    assert (*(np.flatnonzero(np.diff(levels)) + 1),) == PUBLISHED[name, gamma]


@pytest.mark.parametrize("name", RESOLUTION_SCHEDULES)
def test_levels_start_at_full_resolution_and_never_decrease(name):
    levels = resolution_levels(name, 500, 4, 1.5)
    assert levels[0] == 0 and levels[-1] == 3 and (np.diff(levels) >= 0).all()
