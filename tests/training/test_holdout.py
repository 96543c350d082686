"""The loss on held-out images."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.data.arrays import ArraySource
from ssd_jax.sharding import shardings
from ssd_jax.training.holdout import SEED, compile_holdout
from tests.conftest import mesh_of, tiny_config
from tests.networks import dense_objective

SOURCE = ArraySource(
    np.random.default_rng(3).integers(0, 256, (20, 8, 8, 3), np.uint8), np.arange(20) % 3, ("ant", "bee", "cat")
)


@pytest.fixture(scope="module")
def conditional():
    """An objective with dropout and dropped labels, its parameters and the settings of training: 24 draws a batch."""
    config = tiny_config(accumulate=1)
    config = replace(config, model=replace(config.model, num_classes=3, label_dropout=0.3))
    objective, parameters = dense_objective(config, hidden=256, dropout=0.3)
    return objective, parameters, config.train


def losses(conditional, mesh, source=SOURCE) -> dict[str, float]:
    """Means over the batches; of parameters that are divided as the state of training is."""
    objective, parameters, settings = conditional
    holdout, compiled = compile_holdout(objective, settings, mesh, source), []
    parameters = jax.device_put(parameters, shardings(parameters, mesh))
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiled.append(event) if "backend_compile" in event else None
    )
    batches = holdout.losses(parameters)
    assert len(batches) == -(-len(source) // 24) and compiled == []
    return {stage: float(np.mean([each[stage] for each in batches])) for stage in batches[0]}


def test_it_is_the_loss_of_the_averaged_network_without_dropout(conditional, mesh):
    """On as many draws as fill the batches: images come round again, with other timesteps and noise."""
    objective, parameters, _ = conditional
    graphdef = dense_objective(replace(tiny_config(), model=objective.model), hidden=256, dropout=0.0)[0].denoiser.graphdef
    still = replace(objective, denoiser=replace(objective.denoiser, graphdef=graphdef))
    still = replace(still, model=replace(objective.model, label_dropout=1e-9))
    items, key = [SOURCE[number % 20] for number in range(24)], jax.random.key(SEED)
    draws = {name: jnp.stack([item[name] for item in items]) for name in ("image", "label")} | {"number": jnp.arange(24)}
    expected = {str(each): still.loss(each, parameters, draws, key) for each in objective.process.stages}
    found = losses(conditional, mesh)
    assert found.keys() == expected.keys() and found == losses(conditional, mesh)
    for stage, loss in expected.items():
        np.testing.assert_allclose(found[stage], loss, rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 1), (2, 4)])
def test_any_mesh_gives_the_same(conditional, mesh, shape):
    source = ArraySource(np.tile(SOURCE._images, (2, 1, 1, 1))[:30], np.arange(30) % 3, SOURCE.class_names)
    one = losses(conditional, mesh, source)
    many = losses(conditional, mesh_of(*shape), source)
    np.testing.assert_allclose(list(many.values()), list(one.values()), rtol=1e-5)


def test_processes_share_the_draws(conditional, mesh, monkeypatch):
    objective, _, settings = conditional
    holdout = compile_holdout(objective, settings, mesh, SOURCE)
    (whole,) = holdout._batches()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        (part,) = holdout._batches()
        assert len(part["number"]) == 12
        for name, array in part.items():
            np.testing.assert_array_equal(array, whole[name][process::2])
