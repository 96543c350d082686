"""Reading .npz files, and refusing those that are made to take all memory."""

import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.files.npz import read_npz, stored_arrays
from tests.memory import at_most

ARRAYS = {
    "mu": np.arange(5.0),
    "turned": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "none": np.zeros((0, 3), np.uint8),
    "name": np.array("colours"),
    "count": np.array(7),
    "big_endian": np.arange(3, dtype=">i4"),
    "yes": np.array([True, False]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back(save, tmp_path):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    assert set(read_npz(tmp_path / "a.npz", without=("mu", "none"))) == ARRAYS.keys() - {"mu", "none"}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_in_batches_within_little_memory(save, tmp_path):
    images = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 256, 256, 3))  # 50 MB
    save(tmp_path / "a.npz", arr_0=images)
    stored = stored_arrays(tmp_path / "a.npz")["arr_0"]
    assert stored.shape == images.shape and stored.dtype == np.uint8
    with at_most(24 << 20):
        batches = [(len(batch), batch.min(), batch.max()) for batch in stored.batches(10)]
    assert batches == [(min(10, 256 - i), i, min(i + 9, 255)) for i in range(0, 256, 10)]


def header(text: str, data: bytes = b"", version: bytes = b"\1\0", claimed: int | None = None) -> bytes:
    size = (len(text) if claimed is None else claimed).to_bytes(2 if version[:1] == b"\1" else 4, "little")
    return b"\x93NUMPY" + version + size + text.encode() + data


def described(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


MEMBERS = {
    "more than there is": header(described("'<f8'", "(4000000000,)"), b"\0" * 8),
    "less than there is": header(described("'<f8'", "(1,)"), b"\0" * 80),
    "overflowing": header(described("'<f8'", f"({2**62}, 4)"), b"\0" * 8),
    "negative": header(described("'<f8'", "(-1, -1)"), b"\0" * 8),
    "elements of nothing": header(described("'<U0'", "(1000000000000,)")),
    "void": header(described("'V8'", "(1,)"), b"\0" * 8),
    "records": header(described("[('a', '<f8')]", "(1,)"), b"\0" * 8),
    "objects": pickled(),
    "deep": header("(" * 9000, b""),
    "deeper": header("[" * 60_000, b"", b"\2\0"),
    "gigabytes of header": header(described("'<f8'", "(1,)"), b"\0" * 8, b"\2\0", 0xFFFFFFFF),
    "code": header("__import__('os').system('true')"),
    "version": header(described("'<f8'", "(1,)"), b"\0" * 8, b"\3\0"),
    "no array": b"text",
    "nothing": b"",
    "numbers": header("{'descr': 3, 'fortran_order': 'x', 'shape': 1e9}"),
}


def refused_quickly(path: Path) -> None:
    start = time.monotonic()
    with at_most(2 * path.stat().st_size + (200 << 20)), pytest.raises(InputError) as refused:
        read_npz(path)
    message = str(refused.value)
    assert time.monotonic() - start < 5 and str(path) in message and message.isprintable() and len(message) < 500
    assert "MemoryError" not in message and message.endswith("make or download it again")


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_are_no_arrays_are_refused(name, method, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as file:
        file.writestr("a.npy", MEMBERS[name])
    refused_quickly(tmp_path / "a.npz")


def test_bombs_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(65 << 20, np.uint8))
    refused_quickly(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:  # together
        for i in range(65):
            file.writestr(f"{i}.npy", header(described("'|u1'", f"({1 << 20},)"), bytes(1 << 20)))
    refused_quickly(path)
    np.savez_compressed(path, a=np.zeros((1, 65 << 20), np.uint8))  # in batches too, if a row is a bomb
    with at_most(200 << 20), pytest.raises(InputError, match="rows of 68157440 bytes"):
        next(stored_arrays(path)["a"].batches(1))


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.arange(100), b=np.arange(100))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[300] ^= 4
    twice = whole.replace(b"b.npy", b"a.npy")
    odd = whole.replace(b"b.npy", b"\\.npy")
    for data in (whole[:-10], whole[:900], whole[5:], bytes(flipped), b"", b"\0" * 1000, twice, odd):
        path.write_bytes(data)
        refused_quickly(path)
    for missing in (tmp_path, tmp_path / "missing.npz"):
        with pytest.raises(OSError):
            read_npz(missing)
