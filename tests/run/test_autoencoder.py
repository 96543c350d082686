"""Runs of autoencoders: trained by the same command as denoisers, into the same workdirs."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import ssd_jax
from ssd_jax.config import (
    AutoencoderConfig,
    AutoencoderRunConfig,
    DataConfig,
    ReconstructionConfig,
    TrainConfig,
    any_from_config_dict,
    from_config_dict,
)
from ssd_jax.errors import InputError
from ssd_jax.files.images import read_image
from ssd_jax.run.autoencoder import load_autoencoder
from tests.conftest import tiny_config

CONFIG = AutoencoderRunConfig(
    data=DataConfig(holdout=8),
    reconstruction=ReconstructionConfig(shape=(16, 16)),
    model=AutoencoderConfig(widths=(4, 8), latent_channels=2, num_groups=2),
    train=TrainConfig(
        steps=4,
        batch_size=8,
        learning_rate=1e-2,
        warmup_steps=1,
        log_every=2,
        sample_every=4,
        checkpoint_every=2,
        evaluate_every=2,
        evaluate_num=0,
        keep_best="holdout/loss",
        cosine_decay=False,
    ),
)


def pictures() -> np.ndarray:
    """Smooth ones, uint8 [24, 16, 16, 3]."""
    small = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), np.uint8)
    return small.repeat(4, axis=1).repeat(4, axis=2)


def train(workdir, steps: int = 4, **kwargs) -> None:
    config = replace(CONFIG, train=replace(CONFIG.train, steps=steps))
    ssd_jax.train(config, workdir, source=pictures(), **kwargs)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 4 steps, begun with 2."""
    workdir = tmp_path_factory.mktemp("run")
    train(workdir, 2)
    train(workdir)
    return workdir


@pytest.mark.nightly
def test_what_a_run_keeps(run):
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    named = {name for line in logged for name in line}
    assert {"loss", "holdout/loss", "images_per_second"} <= named and not {each for each in named if "stay" in each}
    assert read_image(run / "samples" / "step_0000004.png").shape[1] > 8 * 16
    trained = load_autoencoder(run)
    assert trained.step == 4 and load_autoencoder(run, step=2).digest != trained.digest
    assert load_autoencoder(run, step="best").step in (2, 4)
    found = trained.reconstruct(pictures()[:3])
    assert found.shape == (3, 16, 16, 3) and found.dtype == np.uint8


@pytest.mark.nightly
def test_goes_on_bit_for_bit(run, tmp_path):
    train(tmp_path)
    whole, resumed = load_autoencoder(tmp_path), load_autoencoder(run)
    jax.tree.map(np.testing.assert_array_equal, whole.autoencoder, resumed.autoencoder)


@pytest.mark.nightly
def test_runs_of_another_kind_are_told_apart(run, tmp_path):
    with pytest.raises(InputError, match="is a run of an autoencoder, but must be one of a denoiser"):
        ssd_jax.load(run)
    with pytest.raises(InputError, match="holds a run with model.kind = autoencoder, but this config says flexi_unet"):
        ssd_jax.train(tiny_config(), run, source=np.zeros((24, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="holds a run with model.latent_channels = 2, but this config says 3"):
        ssd_jax.train(replace(CONFIG, model=replace(CONFIG.model, latent_channels=3)), run, source=pictures())
    with pytest.raises(InputError, match="init_from is given, but an autoencoder starts from no other run"):
        train(tmp_path, init_from=run)


@pytest.mark.parametrize(
    "message, section, values",
    [
        (r"reconstruction.shape is \(18, 18\), but must be multiples of 4", "reconstruction", {"shape": (18, 18)}),
        (r"reconstruction.shape is \(8, 8\), but sides must be from 16", "reconstruction", {"shape": (8, 8)}),
        ("train.allocation is 'cost_aware', but an autoencoder has no stages", "train", {"allocation": "cost_aware"}),
        ("config section is 'process', but must be one of: data, reconstruction", "process", {}),
        ("config field of model is 'dropout', but must be one of: widths", "model", {"dropout": 0.1}),
    ],
)
def test_configs_that_cannot_be(message, section, values):
    plain = {"model": {"kind": "autoencoder"}}
    plain[section] = plain.get(section, {}) | values
    with pytest.raises(InputError, match=message):
        any_from_config_dict(plain)


def test_commands_that_need_a_denoiser_say_so():
    with pytest.raises(InputError, match="model.kind is 'autoencoder', which only launch.train takes"):
        from_config_dict({"model": {"kind": "autoencoder"}})
