import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from ssd_jax.errors import InputError
from ssd_jax.files.torch_file import read_torch_file
from tests.torch_writer import STORAGES, Call, Storage, torch_save, torch_save_legacy

OTHER = {"little": "big", "big": "little"}


@pytest.mark.parametrize("byteorder", OTHER)
def test_reads_every_type_in_both_byte_orders(byteorder, tmp_path):
    tensors = {str(dtype): (np.arange(6) % 5 - 2).reshape(2, 3).astype(dtype) for dtype in STORAGES}
    path = torch_save({"model": OrderedDict(tensors), "step": 3}, tmp_path / "model.pt", byteorder=byteorder)
    read = read_torch_file(path)
    assert read["step"] == 3 and list(read["model"]) == list(tensors)
    for name, tensor in tensors.items():
        assert read["model"][name].dtype == tensor.dtype == np.dtype(name)
        np.testing.assert_array_equal(read["model"][name], tensor)


def test_reads_views_scalars_empty_tensors_and_parameters(tmp_path):
    whole = np.arange(24, dtype=np.float32)
    views = {
        "transposed": whole[:6].reshape(2, 3).T,
        "middle": whole[5:17].reshape(3, 4)[:, 1:3],
        "every second": whole[::2],
        "repeated": np.lib.stride_tricks.as_strided(whole[3:], (2, 3), (0, 4)),
        "scalar": whole[7:8].reshape(()),
        "empty": np.zeros((0, 3), np.float32),
    }
    parameter = Call("torch._utils _rebuild_parameter", (whole, True, Call("collections OrderedDict", ())))
    path = torch_save({**views, "parameter": parameter, "others": [1, 2.5, None, "text", (True,)]}, tmp_path / "model.pt")
    read = read_torch_file(path)
    for name, view in views.items():
        np.testing.assert_array_equal(read[name], view)
        assert read[name].shape == view.shape and not read[name].flags.writeable
    np.testing.assert_array_equal(read["parameter"], whole)
    assert read["others"] == [1, 2.5, None, "text", (True,)]


@pytest.mark.parametrize(
    "call",
    [
        Call("os system", ("touch {}",)),
        Call("posix system", ("touch {}",)),
        Call("builtins eval", ("open('{}', 'w')",)),
        Call("torch.hub load", ("{}",)),
        Call("collections namedtuple", ("{}", "a")),
        Call("ssd_jax.torch_file read_torch_file", ("{}",)),
    ],
    ids=lambda call: call.function,
)
def test_code_is_refused_and_not_run(call, tmp_path):
    trace = tmp_path / "trace"
    call = Call(call.function, tuple(argument.format(trace) for argument in call.arguments))
    path = torch_save({"model": {"weight": np.zeros(3)}, "step": call}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=f"asks for {call.function.replace(' ', '.')}, .*was not run"):
        read_torch_file(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("offset", "size", "stride"), [(2, (3,), (1,)), (-1, (2,), (1,)), (0, (2, 3), (3, 1)), (0, (2,), (-1,))]
)
def test_views_stay_inside_their_storage(offset, size, stride, tmp_path):
    call = Call("torch._utils _rebuild_tensor_v2", (Storage(np.zeros(4, np.float32)), offset, size, stride))
    with pytest.raises(InputError, match="damaged .*strides"):
        read_torch_file(torch_save({"weight": call}, tmp_path / "model.pt"))


def damaged(path, kind):
    """Spoils a good file."""
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "flipped":
        at = data.index(np.full(3, 1.5).tobytes())
        path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    elif kind == "picture":
        path.write_bytes(b"\x89PNG")
    else:
        with zipfile.ZipFile(path) as old:
            members = {name: old.read(name) for name in old.namelist()}
        if kind == "other zip":
            members = {"word/document.xml": b"<w/>"}
        elif kind == "short storage":
            members = {name: data[:-8] if "/data/" in name else data for name, data in members.items()}
        elif kind == "no storage":
            members = {name: data for name, data in members.items() if "/data/" not in name}
        elif kind == "short pickle":
            members["archive/data.pkl"] = members["archive/data.pkl"][:-5]
        elif kind == "a list":
            members["archive/data.pkl"] = pickle.dumps([1], protocol=2)
        with zipfile.ZipFile(path, "w") as new:
            for name, member in members.items():
                new.writestr(name, member)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "is truncated or damaged"),
        ("flipped", "is truncated or damaged .*CRC"),
        ("short storage", "is truncated or damaged .*16 bytes instead of 24"),
        ("no storage", "is truncated or damaged"),
        ("short pickle", "is truncated or damaged"),
        ("picture", "is no checkpoint; give a .pt file"),
        ("other zip", "not one of torch.save"),
        ("a list", "holds a list; it must hold a dict"),
    ],
)
def test_damaged_files_are_one_clear_error(kind, message, tmp_path):
    path = torch_save({"weight": np.full(3, 1.5)}, tmp_path / "model.pt")
    damaged(path, kind)
    with pytest.raises(InputError, match=message) as error:
        read_torch_file(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_reads_the_format_before_pytorch_1_6(tmp_path):
    whole = np.arange(24, dtype=np.float32)
    tensors = {str(dtype): (np.arange(6) % 5 - 2).reshape(2, 3).astype(dtype) for dtype in STORAGES}
    tensors |= {"transposed": whole[:6].reshape(2, 3).T, "middle": whole[5:17].reshape(3, 4)[:, 1:3]}
    read = read_torch_file(torch_save_legacy({"model": OrderedDict(tensors), "step": 3}, tmp_path / "model.pth"))
    assert read["step"] == 3 and list(read["model"]) == list(tensors)
    for name, tensor in tensors.items():
        assert read["model"][name].dtype == tensor.dtype and not read["model"][name].flags.writeable
        np.testing.assert_array_equal(read["model"][name], tensor)


def test_damaged_files_of_that_format_are_one_clear_error(tmp_path):
    path = torch_save_legacy({"weight": np.full(3, 1.5)}, tmp_path / "model.pth")
    data = path.read_bytes()
    for cut, message in ((-8, "16 bytes instead of 24"), (-30, "bytes instead of 24"), (40, "is truncated or damaged")):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError, match=message):
            read_torch_file(path)
    trace = tmp_path / "trace"
    torch_save_legacy({"step": Call("os system", (f"touch {trace}",))}, path)
    with pytest.raises(InputError, match="asks for os.system, .*was not run"):
        read_torch_file(path)
    assert not trace.exists()


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="nowhere.pt' cannot be read: No such file"):
        read_torch_file(tmp_path / "nowhere.pt")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_torch_file(tmp_path)


def test_reads_what_torch_writes(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4), torch.nn.Linear(4, 5).bfloat16())
    tensors = module.state_dict() | {"turned": torch.arange(12).reshape(3, 4)[:, 1:].T, "parameter": module[0].weight}
    torch.save({"model": tensors, "step": 5}, tmp_path / "model.pt")
    read = read_torch_file(tmp_path / "model.pt")
    assert read["step"] == 5 and set(read["model"]) == set(tensors)
    assert read["model"]["2.weight"].dtype == ml_dtypes.bfloat16
    for name, expected in tensors.items():
        np.testing.assert_array_equal(read["model"][name].astype(np.float32), expected.detach().float().numpy())
    torch.save({"model": tensors, "step": 5}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, array in read_torch_file(tmp_path / "old.pt")["model"].items():
        np.testing.assert_array_equal(array, read["model"][name])
    torch.save({"model": module}, tmp_path / "module.pt")
    with pytest.raises(InputError, match="asks for torch.nn.modules"):
        read_torch_file(tmp_path / "module.pt")
