"""Loss and training step."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.build import build
from ssd_jax.compilation import collective_bytes
from ssd_jax.config import TrainConfig
from ssd_jax.errors import InputError
from ssd_jax.network.denoiser import Denoiser
from ssd_jax.network.parameterisation import Parameterisation
from ssd_jax.process.config import make_process
from ssd_jax.training.ema import MAIN
from ssd_jax.training.loss import stage_loss
from ssd_jax.training.optimizer import ADAM, learning_rate
from ssd_jax.training.stage_sampling import pick_stage, stage_probabilities
from ssd_jax.training.state import TrainState, init_state
from ssd_jax.training.step import compile_train_step
from ssd_jax.training.update import updated
from tests.conftest import mesh_of, tiny_config

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)


def compiled(config, mesh):
    return compile_train_step(build(config).objective, config.train, mesh)


def first_state(config, mesh):
    return init_state(build(config).init_parameters, config.train.seed, mesh)


def with_train(config, **train):
    return replace(config, train=replace(config.train, **train))


def randomised(state):
    """The state with parameters that are nowhere zero."""
    rng = np.random.default_rng(7)
    return replace(state, parameters=jax.tree.map(lambda p: jnp.asarray(add_noise(p, rng)), state.parameters))


def add_noise(p, rng) -> np.ndarray:
    return np.asarray(p) + np.float32(0.05) * rng.standard_normal(p.shape, np.float32)


@pytest.fixture(scope="module")
def single():
    """A compiled step in "single" stage sampling, with a process in which all three stages are frequent."""
    config = with_train(tiny_config(), stage_sampling="single", up_share=0.4, steps=100, cosine_decay=False)
    return config, compiled(config, mesh_of(1))


def oracle(x, t, label, *, stage, dropout_keys):
    """Is wrong by a half everywhere, for images of 0.5."""
    return jnp.ones((x.shape[0], 8 >> stage.out_level, 8 >> stage.out_level, 3))


@pytest.mark.parametrize("weighting", ["min_snr", "snr", "constant"])
@pytest.mark.smoke
def test_loss_is_the_weighted_squared_error(weighting):
    process = make_process(tiny_config().process)
    snr = np.exp(process.log_snr)
    weights = {"min_snr": np.minimum(snr, 5), "snr": snr, "constant": np.ones_like(snr)}[weighting]
    for stage in process.stages:
        images = jnp.full((4096, 8, 8, 3), 0.5)
        loss = stage_loss(oracle, process, stage, images, None, jax.random.split(jax.random.key(0), 4096), weighting)
        expected = 0.25 * weights[stage.t_min : stage.t_max + 1].mean()
        np.testing.assert_allclose(loss, expected, rtol=0.1 if stage.t_max > stage.t_min else 1e-5)


@pytest.fixture(scope="module")
def mixed(single):
    """The same in "mixed" stage sampling."""
    config = with_train(single[0], stage_sampling="mixed")
    return config, compiled(config, mesh_of(1))


def test_mixed_and_single_have_the_same_expected_loss(single, mixed):
    """The sum over stages of probability times mean loss is what picking a stage at random gives on average."""
    losses = {}
    for config, step in (single, mixed):
        state, seen = randomised(first_state(config, mesh_of(1))), []
        for i in range(200):
            for stage, p in zip(step.stages, step.probabilities, strict=True):
                size = step.batch_sizes[step.stages.index(stage)]
                part = {"image": jnp.asarray(IMAGES[:size]), "index": jnp.arange(size)}
                chosen = config.train.stage_sampling == "mixed" or pick(step, i) == str(stage)
                if chosen:
                    total = step.zeros(state.parameters)
                    _, loss = step.gradients[stage](state.parameters, total, part, jnp.int32(i))
                    seen.append((p if config.train.stage_sampling == "mixed" else 1.0) * float(loss))
        count = len(step.stages) if config.train.stage_sampling == "mixed" else 1
        losses[config.train.stage_sampling] = np.array(seen).reshape(-1, count).sum(axis=1)
    spread = sum(np.var(v) / len(v) for v in losses.values()) ** 0.5
    assert spread < 0.1 * losses["mixed"].mean()
    assert abs(losses["mixed"].mean() - losses["single"].mean()) < 4 * spread


def test_mixed_gradient_is_the_probability_weighted_sum_of_the_stages(mixed, mesh):
    config, step = mixed
    state = randomised(first_state(config, mesh))
    total = step.zeros(state.parameters)
    start = 0
    expected = None
    experiment = build(config)
    process, graphdef = experiment.process, experiment.graphdef
    key = jax.random.fold_in(jax.random.key(config.train.seed), 0)
    probabilities = stage_probabilities(step.stages, config.train.up_share)
    for i, (stage, size) in enumerate(zip(step.stages, step.batch_sizes, strict=True)):
        part, index = IMAGES[start : start + size], jnp.arange(start, start + size)
        start += size
        total, _ = step.gradients[stage](state.parameters, total, {"image": jnp.asarray(part), "index": index}, state.step)

        def loss(parameters, stage=stage, part=part, index=index):
            denoiser = Denoiser(parameters, graphdef, Parameterisation())
            images = jnp.asarray(part, jnp.float32) / 127.5 - 1
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
            return stage_loss(denoiser, process, stage, images, None, keys, "min_snr")

        gradient = jax.tree.map(lambda g, i=i: probabilities[i] * g, jax.jit(jax.grad(loss))(state.parameters))
        expected = gradient if expected is None else jax.tree.map(jnp.add, expected, gradient)
    chex.assert_trees_all_close(jax.tree.map(lambda each: each[0], total), expected, atol=1e-6)


def test_unused_blocks_do_not_drift(single, mesh):
    """After a step elsewhere has given every parameter momentum, a step of one stage moves only what it uses."""
    config, step = single
    state = randomised(first_state(config, mesh))
    order = [next(i for i in range(1000) if name in pick(step, i)) for name in ("stay0", "up1to0", "stay1")]
    for i in order[:2]:
        state, _ = step(state, i, {"image": IMAGES})
    before = jax.device_get(state)
    after, losses = step(state, order[2], {"image": IMAGES})
    assert list(losses) == ["stay1"]
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.parameters, jax.device_get(after.parameters))
    moments = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.adam, jax.device_get(after.adam))
    unused = ("descends", "ascend_blocks", "ascend_convs")
    assert not any(jax.tree.leaves([changed[name] for name in unused] + [changed["encoders"][0], changed["decoders"][0]]))
    assert not any(jax.tree.leaves([moments[name] for name in unused] + [moments["encoders"][0], moments["decoders"][0]]))
    used = [changed[name] for name in ("stem", "head", "middle")] + [changed["encoders"][1], changed["decoders"][1]]
    assert all(jax.tree.leaves(used))


def pick(step, i):
    return str(pick_stage(step.stages, step.probabilities, step.config.seed, i))


def test_updates_that_are_not_finite_are_skipped_and_counted(single, mesh):
    config, step = single
    state = randomised(first_state(config, mesh))
    before = jax.device_get(state)
    broken = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), step.zeros(state.parameters))
    after = next(iter(step.updates.values()))(state, broken)
    assert int(after.skipped) == 1 and int(after.step) == 1
    for name in ("parameters", "ema", "adam"):
        chex.assert_trees_all_equal(getattr(before, name), jax.device_get(getattr(after, name)))


@pytest.mark.nightly
def test_training_fits_a_batch_with_doubled_blocks(mesh):
    config = with_train(tiny_config(), learning_rate=3e-3, steps=60)
    config = replace(config, model=replace(config.model, num_res_blocks=2))
    step, state = compiled(config, mesh), first_state(config, mesh)
    losses = []
    for i in range(60):
        state, by_stage = step(state, i, {"image": np.full((24, 8, 8, 3), 220, np.uint8)})
        losses.append(float(sum(by_stage.values())))
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:3])
    assert int(state.skipped) == 0


SHARES = (24, 8, 8)  # images of stay1, up1to0, stay0


@pytest.fixture(scope="module")
def mixed_on():
    """Number of devices -> a compiled "mixed" step with unequal shares, dropout and dropped labels; the one for 1 and 8."""
    config = with_train(tiny_config(), steps=100, batch_size=sum(SHARES), cosine_decay=False)
    config = replace(config, model=replace(config.model, dropout=0.3, num_classes=3, label_dropout=0.3))
    with pytest.MonkeyPatch.context() as patch:  # by themselves the shares would follow the number of devices
        patch.setattr("ssd_jax.training.step.stage_batch_sizes", lambda *_: SHARES)
        return config, {devices: compiled(config, mesh_of(devices)) for devices in (1, 8)}


def trained(config, step, batch, count):
    state, seen = randomised(first_state(config, step.mesh)), []
    for i in range(count):
        state, by_stage = step(state, i, batch)
        seen.extend(by_stage.items())
    return seen


@pytest.mark.parametrize("kind", ["single", "mixed"])
def test_eight_devices_give_the_losses_of_one(single, mixed_on, kind):
    """What is random about an image is its own."""
    if kind == "single":
        config, steps, batch = single[0], (single[1], compiled(single[0], mesh_of(8))), {"image": IMAGES}
    else:
        config, steps = mixed_on[0], mixed_on[1].values()
        images = np.random.default_rng(1).integers(0, 256, (sum(SHARES), 8, 8, 3), np.uint8)
        batch = {"image": images, "label": np.arange(sum(SHARES), dtype=np.int32) % 3}
    losses, other_losses = (trained(config, step, batch, 8) for step in steps)
    assert {name for name, _ in losses} == {"stay0", "stay1", "up1to0"}
    for (name, value), (other_name, other) in zip(losses, other_losses, strict=True):
        assert name == other_name
        np.testing.assert_allclose(value, other, rtol=1e-5)


def test_a_step_reduces_its_gradient_once(mixed_on):
    """Bytes that the programs of a step exchange, of the gradient's; a loss per stage comes on top."""
    config, steps = mixed_on
    gradient = sum(leaf.size * 4 for leaf in jax.tree.leaves(build(config).abstract_parameters))
    exchanged = {
        devices: sum(collective_bytes(each.as_text()) for each in (*step.gradients.values(), *step.updates.values()))
        for devices, step in steps.items()
    }
    assert exchanged[1] < 100 and gradient <= exchanged[8] <= 1.05 * gradient
    assert max(collective_bytes(each.as_text()) for each in steps[8].gradients.values()) == 4


def test_no_compilation_after_warm_up(single, mesh):
    config, step = single
    state = first_state(config, mesh)
    state, _ = step(state, 0, {"image": IMAGES})
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiled.append(event) if "backend_compile" in event else None
    )
    for i in range(1, 30):
        state, _ = step(state, i, {"image": IMAGES})
    assert {pick(step, i) for i in range(1, 30)} == {"stay0", "stay1", "up1to0"}
    assert compiled == [] and len(step.gradients) == 3


def test_learning_rate():
    rate = learning_rate(TrainConfig(steps=100, warmup_steps=10, learning_rate=1.0))
    np.testing.assert_allclose(np.array([rate(i) for i in (0, 5, 10, 55, 100)]), [0, 0.5, 1, 0.5, 0], atol=1e-6)
    constant = learning_rate(TrainConfig(steps=100, warmup_steps=10, learning_rate=1.0, cosine_decay=False))
    np.testing.assert_allclose(np.array([constant(5), constant(99)]), [0.5, 1.0])
    for cosine_decay in (False, True):
        cold = learning_rate(TrainConfig(steps=100, warmup_steps=0, learning_rate=1.0, cosine_decay=cosine_decay))
        np.testing.assert_allclose(np.asarray(cold(1)), 1.0)


def test_bad_batch_sizes():
    with pytest.raises(InputError, match="batch_size is 2.*at least 3"):
        compiled(tiny_config(batch_size=2), mesh_of(1))
    with pytest.raises(InputError, match="batch_size is 4, but must be a multiple of the 8"):
        compiled(tiny_config(batch_size=4, stage_sampling="single"), mesh_of(8))


def test_updates_are_clipped_and_averaged():
    config = TrainConfig(gradient_clip=1.0, ema_decay=0.9, learning_rate=0.1, warmup_steps=0, cosine_decay=False)
    parameters = {"a": jnp.zeros(2), "b": jnp.ones(2)}
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(parameters, {MAIN: parameters}, jax.tree.map(ADAM.init, parameters), zero + 1000, zero, zero)
    gradient = {"a": jnp.array([30.0, 0.0]), "b": jnp.array([0.0, -40.0])}
    after = updated(config, (True, True), state, gradient)
    np.testing.assert_allclose(after.adam["a"].mu, [0.06, 0.0], rtol=1e-5)  # 0.1 of 30 / 50
    np.testing.assert_allclose(after.adam["b"].mu, [0.0, -0.08], rtol=1e-5)
    np.testing.assert_allclose(after.parameters["a"], [-0.1, 0.0], rtol=1e-4)
    np.testing.assert_allclose(after.ema[MAIN]["b"], [1.0, 0.9 + 0.1 * 1.1], rtol=1e-4)
    assert int(after.step) == 1001 and int(after.skipped) == 0
