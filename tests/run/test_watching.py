"""What a run shows of itself on the way."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import ssd_jax
from ssd_jax.data.arrays import ArraySource
from ssd_jax.data.sources import make_split
from ssd_jax.errors import InputError
from ssd_jax.files.channels import WHITE
from ssd_jax.files.events import Events
from ssd_jax.files.pictures import shape_of, strip
from ssd_jax.metrics import data_reference, evaluate, low_pass_pixels, random_convolutions
from ssd_jax.run.watching import write_grid
from tests.conftest import tiny_config
from tests.run.test_own_network import DenseConfig

SOURCE = ArraySource(
    np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8), np.arange(40) // 28, ("many", "few")
)


BEST = "frechet/random_convolutions-0"


def config_of(holdout: int = 10, **train):
    settings = {"steps": 6, "evaluate_every": 2, "evaluate_num": 32, "checkpoint_every": 2, "learning_rate": 0.5}
    config = tiny_config(**settings | {"keep_latest": 1, "keep_best": BEST} | train)
    data = replace(config.data, holdout=holdout, balance=True)
    return replace(config, data=data, model=DenseConfig())  # which compiles in a moment


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run of six steps, too large ones, on eight devices that is evaluated at 2, 4 and 6."""
    workdir = tmp_path_factory.mktemp("watched")
    ssd_jax.train(config_of(), workdir, source=SOURCE)
    return workdir


def test_the_loss_on_held_out_images_is_logged(watched):
    found = [line for line in lines(watched) if "holdout/loss" in line]
    assert [line["step"] for line in found] == [2, 4, 6]
    for line in found:
        stages = [line[f"holdout/loss/{stage}"] for stage in ("stay1", "up1to0", "stay0")]
        assert min(stages) <= line["holdout/loss"] <= max(stages) and min(stages) > 0
    assert found[0]["holdout/loss"] != found[1]["holdout/loss"]
    (events,) = watched.glob("events.out.tfevents.*")
    assert b"holdout/loss/stay0" in events.read_bytes()


def test_frechet_distances_of_samples_to_what_is_trained_on_are_logged(watched):
    """Of as many as asked for, drawn by the run's sampler with the averaged parameters."""
    trained, feature_sets = ssd_jax.load(watched), [low_pass_pixels(), random_convolutions()]
    drawn = [trained.sample(jax.random.key(0), 24, first_index=first) for first in (0, 24)]
    pictures = trained.encoding.decode(np.concatenate(drawn))[:32]
    training = make_split(config_of().data, (8, 8), SOURCE).training
    reference = data_reference(config_of().data, feature_sets, (8, 8), training)
    expected = evaluate(feature_sets, lambda: [pictures[:24], pictures[24:]], reference)
    (line,) = [line for line in lines(watched) if "frechet/low_pass" in line and line["step"] == 6]
    for each in feature_sets:
        np.testing.assert_allclose(line[f"frechet/{each.name}"], expected[each.name]["frechet"], rtol=1e-4)


def test_the_best_checkpoint_stays(watched):
    distances = {line["step"]: line[BEST] for line in lines(watched) if BEST in line}
    best = min(distances, key=distances.__getitem__)
    assert best < 6 and sorted(int(path.name) for path in (watched / "checkpoints").iterdir()) == [best, 6]
    assert ssd_jax.load(watched, step="best").step == best and ssd_jax.load(watched).step == 6


def test_only_what_is_evaluated_can_be_the_best(tmp_path):
    for wrong in ("loss", "holdout/loss/stay2", "frechet/inception"):
        with pytest.raises(
            InputError, match=f"train.keep_best is '{wrong}', but must be one of: holdout/loss, .*frechet/low_"
        ):
            ssd_jax.train(config_of(keep_best=wrong), tmp_path / "run", source=SOURCE)
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
def test_a_run_that_goes_on_is_evaluated_the_same(watched, tmp_path):
    for steps in (4, 6):
        ssd_jax.train(config_of(steps=steps), tmp_path, source=SOURCE)
    names = [name for name in lines(watched)[-1] if name.startswith(("holdout", "frechet"))]
    assert len(names) == 6 and [lines(tmp_path)[-1][name] for name in names] == [lines(watched)[-1][name] for name in names]


def test_what_is_held_out_stays_so(watched):
    with pytest.raises(InputError, match=r"data.holdout = 10, but this config says 0; .*--config.data.holdout"):
        ssd_jax.train(config_of(0, steps=8), watched, source=SOURCE)


def test_samples_are_shown_by_their_axes(tmp_path, monkeypatch):
    """Images in a PNG; clips in a WebP that moves, and for TensorBoard, where nothing does, their frames in rows."""
    random, shown = np.random.default_rng(0), []
    monkeypatch.setattr(Events, "picture", lambda self, name, picture, step: shown.append((picture, step)))
    for step, (shape, suffix) in enumerate({(8, 8): "png", (4, 8, 8): "webp", (32,): "png"}.items()):
        drawn = random.integers(0, 256, (3, *shape, 3), np.uint8)
        write_grid(tmp_path, object.__new__(Events), drawn, WHITE, step)
        assert shape_of(tmp_path / "samples" / f"step_{step:07d}.{suffix}")[:-2] == shape[:-2]
        np.testing.assert_array_equal(shown[step][0], strip(drawn))
        assert len(shown) == step + 1 and shown[step][1] == step
