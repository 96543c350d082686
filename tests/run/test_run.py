"""Whole runs in a workdir: resuming, loading, errors."""

import json
import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssd_jax
from ssd_jax.config import DenoiserConfig, ProcessConfig
from ssd_jax.data import make_source
from ssd_jax.errors import InputError
from ssd_jax.files.decode import decode
from ssd_jax.files.npz import read_npz
from ssd_jax.process.process import ScaleSpaceProcess
from ssd_jax.run.task import DenoiserTask
from ssd_jax.run.train import summary
from ssd_jax.sharding import make_mesh
from ssd_jax.training.stage_sampling import allocate
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(40):
        name = root / ("even" if i % 2 == 0 else "odd") / f"{i:02}.png"
        name.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(name), rng.integers(0, 256, (8, 8, 3), np.uint8))
    return root


@pytest.fixture(scope="module")
def training(folder, tmp_path_factory):
    """A finished run of four steps on eight devices, checkpoints at 2 and 4; what processes it made, and what it said."""
    config = tiny_config(folder, checkpoint_every=2, snapshot_every=1)
    workdir, made, said = tmp_path_factory.mktemp("run"), [], Said()
    check, logger = ScaleSpaceProcess.__post_init__, logging.getLogger("ssd_jax")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScaleSpaceProcess, "__post_init__", lambda self: made.append(self) or check(self))
        patch.setattr(logger, "level", logging.INFO)
        logger.addHandler(said)
        ssd_jax.train(config, workdir)
        logger.removeHandler(said)
    return config, workdir, made, said.lines


class Said(logging.Handler):
    """Messages, in `lines`."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture(scope="module")
def run(training):
    config, workdir, _, _ = training
    return config, workdir


def everything(workdir: Path, step: int):
    from orbax.checkpoint import v1 as ocp

    loaded = ocp.load_checkpointables(str(workdir / "checkpoints" / str(step)), {"ema": None, "state": None})
    return jax.device_get(loaded)


def test_a_run_leaves_what_it_promises(run):
    config, workdir = run
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == config.train.steps
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "4"]
    assert sorted(path.name for path in (workdir / "averages").iterdir()) == [f"step_{i:07d}.npz" for i in range(1, 5)]
    picture = decode((workdir / "samples" / "step_0000004.png").read_bytes())
    assert picture is not None and picture.shape == (774, 774, 3)  # pixels enlarged 48 times
    (events,) = workdir.glob("events.out.tfevents.*")
    assert b"samples" in events.read_bytes() and b"PNG" in events.read_bytes()  # the grid
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(0 <= line["waiting_for_data"] <= 1 and line["loss"] > 0 for line in lines)


def test_a_workdir_that_cannot_be_written_is_refused_before_the_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ssd_jax.run.task.make_split", None)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/run' cannot be written to: .*file' is no folder"):
        ssd_jax.train(tiny_config(), tmp_path / "file" / "run")


def test_a_training_run_builds_one_process_and_says_what_it_will_do(training, monkeypatch):
    """Sample grids, losses and all, everybody uses the same process; so does a model that is loaded."""
    config, workdir, made, (first, *_) = training
    assert len(made) == 1
    loaded, check = [], ScaleSpaceProcess.__post_init__
    monkeypatch.setattr(ScaleSpaceProcess, "__post_init__", lambda self: loaded.append(self) or check(self))
    ssd_jax.load(workdir).sample(jax.random.key(0), 2)
    assert len(loaded) == 1
    assert first.startswith("training on 40 images of 8x8x3; "), first
    for part in ("million parameters", "stay1 4.8, up1to0 1.2, stay0 16;", "8 device(s) (8 data)"):
        assert part in first
    experiment = ssd_jax.build(replace(config, model=replace(config.model, num_classes=2)))
    source, mesh = make_source(config.data, (8, 8)), make_mesh()
    allocation = allocate(experiment.process.stages, config.train, mesh.size, experiment.objective.flops)
    conditional = summary(DenoiserTask(experiment, source, None, None, None), allocation, mesh)
    assert conditional.startswith("training on 40 images of 8x8x3 in 2 classes (even, odd); ")


def test_trained_prints_as_a_small_table(run):
    _, workdir = run
    text = repr(ssd_jax.load(workdir))
    assert len(text) < 800 and len(text.splitlines()) < 12
    for part in ("flexi_unet", "4 training steps", "8x8x3", "dpmpp_2m, 4 calls", "level 1        4x4"):
        assert part in text


@pytest.mark.nightly
def test_a_run_goes_on_with_the_channels_that_it_began_with(tmp_path):
    """Also one of grey images that was begun when all images were read as RGB."""
    (tmp_path / "grey").mkdir()
    for i in range(24):
        cv2.imwrite(str(tmp_path / "grey" / f"{i}.png"), np.full((8, 8), 10 * i, np.uint8))
    config = tiny_config(tmp_path / "grey", steps=1)
    rgb = replace(config, data=replace(config.data, channels=3))
    ssd_jax.train(rgb, tmp_path / "run")
    with pytest.raises(InputError, match=r"data.channels = 3, but this config says 1; .*--config.data.channels"):
        ssd_jax.train(replace(config, data=replace(config.data, channels=1)), tmp_path / "run")
    more = replace(config, train=replace(config.train, steps=2))
    ssd_jax.train(more, tmp_path / "run")
    assert ssd_jax.load(tmp_path / "run").step == 2 and ssd_jax.load(tmp_path / "run").encoding.channels == 3


def test_a_parameterisation_has_the_statistics_of_its_data_when_its_draws_are_shared_out(folder, tmp_path):
    """Refused for its plan, which comes later, and not for want of statistics; the nightly test trains it."""
    config = replace(tiny_config(folder, steps=2), denoiser=DenoiserConfig("v", "log_snr"))
    train = replace(config.train, allocation="cost_aware")
    with pytest.raises(InputError, match="num_steps is 1, but this process of 2 levels"):
        ssd_jax.train(replace(config, train=train, sample=replace(config.sample, num_steps=1)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_another_parameterisation_is_kept_with_its_statistics(folder, tmp_path):
    config = replace(tiny_config(folder, steps=2), denoiser=DenoiserConfig("v", "log_snr"))
    ssd_jax.train(config, tmp_path)
    trained = ssd_jax.load(tmp_path)
    assert np.isfinite(trained.sample(jax.random.key(0), 2)).all()
    variances = json.loads((tmp_path / "statistics.json").read_text())["variances"]
    assert len(variances) == 20 and 0.3 < variances[0] < 0.4  # uniform noise in [-1, 1]
    with pytest.raises(InputError, match="denoiser.parameterisation = v, but this config says x0"):
        ssd_jax.train(replace(config, denoiser=DenoiserConfig()), tmp_path)
    (tmp_path / "statistics.json").write_text("{}")
    with pytest.raises(InputError, match=r"statistics.json cannot be read"):
        ssd_jax.load(tmp_path)
    (tmp_path / "statistics.json").unlink()
    with pytest.raises(InputError, match="needs statistics of the data"):
        ssd_jax.load(tmp_path)


@pytest.mark.nightly
def test_a_learned_weighting_is_kept_by_checkpoints_and_is_no_part_of_what_draws(folder, tmp_path):
    config = tiny_config(folder, steps=2)
    train = replace(config.train, loss_weighting="learned", snapshot_every=1, checkpoint_every=1, evaluate_every=2)
    config = replace(config, train=replace(train, evaluate_num=0), data=replace(config.data, holdout=4))
    ssd_jax.train(config, tmp_path / "whole")
    ssd_jax.train(replace(config, train=replace(config.train, steps=1)), tmp_path / "run")
    ssd_jax.train(config, tmp_path / "run")
    for each in (everything(tmp_path / name, 2) for name in ("run", "whole")):
        for kept in (each["state"]["parameters"], each["ema"]["main"]):
            assert set(kept["log-variance"]) == {"stay1", "up1to0", "stay0"}
            assert any((knots != 0).any() for knots in kept["log-variance"].values())
    trained, wide = (ssd_jax.load(tmp_path / "run", ema_width=width) for width in (None, 0.25))
    for each in (trained, wide):
        assert "log-variance" not in each.network.parameters and np.isfinite(each.sample(jax.random.key(0), 2)).all()
    with pytest.raises(InputError, match="train.loss_weighting = learned, but this config says snr"):
        ssd_jax.train(replace(config, train=replace(config.train, loss_weighting="snr", steps=3)), tmp_path / "run")
    ssd_jax.train(config, tmp_path / "next", init_from=tmp_path / "run")
    assert "log-variance/stay0" in json.loads((tmp_path / "next" / "origin.json").read_text())["new"]


def test_samples_are_drawn_as_the_run_says(run):
    config, workdir = run
    trained = ssd_jax.load(workdir)
    plan = trained.plan()
    assert plan.calls == config.sample.num_steps == 4
    sde = replace(trained.config, sample=replace(config.sample, solver="dpmpp_2m_sde"))
    other = replace(trained, experiment=replace(trained.experiment, config=sde))
    key = jax.random.key(0)
    np.testing.assert_array_equal(trained.sample(key, 2), trained.sample(key, 2, solver="dpmpp_2m", num_steps=4))
    np.testing.assert_array_equal(other.sample(key, 2), trained.sample(key, 2, solver="dpmpp_2m_sde", num_steps=4))


def test_resuming_is_bit_equal_to_not_stopping(run, tmp_path):
    config, whole = run
    ssd_jax.train(replace(config, train=replace(config.train, steps=2)), tmp_path)
    before = everything(tmp_path, 2)
    (tmp_path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir()  # a save that was killed
    ssd_jax.train(config, tmp_path)
    chex.assert_trees_all_equal(everything(tmp_path, 4), everything(whole, 4))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before["ema"], everything(whole, 4)["ema"])
    assert any(jax.tree.leaves(moved))
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))


def test_averages_of_other_widths(run):
    _, workdir = run
    own, wide = (ssd_jax.load(workdir, ema_width=width) for width in (None, 0.25))
    for step in (2, 4):
        saved, kept = everything(workdir, step)["ema"]["main"], read_npz(workdir / "averages" / f"step_{step:07d}.npz")
        np.testing.assert_array_equal(kept["stem/kernel"], saved["stem"]["kernel"])
    pairs = zip(*(jax.tree.leaves(each.network.parameters) for each in (own, wide)), strict=True)
    assert any((a != b).any() for a, b in pairs) and own.digest != wide.digest
    with pytest.raises(InputError, match="ema_width is 0.5, but must be > 0 and < 0.28"):
        ssd_jax.load(workdir, ema_width=0.5)


def test_plans_are_spaced_as_the_config_says(run):
    trained = ssd_jax.load(run[1])
    sample = replace(trained.config.sample, num_steps=6, spacing="timestep")
    other = replace(trained, experiment=replace(trained.experiment, config=replace(trained.config, sample=sample)))
    for given, spacing in ((None, "timestep"), ("log_snr", "log_snr")):
        expected = ssd_jax.plan_steps(trained.process, num_steps=6, spacing=spacing).timesteps
        np.testing.assert_array_equal(other.plan(solver="dpmpp_2m", spacing=given).timesteps, expected)


def test_a_finished_run_is_left_alone(run):
    config, workdir = run
    before = (workdir / "checkpoints" / "4").stat().st_mtime_ns
    ssd_jax.train(config, workdir)
    assert (workdir / "checkpoints" / "4").stat().st_mtime_ns == before


def test_load_and_sample(run):
    config, workdir = run
    trained = ssd_jax.load(workdir)
    assert trained.step == 4 and trained.config == replace(config, data=replace(config.data, channels=3))
    saved = jax.tree.leaves(everything(workdir, 4)["ema"])
    chex.assert_trees_all_equal(jax.tree.leaves(trained.network.parameters), saved)
    drawn = trained.sample(jax.random.key(0), 3, solver="ancestral", num_steps=6)
    assert drawn.shape == (3, 8, 8, 3) and np.abs(drawn).max() <= 1
    np.testing.assert_array_equal(drawn, trained.sample(jax.random.key(0), 3, solver="ancestral", num_steps=6))
    listed = ssd_jax.plan_steps(trained.process, solver="ancestral", num_steps=6).timesteps.tolist()
    np.testing.assert_array_equal(drawn, trained.sample(jax.random.key(0), 3, solver="ancestral", spacing=listed))
    with pytest.raises(InputError, match="label is given, but the model has 0 classes"):
        trained.sample(jax.random.key(0), 1, label=np.array([0]))
    with pytest.raises(InputError, match="guidance is 2.0, but the model has no classes"):
        trained.sample(jax.random.key(0), 1, guidance=2.0)


def test_the_score_of_a_run(run):
    trained = ssd_jax.load(run[1])
    process, stage = trained.process, trained.process.stages[-1]
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)
    z = trained.denoiser(jnp.asarray(x), jnp.zeros(2, int), None, stage=stage)
    expected = (process.alpha[0] * z - x) / process.sigma[0] ** 2
    np.testing.assert_allclose(trained.score(x, 0), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    with pytest.raises(InputError, match=r"states of t = 0 have \[batch, 8, 8, 3\]"):
        trained.score(x[:, :4], 0)
    with pytest.raises(InputError, match="t is 1000"):
        trained.score(x, 1000)


@pytest.mark.nightly
def test_a_conditional_run(folder, tmp_path):
    config = tiny_config(folder, steps=2)
    model, process = replace(config.model, num_classes=2, label_dropout=0.5), replace(config.process, num_levels=1)
    config = replace(config, model=model, process=process)
    ssd_jax.train(config, tmp_path)
    trained = ssd_jax.load(tmp_path)
    network = replace(trained.network, parameters=jax.tree.map(lambda p: p + 0.1, trained.network.parameters))
    trained = replace(trained, network=network)  # two steps teach it nothing about classes
    draw = partial(trained.sample, jax.random.key(0), 2, num_steps=4)
    in_turn = draw(label=np.array([0, 1]))
    np.testing.assert_array_equal(draw(), in_turn)
    np.testing.assert_allclose(draw(first_index=1)[0], in_turn[1], atol=1e-5)
    np.testing.assert_array_equal(draw(label=1), draw(label=np.array([1, 1])))
    for label in (np.array([0, 2]), -1, np.array([0]), np.array([0.0, 1.0])):
        with pytest.raises(InputError, match="label"):
            draw(label=label)
    np.testing.assert_array_equal(draw(guidance=ssd_jax.Guidance(1.0, (-4.0, 4.0))), in_turn)
    drawn = draw(guidance=3.0, threshold_quantile=0.9)
    assert drawn.shape == (2, 8, 8, 3) and np.abs(drawn).max() <= 1 and (drawn != in_turn).any()
    within = draw(guidance=ssd_jax.Guidance(3.0, (-4.0, 4.0)))
    assert (within != in_turn).any() and (within != draw(guidance=3.0)).any()
    undropped = replace(config, data=trained.config.data, model=replace(config.model, label_dropout=0.0))
    undropped = replace(trained, experiment=ssd_jax.build(undropped))
    with pytest.raises(
        InputError, match=r"guidance is 2.0, but the model was trained without label dropout.*label_dropout"
    ):
        undropped.sample(jax.random.key(0), 2, guidance=2.0)


def test_blur_instead_of_noise_starts_from_the_data(run):
    config, workdir = run
    blur = ProcessConfig(image_size=8, num_levels=1, num_timesteps=20, noise_schedule="constant", blur=4.0)
    trained = ssd_jax.load(workdir)
    data = trained.config.data
    trained = replace(trained, experiment=ssd_jax.build(replace(config, data=data, process=blur)))
    start = trained.start(jax.random.key(0), 3)
    assert start is not None and start.shape == (3, 8, 8, 3)
    again = trained.start(jax.random.key(0), 2, first_index=1)
    assert again is not None
    np.testing.assert_allclose(again, start[1:], atol=1e-6)
    assert trained.sample(jax.random.key(0), 3, num_steps=4).shape == (3, 8, 8, 3)


def test_bad_workdirs(run, folder, tmp_path):
    config, workdir = run
    other = replace(config, model=replace(config.model, widths=(8, 24)))
    with pytest.raises(InputError, match=r"model\.widths = \(8, 16\), but this config says \(8, 24\)"):
        ssd_jax.train(other, workdir)
    with pytest.raises(InputError, match=r"process\.gamma"):
        ssd_jax.train(replace(config, process=replace(config.process, gamma=0.7)), workdir)
    with pytest.raises(InputError, match="no config.json"):
        ssd_jax.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="batch_size is 2"):
        ssd_jax.train(tiny_config(folder, batch_size=2), tmp_path / "new")
    for settings, message in (({"num_steps": 2}, "num_steps is 2"), ({"num_steps": 21}, "num_steps is 21")):
        with pytest.raises(InputError, match=message):
            ssd_jax.train(replace(config, sample=replace(config.sample, **settings)), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    for file in (copy / "checkpoints" / "4" / "ema").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    assert ssd_jax.load(copy).step == 2
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(InputError, match="holds no checkpoint"):
        ssd_jax.load(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(InputError, match="config.json cannot be read"):
        ssd_jax.load(copy)
