"""What a run keeps of its averages."""

import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.files.npz import read_npz
from ssd_jax.run.averages import average_of_width, keep_average
from ssd_jax.training.ema import reconstruction

STEPS = list(range(10, 101, 10))


def parameters(value: float) -> dict:
    return {"stem": {"kernel": np.full((2, 3), value, np.float32)}, "head": [np.full(2, -value, np.float32)]}


@pytest.fixture
def workdir(tmp_path):
    """Of a run of 100 steps whose average was step^2 / 100."""
    for step in STEPS:
        keep_average(tmp_path, step, parameters(step**2 / 100), decay=0.9)
    return tmp_path


def test_it_is_the_sum_of_what_was_kept(workdir):
    keep_average(workdir, 110, parameters(1e6), decay=0.9)  # from after the checkpoint
    found = average_of_width(workdir, 100, parameters(0.0), 0.1)
    expected = reconstruction(STEPS, 0.9, 0.1) @ np.array(STEPS) ** 2 / 100
    np.testing.assert_allclose(found["stem"]["kernel"], np.full((2, 3), expected), rtol=1e-6)
    np.testing.assert_allclose(found["head"][0], np.full(2, -expected), rtol=1e-6)
    assert found["head"][0].dtype == np.float32 and 30 < expected < 100


def test_what_does_not_fit_is_refused(workdir):
    with pytest.raises(InputError, match="no average of step 95; leave it out, or train with train.snapshot_every"):
        average_of_width(workdir, 95, parameters(0.0), 0.1)
    with pytest.raises(InputError, match=r"step_0000010.npz holds parameters of another model"):
        average_of_width(workdir, 100, parameters(0.0) | {"more": np.zeros(3)}, 0.1)
    keep_average(workdir, 50, parameters(1.0), decay=0.99)
    with pytest.raises(InputError, match=r"holds averages of several train.ema_decay \(0.9\d*, 0.9\d*\)"):
        average_of_width(workdir, 100, parameters(0.0), 0.1)
    damaged = workdir / "averages" / "step_0000050.npz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(InputError, match=r"step_0000050.npz' is damaged"):
        average_of_width(workdir, 100, parameters(0.0), 0.1)


def test_a_flipped_bit_is_noticed(workdir):
    damaged = workdir / "averages" / "step_0000050.npz"
    content = bytearray(damaged.read_bytes())
    place = content.index(np.float32(25).tobytes())
    content[place] ^= 1
    damaged.write_bytes(bytes(content))
    with pytest.raises(InputError, match="is damaged"):
        read_npz(damaged)
