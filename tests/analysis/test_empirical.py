"""What states tell of the images of a data set: against what can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.analysis.empirical import log_likelihoods, noisy_states, posterior_error, state_information
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process

PROCESS = make_process(ProcessConfig(image_size=4, num_levels=2, num_timesteps=100))
IMAGES = jax.random.uniform(jax.random.key(0), (32, 4, 4, 3), minval=-1.0)
ALL = np.arange(32)


def test_likelihoods_are_those_of_the_marginal():
    for t in (10, 90):  # either level
        states = noisy_states(PROCESS, IMAGES[:5], t, jax.random.key(1))
        mean = PROCESS.alpha[t] * PROCESS.degrade(IMAGES, int(PROCESS.levels[t]))
        squares = jnp.square(states[:, None] - mean[None]).sum((2, 3, 4))
        found = log_likelihoods(PROCESS, IMAGES, states, t)
        np.testing.assert_allclose(found, -squares / (2 * PROCESS.sigma[t] ** 2), rtol=1e-4, atol=1e-3)


def test_information_grows_from_nothing_to_all():
    nats = [state_information(PROCESS, IMAGES, ALL, t, jax.random.key(1)) for t in (0, 20, 60, 99)]
    assert nats == sorted(nats, reverse=True)
    assert nats[0] == pytest.approx(np.log(32), rel=1e-4) and abs(nats[-1]) < 0.02


def test_information_of_little_signal_is_half_its_energy():
    """I = 1/2 SNR times the variance in all, to first order: what `spectrum.information` says as well."""
    process = make_process(ProcessConfig(image_size=4, num_levels=1, num_timesteps=100))
    expected = 0.5 * np.exp(process.log_snr) * float(jnp.square(IMAGES - IMAGES.mean(0)).sum((1, 2, 3)).mean())
    t = int(np.argmin(np.abs(expected - 0.05)))
    found = state_information(process, IMAGES, np.resize(ALL, 20_000), t, jax.random.key(1))
    assert found == pytest.approx(expected[t], rel=0.15)


def test_a_coarse_state_knows_less_of_the_coarse_image():
    """Two kinds of images that differ in fine detail mostly: it tells which, and so what the coarse image is."""
    two, one = (
        make_process(ProcessConfig(image_size=4, num_levels=n, num_timesteps=100, resolution_schedule="equal"))
        for n in (2, 1)
    )
    checks = jnp.asarray((np.indices((4, 4)).sum(0) % 2 * 2 - 1)[..., None] * np.ones(3), jnp.float32)
    kinds = jnp.stack([0.02 + 0.9 * checks, -0.02 - 0.9 * checks])
    images = jnp.repeat(kinds, 16, axis=0)
    coarse, t = two.degrade(images, 1), two.first_timestep(1)
    ours, full = (posterior_error(p, images, ALL, coarse, t, jax.random.key(1)) for p in (two, one))
    assert full < 0.3 * ours
    assert 0 < ours < float(jnp.square(coarse).mean()) * 1.2  # no worse than the mean, 0


def test_blur_is_refused():
    process = make_process(ProcessConfig(image_size=4, num_levels=1, blur=1.0))
    with pytest.raises(InputError, match="without blur only"):
        log_likelihoods(process, IMAGES, IMAGES, 10)
