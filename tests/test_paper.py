"""The configs of the paper's grid: as published where they say so, and whole with every number of levels."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from launch.common.config_flag import load_config, shipped
from ssd_jax.build import build
from ssd_jax.config import Config, from_config_dict
from ssd_jax.interop.guided_diffusion import _layer_names, _source, config_from_reference
from ssd_jax.process.config import ProcessConfig, make_process
from ssd_jax.process.schedules import linear

MULTIPLIERS = {64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4), 512: (0.5, 1, 1, 2, 2, 4, 4)}
LEVELS = {
    "celeba64": (1, 2, 4),
    "celeba128": (3, 5),
    "celeba256": (3, 4, 6),
    "imagenet64": (2, 4),
    "imagenet128": (5,),
    "imagenet256": (6,),
    "imagenet512": (7,),
}


def loaded(name: str, num_levels: int | None = None) -> Config:
    """The config, with so many levels as --config.process.num_levels gives it."""
    config: Any = load_config(name)
    if num_levels is not None:
        config.process.num_levels = num_levels
    return from_config_dict(config)


def size(name: str) -> int:
    return int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))


def test_the_grid_is_whole():
    assert {name for name in shipped() if name.startswith(("celeba", "imagenet"))} == set(LEVELS)


@pytest.mark.parametrize("name", LEVELS)
def test_settings_are_the_published_ones(name):
    ours, published = loaded(name), loaded(f"{name}:published")
    model: Any = published.model
    assert model.widths == tuple(int(128 * each) for each in MULTIPLIERS[size(name)])
    assert [size(name) >> level for level in model.attention_levels] == [16, 8]
    assert (model.num_res_blocks, model.num_heads, model.dropout, model.num_classes) == (2, 4, 0, 0)
    train = published.train
    assert (train.batch_size, train.learning_rate, train.ema_decay, train.loss_weighting) == (256, 1e-4, 0.9999, "min_snr")
    classes = {"num_classes": 1000, "label_dropout": 0.1} if name.startswith("imagenet") else {}
    assert ours.model == replace(model, dtype="bfloat16", **classes)
    assert ours.data == published.data and ours.train.steps == train.steps


@pytest.mark.parametrize("name", LEVELS)
def test_processes_are_the_published_ones_but_for_their_snr(name):
    most = len(MULTIPLIERS[size(name)])
    assert loaded(name).process.num_levels == max(LEVELS[name]) == most
    for num_levels in range(1, most + 1):
        published = loaded(f"{name}:published", num_levels).process
        expected: dict[str, Any] = {"image_size": size(name), "num_levels": num_levels, "snr_policy": "published"}
        assert published == ProcessConfig(**expected, operator="bilinear", resolution_schedule="convex_decay", gamma=0.5)
        assert loaded(name, num_levels).process == replace(published, snr_policy="preserve", operator="box")


@pytest.mark.parametrize("num_levels", [1, 2, 3, 4])
def test_the_number_of_levels_alone_changes_the_stages(num_levels):
    process = make_process(loaded("celeba64", num_levels).process)
    assert process.level_shapes == tuple((64 >> level, 64 >> level) for level in range(num_levels))
    assert len(process.stages) == 2 * num_levels - 1
    if num_levels == 1:  # DDPM
        np.testing.assert_array_equal(process.log_snr, linear(1000))


@pytest.mark.parametrize("name", ["celeba64", *(pytest.param(f"celeba{n}", marks=pytest.mark.nightly) for n in (128, 256))])
def test_a_published_checkpoint_has_the_network_of_its_config(name):
    config = loaded(f"{name}:published")
    model: Any = config.model
    names = _layer_names(model, size(name))
    leaves, _ = jax.tree_util.tree_flatten_with_path(build(config).abstract_parameters)
    sources = [_source(path, leaf.shape, names) for path, leaf in leaves]
    tensors = {each.name: np.broadcast_to(np.float32(0), each.shape) for each in sources}
    assert config_from_reference(tensors, image_size=size(name), num_levels=config.process.num_levels) == model


VARIANTS = [(name, n) for name, levels in LEVELS.items() for n in levels] + [(f"{n}:published", None) for n in LEVELS]
FAST = ("celeba64", 2)


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=[pytest.mark.nightly] * (v != FAST), id=str(v)) for v in VARIANTS]
)
def test_a_training_step_can_be_traced(variant):
    """The gradient of every stage, of as many images as a TPU or GPU may have of it."""
    config = loaded(*variant)
    objective = build(config).objective
    key = jax.eval_shape(lambda: jax.random.key(0))
    for stage in objective.process.stages:
        gradient = jax.value_and_grad(partial(objective.loss, stage))
        loss, found = jax.eval_shape(gradient, objective.denoiser.parameters, objective.abstract_draws(8), key)
        assert loss.shape == () and jax.tree.map(lambda leaf: leaf.shape, found) == jax.tree.map(
            lambda leaf: leaf.shape, objective.denoiser.parameters
        )
