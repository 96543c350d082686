"""Wrong arguments of public functions: one line that names the argument, what it may be and often what to say."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import ssd_jax
from ssd_jax import metrics
from ssd_jax.build import build
from ssd_jax.config import to_config_dict
from ssd_jax.data.pipeline import make_iterator
from ssd_jax.data.sources import python_source
from ssd_jax.errors import InputError
from ssd_jax.run.trained import Trained
from ssd_jax.sampling import editing, guidance, noise
from tests.conftest import tiny_config

KEY = jax.random.key(0)
CONFIG = tiny_config()
PROCESS = ssd_jax.make_process(CONFIG.process)
PLAN = ssd_jax.plan_steps(PROCESS, num_steps=4)
OTHER = ssd_jax.make_process(ssd_jax.ProcessConfig(shape=(16, 16), num_levels=2, num_timesteps=20))


def denoise(x, t, label=None, *, stage):
    return x if not stage.is_up else jax.numpy.repeat(jax.numpy.repeat(x, 2, 1), 2, 2)


def _trained() -> Trained:
    """Never called: arguments are refused before any weights are needed."""
    model = replace(CONFIG.model, num_classes=3, label_dropout=0.1)
    experiment = build(replace(CONFIG, model=model))
    return Trained(experiment, experiment.denoiser(experiment.abstract_parameters), 1)


TRAINED: Any = _trained()
FEATURES = np.ones((4, 3))
lib: Any = ssd_jax
metrics: Any = metrics
SOURCE = python_source(np.zeros((4, 8, 8, 3), np.uint8), CONFIG.data, (8, 8))
edit: Any = editing
edit_noise: Any = noise
edit_guidance: Any = guidance
images = np.zeros((1, 8, 8, 3), np.float32)

WRONG = {
    "key is 0, but must be one key, such as jax.random.key(0)": lambda: TRAINED.sample(0),
    "key is Array": lambda: TRAINED.sample(jax.random.split(KEY, 3)),
    "key is None": lambda: lib.sample(denoise, PLAN, None),
    "argument of sample is 'steps', but must be one of: key, num, solver, num_steps": lambda: TRAINED.sample(KEY, steps=3),
    "(did you mean num_steps?)": lambda: lib.plan_steps(PROCESS, steps=3),
    "sample: missing a required argument: 'key'; its arguments are key, num": lambda: TRAINED.sample(),
    "plan_steps: too many positional arguments": lambda: lib.plan_steps(PROCESS, "ddim"),
    "num is (3,), but must be of type int": lambda: TRAINED.sample(KEY, (3,)),
    "num is 2.5, but must be of type int": lambda: TRAINED.sample(KEY, 2.5),
    "num is True": lambda: TRAINED.sample(KEY, True),
    "num is 0, but must be >= 1": lambda: TRAINED.sample(KEY, 0),
    "num is -1": lambda: TRAINED.noise(KEY, -1),
    "num is 4611686018427387904": lambda: TRAINED.sample(KEY, 2**62),
    "batch_size is 0": lambda: lib.sample(denoise, PLAN, KEY, 0),
    "first_index is -1": lambda: TRAINED.sample(KEY, 2, first_index=-1),
    "first_index is 4294967295, but must be >= 0 and < 4294967295": lambda: TRAINED.sample(KEY, 2, first_index=2**32 - 1),
    "plan is 'ddim', but must be of type Plan; ssd_jax.plan_steps": lambda: lib.sample(denoise, "ddim", KEY),
    "process is Config": lambda: lib.plan_steps(CONFIG),
    "denoise is 3": lambda: lib.sample(3, PLAN, KEY),
    "solver is ['ddim']": lambda: TRAINED.plan(solver=["ddim"]),
    "did you mean ddim?": lambda: TRAINED.plan(solver="ddmi"),
    "num_steps is '5'": lambda: TRAINED.plan(num_steps="5"),
    "num_steps is 0": lambda: TRAINED.plan(num_steps=0),
    "spacing is 3": lambda: TRAINED.plan(spacing=3),
    "timesteps are [19, 19, 10, 0]": lambda: TRAINED.plan(spacing=[19, 19, 10, 0]),
    "timesteps are [0, 10, 19]": lambda: TRAINED.plan(spacing=[0, 10, 19]),
    "spacing is [19, [3], 0]": lambda: TRAINED.plan(spacing=[19, [3], 0]),
    "timesteps are [200, 10, 0]": lambda: TRAINED.plan(spacing=[200, 10, 0]),
    "eta is nan": lambda: TRAINED.plan(eta=float("nan")),
    "eta is inf": lambda: TRAINED.plan(eta=float("inf")),
    "eta is 'a'": lambda: TRAINED.plan(eta="a"),
    "start is 20, but must be >= 0 and < 20": lambda: TRAINED.plan(start=20),
    "start is -1": lambda: TRAINED.plan(start=-1),
    "guidance.scale is inf": lambda: TRAINED.guided(float("inf")),
    "guidance.scale is nan": lambda: TRAINED.guided(float("nan")),
    "guidance is (2, 3)": lambda: TRAINED.guided((2, 3)),
    "guidance.interval is (4.0, -4.0)": lambda: lib.Guidance(2, (4, -4)),
    "guidance.interval is (nan, 4.0)": lambda: lib.Guidance(2, (float("nan"), 4)),
    "interval is 3": lambda: lib.Guidance(2, 3),
    "guidance.max_norm is given, but guidance.scale is 1, which is none": lambda: lib.Guidance(1.0, max_norm=0.1),
    "Guidance lacks scale": lambda: edit_guidance.Guidance(parallel=0.5),
    "threshold quantile is 1.5": lambda: TRAINED.guided(threshold_quantile=1.5),
    "threshold quantile is nan": lambda: TRAINED.guided(threshold_quantile=float("nan")),
    "label is [0.5, 1], but must be of type int or": lambda: TRAINED.sample(KEY, 2, label=[0.5, 1]),
    "label is 1.0": lambda: TRAINED.sample(KEY, 2, label=1.0),
    "label holds 3..3": lambda: TRAINED.sample(KEY, 2, label=3),
    "label is [0.5, 1.0]": lambda: lib.sample(denoise, PLAN, KEY, 2, label=[0.5, 1.0]),
    "label has shape (3,)": lambda: lib.iterate(denoise, PLAN, noise.seeded(KEY, np.arange(2)), label=np.zeros(3, int)),
    "memory_limit is 0, but must be >= 1": lambda: lib.sample(denoise, PLAN, KEY, 2, memory_limit=0),
    "memory_limit is 1.5": lambda: lib.sample(denoise, PLAN, KEY, 2, memory_limit=1.5),
    "every is 0": lambda: lib.iterate(denoise, PLAN, noise.seeded(KEY, np.arange(2)), every=0),
    "noise is": lambda: lib.iterate(denoise, PLAN, KEY),
    "plan is of a process of": lambda: TRAINED.iterate(denoise, lib.plan_steps(OTHER, num_steps=4), KEY, 2),
    "spectrum has shape": lambda: lib.plan_steps(PROCESS, spectrum=np.ones((3, 3))),
    "config is {}, but must be of type Config or AutoencoderRunConfig; ssd_jax.config.from_config_dict": lambda: lib.train(
        {}, "x"
    ),
    "config is data": lambda: lib.train(to_config_dict(CONFIG), "x"),
    "config is 'openmoji32'": lambda: lib.build("openmoji32"),
    "workdir is 3, but must be of type str or Path": lambda: lib.train(CONFIG, 3),
    "workdir is None": lambda: lib.load(None),
    "workdir is 'a\\x00b', but must be one line": lambda: lib.load("a\0b"),
    "source is 3": lambda: lib.train(CONFIG, "x", source=3),
    "workdir is '', but must be a path; '.' is the current folder": lambda: lib.train(CONFIG, ""),
    "argument of load is 'workdirr'": lambda: lib.load(workdirr="x"),
    "config is SampleConfig": lambda: lib.make_process(CONFIG.sample),
    "strength is nan": lambda: edit.timestep_of(PROCESS, float("nan")),
    "strength is '1'": lambda: edit.timestep_of(PROCESS, "1"),
    "images is array": lambda: edit.noised(PLAN, np.zeros((1, 8, 8, 3), np.uint8), noise.seeded(KEY, np.arange(1))),
    "times is 1.5": lambda: edit.resampled(PLAN, 1.5),
    "resampling is 0": lambda: edit.resampled(PLAN, 0),
    "resampling is 1000000000": lambda: edit.resampled(PLAN, 10**9),
    "interpolation has 1 indices": lambda: noise.interpolated(KEY, [3], 4),
    "indices of images are -1 .. 3, but must be": lambda: noise.interpolated(KEY, [3, -1], 4),
    "indices of images are 0 .. 4294967296": lambda: noise.interpolated(KEY, [0, 2**32], 4),
    "indices is [0.5, 1.5]": lambda: edit_noise.interpolated(KEY, [0.5, 1.5], 4),
    "seed is 4294967296, but must be >= 0 and < 4294967296": lambda: metrics.random_convolutions(2**32),
    "seed is -1": lambda: metrics.kernel_distance(FEATURES, FEATURES, seed=-1),
    "seed is 4294967298": lambda: metrics.inception_score(FEATURES, 2, seed=2**32 + 2),
    "subsets is 0": lambda: metrics.kernel_distance(FEATURES, FEATURES, subsets=0),
    "seed is 4294967297": lambda: make_iterator(SOURCE, batch_size=8, seed=2**32 + 1, flip=False),
    "guidance is None": lambda: edit_guidance.classifier_free(denoise, None, null_label=3),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(message):
    with pytest.raises(InputError) as error:
        WRONG[message]()
    told = str(error.value)
    assert message in told and len(told.splitlines()) == 1 and len(told) < 500, told


def test_numpy_numbers_and_older_keys_work():
    expected = lib.sample(denoise, PLAN, KEY, 2, first_index=3)
    got = lib.sample(denoise, PLAN, jax.random.PRNGKey(0), np.int64(2), first_index=np.uint8(3))
    np.testing.assert_array_equal(got, expected)
    assert TRAINED.labels([2, 0], np.int32(2)).tolist() == [2, 0]
    assert TRAINED.plan(num_steps=np.int64(4)).calls == 4


def test_indices_of_32_bits_are_all_different():
    indices = np.array([0, 5, 2**31 - 1, 2**31, 2**31 + 5, 2**32 - 1])
    keys = jax.random.key_data(noise.seeded(KEY, indices).keys).reshape(len(indices), -1)
    assert len(np.unique(keys, axis=0)) == len(indices)
