"""The score against that of dense Gaussians."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.process.stages import Stage
from ssd_jax.sampling.score import score
from tests.gaussians import GaussianData, dense, natural_covariance


@pytest.mark.parametrize(
    "settings",
    [pytest.param({"operator": "bilinear"}, marks=pytest.mark.nightly), {"blur": 1.5, "snr_policy": "published"}],
    ids=str,
)
def test_gaussian_states_have_the_score_of_their_covariance(settings):
    """-Cov(x_t)^-1 x, at stays and at up-steps, blurred or not."""
    process = make_process(ProcessConfig(image_size=8, num_levels=2, num_timesteps=30, **settings))
    data, sharp = GaussianData(process, natural_covariance(8)), {0: np.eye(64)}
    for finer, level in zip(process.used_levels, process.used_levels[1:], strict=False):
        sharp[level] = dense(process.level_operators[level]) @ sharp[finer]
    for stage in process.stages:
        t = np.array([stage.t_min, stage.t_max])
        size = process.level_shape(stage.in_level)
        x = np.random.default_rng(0).standard_normal((2, *size, 1))
        found = jax.jit(partial(score, data.denoise, process, stage=stage))(jnp.asarray(x, jnp.float32), jnp.asarray(t))
        for i, each in enumerate(t.tolist()):
            blur = process.target_operator(each)
            mean = process.alpha[each] * (sharp[stage.in_level] if blur is None else dense(blur) @ sharp[stage.in_level])
            covariance = mean @ data.covariance @ mean.T + process.sigma[each] ** 2 * np.eye(len(mean))
            np.testing.assert_allclose(found[i].ravel(), -np.linalg.solve(covariance, x[i].ravel()), rtol=2e-3, atol=2e-3)


def test_states_without_noise_have_no_score():
    process = ScaleSpaceProcess((4, 4), np.array([np.inf, 0.0]), np.array([0, 0]))
    with pytest.raises(InputError, match="x_0 of this process has no noise"):
        score(lambda x, t, label, *, stage: x, process, jnp.zeros((1, 4, 4, 1)), jnp.ones(1, int), stage=Stage(0, 0, 0, 1))
