import importlib

import pytest

from launch.common.config_flag import load_config, shipped
from ssd_jax.config import Config, from_config_dict, to_config_dict
from ssd_jax.errors import InputError
from ssd_jax.process.process import make_process


@pytest.mark.parametrize("name", shipped())
@pytest.mark.smoke
def test_every_shipped_config_is_valid(name):
    config = from_config_dict(load_config(name))
    make_process(config.process)
    assert f"--config configs/{name}.py" in str(importlib.import_module(f"configs.{name}").__doc__)


def test_round_trip():
    config = from_config_dict({"model": {"widths": [8, 8], "attention_levels": []}, "process": {"num_levels": 2}})
    assert config != Config()
    assert from_config_dict(to_config_dict(config)) == config


BAD = {
    "config section is 'modle'.*data, process, model": {"modle": {}},
    "config field of train is 'stepz'.*steps, batch_size": {"train": {"stepz": 3}},
    "train.steps is '3', but must be of type int": {"train": {"steps": "3"}},
    "train.steps is True": {"train": {"steps": True}},
    "train.steps is 0, but must be >= 1": {"train": {"steps": 0}},
    "train.learning_rate is -1": {"train": {"learning_rate": -1}},
    "train.ema_decay is 1.0, but must be >= 0 and < 1": {"train": {"ema_decay": 1.0}},
    "train.stage_sampling is 'all', but must be one of: mixed, single": {"train": {"stage_sampling": "all"}},
    "process.noise_schedule is 'quadratic'.*linear, cosine": {"process": {"noise_schedule": "quadratic"}},
    "process.snr_policy is 'keep'.*preserve, published": {"process": {"snr_policy": "keep"}},
    "process.operator is 'nearest'.*box": {"process": {"operator": "nearest"}},
    "gamma of tanh_like is 0.5, but must be >= 1": {"process": {"resolution_schedule": "tanh_like"}},
    "process.image_size is 36, but 4 levels.*multiple of 8": {"process": {"image_size": 36}},
    "process.num_levels is 5, but the network has 4 levels": {"process": {"num_levels": 5}},
    "process.image_size is 20.*entries of model.widths": {"process": {"image_size": 20, "num_levels": 2}},
    r"process.thresholds is \(0.5,\), but 4 levels need 3 rising": {
        "process": {"resolution_schedule": "threshold", "thresholds": (0.5,)}
    },
    r"process.thresholds is \(0.5, 0.4, 1.0\)": {
        "process": {"resolution_schedule": "threshold", "thresholds": (0.5, 0.4, 1.0)}
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
    "data.source is 'web'.*openmoji, folder, tfds": {"data": {"source": "web"}},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_configs(message):
    with pytest.raises(InputError, match=message):
        from_config_dict(BAD[message])
