"""Settings that cannot work are refused at once, in one line that names them: from files, flags and Python alike."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from ssd_jax.config import (
    Config,
    DataConfig,
    DenoiserConfig,
    EncodingConfig,
    FlexiUNetConfig,
    ProcessConfig,
    ReconstructionConfig,
    SampleConfig,
    TrainConfig,
    from_config_dict,
)
from ssd_jax.errors import InputError, check_range
from ssd_jax.training.config import OptimizerConfig
from ssd_jax.training.optimizer import learning_rate

SECTIONS: dict[str, Any] = {
    "data": DataConfig,
    "encoding": EncodingConfig,
    "reconstruction": ReconstructionConfig,
    "process": ProcessConfig,
    "model": FlexiUNetConfig,
    "denoiser": DenoiserConfig,
    "train": TrainConfig,
    "train.optimizer": OptimizerConfig,
    "sample": SampleConfig,
}
FIELDS = [(name, field) for name, cls in SECTIONS.items() for field in dataclasses.fields(cls)]
ABSURD = [math.nan, math.inf, -math.inf, 1e308, 2**64, 2**31, -1, -(10**5000), 1j, {}, [[]], ((1,),), (3,), object(), b"x"]
OTHERS = ["", "é\n", "\0", "x" * 10**6, None, True, 2.5, np.zeros(3), [math.nan], range(3), Config, np.bool_(True)]


def refused(make, *expected: str) -> str:
    with pytest.raises(InputError) as error:
        make()
    message = str(error.value)
    assert len(message.splitlines()) == 1 and len(message) < 700, message
    assert all(each in message for each in expected), message
    return message


@pytest.mark.parametrize(("section", "field"), FIELDS, ids=[f"{name}.{field.name}" for name, field in FIELDS])
def test_absurd_values_are_refused_or_harmless(section, field):
    """Whatever the value: refused in a line that names the field, or a value of the field's own type and finite."""
    name = f"{section}.{field.name}"
    for value in [*ABSURD, *OTHERS]:
        try:
            made = getattr(SECTIONS[section](**{field.name: value}), field.name)
        except InputError as error:
            assert section in str(error) and len(str(error).splitlines()) == 1 and len(str(error)) < 500, (value, error)
        else:
            assert type(made) is type(value) or isinstance(value, (int, np.bool_, list)), (name, value, made)
            assert not isinstance(made, float) or (math.isfinite(made) and abs(made) < 1e12), (name, value)
            assert not isinstance(made, bool) or field.type is bool, (name, value)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("process", {"gamma": 1e9}, "process.gamma is 1000000000.0, but must be > 0 and < 30"),
        ("process", {"gamma": math.nan}, "process.gamma is nan, but must be finite"),
        ("process", {"spectrum_slope": math.inf}, "process.spectrum_slope is inf, but must be finite"),
        ("process", {"blur": 1e308}, "process.blur is 1e+308"),
        ("process", {"noise_sigma": 1e-30}, "process.noise_sigma is 1e-30"),
        ("process", {"shape": (2**31, 2**31)}, "process.shape is (2147483648, 2147483648), but must have at most 4 sides"),
        ("process", {"shape": (8,) * 1000, "num_levels": 1}, "at most 4 sides"),
        ("process", {"shape": ()}, "process.shape is ()"),
        ("process", {"shape": (0, 0)}, "process.shape is (0, 0)"),
        ("process", {"image_size": 2**40}, "process.shape is (1099511627776, 1099511627776)"),
        ("process", {"num_levels": 10**6}, "process.num_levels is 1000000, but must be >= 1 and <"),
        ("process", {"thresholds": (math.nan,) * 3}, "process.thresholds is (nan, nan, nan), but must be finite"),
        ("process", {"thresholds": (0.5,) * 5000}, "at most 1024 entries"),
        ("process", {"blur": 4.0, "shape": (512, 512), "num_timesteps": 100_000}, "lower process.num_timesteps"),
        ("train", {"batch_size": 2**31}, "train.batch_size is 2147483648, but must be >= 1 and < 1048576"),
        ("train", {"batch_size": (3,)}, "train.batch_size is (3,), but must be of type int"),
        ("train", {"steps": 2**31}, "train.steps is 2147483648, but must be >= 1 and < 2147483648"),
        ("train", {"seed": 2**32}, "train.seed is 4294967296, but must be >= 0 and < 4294967296"),
        ("train", {"seed": -1}, "train.seed is -1"),
        ("train", {"learning_rate": math.inf}, "train.learning_rate is inf, but must be finite"),
        ("train", {"learning_rate": 1e-320}, "1e-320 (0.0 in float32), but must be > 0"),
        ("train", {"ema_decay": 1 - 1e-12}, "(1.0 in float32), but must be >= 0 and < 1"),
        ("train", {"gradient_clip": math.inf}, "train.gradient_clip is inf"),
        ("model", {"widths": (32,) * 40}, "model.widths is (32, 32"),
        ("model", {"num_res_blocks": 10**9}, "model.num_res_blocks is 1000000000"),
        ("model", {"dropout": 0.999999999}, "model.dropout is 0.999999999 (1.0 in float32)"),
        ("sample", {"num_steps": 2.5}, "sample.num_steps is 2.5, but must be of type int"),
        ("sample", {"num": True}, "sample.num is True, but must be of type int"),
        ("data", {"flip": 1}, "data.flip is 1, but must be of type bool"),
        ("data", {"folder": "a\nb"}, "data.folder is 'a\\nb', but must be one line"),
        (
            "sample",
            {"steps": 30},
            "'steps', but must be one of: num, solver, num_steps, spacing, guidance (did you mean num_steps?)",
        ),
        ("train", {"learning_rat": 1}, "(did you mean learning_rate?)"),
    ],
)
def test_what_is_refused_and_how(section, values, message):
    refused(lambda: SECTIONS[section](**values), message)
    refused(lambda: from_config_dict({section: values}), message)


def test_what_is_large_but_sensible():
    for size in ((512, 512), (1024, 1024), (64, 256, 256)):
        ProcessConfig(shape=size, num_levels=4, num_timesteps=10_000)
    FlexiUNetConfig(widths=(2048,) * 8, num_res_blocks=8, num_heads=32, num_classes=21_841)
    TrainConfig(steps=10**9, batch_size=65_536, warmup_steps=10**6, ema_decay=0.999999, gradient_clip=1e9, seed=2**32 - 1)
    SampleConfig(num=1024, num_steps=4000, guidance=50)


def test_numpy_scalars_become_pythons():
    given: Any = {
        "steps": np.int64(3),
        "learning_rate": np.float32(0.5),
        "cosine_decay": np.bool_(False),
        "seed": np.uint32(7),
    }
    config, shape = TrainConfig(**given), ProcessConfig(**{"shape": [8, 8], "num_levels": 2}).shape
    assert [type(value) for value in (config.steps, config.learning_rate, config.cosine_decay)] == [int, float, bool]
    assert dataclasses.replace(config, steps=4).steps == 4
    assert TrainConfig(learning_rate=1).learning_rate == 1.0 and shape == (8, 8)


def test_sections_from_python():
    wrong: Any = {"train": {"steps": 3}}
    misspelt: Any = {"trian": TrainConfig()}
    twice: Any = {"steps": 4}
    refused(lambda: Config(**wrong), "config.train is {'steps': 3}, but must be of type TrainConfig")
    refused(lambda: Config(**misspelt), "'trian'", "data, process, model", "(did you mean train?)")
    refused(lambda: Config(model=wrong), "config.model")
    refused(lambda: TrainConfig(3, **twice), "TrainConfig takes each of its fields once")
    refused(lambda: from_config_dict({"train": 5}), "config section train is 5, but must hold fields")
    refused(lambda: from_config_dict({"model": {"kind": ["x"]}}), "model.kind is ['x'], but must be of type str")
    refused(lambda: from_config_dict({"proces": {}}), "(did you mean process?)")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "3", (3,), 1j, True, np.zeros(2), np.ones(())])
def test_ranges_are_of_finite_numbers(value):
    refused(lambda: check_range("x", value, low=-10), "x is ")
    refused(lambda: check_range("x", value, low=-10, high=math.inf), "x is ")


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 100), (2, 0), (2, 1), (2, 2), (3, 10**7)])
@pytest.mark.parametrize("cosine", [True, False])
def test_short_runs_learn(steps, warmup, cosine):
    """At every step but the last of several, where a cosine decay ends at 0."""
    schedule = learning_rate(TrainConfig(steps=steps, warmup_steps=warmup, cosine_decay=cosine))
    rates = np.array([np.asarray(schedule(step)) for step in range(1, steps + 1)])
    assert np.isfinite(rates).all() and (rates[: max(steps - 1, 1)] > 0).all() and (rates <= 1e-3 * (1 + 1e-6)).all()
