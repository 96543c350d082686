import numpy as np
import pytest

from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.dct import heat_rate_grid
from ssd_jax.process.schedules import (
    RESOLUTION_CURVES,
    constant,
    cosine,
    flow,
    growing_blur,
    information_levels,
    linear,
    resolution_levels,
    threshold_levels,
    zero_terminal,
)
from ssd_jax.process.spectrum import information, lost_information, natural_spectrum


def test_linear_is_ddpm():
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(linear(1000), np.log(alpha_bar / (1 - alpha_bar)), atol=1e-12)


@pytest.mark.parametrize("schedule", [linear, cosine, flow])
@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_log_snr_decreases(schedule, steps):
    log_snr = schedule(steps)
    assert log_snr.shape == (steps,) and np.isfinite(log_snr).all() and (np.diff(log_snr) < 0).all()


def test_cosine_is_the_published_curve():
    u = (np.arange(1, 900) / 1000 + 0.008) / 1.008 * np.pi / 2
    alpha_bar = np.cos(u) ** 2 / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(cosine(1000)[:899], np.log(alpha_bar / (1 - alpha_bar)), rtol=1e-9)


def test_a_flow_interpolates_between_images_and_noise_and_shifts_as_resolutions_do():
    """a : sigma = 1 - s : s; noise shifted by alpha is s' = alpha s / (1 + (alpha - 1) s) (Esser et al. 2024)."""
    s = (np.arange(20) + 0.5) / 20
    plain, shifted = (
        make_process(ProcessConfig(num_levels=1, num_timesteps=20, noise_schedule="flow", noise_shift=shift))
        for shift in (1.0, 3.0)
    )
    np.testing.assert_allclose(plain.sigma / (plain.alpha + plain.sigma), s)
    np.testing.assert_allclose(shifted.sigma / (shifted.alpha + shifted.sigma), 3 * s / (1 + 2 * s))
    with pytest.raises(InputError, match="noise_shift is 3.0, but .* set that one"):
        ProcessConfig(noise_schedule="constant", noise_shift=3.0)


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
    levels = resolution_levels(RESOLUTION_CURVES[name], 1000, 3, gamma)
    assert (*(np.flatnonzero(np.diff(levels)) + 1),) == PUBLISHED[name, gamma]


@pytest.mark.parametrize("name", RESOLUTION_CURVES)
def test_levels_start_at_full_resolution_and_never_decrease(name):
    levels = resolution_levels(RESOLUTION_CURVES[name], 500, 4, 1.5)
    assert levels[0] == 0 and levels[-1] == 3 and (np.diff(levels) >= 0).all()


def test_constant_noise():
    np.testing.assert_allclose(1 / np.sqrt(1 + np.exp(constant(5, 0.01))), 0.01, rtol=1e-9)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_zero_terminal_snr(schedule):
    before, after = schedule(1000), zero_terminal(schedule(1000))
    assert after[-1] == -np.inf and np.isfinite(after[:-1]).all() and (np.diff(after) < 0).all()
    np.testing.assert_allclose(after[0], before[0], rtol=1e-9)
    a, b = (1 / np.sqrt(1 + np.exp(-log_snr)) for log_snr in (before, after))
    np.testing.assert_allclose(np.diff(b) / np.diff(a), b[0] / (a[0] - a[-1]), rtol=1e-6)  # an affine map


def test_blur_grows_to_its_standard_deviation():
    times = growing_blur(100, 6.0)
    assert times[0] == 0 and (np.diff(times) > 0).all()
    np.testing.assert_allclose(np.sqrt(2 * times[-1]), 6.0)


def test_thresholds():
    np.testing.assert_array_equal(threshold_levels(10, (0.65,)), [0] * 7 + [1] * 3)
    np.testing.assert_array_equal(threshold_levels(10, (0.25, 0.25, 0.8)), [0] * 3 + [2] * 6 + [3])


def test_information_schedule_loses_no_more_than_the_tolerance():
    log_snr, spectrum, shapes = linear(1000), natural_spectrum((32, 32)), [(32 >> level,) * 2 for level in range(4)]
    levels = information_levels(log_snr, spectrum, shapes, 0.01)
    assert levels[0] == 0 and levels[-1] == 3 and (np.diff(levels) >= 0).all() and (np.diff(levels) <= 1).all()
    for t in range(0, 1000, 50):
        low = spectrum[: 32 >> levels[t], : 32 >> levels[t]]
        kept = information(log_snr[t], low) * low.size / spectrum.size
        assert information(log_snr[t], spectrum) - kept <= 0.01
        if levels[t] < 3:  # one level more would be too coarse
            low = spectrum[: 32 >> levels[t] + 1, : 32 >> levels[t] + 1]
            assert information(log_snr[t], spectrum) - information(log_snr[t], low) * low.size / spectrum.size > 0.01
    assert information_levels(log_snr, spectrum, shapes, 1e-12)[-1] == 0


def test_what_blur_has_taken_no_level_loses():
    """Levels begin earlier; what is lost then is that of the blurred image's spectrum."""
    log_snr, spectrum, dissipation = linear(1000), natural_spectrum((32, 32)), growing_blur(1000, 3.0)
    shapes = [(32 >> level,) * 2 for level in range(4)]
    sharp = information_levels(log_snr, spectrum, shapes, 0.001)
    levels = information_levels(log_snr, spectrum, shapes, 0.001, dissipation)
    assert (levels >= sharp).all() and levels.sum() > 1.2 * sharp.sum()
    for level in range(1, 4):
        first = int(np.argmax(levels >= level))
        for t, little in ((first, True), (first - 1, False)):
            blurred = spectrum * np.exp(-2 * dissipation[t] * heat_rate_grid((32, 32), (32, 32)))
            lost = lost_information(log_snr[t], blurred, shapes[level])
            np.testing.assert_allclose(lost, lost_information(log_snr[t], spectrum, shapes[level], dissipation[t]))
            assert (lost <= 0.001) == little
