"""Paths of this machine and of buckets: a server on 127.0.0.1 stands for Google's."""

import errno
import json
import os
import time

import numpy as np
import pytest
from etils import epath

from ssd_jax.errors import InputError
from ssd_jax.files import events as events_module
from ssd_jax.files import images, lease, pictures, shared_file
from ssd_jax.files.events import METRICS, open_events
from ssd_jax.files.json_file import append_json, read_json, write_json
from ssd_jax.files.listing import fingerprint, list_images
from ssd_jax.files.npz import read_npz
from ssd_jax.files.paths import (
    as_os_errors,
    buckets,
    bytes_of,
    check_writable,
    exists,
    is_folder,
    local_copy,
    move_folder,
    opened,
    to_local_path,
    to_path,
    write_atomically,
)
from ssd_jax.run.interruption import _Interrupted
from tests.bucket import LOCKED


def names(folder) -> set[str]:
    """All files below a folder of a bucket."""
    return {str(path.relative_to(folder)) for path in folder.glob("*") if not path.is_dir()} | {
        f"{path.name}/{name}" for path in folder.glob("*") if path.is_dir() for name in names(path)
    }


def test_local_paths_are_those_of_pathlib(tmp_path):
    for given in ("runs/x", tmp_path, epath.Path(tmp_path)):
        found = to_path(given)
        assert type(found) is type(tmp_path) and str(found) == str(given)


@pytest.mark.parametrize("given", ["s3://bucket/x", "az://x/y", "http://x/y", "file:///tmp/x", "s3:/bucket/x"])
def test_other_schemes_are_refused(given):
    with pytest.raises(InputError, match="but must be a path of this machine or of gs://; mount or copy it"):
        to_path(given)


def test_buckets_that_are_not_there(bucket):
    assert str(to_path("gs://bucket/run")) == str(to_path("gs:/bucket/run")) == "gs://bucket/run"  # as pathlib leaves it
    for given, message in (
        ("gs://no-such-bucket/x", "there is no bucket gs://no-such-bucket; make it, or correct its name"),
        ("gs://", "'gs://' names no bucket; give gs://bucket/name"),
    ):
        with pytest.raises(InputError, match=message):
            to_path(given)
    with pytest.raises(InputError, match="'gs://bucket/x' is of a bucket, but must be a path of this machine"):
        to_local_path("gs://bucket/x")


def test_rights_are_checked_and_nothing_is_left(bucket):
    check_writable(bucket / "run")
    assert names(bucket) == set()
    with pytest.raises(InputError, match="'gs://locked/run' cannot be written to: .*Forbidden.*; choose another, or ask"):
        check_writable(to_path(f"gs://{LOCKED}/run"))


def test_files_are_whole_or_absent(bucket):
    path = bucket / "a" / "b.npz"
    write_atomically(path, lambda file: np.savez(file, x=np.arange(3)))
    np.testing.assert_array_equal(read_npz(path)["x"], np.arange(3))

    def fail(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "full")

    for file in (path, bucket / "c"):
        with pytest.raises(OSError, match="full"):
            write_atomically(file, fail)
    np.testing.assert_array_equal(read_npz(path)["x"], np.arange(3))
    assert names(bucket) == {"a/b.npz"}
    with pytest.raises(FileNotFoundError) as error, opened(bucket / "c"):
        pass
    assert error.value.strerror == os.strerror(errno.ENOENT) and error.value.filename == f"{bucket}/c"
    assert bytes_of(bucket / "c") is None and bytes_of(path) == len(path.read_bytes())


def test_json_and_images(bucket):
    write_json(bucket / "x.json", {"a": 1})
    assert read_json(bucket / "x.json") == {"a": 1}
    (bucket / "lines.jsonl").write_text('{"i": 0}')  # without its line break
    for i in (1, 2):
        append_json(bucket / "lines.jsonl", {"i": i})
    assert [json.loads(line)["i"] for line in (bucket / "lines.jsonl").read_text().splitlines()] == [0, 1, 2]
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    images.write_png(bucket / "p.png", picture)
    np.testing.assert_array_equal(images.read_image(bucket / "p.png"), picture)
    assert images.size_of(bucket / "p.png") == (5, 7) and pictures.is_whole(bucket / "p.png", (5, 7), 3)


def test_copies_follow_what_the_bucket_holds(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = bucket / "shard"
    path.write_bytes(b"one")
    first = local_copy(path)
    assert first.read_bytes() == b"one" and local_copy(path) == first
    path.write_bytes(b"two")
    second = local_copy(path)
    assert second.read_bytes() == b"two" and not first.exists()
    with pytest.raises(IsADirectoryError):
        local_copy(bucket)
    assert local_copy(tmp_path / "x") == tmp_path / "x"


def test_folders_move_and_arrive(bucket, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "x").write_text("1")
    move_folder(tmp_path / "run", bucket / "run")
    assert names(bucket) == {"run/checkpoints/x"}
    move_folder(bucket / "run" / "checkpoints", bucket / "run" / "damaged" / "checkpoints")
    assert names(bucket) == {"run/damaged/checkpoints/x"}


def test_images_are_listed_as_on_this_machine(bucket, tmp_path):
    """The same files, here and there: the same images, in the same order; other files, other fingerprints."""
    for name in (
        *("b/2.png", "b/10.PNG", "a.b/1.webp", "a/1.jpg", "z.jpeg", ".hidden/1.png", "a/.x.png", "__MACOSX/1.png"),
        *("s/samples.json", "s/grid.png", "s/0.png", "grid.png", "notes.txt", "old.bmp"),
        *("run/config.json", "run/checkpoints/1/x", "run/samples/step_0000010.png", "run/samples/e/0.png"),
        "run/samples.png",
    ):
        for root in (tmp_path, bucket):
            path = root / name
            if root is tmp_path:
                path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    assert list_images(bucket) == list_images(tmp_path)
    listed, before = list_images(bucket), fingerprint(bucket, list_images(bucket))
    assert fingerprint(bucket, listed) == before
    (bucket / "a" / "1.jpg").write_bytes(b"y")
    assert fingerprint(bucket, listed) != before


def test_a_lease_keeps_others_out(bucket):
    path = bucket / "run" / "lock.json"
    with lease.lease(path) as held:
        held.check()
        with pytest.raises(InputError, match="'gs://bucket/.*/run' is in use by process"), lease.lease(path):
            pass
    assert names(bucket) == set()


def test_a_lease_that_expired_is_taken_over_by_one(bucket, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRES", -1.0)
    path = bucket / "lock.json"
    path.write_text(json.dumps({"machine": "elsewhere", "process": 1, "token": "another"}))
    file = shared_file.shared_file(path)
    found = file.read()
    with lease.lease(path) as held:
        held.check()
        assert not file.replace("mine", found)  # whoever saw the same came too late
        held.check()
        path.write_text(json.dumps({"machine": "elsewhere", "process": 1, "token": "thief"}))
        with pytest.raises(InputError, match="was taken over by process 1 on elsewhere: nothing more is written here"):
            held.check()
    assert "thief" in path.read_text()


def test_a_lease_is_renewed(bucket, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED", 0.05)
    with lease.lease(bucket / "lock.json") as held:
        first, found, deadline = held.file.read(), held.file.read(), time.monotonic() + 30
        while found == first and time.monotonic() < deadline:
            found = held.file.read()
        assert found is not None and first is not None
        assert found.text == first.text and found.generation != first.generation


def test_events_and_curves_arrive(bucket, monkeypatch):
    """At the end, once in a while, and when asked; after those of the run before."""
    for step in (1, 2):
        with open_events(bucket, write=True) as events:
            events.scalars({"loss": 0.5}, step)
            assert len((bucket / METRICS).read_text().splitlines()) == 1 if step == 2 else not (bucket / METRICS).exists()
            events.upload()
            assert len((bucket / METRICS).read_text().splitlines()) == step
    with open_events(bucket, write=True) as events:
        assert not events.due
        monkeypatch.setattr(events_module, "UPLOADED", -1.0)
        assert events.due
        events.scalars({"loss": 0.5}, 3)
        events.scalars({"loss": 0.5}, 4)
    with pytest.raises(RuntimeError), open_events(bucket, write=True) as events:
        events.scalars({"loss": 0.5}, 5)
        raise RuntimeError  # such as that another run is there by now
    assert [json.loads(line)["step"] for line in (bucket / METRICS).read_text().splitlines()] == [1, 2, 3, 4]
    assert sum(name.startswith("events.out.tfevents") for name in names(bucket)) >= 1


def test_a_failed_copy_of_events_ends_nothing(bucket, monkeypatch, caplog):
    def fail(file, path):
        raise OSError(errno.EIO, "no network", str(path))

    with open_events(bucket, write=True) as events:
        events.scalars({"loss": 0.5}, 1)
        with monkeypatch.context() as patch:
            patch.setattr(events_module, "upload", fail)
            events.upload()
        assert "metrics.jsonl is not up to date: no network" in caplog.text
    assert len((bucket / METRICS).read_text().splitlines()) == 1


def test_what_does_not_answer_is_not_taken_for_absent(bucket, monkeypatch):
    (bucket / "x").write_bytes(b"x")
    assert exists(bucket / "x") and not is_folder(bucket / "x") and is_folder(bucket) and not exists(bucket / "y")

    def fail(path):
        raise RuntimeError("503")

    monkeypatch.setattr(buckets(), "info", fail)
    for ask in (exists, is_folder, local_copy, bytes_of):
        with pytest.raises(OSError, match="503"):
            ask(bucket / "x")


def test_signals_pass_through(bucket):
    """What turns errors into others leaves them alone, so that a run is saved."""

    def interrupted(file):
        raise _Interrupted

    with pytest.raises(_Interrupted):
        write_atomically(bucket / "x", interrupted)
    with pytest.raises(_Interrupted), as_os_errors(bucket):
        raise _Interrupted
