"""A network of one level on the small states of several."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssd_jax
from ssd_jax.config import ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.run.training_free import matched_timesteps, without_training
from tests.commands import TINY, launch
from tests.conftest import tiny_config
from tests.networks import random_trained

LEVELS = ProcessConfig(image_size=8, num_levels=2, num_timesteps=40)


@pytest.mark.nightly
def test_a_small_state_is_a_picture_at_the_timestep_of_its_snr():
    tiny = tiny_config()
    config = replace(tiny, process=replace(LEVELS, num_levels=1))
    trained, process = random_trained(config), make_process(LEVELS)
    small = random_trained(replace(config, process=ProcessConfig(image_size=4, num_levels=1, num_timesteps=40)))
    denoise = jax.jit(without_training(trained, process), static_argnames="stage")
    matched, own = matched_timesteps(process, trained.process), trained.process
    up, stay1, stay0 = (next(each for each in process.stages if str(each) == name) for name in ("up1to0", "stay1", "stay0"))
    np.testing.assert_array_equal(matched[process.levels == 0], np.flatnonzero(process.levels == 0))
    assert np.abs(own.log_snr[matched] - process.log_snr).max() < np.abs(np.diff(own.log_snr)).max() / 2 + 1e-9
    assert (matched[process.levels == 1] < np.flatnonzero(process.levels == 1)).all()  # (8): averaging took noise away
    t, x = np.array([stay1.t_min, stay1.t_max]), jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    factor = (own.sigma[matched[t]] / process.sigma[t])[:, None, None, None]
    expected = small.network(jnp.float32(x * factor), jnp.asarray(matched[t]), None, stage=small.process.stages[0])
    np.testing.assert_allclose(denoise(x, t, None, stage=stay1), expected, rtol=1e-4, atol=1e-5)
    enlarged = denoise(x, np.full(2, up.t_min), None, stage=up)
    coarse = denoise(x, np.full(2, up.t_min), None, stage=replace(up, out_level=1))
    np.testing.assert_allclose(process.degrade(enlarged, 1), coarse, rtol=1e-4, atol=1e-5)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    expected = trained.network(x, jnp.array([0, 3]), None, stage=own.stages[0])
    np.testing.assert_allclose(denoise(x, np.array([0, 3]), None, stage=stay0), expected, rtol=1e-4, atol=1e-5)
    plan = ssd_jax.plan_steps(process, num_steps=4)
    assert np.isfinite(ssd_jax.sample(without_training(trained, process), plan, jax.random.key(0), 2)).all()


def test_other_models_are_refused():
    with pytest.raises(InputError, match="need a model of one level and a process of the same shape, both without blur"):
        without_training(random_trained(tiny_config()), make_process(LEVELS))


@pytest.mark.nightly
def test_the_study_compares_numbers_of_levels(tmp_path):
    tiny = [*TINY, "--config.process.num_levels=1", "--config.process.image_size=16"]
    trained = launch("launch.train", "--config=openmoji32", *tiny, "--config.process.blur=0", f"--workdir={tmp_path}/run")
    assert trained.returncode == 0, trained.stderr
    study = ["launch.studies.training_free", f"--workdir={tmp_path}/run", f"--out={tmp_path}/out"]
    result = launch(*study, "--levels=1,2", "--num=4", "--batch=4", "--num_steps=4")
    assert result.returncode == 0, result.stderr
    one, two = ([cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()[-2:])
    assert (one[0], two[0], one[-1]) == ("1", "2", "1") and 0.2 < float(two[-1]) < 1
    refused = launch(*study, "--levels=0")
    assert refused.returncode == 2 and "--levels has '0', but must be numbers of levels" in refused.stderr
