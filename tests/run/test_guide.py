"""Guidance of one model by another, and which may guide which."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.config import Config, DataConfig, FlexiUNetConfig, ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.sampling.guidance import Guidance
from tests.networks import random_trained

CONFIG = Config(
    process=ProcessConfig(image_size=8, num_levels=1, num_timesteps=40),
    model=FlexiUNetConfig(widths=(8,), attention_levels=(), num_heads=1, num_classes=2),
    data=DataConfig(classes=("cat", "dog"), channels=3),
)
OTHERS = {
    "shape": {"process": {"shape": (4, 4)}},
    "noise schedule": {"process": {"noise_schedule": "cosine"}},
    "noise schedule, levels": {"process": {"num_timesteps": 50}},
    "blur": {"process": {"blur": 1.0}},
    "labels": {"data": {"classes": ("dog", "cat")}},
    "shape, labels": {"data": {"channels": 1, "classes": ("a", "b")}},
}


def test_a_weaker_model_guides():
    trained, smaller = random_trained(CONFIG), replace(CONFIG, model=replace(CONFIG.model, widths=(4,)))
    weak = random_trained(smaller, seed=2)
    x, t, label = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)), jnp.array([3, 30]), jnp.array([0, 1])
    stage = trained.process.stages[-1]
    call = jax.jit(lambda denoise: denoise(x, t, label, stage=stage))
    z, worse = call(trained.network), call(weak.network)
    interval = (float(trained.process.log_snr[10]), 99.0)
    guided = call(trained.guided(Guidance(2.0, interval), guide=weak))
    np.testing.assert_allclose(guided[0], np.clip(worse + 2 * (z - worse), -1, 1)[0], atol=1e-5)
    np.testing.assert_allclose(guided[1], np.clip(z, -1, 1)[1], atol=1e-5)
    assert np.abs(guided - np.clip(z, -1, 1)).max() > 0.01
    with pytest.raises(InputError, match="a guide is given, but guidance is 1, which is none; give a scale"):
        trained.guided(guide=weak)


@pytest.mark.parametrize("what", OTHERS)
def test_models_of_other_tasks_do_not(what):
    changes = {name: replace(getattr(CONFIG, name), **fields) for name, fields in OTHERS[what].items()}
    other = random_trained(replace(CONFIG, **changes))
    with pytest.raises(InputError, match=f"of another task, which cannot guide this one: it differs in {what};"):
        random_trained(CONFIG).guided(2.0, guide=other)
