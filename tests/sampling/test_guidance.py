"""Label dropout, guidance and thresholding."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.config import FlexiUNetConfig, ProcessConfig
from ssd_jax.errors import InputError
from ssd_jax.network import abstract_network
from ssd_jax.network.protocol import null_label
from ssd_jax.process.config import make_process
from ssd_jax.sampling.guidance import Guidance, autoguidance, classifier_free, clipped, dynamically_thresholded
from ssd_jax.sampling.plan import plan_steps
from ssd_jax.sampling.sampler import sample
from ssd_jax.training.loss import stage_loss
from tests.networks import random_denoiser

PROCESS = make_process(ProcessConfig(image_size=4, num_levels=2, num_timesteps=40))
STAGE = PROCESS.stages[-1]
NULL = 3
X = jax.random.normal(jax.random.key(0), (4, 4, 4, 3))
T = jnp.array([0, 5, 10, 15])
LABEL = jnp.array([1, 2, 1, 2])


def denoise(x, t, label, *, stage, shift=0.3):
    """Any smooth function of all it is given."""
    factor = 2 ** (stage.in_level - stage.out_level)
    x = x.repeat(factor, axis=1).repeat(factor, axis=2)
    return jnp.tanh(x + (shift * label + t / 50)[:, None, None, None])


@pytest.fixture(scope="module")
def network():
    """One level, three classes and the null class, no parameter zero."""
    config = FlexiUNetConfig(widths=(8,), attention_levels=(), num_heads=1, num_classes=NULL, label_dropout=0.5)
    return random_denoiser(config, ProcessConfig(image_size=4, num_levels=1, num_timesteps=40))


def test_scale_1_changes_nothing(network):
    plan = plan_steps(PROCESS, num_steps=4)
    plain = sample(denoise, plan, jax.random.key(0), 4, label=LABEL)
    for guided in (classifier_free(denoise, 1.0, null_label=NULL), autoguidance(denoise, network, 1.0)):
        np.testing.assert_array_equal(sample(guided, plan, jax.random.key(0), 4, label=LABEL), plain)


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_guided_predictions_follow_the_formula(scale):
    conditional, unconditional = (denoise(X, T, label, stage=STAGE) for label in (LABEL, jnp.full(4, NULL)))
    guided = classifier_free(denoise, scale, null_label=NULL)(X, T, LABEL, stage=STAGE)
    np.testing.assert_allclose(guided, unconditional + scale * (conditional - unconditional), atol=1e-6)
    weak = partial(denoise, shift=0.1)
    guided = autoguidance(denoise, weak, scale)(X, T, LABEL, stage=STAGE)
    worse = weak(X, T, LABEL, stage=STAGE)
    np.testing.assert_allclose(guided, worse + scale * (conditional - worse), atol=1e-6)


GUIDED = (partial(classifier_free, denoise, null_label=NULL), partial(autoguidance, denoise, partial(denoise, shift=0.1)))


@pytest.mark.parametrize("guide", GUIDED, ids=["classifier_free", "autoguidance"])
def test_projected_guidance(guide):
    """Sadat et al. 2024: the difference bounded, its part along the prediction weighted; plain with weight 1, unbounded."""
    z, plain = denoise(X, T, LABEL, stage=STAGE), guide(3.0)(X, T, LABEL, stage=STAGE)

    def added(**settings):
        return np.asarray(guide(Guidance(3.0, **settings))(X, T, LABEL, stage=STAGE) - z).reshape(4, -1) / 2

    flat, difference = np.asarray(z).reshape(4, -1), np.asarray(plain - z).reshape(4, -1) / 2
    np.testing.assert_array_equal(added(parallel=1.0), difference)
    np.testing.assert_allclose(added(max_norm=100.0), difference, atol=1e-6)
    along = (difference * flat).sum(1, keepdims=True) / (flat**2).sum(1, keepdims=True) * flat
    assert np.abs(along).max() > 0.01
    np.testing.assert_allclose((added(parallel=0.0) * flat).sum(1), 0, atol=1e-5)
    np.testing.assert_allclose(added(parallel=0.25), difference - 0.75 * along, atol=1e-6)
    rms = np.sqrt((difference**2).mean(1))
    largest = float(np.median(rms))
    np.testing.assert_allclose(np.sqrt((added(max_norm=largest) ** 2).mean(1)), np.minimum(rms, largest), rtol=1e-4)
    assert (rms > 1.01 * largest).any() and (rms < 0.99 * largest).any()


def test_a_model_guided_by_itself_is_the_model():
    for guidance in (Guidance(3.0), Guidance(3.0, parallel=0.0, max_norm=0.1)):
        guided = autoguidance(denoise, denoise, guidance)(X, T, LABEL, stage=STAGE)
        np.testing.assert_array_equal(guided, denoise(X, T, LABEL, stage=STAGE))


def test_one_call_of_a_double_batch_is_two_calls(network):
    call = jax.jit(lambda denoise, label: denoise(X, T, label, stage=STAGE))
    guided = call(classifier_free(network, 4.0, null_label=NULL), LABEL)
    conditional, unconditional = call(network, LABEL), call(network, jnp.full(4, NULL))
    assert np.abs(conditional - unconditional).max() > 0.01
    np.testing.assert_allclose(guided, unconditional + 4 * (conditional - unconditional), atol=1e-4)
    batches = []
    classifier_free(lambda x, t, label, *, stage: batches.append(len(x)) or x, 2.0, null_label=NULL)(
        X, T, LABEL, stage=STAGE
    )
    assert batches == [8]


@pytest.mark.parametrize("inside", [[True] * 4, [True, False, True, False], [False] * 4], ids=str)
def test_outside_the_interval_predictions_are_plain(inside):
    log_snr = np.full(40, -9.0)
    log_snr[np.array(T)] = np.where(inside, 2.0, 2.1)
    log_snr[20] = 0.0
    plain = denoise(X, T, LABEL, stage=STAGE)
    weak = partial(denoise, shift=0.1)
    for guide in (partial(classifier_free, denoise, null_label=NULL), partial(autoguidance, denoise, weak)):
        guided = guide(Guidance(3.0, (0.0, 2.0)), log_snr=log_snr)(X, T, LABEL, stage=STAGE)
        everywhere = guide(3.0)(X, T, LABEL, stage=STAGE)
        for i, guides in enumerate(inside):
            np.testing.assert_allclose(guided[i], (everywhere if guides else plain)[i], atol=1e-6)
            assert guides == bool(np.abs(guided[i] - plain[i]).max() > 0.01)


def test_other_scales_intervals_and_quantiles_compile_nothing():
    plan = plan_steps(PROCESS, num_steps=6)

    def draw(scale, interval, quantile):
        log_snr = PROCESS.image_log_snr if interval else None
        guided = classifier_free(denoise, Guidance(scale, interval), null_label=NULL, log_snr=log_snr)
        thresholded = dynamically_thresholded(guided, quantile, PROCESS.bounds)
        return np.asarray(sample(thresholded, plan, jax.random.key(0), 4, label=LABEL))

    first, everywhere = draw(2.0, (-5.0, 5.0), 0.9), draw(2.0, None, 0.9)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiled.append(event) if "backend_compile" in event else None
    )
    others = [draw(3.0, (-5.0, 5.0), 0.9), draw(2.0, (-5.0, 0.0), 0.9), draw(2.0, (-5.0, 5.0), 0.5)]
    assert np.abs(draw(4.0, None, 0.9) - everywhere).max() > 0.01
    assert compiled == [] and all(np.abs(other - first).max() > 0.01 for other in others)


def test_thresholding():
    z = jnp.stack([0.3 * X[0], 2 * X[1]])  # one image within the bound at this quantile, one beyond it

    def raw(x, t, label, *, stage):
        return x

    t = T[:2]
    np.testing.assert_array_equal(clipped(raw, (0.7, 1.0))(z, t, None, stage=STAGE), np.clip(z, -0.7, 0.7))
    np.testing.assert_array_equal(clipped(raw, (np.inf,))(z, t, None, stage=STAGE), z)
    np.testing.assert_array_equal(dynamically_thresholded(raw, 0.9, (np.inf,))(z, t, None, stage=STAGE), z)
    thresholds = np.maximum(np.quantile(np.abs(z), 0.9, axis=(1, 2, 3)), 0.9)[:, None, None, None]
    assert np.isclose(thresholds[0], 0.9).all() and thresholds[1] > 1
    expected = 0.9 * np.clip(z, -thresholds, thresholds) / thresholds
    actual = dynamically_thresholded(raw, 0.9, (0.9,))(z, t, None, stage=STAGE)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    np.testing.assert_array_equal(actual[0], np.clip(z[0], -0.9, 0.9))


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_labels_are_dropped_at_the_given_rate(rate):
    """The model is wrong by 1 for the null class and right for the image's own, so the loss is the rate."""
    images, label = jnp.full((4096, 4, 4, 3), 0.5), jnp.tile(jnp.array([0, 2]), 2048)
    settings: dict[str, Any] = {"label_dropout": rate, "null_label": NULL}

    def model(x, t, given, **_):
        error = jnp.where(given == NULL, 1.0, jnp.where(given == label, 0.0, 100.0))
        return images + error[:, None, None, None]

    losses = [
        stage_loss(model, PROCESS, STAGE, images, label, jax.random.split(key, 4096), "constant", **settings)
        for key in (jax.random.key(0), jax.random.key(1))
    ]
    np.testing.assert_allclose(np.array(losses), rate, atol=5 * (rate * (1 - rate) / 4096) ** 0.5)
    assert (losses[0] != losses[1]) == (rate > 0)


def test_the_null_class_is_one_more_row_and_trains(network):
    assert network.parameters["embed_label"]["embedding"].shape[0] == NULL + 1
    process = make_process(ProcessConfig(image_size=4, num_levels=1, num_timesteps=40))
    (stage,) = process.stages

    @jax.jit
    @jax.grad
    def gradient(parameters):
        denoiser, label, key = (
            replace(network, parameters=parameters),
            jnp.zeros(4, int),
            jax.random.split(jax.random.key(2), 4),
        )
        return stage_loss(denoiser, process, stage, X, label, key, "constant", label_dropout=0.5, null_label=NULL)

    rows = gradient(network.parameters)["embed_label"]["embedding"]
    assert (jnp.abs(rows).max(axis=1) > 0).tolist() == [True, False, False, True]
    plain = FlexiUNetConfig(widths=(8,), attention_levels=(), num_heads=1, num_classes=NULL)
    _, parameters = abstract_network(plain, ((4, 4),), 3)
    assert null_label(plain) is None and parameters["embed_label"]["embedding"].shape[0] == NULL
    assert null_label(FlexiUNetConfig(label_dropout=0.1)) is None


def test_bad_input():
    for message, settings in {
        "guidance.scale is -1": {"scale": -1.0},
        "guidance.scale is nan": {"scale": float("nan")},
        "guidance.scale is inf": {"scale": float("inf")},
        r"interval is \(3.0, 1.0\).*low <= high": {"interval": (3.0, 1.0)},
        "interval is .*nan": {"interval": (float("nan"), 1.0)},
        "guidance.parallel is 1.5": {"parallel": 1.5},
        "guidance.parallel is nan": {"parallel": float("nan")},
        "guidance.max_norm is 0": {"max_norm": 0.0},
        "or guidance.max_norm is given, but guidance.scale is 1": {"scale": 1.0, "max_norm": 0.5},
        "guidance.parallel .* is given, but guidance.scale is 1": {"scale": 1.0, "parallel": 0.5},
    }.items():
        with pytest.raises(InputError, match=message):
            Guidance(**{"scale": 2.0} | settings)
    for guide in (partial(classifier_free, denoise, null_label=NULL), partial(autoguidance, denoise, denoise)):
        with pytest.raises(InputError, match="guidance.scale is -1"):
            guide(-1.0)
        with pytest.raises(InputError, match="needs the log_snr"):
            guide(Guidance(2.0, (1.0, 3.0)))
        with pytest.raises(InputError, match=r"interval is \(50.0, 60.0\), but holds no timestep.*-1\d\.\d\d to"):
            guide(Guidance(2.0, (50.0, 60.0)), log_snr=PROCESS.image_log_snr)
    with pytest.raises(InputError, match="needs labels"):
        classifier_free(denoise, 2.0, null_label=NULL)(X, T, None, stage=STAGE)
    for quantile in (0.0, 1.5):
        with pytest.raises(InputError, match=f"quantile is {quantile}"):
            dynamically_thresholded(denoise, quantile, PROCESS.bounds)
