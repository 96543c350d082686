"""Files that claim to be of `torch.save`, and are made to take all memory or time: each is refused in one line."""

import pickle
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.files.torch_file import LEGACY, read_torch_file
from tests.memory import at_most
from tests.torch_writer import Call, Storage, torch_save, torch_save_legacy

MANY = 150_000  # operations of a pickle: a third of those that are allowed
TENSOR = "torch._utils _rebuild_tensor_v2"
EMPTY = b"(lp0\n0}."  # an empty dict, in operations that are not needed


def archive(path: Path, pickled: bytes, data: bytes = b"", method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/data/0", data)
    return path


def storage(size: int) -> bytes:
    """Operations that leave a float32 storage of so many elements, of key "0"."""
    number = pickle.dumps(size, 2)[2:-1]
    return b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu" + number + b"tQ"


def tensor(elements: int, size: tuple, stride: tuple, offset=0) -> bytes:
    arguments = b"".join(pickle.dumps(each, 2)[2:-1] for each in (offset, size, stride))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(elements) + arguments + b"tR"


def in_dict(operations: bytes) -> bytes:
    return b"\x80\x02}X\x01\0\0\0a" + operations + b"s."


PICKLES = {
    "a memo of thousands of millions, by text": in_dict(b"Np2000000000\n"),
    "bytes of gigabytes": in_dict(b"B\xff\xff\xff\x7f"),
    "a string of terabytes": in_dict(b"\x8d" + (1 << 44).to_bytes(8, "little")),
    "an array of gigabytes": in_dict(b"\x96" + (1 << 33).to_bytes(8, "little")),
    "a number of gigabytes": in_dict(b"\x8b\xff\xff\xff\x7f"),
    "a number of megabits": in_dict(b"\x8b" + (1 << 20).to_bytes(4, "little") + b"\x7f" * (1 << 20)),
    "a number in words": in_dict(b"I" + b"9" * 100_000 + b"\n"),
    "a frame of terabytes": in_dict(b"\x95" + (1 << 44).to_bytes(8, "little")),
    "more containers than memory": in_dict(b"]" * 600_000),
    "sets": in_dict(b"\x8f" * MANY),
    "tuples for keys, that are everything": b"\x80\x02}" + b"N\x85" + b"2\x86" * 60 + b"Ns.",
    "tuples for keys, very deep": b"\x80\x02}N" + b"\x85" * MANY + b"Ns.",
    "lists for keys": b"\x80\x02}]Ns.",
    "calls with many arguments": in_dict(b"(" + b"N" * 100_000 + b"tq\0" + b"ccollections\nOrderedDict\nh\0R" * 10_000),
    "no end": b"\x80\x02}",
    "nothing on the stack": b"\x80\x02ssss.",
    "no mark": b"\x80\x02}u.",
    "an unknown operation": b"\x80\x02\xfe.",
    "a storage that is none": in_dict(b"(NNNNNtQ"),
    "a dtype of its own": in_dict(b"(X\x07\0\0\0storageX\x0a\0\0\0V100000000X\x01\0\0\0" + b"0NK\x01tQ"),
    "a storage larger than the file": in_dict(tensor(1 << 34, (1,), (1,))),
    "a storage of negative size": in_dict(tensor(-4, (1,), (1,))),
    "a tensor that repeats one number": in_dict(tensor(4, (1 << 34,), (0,))),
    "a tensor that repeats one row": in_dict(tensor(4, (1 << 20, 4), (0, 1))),
    "a tensor of overflowing size": in_dict(tensor(4, (1 << 62, 4), (0, 1))),
    "a tensor of negative sizes": in_dict(tensor(4, (-2, -2), (1, 1))),
    "a tensor of many axes": in_dict(tensor(4, (1,) * 100, (1,) * 100)),
    "a tensor of fractions": in_dict(tensor(4, (1.0,), (1,))),
    "strides of strings": in_dict(tensor(4, (1,), ("a",))),
    "an offset out of this world": in_dict(tensor(4, (1,), (1,), offset=1 << 63)),
    "one storage as a million tensors": in_dict(b"](" + tensor(1 << 18, (1 << 18,), (1,)) * 100 + b"e"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_take_all_memory_or_time_are_refused(name, tmp_path):
    data = np.zeros(1 << 18, np.float32) if "million" in name else np.zeros(4, np.float32)
    path = archive(tmp_path / "model.pt", PICKLES[name], data.tobytes())
    refused_quickly(path)
    if b"tQ" not in PICKLES[name]:
        path.write_bytes(LEGACY + PICKLES[name] * 4)
        refused_quickly(path)


def test_this_tensor_would_be_good(tmp_path):
    path = archive(tmp_path / "model.pt", in_dict(tensor(4, (2, 2), (2, 1))), np.arange(4, dtype=np.float32).tobytes())
    np.testing.assert_array_equal(read_torch_file(path)["a"], [[0, 1], [2, 3]])


def refused_quickly(path: Path) -> None:
    start, processor = time.monotonic(), time.process_time()
    with at_most(2 * path.stat().st_size + (200 << 20)), pytest.raises(InputError) as refused:
        read_torch_file(path)
    message = str(refused.value)
    assert time.process_time() - processor < 5 and time.monotonic() - start < 30  # it may wait for a busy machine alone
    assert str(path) in message and "\n" not in message and len(message) < 600
    assert "MemoryError" not in message and message.isprintable()


def test_what_does_no_harm_is_read(tmp_path):
    """A memo of billions (an array in Python's own machine), attributes of a call, one list of
    pairs for many dicts, and deep nesting: nothing recurses."""
    half = MANY // 2
    attributes = b"ctorch._utils\n_rebuild_tensor_v2\n}X\x08\0\0\0__call__Nsb"
    pairs = b"(ccollections\nOrderedDict\nq\x01](" + b"K\x01N\x86" * 30_000 + b"eq\0" + b"h\x01h\0\x85R" * 20_000 + b"t"
    deep = b"]" * half + b"a" * (half - 1), b"N" + b"\x85" * MANY
    for operations in (b"Nr\xff\xff\xff\x7f", attributes, pairs, *deep):
        path = archive(tmp_path / "model.pt", in_dict(operations))
        with at_most(200 << 20):
            assert set(read_torch_file(path)) == {"a"}


def test_compressed_bombs_are_refused(tmp_path):
    for pickled, data in ((EMPTY, b"\0" * (80 << 20)), (b"\0" * (80 << 20), b"")):
        path = archive(tmp_path / "model.pt", pickled, data, zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 1 << 20
        refused_quickly(path)


def directory_of(path: Path) -> tuple[bytearray, int]:
    """A zip file, and where its list of members begins."""
    data = bytearray(path.read_bytes())
    return data, int.from_bytes(data[-6:-2], "little")


def test_members_that_say_other_sizes_than_they_have_are_refused(tmp_path):
    """The list of members claims 8 bytes of data that are millions, or many that are few; or lists some of them twice."""
    pickled = in_dict(tensor(2, (2,), (1,)))
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
        path = archive(tmp_path / "model.pt", pickled, b"\0" * (80 << 20), method)
        data, start = directory_of(path)
        second = data.index(b"PK\1\2", start + 4)
        data[second + 24 : second + 28] = (8).to_bytes(4, "little")
        path.write_bytes(data)
        refused_quickly(path)
    path = archive(tmp_path / "model.pt", pickled, b"\0" * 8)
    whole, start = directory_of(path)
    second = whole.index(b"PK\1\2", start + 4)
    overlapping = whole.copy()
    overlapping[second + 42 : second + 46] = bytes(4)  # the second member lies where the first does
    large = whole.copy()
    large[second + 20 : second + 28] = (1 << 30).to_bytes(4, "little") * 2
    encrypted = whole.copy()
    encrypted[second + 8] |= 1
    odd = whole.copy()
    odd[second + 10 : second + 12] = (14).to_bytes(2, "little")  # LZMA, whose dictionary may take gigabytes
    for data in (overlapping, large, encrypted, odd):
        path.write_bytes(data)
        refused_quickly(path)


def test_long_lists_of_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as file:
        for i in range(2000):
            file.writestr(f"{i}" * 300, b"")
    refused_quickly(tmp_path / "model.pt")


def test_storages_of_old_files_that_are_larger_than_the_file_are_refused(tmp_path):
    good = {"weight": np.arange(4, dtype=np.float32)}
    path = torch_save_legacy(good, tmp_path / "model.pth")
    whole = path.read_bytes()
    size = whole.index(b"K\x04t")  # the number of elements
    path.write_bytes(whole[:size] + b"J\xff\xff\xff\x7f" + whole[size + 2 :])
    refused_quickly(path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_torch_file(path)["weight"], good["weight"])
    keys = whole.rindex(b"\x80\x02")
    path.write_bytes(whole[:keys] + pickle.dumps([], 2) + whole[-24:])
    refused_quickly(path)  # a tensor whose storage is not there would be whatever memory holds


def test_names_that_files_ask_for_are_shown_as_one_line(tmp_path):
    path = archive(tmp_path / "model.pt", in_dict(b"cos\nsystem" + b"\x1b[31m" * 1000 + b"\n"))
    refused_quickly(path)


def test_honest_files_pass(tmp_path):
    """Weights that two layers share, compressed archives, attributes of dicts, protocol 4."""
    weight = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    path = torch_save(OrderedDict(a=weight, b=weight), tmp_path / "model.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "smaller.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    for each in (path, tmp_path / "smaller.pt"):
        for array in read_torch_file(each).values():
            np.testing.assert_array_equal(array, weight)
    with_attributes = in_dict(b"ccollections\nOrderedDict\n)R}X\x09\0\0\0_metadataNsb")
    assert read_torch_file(archive(tmp_path / "model.pt", with_attributes)) == {"a": OrderedDict()}
    values = {"a": [1, 2.5, None, True, ("x", "ü")], "b": {3: -1, "c": 2**40}}
    for protocol in (2, 3, 4, 5):
        assert read_torch_file(archive(tmp_path / "model.pt", pickle.dumps(values, protocol))) == values
    call = Call(TENSOR, (Storage(weight), 0, (2, 3), (3, 1)))
    assert read_torch_file(torch_save({"a": call}, path))["a"].shape == (2, 3)
    of_python_2 = in_dict(b"ccollections\nOrderedDict\n](](U\x01bK\x01ee\x85R")
    assert read_torch_file(archive(path, of_python_2)) == {"a": {"b": 1}}
