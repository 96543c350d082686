"""Loss and training step."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.build import build
from ssd_jax.compilation import collectives
from ssd_jax.config import TrainConfig
from ssd_jax.process.config import make_process
from ssd_jax.training.ema import MAIN
from ssd_jax.training.loss import stage_loss
from ssd_jax.training.optimizer import first_moments, learning_rate
from ssd_jax.training.stage_sampling import stage_probabilities
from ssd_jax.training.state import TrainState, init_state
from ssd_jax.training.step import compile_train_step, draws, step_programs
from ssd_jax.training.update import updated
from tests.conftest import mesh_of, tiny_config
from tests.networks import dense_objective

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
    config = with_train(tiny_config(), stage_sampling="single", up_share=0.4, steps=100)
    return config, compiled(config, mesh_of(1))


def oracle(x, t, label, *, stage, dropout_keys):
    """Is wrong by a half everywhere, for images of 0.5."""
    return jnp.ones((x.shape[0], 8 >> stage.out_level, 8 >> stage.out_level, 3))


@pytest.mark.parametrize("shares", [(1.0,), (0.2, 0.7, 0.1)])
@pytest.mark.parametrize("weighting", ["min_snr", "snr", "constant"])
@pytest.mark.smoke
def test_loss_is_the_weighted_squared_error(weighting, shares):
    process = make_process(tiny_config().process)
    snr = np.exp(process.log_snr)
    weights = {"min_snr": np.minimum(snr, 5), "snr": snr, "constant": np.ones_like(snr)}[weighting]
    for stage in process.stages:
        images = jnp.full((4096, 8, 8, 3), 0.5)
        keys, own = jax.random.split(jax.random.key(0), 4096), shares if stage.t_max > stage.t_min else (1.0,)
        loss = stage_loss(oracle, process, stage, images, None, keys, weighting, shares=own)
        expected = 0.25 * weights[stage.t_min : stage.t_max + 1].mean()
        np.testing.assert_allclose(loss, expected, rtol=0.1 if stage.t_max > stage.t_min else 1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"stage_sampling": "single"}, marks=pytest.mark.nightly),
        pytest.param({}, marks=pytest.mark.nightly),
        {"allocation": "cost_aware", "gradient_variances": (9.0, 4.0, 1.0, 0.5, 0.1), "timestep_parts": 2},
    ],
    ids=["single", "mixed", "cost_aware"],
)
def test_the_expected_gradient_is_the_probability_weighted_sum_of_the_stages(settings, mesh):
    """Of many steps at the same parameters, whichever stages they take, however many draws they get."""
    config = with_train(tiny_config(), **settings, up_share=0.4, batch_size=8, loss_weighting="constant")
    config = replace(config, model=replace(config.model, num_classes=3), train=replace(config.train, draws_multiple=4))
    objective, parameters = dense_objective(config, hidden=8, dropout=0.0)
    step, count = compile_train_step(objective, config.train, mesh), 1000
    images, labels = IMAGES[:8] // 4, np.arange(8, dtype=np.int32) % 3  # dark, so that there is much to learn
    stages, total, taken = step.allocation.stages, step.zeros(), 0
    sizes = dict(zip(stages, step.allocation.batch_sizes, strict=True))
    for i in range(count):
        for stage in step.allocation.taking_part(i):
            part = draws({"image": images, "label": labels}, taken, sizes[stage])  # all images serve all stages
            part = {name: jnp.asarray(array) for name, array in part.items()}
            total, _ = step.gradients[stage](parameters, total, part, jnp.int32(i), step.seed)
            taken += 1
    assert taken == count if "stage_sampling" in settings else count < taken < 3 * count

    def expected(parameters):
        denoiser = replace(objective.denoiser, parameters=parameters)
        x0, label = jnp.tile(jnp.asarray(images) / 127.5 - 1, (200, 1, 1, 1)), jnp.tile(labels, 200)
        keys = jax.random.split(jax.random.key(5), 8 * 200)
        losses = [stage_loss(denoiser, objective.process, stage, x0, label, keys, "constant") for stage in stages]
        return sum(p * loss for p, loss in zip(stage_probabilities(stages, 0.4), losses, strict=True))

    mean = np.concatenate([np.ravel(each[0]) / count for each in jax.tree.leaves(total)])
    true = np.concatenate([np.ravel(each) for each in jax.tree.leaves(jax.jit(jax.grad(expected))(parameters))])
    assert np.linalg.norm(mean - true) < 0.08 * np.linalg.norm(true)


def test_runs_of_other_seeds_share_the_compiled_programs(mesh):
    """So that what one has compiled the next finds in the cache."""
    texts = []
    for seed in (0, 2**32 - 1):
        config = with_train(tiny_config(), seed=seed)
        programs = step_programs(build(config).objective, config.train, mesh)
        texts.append({name: lower().as_text() for name, lower in programs.lower.items()})
    assert texts[0] == texts[1]


def test_a_step_s_gradient_is_the_weighted_sum_of_its_stages(mesh):
    config = with_train(tiny_config(), up_share=0.4)
    config = replace(config, model=replace(config.model, num_classes=3))
    objective, parameters = dense_objective(config, hidden=8, dropout=0.3)
    step, process = compile_train_step(objective, config.train, mesh), objective.process
    key = jax.random.fold_in(jax.random.key(config.train.seed), 0)
    batch = {"image": IMAGES, "label": np.arange(24, dtype=np.int32) % 3}
    total, expected, first = step.zeros(), jax.tree.map(jnp.zeros_like, parameters), 0
    for stage, size, weight in zip(process.stages, step.allocation.batch_sizes, step.allocation.weights, strict=True):
        part = {name: jnp.asarray(array) for name, array in draws(batch, first, size).items()}
        first += size
        total, _ = step.gradients[stage](parameters, total, part, jnp.int32(0), step.seed)

        def loss(parameters, stage=stage, part=part):
            denoiser = replace(objective.denoiser, parameters=parameters)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, part["number"])
            return stage_loss(denoiser, process, stage, part["image"] / 127.5 - 1, part["label"], keys, "min_snr")

        gradient = jax.jit(jax.grad(loss))(parameters)
        expected = jax.tree.map(lambda a, b, weight=weight: a + weight * b, expected, gradient)
    chex.assert_trees_all_close(jax.tree.map(lambda each: each[0], total), expected, atol=1e-6)


def test_draws_take_the_images_in_turn():
    """An image may serve several stages; the numbers of draws go on."""
    batch = {"image": np.arange(6), "label": np.arange(6) * 10}
    assert draws(batch, 4, 4)["image"].tolist() == [4, 5, 0, 1] and draws(batch, 4, 4)["label"].tolist() == [40, 50, 0, 10]
    assert draws(batch, 4, 4)["number"].tolist() == [4, 5, 6, 7]


def test_processes_share_the_draws(monkeypatch):
    """Two processes that have the images of a batch in turn have its draws in turn, each with the image that it should."""
    batch = np.arange(6)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        part = draws({"image": batch[process::2]}, 4, 4)
        assert part["number"].tolist() == [4 + process, 6 + process]
        assert part["image"].tolist() == [each % 6 for each in part["number"]]


def test_unused_blocks_do_not_drift(single, mesh):
    """After a step elsewhere has given every parameter momentum, a step of one stage moves only what it uses."""
    config, step = single
    state = randomised(first_state(config, mesh))
    order = [next(i for i in range(1000) if name == pick(step, i)) for name in ("stay0", "up1to0", "stay1")]
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
    (stage,) = step.allocation.taking_part(i)
    return str(stage)


def test_updates_that_are_not_finite_are_skipped_and_counted(single, mesh):
    config, step = single
    state = randomised(first_state(config, mesh))
    before = jax.device_get(state)
    broken = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), step.zeros())
    after = step.update(state, broken, np.ones(len(jax.tree.leaves(broken)), bool))
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


MESHES = {"1 x 1": (1, 1), "8 x 1": (8, 1), "1 x 8": (1, 8), "2 x 4": (2, 4)}


@pytest.fixture(scope="module", params=["mixed", pytest.param("single", marks=pytest.mark.nightly)])
def meshed(request):
    """A first state's makings and, by mesh, a compiled step of a small network with dropout and dropped labels."""
    config = with_train(tiny_config(), stage_sampling=request.param, batch_size=48, up_share=0.1, learning_rate=1e-2)
    config = replace(config, model=replace(config.model, num_classes=3, label_dropout=0.3))
    objective, parameters = dense_objective(config, hidden=256, dropout=0.3)
    steps = {name: compile_train_step(objective, config.train, mesh_of(*shape)) for name, shape in MESHES.items()}
    return parameters, steps


def born(parameters, step) -> TrainState:
    return init_state(lambda _: parameters, 0, step.mesh)


def test_any_mesh_gives_the_losses_of_one_device(meshed):
    """What is random about a draw is its own; stages have different shares, and some take turns."""
    parameters, steps = meshed
    images = np.random.default_rng(1).integers(0, 256, (48, 8, 8, 3), np.uint8)
    batch, seen = {"image": images, "label": np.arange(48, dtype=np.int32) % 3}, {}
    for name, step in steps.items():
        state, seen[name] = born(parameters, step), []
        for i in range(12):
            state, losses = step(state, i, batch)
            seen[name].extend((str(stage), float(loss)) for stage, loss in losses.items())
    stages, losses = zip(*seen.pop("1 x 1"), strict=True)
    assert set(stages) == {"stay0", "stay1", "up1to0"} and 12 <= len(stages) < 36
    for other in seen.values():
        other_stages, other_losses = zip(*other, strict=True)
        assert other_stages == stages
        np.testing.assert_allclose(other_losses, losses, rtol=1e-5)


def test_accumulation_changes_nothing_but_memory(mesh):
    config = with_train(tiny_config(), batch_size=48, up_share=0.1)
    config = replace(config, model=replace(config.model, num_classes=3, label_dropout=0.3))
    objective, parameters = dense_objective(config, hidden=256, dropout=0.3)
    batch = {"image": np.concatenate([IMAGES, IMAGES[::-1]]), "label": np.arange(48, dtype=np.int32) % 3}
    results = []
    for rounds in (1, 4):
        step = compile_train_step(objective, replace(config.train, accumulate=rounds), mesh)
        state, seen = born(parameters, step), []
        for i in range(6):
            state, losses = step(state, i, batch)
            seen.extend((stage, round(float(loss), 4)) for stage, loss in losses.items())
        results.append(
            (seen, {name: each.memory_analysis().argument_size_in_bytes for name, each in step.programs.items()})
        )
    assert results[0][0] == results[1][0]
    assert all(results[1][1][name] < size for name, size in results[0][1].items() if name.startswith(("stay", "up1")))


def test_a_step_exchanges_the_gradient_once_and_divided_weights_once(meshed):
    """Bytes that the programs of a step exchange, of the gradient's; losses and the norm of the gradient come on top."""
    parameters, steps = meshed
    gradient, small = sum(leaf.size * 4 for leaf in jax.tree.leaves(parameters)), 1e-3
    exchanged = {
        name: {program: sum(collectives(each.as_text()).values()) / gradient for program, each in step.programs.items()}
        for name, step in steps.items()
    }
    assert sum(exchanged["1 x 1"].values()) < small
    assert 1 <= sum(exchanged["8 x 1"].values()) <= 1.05
    for name, reduced in {"8 x 1": 1, "1 x 8": 1, "2 x 4": 1.25}.items():  # 1 along "fsdp", a quarter of it along "data"
        assert all(value < small for program, value in exchanged[name].items() if program not in ("gather", "update"))
        assert reduced * 0.99 < exchanged[name]["update"] <= reduced * 1.05
        assert name == "8 x 1" or 0.95 < exchanged[name]["gather"] <= 1


def test_the_state_is_born_divided_and_stays_so(meshed):
    parameters, steps = meshed
    step = steps["2 x 4"]
    state = born(parameters, step)
    before = jax.tree.map(lambda leaf: leaf.sharding, state)
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state))
    assert held < 0.27 * sum(leaf.size for leaf in jax.tree.leaves(state))
    state, _ = step(state, 0, {"image": IMAGES, "label": np.zeros(24, np.int32)})
    after = jax.tree.map(lambda leaf: leaf.sharding, state)
    assert all(jax.tree.leaves(jax.tree.map(lambda leaf, a, b: a.is_equivalent_to(b, leaf.ndim), state, before, after)))


def test_weights_are_gathered_as_what_the_network_reads_them():
    config = with_train(tiny_config(), batch_size=48)
    config = replace(config, model=replace(config.model, num_classes=3, label_dropout=0.3))
    objective, parameters = dense_objective(config, hidden=256, dropout=0.3, dtype=jnp.bfloat16)
    step = compile_train_step(objective, config.train, mesh_of(1, 8))
    assert step.gather is not None
    weights = step.gather(born(parameters, step).parameters)
    for path, leaf in jax.tree.leaves_with_path(weights):
        assert leaf.dtype == (jnp.bfloat16 if "inward" in str(path) or "outward" in str(path) else jnp.float32)
    same = jax.tree.map(lambda a, b: np.array_equal(a.astype(b.dtype), b), parameters, weights)
    assert all(jax.tree.leaves(same))


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


def test_updates_are_clipped_and_averaged():
    config = TrainConfig(gradient_clip=1.0, ema_decay=0.9, learning_rate=0.1, warmup_steps=0, cosine_decay=False)
    parameters = {"a": jnp.zeros(2), "b": jnp.ones(2)}
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(parameters, {MAIN: parameters}, jax.tree.map(first_moments, parameters), zero + 1000, zero, zero)
    gradient = {"a": jnp.array([30.0, 0.0]), "b": jnp.array([0.0, -40.0])}
    after = updated(config, jnp.array([True, True]), state, gradient)
    np.testing.assert_allclose(after.adam["a"].mu, [0.06, 0.0], rtol=1e-5)  # 0.1 of 30 / 50
    np.testing.assert_allclose(after.adam["b"].mu, [0.0, -0.08], rtol=1e-5)
    np.testing.assert_allclose(after.parameters["a"], [-0.1, 0.0], rtol=1e-4)
    np.testing.assert_allclose(after.ema[MAIN]["b"], [1.0, 0.9 + 0.1 * 1.1], rtol=1e-4)
    assert int(after.step) == 1001 and int(after.skipped) == 0
