"""Writes files as `torch.save` does, without PyTorch."""

import io
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}


class Name(str):
    """Pickled as a reference to the object of that name, "module name"."""


class Call(NamedTuple):
    """Pickled as a call, made when the file is read."""

    function: str
    arguments: tuple


class Storage(NamedTuple):
    array: np.ndarray


PythonPickler: Any = pickle._Pickler  # the one in C cannot write names of modules that are not there


class Pickler(PythonPickler):
    """Tensors are NumPy arrays; their memory goes to `storages`, shared by views of one array."""

    dispatch: ClassVar[dict] = dict(PythonPickler.dispatch)

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages: dict[int, np.ndarray] = {}

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        self.storages[id(obj.array)] = obj.array
        return "storage", Name(f"torch {STORAGES[obj.array.dtype]}"), str(id(obj.array)), "cpu", obj.array.size

    def save_name(self, obj: Name) -> None:
        self.write(pickle.GLOBAL + obj.replace(" ", "\n").encode() + b"\n")

    def save_call(self, obj: Call) -> None:
        self.save(Name(obj.function))
        self.save(obj.arguments)
        self.write(pickle.REDUCE)

    def save_array(self, obj: np.ndarray) -> None:
        whole = obj
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        offset = (obj.ctypes.data - whole.ctypes.data) // obj.itemsize
        strides = tuple(stride // obj.itemsize for stride in obj.strides)
        arguments = (Storage(whole), offset, obj.shape, strides, False, Call("collections OrderedDict", ()))
        self.save_call(Call("torch._utils _rebuild_tensor_v2", arguments))

    dispatch |= {Name: save_name, Call: save_call, np.ndarray: save_array}


def torch_save(contents: Any, path: Path, *, byteorder: str = sys.byteorder) -> Path:
    """Writes `contents`, whose tensors are NumPy arrays, and returns the path."""
    pickled = io.BytesIO()
    pickler = Pickler(pickled)
    pickler.dump(contents)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        archive.writestr("archive/byteorder", byteorder)
        for key, array in pickler.storages.items():
            data = np.ascontiguousarray(array).view(f"u{array.itemsize}")
            archive.writestr(f"archive/data/{key}", (data if byteorder == sys.byteorder else data.byteswap()).tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def torch_save_legacy(contents: Any, path: Path) -> Path:
    """The same in the format before PyTorch 1.6."""
    with open(path, "wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        pickler = Pickler(file)
        pickler.dump(contents)
        pickle.dump([str(key) for key in pickler.storages], file, protocol=2)
        for array in pickler.storages.values():
            data = np.ascontiguousarray(array).view(f"u{array.itemsize}")
            file.write(array.size.to_bytes(8, "little") + data.astype(data.dtype.newbyteorder("<")).tobytes())
    return path
