"""Runs whose workdir lies in a bucket are as others are, bit for bit."""

import json
import logging
import os
import signal
import subprocess
import sys
import tarfile
import time
from typing import Any

import cv2
import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

import ssd_jax
from ssd_jax.config import Config
from ssd_jax.data import DataConfig, make_source
from ssd_jax.data.preparation import prepare
from ssd_jax.errors import InputError
from ssd_jax.files.npz import read_npz
from ssd_jax.files.paths import buckets, to_path
from ssd_jax.run.workdir import claim_workdir, has_checkpoints, workdir_lease
from tests.bucket import LOCKED, served
from tests.commands import ROOT, TINY, run
from tests.conftest import FAST_COMPILE, tiny_config


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(30):
        cv2.imwrite(str(root / f"{i:02}.png"), rng.integers(0, 256, (8, 8, 3), np.uint8))
    return root


def weights(workdir) -> dict[str, np.ndarray]:
    """The averaged ones of the latest checkpoint."""
    parameters = ssd_jax.load(workdir).network.parameters
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.flatten_with_path(parameters)[0]}


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.nightly  # trains three times
def test_a_run_goes_on_and_equals_one_on_this_machine(images, bucket, tmp_path, caplog):
    """Two steps and two more in a bucket; four here. Config, checkpoints, averages, curves, samples: all of it."""
    short = tiny_config(images, steps=2, checkpoint_every=2, snapshot_every=2, sample_every=2)
    whole = tiny_config(images, steps=4, checkpoint_every=2, snapshot_every=2, sample_every=2)
    ssd_jax.train(whole, tmp_path / "run")
    assert not has_checkpoints(bucket / "run")
    ssd_jax.train(short, bucket / "run")
    assert has_checkpoints(bucket / "run")
    with pytest.raises(InputError, match=r"holds a run with model.widths = \(8, 16\), but this config says"):
        claim_workdir(bucket / "run", Config(data=short.data, process=short.process))
    ssd_jax.train(whole, f"{bucket}/run")
    assert_same(weights(bucket / "run"), weights(tmp_path / "run"))
    assert_same(weights(f"{bucket}/run"), weights(tmp_path / "run"))
    averages = [read_npz(folder / "run" / "averages" / "step_0000004.npz") for folder in (bucket, tmp_path)]
    assert_same(*averages)
    here = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").iterdir() if "events" not in path.name}
    there = {path.name for path in (bucket / "run").iterdir() if "events" not in path.name}
    assert there == here and "lock.json" not in there
    grids = [(folder / "run" / "samples" / "step_0000004.png").read_bytes() for folder in (bucket, tmp_path)]
    assert grids[0] == grids[1]
    lines = [json.loads(line) for line in (bucket / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    theirs, ours = (ssd_jax.load(folder / "run").sample(jax.random.key(0), 4) for folder in (bucket, tmp_path))
    np.testing.assert_array_equal(theirs, ours)


@pytest.mark.nightly  # trains twice
def test_a_damaged_checkpoint_is_moved_aside(images, bucket, caplog):
    ssd_jax.train(tiny_config(images, steps=4, checkpoint_every=2), bucket)
    (bucket / "checkpoints" / "4" / "state" / "manifest.ocdbt").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        ssd_jax.train(tiny_config(images, steps=4, checkpoint_every=2), bucket)
    assert {path.name for path in (bucket / "damaged").iterdir()} == {"4"}
    assert {path.name for path in (bucket / "checkpoints").iterdir()} == {"2", "4"}
    assert ssd_jax.load(bucket).step == 4


@pytest.mark.nightly
def test_a_network_that_fails_damages_nothing(images, bucket, monkeypatch):
    """Whole checkpoints stay where they are when they cannot be read, and a config is not overwritten."""
    config = tiny_config(images, steps=4, checkpoint_every=2)
    ssd_jax.train(config, bucket)
    monkeypatch.setattr(ocp.training.Checkpointer, "load_checkpointables", failing("UNAVAILABLE: no network"))
    with pytest.raises(InputError, match="4 cannot be used: .*/4 cannot be read: UNAVAILABLE: no network; run the same"):
        ssd_jax.train(config, bucket)
    assert {path.name for path in (bucket / "checkpoints").iterdir()} == {"2", "4"}
    assert not (bucket / "damaged").exists()
    monkeypatch.undo()
    monkeypatch.setattr(buckets(), "info", failing("no network"))
    with pytest.raises(OSError, match="no network"):
        has_checkpoints(bucket)
    with pytest.raises(InputError, match="config.json cannot be read: .*no network"):
        ssd_jax.load(bucket)


def failing(message: str):
    def fail(*_, **__):
        raise ValueError(message)

    return fail


def test_what_cannot_work_is_said_at_once(images, bucket):
    with pytest.raises(InputError, match="is no run: it has no config.json"):
        ssd_jax.load(bucket)
    with pytest.raises(InputError, match="there is no bucket gs://nowhere-at-all"):
        ssd_jax.train(tiny_config(images), "gs://nowhere-at-all/run")
    with pytest.raises(InputError, match="'gs://locked/run' cannot be written to"):
        ssd_jax.train(tiny_config(images), f"gs://{LOCKED}/run")
    with workdir_lease(bucket / "run"), pytest.raises(InputError, match="is in use by process"):
        ssd_jax.train(tiny_config(images), bucket / "run")


def test_prepared_data_are_read_from_a_bucket(images, bucket, tmp_path, monkeypatch):
    """Images and shards there: the same source as here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for path in sorted(images.iterdir()):
            (bucket / "images" / path.name).write_bytes(path.read_bytes())
            tar.add(path, path.name)
    (bucket / "tars" / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes())
    here, there = (
        make_source(DataConfig(source="folder", folder=str(folder)), (8, 8)) for folder in (images, bucket / "images")
    )
    made = prepare(there, bucket / "prepared", shape=(8, 8), crop="area", background=(255, 255, 255))
    assert made.images == 30
    assert {path.suffix for path in (bucket / "prepared").iterdir()} == {".json", ".npy", ".array_record"}
    again = prepare(there, bucket / "prepared", shape=(8, 8), crop="area", background=(255, 255, 255))
    assert again == made
    config = DataConfig(source="array_record", folder=f"{bucket}/prepared")
    source = make_source(config, (8, 8))
    tars = make_source(DataConfig(source="webdataset", folder=f"{bucket}/tars"), (8, 8))
    for found in (there, source, tars):
        assert len(found) == 30
        for i in range(30):
            a, b = found[i], here[i]
            assert a is not None and b is not None
            np.testing.assert_array_equal(a["image"], b["image"])
    (shard,) = (path for path in (bucket / "prepared").iterdir() if path.suffix == ".array_record")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"shard '{shard}' has .* bytes, but .* were written; copy it again"):
        make_source(config, (8, 8))
    shard.unlink()
    with pytest.raises(InputError, match=f"shard '{shard}' is missing; copy it again, or prepare again"):
        make_source(config, (8, 8))


@pytest.mark.nightly
def test_a_killed_command_goes_on(tmp_path):
    """SIGKILL in the middle of training into a bucket; the same command then ends with the weights of one undisturbed."""
    settings = ["--config=openmoji32", *TINY, "--config.train.checkpoint_every=5", "--config.train.steps=60"]
    with served() as served_at, pytest.MonkeyPatch.context() as patch:
        environment: dict[str, Any] = served_at | {
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": FAST_COMPILE,
            "JAX_PLATFORMS": "cpu",
        }
        command = [sys.executable, "-m", "launch.train", "--workdir=gs://bucket/run", *settings]
        killed = 0
        for name, value in environment.items():
            patch.setenv(name, value)
        for at in (5, 20, 40):
            with subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.DEVNULL) as training:
                there = to_path(f"gs://bucket/run/checkpoints/{at}/commit_success.txt")
                while not there.exists() and training.poll() is None:
                    time.sleep(0.1)
                training.send_signal(signal.SIGKILL)
            killed += training.returncode == -signal.SIGKILL
        assert killed >= 2
        ended = run(command, **environment)
        assert ended.returncode == 0, ended.stderr
        whole = run([*command, f"--workdir={tmp_path}"], **environment)
        assert whole.returncode == 0, whole.stderr
        assert_same(weights("gs://bucket/run"), weights(tmp_path))
        for arguments in (
            ["launch.sample", "--workdir=gs://bucket/run", "--num=4", "--out=gs://bucket/samples"],
            ["launch.evaluate", "--workdir=gs://bucket/run", "--num=8"],
        ):
            result = run([sys.executable, "-m", *arguments], **environment)
            assert result.returncode == 0, result.stderr
        assert (to_path("gs://bucket/samples") / "samples.npz").exists()
        assert (to_path("gs://bucket/run") / "evaluations.jsonl").exists()
