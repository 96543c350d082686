import importlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from launch.common.config_flag import load_config, shipped
from ssd_jax.build import build
from ssd_jax.config import (
    Config,
    FlexiUNetConfig,
    ProcessConfig,
    any_from_config_dict,
    config_from_json,
    config_json,
    from_config_dict,
    to_config_dict,
)
from ssd_jax.errors import InputError
from ssd_jax.process.config import make_process
from ssd_jax.training.config import OptimizerConfig


@pytest.mark.parametrize("name", shipped())
@pytest.mark.smoke
def test_every_shipped_config_is_valid(name):
    config = any_from_config_dict(load_config(name))
    if isinstance(config, Config):
        make_process(config.process)
    assert f"--config configs/{name}.py" in str(importlib.import_module(f"configs.{name}").__doc__)


def test_round_trip():
    config = from_config_dict({"model": {"widths": [8, 8], "attention_levels": []}, "process": {"num_levels": 2}})
    assert config != Config()
    assert from_config_dict(to_config_dict(config)) == config
    assert config_from_json(config_json(config)) == config


def test_settings_within_a_section():
    config = from_config_dict({"train": {"optimizer": {"b2": 0.95}}})
    assert config.train.optimizer == OptimizerConfig(b2=0.95) and config.train.optimizer.b1 == 0.9
    given: Any = to_config_dict(config)
    given.train.optimizer.weight_decay = 0.1
    changed = from_config_dict(given)
    assert changed.train.optimizer == OptimizerConfig(b2=0.95, weight_decay=0.1)
    assert config_from_json(config_json(changed)) == changed
    assert config_from_json(json.dumps({"format": 4, "train": {"steps": 3}})).train.optimizer == OptimizerConfig()


def test_image_size_is_the_short_way_to_a_square_shape():
    given: Any = to_config_dict(Config(process=ProcessConfig(image_size=16, num_levels=2)))
    assert from_config_dict(given).process.shape == (16, 16)
    given.process.shape = (24, 48)
    assert from_config_dict(given).process.shape == (24, 48)
    given.process.image_size = 8
    config = from_config_dict(given)
    assert config.process.shape == (8, 8)
    assert replace(config.process, num_levels=1).shape == (8, 8)


def test_older_configs_are_read():
    """As the first version wrote them: without a format, with image_size and the old name of num_steps."""
    old = {
        "data": {"source": "openmoji", "folder": None, "split_file": None, "tfds_name": None, "tfds_split": "train"},
        "process": {"image_size": 16, "num_levels": 2, "thresholds": []},
        "model": {"widths": [8, 16], "attention_levels": [1], "num_heads": 2},
        "sample": {"num": 4, "solver": "ddim", "steps": 7},
    }
    config = config_from_json(json.dumps(old))
    assert config.sample.num_steps == 7 and config.process.shape == (16, 16) and config.data.channels == 3
    assert config.model == FlexiUNetConfig(widths=(8, 16), attention_levels=(1,), num_heads=2)
    with pytest.raises(InputError, match="it has format 5, but this version reads 1 to 4; install a newer ssd_jax"):
        config_from_json(json.dumps({"format": 5}))
    tfds = config_from_json(json.dumps({"format": 3, "data": {"tfds_name": "celeb_a", "tfds_split": "test"}}))
    assert (tfds.data.name, tfds.data.split, tfds.data.crop) == ("celeb_a", "test", "area")


def test_runs_of_before_keep_the_levels_that_information_gave_them_without_regard_to_blur():
    settings = {"shape": [16, 16], "num_levels": 3, "resolution_schedule": "information", "tolerance": 0.01}
    before, blurred = (make_process(ProcessConfig(**settings, blur=blur)).levels for blur in (0.0, 3.0))
    assert before.sum() < blurred.sum()
    for written, levels in ((2, before), (3, blurred)):
        config = config_from_json(json.dumps({"format": written, "process": {**settings, "blur": 3.0}}))
        process = make_process(config_from_json(config_json(config)).process)
        assert process.dissipation is not None
        np.testing.assert_array_equal(process.levels, levels)


@pytest.mark.parametrize(
    ("process", "message"),
    [
        ({"num_levels": 5}, "process.num_levels is 5, but the network has 4 levels"),
        ({"image_size": 20, "num_levels": 2}, r"process.shape is \(20, 20\).*entries of model.widths"),
    ],
)
def test_processes_that_the_network_cannot_take(process, message):
    with pytest.raises(InputError, match=message):
        build(from_config_dict({"process": process}))


BAD = {
    "config section is 'modle'.*data, process, model": {"modle": {}},
    "config field of train is 'stepz'.*steps, batch_size": {"train": {"stepz": 3}},
    "train.steps is '3', but must be of type int": {"train": {"steps": "3"}},
    "train.steps is True": {"train": {"steps": True}},
    "train.steps is 0, but must be >= 1": {"train": {"steps": 0}},
    "train.learning_rate is -1": {"train": {"learning_rate": -1}},
    "config field of train.optimizer is 'b3'.*b1, b2, weight_decay": {"train": {"optimizer": {"b3": 0.9}}},
    "train.optimizer is 3, but must be of type OptimizerConfig": {"train": {"optimizer": 3}},
    "train.optimizer.b1 is '0.5', but must be of type float": {"train": {"optimizer": {"b1": "0.5"}}},
    "train.optimizer.b2 is 1.0, but must be >= 0 and < 1": {"train": {"optimizer": {"b2": 1.0}}},
    "train.optimizer.weight_decay is -0.1, but must be >= 0": {"train": {"optimizer": {"weight_decay": -0.1}}},
    "train.ema_decay is 1.0, but must be >= 0 and < 1": {"train": {"ema_decay": 1.0}},
    "train.keep_latest is 0, but must be >= 1": {"train": {"keep_latest": 0}},
    "train.keep_every is 1500, but must be a multiple of train.checkpoint_every, 1000, or 0": {
        "train": {"keep_every": 1500}
    },
    "train.keep_best is 'x', but train.evaluate_every is 0; it must be a multiple of train.checkpoint_every, 1000": {
        "train": {"keep_best": "x"}
    },
    "train.keep_best is 'x', but train.evaluate_every is 1500": {"train": {"keep_best": "x", "evaluate_every": 1500}},
    "train.evaluate_num is 1, but must be 0, for no samples, or >= 2": {"train": {"evaluate_num": 1}},
    "train.evaluate_every is 5, but there is nothing to evaluate: data.holdout and train.evaluate_num are 0": {
        "train": {"evaluate_every": 5, "evaluate_num": 0}
    },
    "data.holdout is -1, but must be >= 0": {"data": {"holdout": -1}},
    "data.split_file is given, but data.source 'tfds' takes none": {"data": {"source": "tfds", "split_file": "x"}},
    "data.crop is adm, but what data.source openmoji gives is drawn at its size: area": {"data": {"crop": "adm"}},
    "data.crop is 'middle', but must be one of: area, adm": {"data": {"crop": "middle"}},
    "train.stage_sampling is 'all', but must be one of: mixed, single": {"train": {"stage_sampling": "all"}},
    "process.noise_schedule is 'quadratic'.*linear, cosine": {"process": {"noise_schedule": "quadratic"}},
    "process.snr_policy is 'keep'.*preserve, published": {"process": {"snr_policy": "keep"}},
    "process.operator is 'nearest'.*box": {"process": {"operator": "nearest"}},
    "gamma of tanh_like is 0.5, but must be >= 1": {"process": {"resolution_schedule": "tanh_like"}},
    r"process.shape is \(36, 36\), but 4 levels.*multiples of 8": {"process": {"image_size": 36}},
    r"process.shape is \(32, 36\), but 4 levels.*multiples of 8": {"process": {"shape": (32, 36)}},
    r"process.thresholds is \(0.5,\), but 4 levels need 3 rising": {
        "process": {"resolution_schedule": "threshold", "thresholds": (0.5,)}
    },
    r"process.thresholds is \(0.5, 0.4, 1.0\)": {
        "process": {"resolution_schedule": "threshold", "thresholds": (0.5, 0.4, 1.0)}
    },
    r"process.factors is \(\(1, 2, 2\),\), but process.num_levels 1 .* 4 levels: set --config.model.factors=": {
        "process": {"shape": (8, 8, 8), "num_levels": 1, "factors": ((1, 2, 2),)}
    },
    "process.noise_sigma is 1.0": {"process": {"noise_sigma": 1.0}},
    "process.tolerance is 0.0, but must be > 0": {"process": {"tolerance": 0.0}},
    "process.blur is -1": {"process": {"blur": -1.0}},
    "model.num_heads is 5, but must divide": {"model": {"num_heads": 5}},
    "model.attention_levels names level 4": {"model": {"attention_levels": (4,)}},
    "model.label_dropout is 1.0, but must be >= 0 and < 1": {"model": {"label_dropout": 1.0}},
    "sample.guidance is 2.0, but must be 1 unless model.num_classes": {"sample": {"guidance": 2.0}},
    "sample.guidance is -1.0": {"sample": {"guidance": -1.0}},
    "model.dtype is 'float16'": {"model": {"dtype": "float16"}},
    "data.source is 'web'.*openmoji, folder, array_record.*--import MODULE": {"data": {"source": "web"}},
    "data.channels is 2, but must be one of: 1, 3, 4": {"data": {"channels": 2}},
    r"data.background is \(255, 255\), but must be of type tuple\[int, int, int\]": {"data": {"background": (255, 255)}},
    "data.background is 256": {"data": {"background": (0, 0, 256)}},
    "model.kind is 'vit', but must be one of: flexi_unet.*--import MODULE": {"model": {"kind": "vit"}},
    "sample.solver is 'euler', but must be one of: ancestral": {"sample": {"solver": "euler"}},
    "config field of sample is 'steps'.*num_steps": {"sample": {"steps": 3}},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_configs(message):
    with pytest.raises(InputError, match=message):
        from_config_dict(BAD[message])
