"""Events for TensorBoard."""

import errno
import json
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.record_writer import RecordWriter

from ssd_jax.files.decode import decode
from ssd_jax.files.events import METRICS, Events, open_events


def test_tensorboard_reads_them_at_once(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    with open_events(tmp_path, write=True) as events:
        for step in (10, 20):
            events.scalars({"loss": 1 / step, "loss/stay0": 2.0}, step)
        events.picture("samples", picture, 20)
        found = EventAccumulator(str(tmp_path)).Reload()
    assert [(each.step, each.value) for each in found.Scalars("loss")] == [(10, np.float32(0.1)), (20, np.float32(0.05))]
    assert [each.value for each in found.Scalars("loss/stay0")] == [2.0, 2.0]
    (image,) = found.Images("samples")
    assert image.step == 20
    np.testing.assert_array_equal(decode(image.encoded_image_string), picture)


def test_curves_are_lines_of_json(tmp_path):
    """Of all runs in a folder, one after the other; what is no number is null."""
    for step, value in ((1, 0.5), (2, float("nan")), (2, 0.25)):
        with open_events(tmp_path, write=True) as events:
            events.scalars({"loss": value}, step)
            found = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]  # at once
    assert [(line["step"], line["loss"]) for line in found] == [(1, 0.5), (2, None), (2, 0.25)]
    assert all(abs(line["time"] - time.time()) < 60 for line in found)


def test_one_process_of_a_job_writes(tmp_path):
    with open_events(tmp_path, write=False) as events:
        events.scalars({"loss": 1.0}, 1)
    Events(None).picture("samples", np.zeros((2, 2, 3), np.uint8), 1)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_no_wait(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_events(tmp_path, write=True) as events:
        monkeypatch.setattr(RecordWriter, "flush", full)
        for step in range(20):  # more than tensorboardX's queue holds
            with pytest.raises(OSError, match="No space left"):
                events.scalars({"loss": 1.0}, step)
        monkeypatch.undo()
