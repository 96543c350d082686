"""Starting from another run's weights: which are taken, and which are not."""

import json
import logging
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from ssd_jax.build import build
from ssd_jax.config import Config, DenoiserConfig
from ssd_jax.errors import InputError
from ssd_jax.network.protocol import LABEL_TABLE
from ssd_jax.run.digest import named
from ssd_jax.run.origin import check_origin, forget_origin, start_from
from ssd_jax.run.trained import Trained
from ssd_jax.training.ema import MAIN
from ssd_jax.training.state import init_state
from tests.conftest import mesh_of, tiny_config


def config(levels: int = 2, classes: tuple[str, ...] = (), label_dropout: float = 0.0, **model: Any) -> Config:
    tiny = tiny_config()
    network = replace(tiny.model, num_classes=len(classes), label_dropout=label_dropout, **model)
    data = replace(tiny.data, channels=3, classes=classes or None)
    return replace(tiny, data=data, model=network, process=replace(tiny.process, num_levels=levels))


def arrays(tree) -> dict[str, np.ndarray]:
    return {name: np.array(leaf) for name, leaf in named(tree).items()}


def trained(given: Config, seed: int = 1) -> Trained:
    """A run whose weights are random, none of them 0."""
    experiment = build(given)
    random = np.random.default_rng(seed)
    parameters = jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(np.float32), experiment.abstract_parameters
    )
    return Trained(experiment, experiment.denoiser(parameters), 7)


def started(given: Config, origin: Trained, workdir, mesh=None):
    """Initial parameters, those started from, and the state, by name."""
    experiment, mesh = build(given), mesh or mesh_of(1)
    state = init_state(experiment.init_parameters, 0, mesh)
    before = arrays(state.parameters)
    state = start_from(state, experiment, origin, workdir)
    after = arrays(state.parameters)
    for name, value in arrays(state.ema[MAIN]).items():
        np.testing.assert_array_equal(value, after[name])
    assert all(not np.any(each) for each in arrays(state.adam).values()) and int(state.step) == 0
    return before, after, json.loads((workdir / "origin.json").read_text())


@pytest.mark.parametrize("mesh", [(1, 1), (2, 4)])
def test_one_level_becomes_several(tmp_path, mesh):
    """Every parameter is taken, however they are divided among devices."""
    origin = trained(config(levels=1))
    _, after, told = started(config(levels=2), origin, tmp_path, mesh_of(*mesh))
    for name, value in arrays(origin.network.parameters).items():
        np.testing.assert_array_equal(after[name], value)
    assert sorted(told["taken"]) == sorted(after) and not told["new"] and not told["unused"] and told["step"] == 7


def test_what_has_another_shape_or_no_place_is_arrays(tmp_path, caplog):
    origin = trained(config(classes=("ant", "bee")))
    with caplog.at_level(logging.INFO, "ssd_jax"):
        before, after, told = started(config(widths=(8, 24)), origin, tmp_path)
    theirs = arrays(origin.network.parameters)
    assert set(told["taken"]) | set(told["new"]) == set(after) and told["unused"] == [LABEL_TABLE]
    for name in after:
        np.testing.assert_array_equal(after[name], before[name] if name in told["new"] else theirs[name])
    assert told["new"]["middle/0/residual/conv1/kernel"] == "has shape (3, 3, 24, 24), there (3, 3, 16, 16)"
    assert f"{len(told['taken'])} of {len(after)} parameters taken; new: " in caplog.text
    assert f"not used: {LABEL_TABLE}" in caplog.text


@pytest.mark.parametrize(
    "null", [(0.1, 0.1), *(pytest.param(each, marks=pytest.mark.nightly) for each in ((0.1, 0.0), (0.0, 0.1)))]
)
def test_classes_keep_their_names(tmp_path, null):
    """Rows move with the names of classes, the null class with them; a new class starts anew."""
    origin = trained(config(classes=("ant", "bee", "cat"), label_dropout=null[0]))
    before, after, told = started(config(classes=("cat", "dog", "ant"), label_dropout=null[1]), origin, tmp_path)
    theirs = arrays(origin.network.parameters)[LABEL_TABLE]
    table = after[LABEL_TABLE]
    np.testing.assert_array_equal(table[[0, 2]], theirs[[2, 0]])
    np.testing.assert_array_equal(table[1], before[LABEL_TABLE][1])
    if null[1]:
        np.testing.assert_array_equal(table[3], theirs[3] if null[0] else before[LABEL_TABLE][3])
    assert told["classes"] == ["cat", "ant"] and LABEL_TABLE in told["taken"]
    _, after, told = started(config(classes=("elk", "fox")), origin, tmp_path)
    assert told["new"] == {LABEL_TABLE: "no class has the same name"}


def test_settings_that_change_the_meaning_of_weights_are_said(tmp_path, caplog):
    given = config()
    origin = trained(replace(given, denoiser=DenoiserConfig(conditioning="log_snr")))
    started(given, origin, tmp_path)
    assert "denoiser.conditioning was log_snr there and is timestep: the same weights mean something else" in caplog.text


def test_heads_of_attention_that_differ_are_said(tmp_path, caplog):
    """No shape shows them."""
    given = config()
    model: Any = given.model
    started(config(num_heads=1), trained(given), tmp_path)
    assert f"model.num_heads was {model.num_heads} there and is 1: the same weights mean something else" in caplog.text


def test_a_number_of_heads_that_says_nothing_is_not_compared(tmp_path, caplog):
    """Where both have a width of heads instead."""
    started(config(num_heads=1, head_width=8), trained(config(head_width=8)), tmp_path)
    assert "heads" not in caplog.text


def test_what_was_never_trained_is_born_new(tmp_path):
    """As adapters of checkpoints that have none."""
    origin = trained(config())
    adapter = origin.network.parameters["adapters_out"][1]
    adapter.update({name: np.zeros_like(leaf) for name, leaf in adapter.items()})
    before, after, told = started(config(), origin, tmp_path)
    name = "adapters_out/1/kernel"
    assert told["new"] == {name: "is zero there, never trained"}  # its bias is born zero, and so the other's
    np.testing.assert_array_equal(after[name], before[name])


def test_nothing_that_fits_is_refused(tmp_path):
    origin = trained(config())
    origin = replace(origin, network=replace(origin.network, parameters={"a": np.ones(2)}))
    with pytest.raises(InputError, match=r"none of the 1 parameters of init_from has the name and shape of one here"):
        started(config(), origin, tmp_path)
    assert not (tmp_path / "origin.json").exists()


def test_a_run_goes_on_from_where_it_came_alone(tmp_path):
    origin = trained(config())
    with pytest.raises(InputError, match="holds a run that started from no other run; leave out init_from"):
        check_origin(origin, tmp_path)
    started(config(), origin, tmp_path)
    check_origin(origin, tmp_path)
    with pytest.raises(InputError, match="holds a run that started from other weights; leave out init_from"):
        check_origin(trained(config(), seed=2), tmp_path)
    forget_origin(tmp_path)  # as a run without one does that finds nothing saved
    with pytest.raises(InputError, match="started from no other run"):
        check_origin(origin, tmp_path)
