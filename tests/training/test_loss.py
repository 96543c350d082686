"""Weightings of the loss: what they are for each parameterisation, and the one that is learned."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.build import build
from ssd_jax.errors import InputError
from ssd_jax.network.parameterisation import PARAMETERISATIONS, DataStatistics
from ssd_jax.process.stages import Stage
from ssd_jax.run.record import differences
from ssd_jax.training.log_variance import ENTRY, KNOTS, first_log_variances, log_variance
from ssd_jax.training.loss import LOSS_WEIGHTINGS, stage_loss
from ssd_jax.training.state import init_state
from ssd_jax.training.step import compile_train_step
from tests.conftest import mesh_of, tiny_config
from tests.networks import dense_objective

SNR = np.exp(np.linspace(-6, 6, 25))
PUBLISHED = {  # of the error of what the network says (Hang et al. 2023; Kingma & Gao 2023; Karras et al. 2022)
    ("eps", "min_snr"): np.minimum(SNR, 5) / SNR,
    ("v", "min_snr"): np.minimum(SNR, 5) / (SNR + 1),
    ("flow", "min_snr"): np.minimum(SNR, 5) / (SNR**0.5 + 1) ** 2,
    ("eps", "snr"): np.ones(25),
    ("eps", "sigmoid"): 1 / (1 + SNR * np.exp(-2)),
    ("edm", "edm"): np.ones(25),
    ("v", "learned"): np.ones(25),
    ("flow", "flow"): np.ones(25),
}


def weighted(weighting, **train):
    config = tiny_config()
    return replace(config, train=replace(config.train, loss_weighting=weighting, **train))


@pytest.mark.parametrize(("kind", "weighting"), PUBLISHED, ids=["-".join(each) for each in PUBLISHED])
def test_one_weight_of_the_error_of_z_is_the_published_one_of_every_kind(kind, weighting):
    a, sigma, coefficients = (SNR / (1 + SNR)) ** 0.5, (1 + SNR) ** -0.5, PARAMETERISATIONS[kind]
    assert coefficients is not None
    _, out = coefficients(a, sigma, 0.3)
    found = np.asarray(LOSS_WEIGHTINGS[weighting](SNR, 0.3)) * np.asarray(out) ** 2
    np.testing.assert_allclose(found, PUBLISHED[kind, weighting], rtol=1e-5)


def test_a_logit_normal_weight_is_a_density_of_the_flow_s_time():
    """Over s it has the mean of draws s = sigmoid(N(0, 1)) of the error of the velocity."""
    s = (np.arange(20_000) + 0.5) / 20_000
    weights = np.asarray(LOSS_WEIGHTINGS["logit_normal"](((1 - s) / s) ** 2, 0.3)) * s**2
    drawn = 1 / (1 + np.exp(-np.random.default_rng(0).standard_normal(200_000)))
    np.testing.assert_allclose([weights.mean(), (weights * s**2).mean()], [1, (drawn**2).mean()], rtol=5e-3)


def test_log_variances_settle_where_every_timestep_weighs_one_over_its_error():
    """Of a denoiser whose error depends on t and the stage, at the rate of Adam; and knots tell timesteps apart."""
    objective = build(weighted("learned")).objective
    process, stage = objective.process, objective.stages[-1]
    timesteps = jnp.arange(stage.t_min, stage.t_max + 1)
    wrong = 0.5 * 1.3 ** jnp.arange(process.num_timesteps)

    def denoise(x, t, label, *, stage, dropout_keys):
        return jnp.full((len(x), 8, 8, 3), 0.5) + wrong[t][:, None, None, None]

    parameters = {ENTRY: first_log_variances(objective.stages)}
    images = jnp.full((64, 8, 8, 3), 0.5)

    def loss(parameters, key):
        u = log_variance(parameters, stage)
        return stage_loss(denoise, process, stage, images, None, jax.random.split(key, 64), "learned", log_variance=u)

    expected = np.log((np.exp(process.log_snr) + 1) * np.asarray(wrong) ** 2)[stage.t_min : stage.t_max + 1]
    knots = np.interp(np.linspace(0, 1, min(KNOTS, len(expected))), np.linspace(0, 1, len(expected)), expected) / 10
    there = {ENTRY: {str(stage): jnp.asarray(knots, jnp.float32)}}
    np.testing.assert_allclose(log_variance(there, stage)(timesteps), expected, atol=0.05)
    keys = jax.random.split(jax.random.key(0), 256)
    mean = jax.jit(lambda given: jax.tree.map(lambda g: jnp.mean(g, 0), jax.vmap(jax.grad(loss), (None, 0))(given, keys)))
    found, start = (mean(each)[ENTRY][str(stage)] for each in (there, parameters))
    assert jnp.abs(found).max() < 0.02 * jnp.abs(start).max() > 0
    assert float(jnp.linalg.norm(start)) < 10  # beside the network's gradient, in what is clipped together
    np.testing.assert_allclose(log_variance({ENTRY: {"up1to0": jnp.ones(1)}}, Stage(1, 0, 7, 7))(jnp.full(3, 7)), 10.0)


def test_what_is_learned_is_trained_and_no_part_of_the_denoiser():
    experiment = build(weighted("learned"))
    objective, born = experiment.objective, jax.eval_shape(experiment.init_parameters, jax.random.key(0))
    assert jax.tree.map(jnp.shape, born) == jax.tree.map(jnp.shape, objective.parameters)
    assert set(born[ENTRY]) == set(map(str, objective.stages))
    assert ENTRY not in experiment.denoiser(born).parameters and ENTRY not in experiment.abstract_parameters


def test_weightings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="'edm', but statistics of the data are missing"):
        _ = build(weighted("edm")).objective
    flat = DataStatistics((0.0,) * tiny_config().process.num_timesteps)
    with pytest.raises(InputError, match="'edm', but the data do not vary"):
        _ = build(weighted("edm"), flat).objective
    with pytest.raises(InputError, match=r"train.loss_weighting is 'edn', but must be one of: .*sigmoid"):
        weighted("edn")
    assert list(differences(weighted("learned"), weighted("snr"))) == [("train.loss_weighting", "learned", "snr")]
    assert not list(differences(weighted("learned"), weighted("learned", steps=9)))
    assert not list(differences(weighted("min_snr"), weighted("snr")))


@pytest.mark.nightly
def test_any_mesh_learns_the_same_log_variances():
    config = weighted("learned", batch_size=16, learning_rate=1e-2, up_share=0.3, warmup_steps=1)
    config = replace(config, model=replace(config.model, num_classes=3))
    objective, parameters = dense_objective(config, hidden=64, dropout=0.0)
    parameters |= {ENTRY: first_log_variances(objective.stages)}
    images = np.random.default_rng(1).integers(0, 256, (16, 8, 8, 3), np.uint8)
    batch, found = {"image": images, "label": np.arange(16, dtype=np.int32) % 3}, []
    for shape in ((1, 1), (2, 4)):
        step = compile_train_step(objective, config.train, mesh_of(*shape))
        state = init_state(lambda _: parameters, 0, step.mesh)
        for i in range(6):
            state, losses = step(state, i, batch)
        found.append(jax.device_get((state.parameters[ENTRY], state.ema["main"][ENTRY], losses)))
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)
    assert all(np.abs(knots).max() > 1e-3 for knots in found[0][0].values())
