"""Reads files of `torch.save` without PyTorch, and without running any code that they carry.

Such a file is a zip archive: ROOT/data.pkl pickles containers whose tensors refer to storages, ROOT/data/KEY holds the
bytes of storage KEY, ROOT/byteorder says which byte comes first.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ssd_jax.errors import InputError

STORAGES = {
    "BFloat16Storage": ml_dtypes.bfloat16,
    "HalfStorage": np.float16,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
}
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # how files of PyTorch < 1.6 begin


def read_torch_file(path: str | Path) -> dict[str, Any]:
    """What was given to `torch.save`, a dict, with NumPy arrays in place of tensors.

    Args:
        path: a .pt or .pth file of PyTorch >= 1.6, holding numbers, strings, containers and tensors.

    Returns:
        The dict. Arrays are read-only, with the shape and dtype of the tensor.

    Raises:
        InputError: if the file is missing, of another format, damaged, or holds anything else; that is not run.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(LEGACY))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if start == LEGACY:
        raise InputError(
            f"{str(path)!r} has the format of PyTorch before 1.6; save it again with a newer one: "
            "torch.save(torch.load(path), path)"
        )
    if not start.startswith(b"PK"):
        raise InputError(f"{str(path)!r} is no checkpoint; give a .pt file written by torch.save")
    try:
        with zipfile.ZipFile(path) as archive:
            contents = _Unpickler(archive).load()
    except InputError:
        raise
    except Exception as error:  # a broken archive or pickle raises almost anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{str(path)!r} is truncated or damaged ({reason}); download it again, or save it again with torch.save"
        ) from error
    if not isinstance(contents, dict):
        raise InputError(f"{str(path)!r} holds a {type(contents).__name__}; it must hold a dict of tensors")
    return contents


class _Unpickler(pickle.Unpickler):
    """Builds containers and arrays, and refuses every name but those that tensors need."""

    def __init__(self, archive: zipfile.ZipFile):
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise InputError(f"{archive.filename!r} is a zip file, but not one of torch.save: it must hold one data.pkl")
        super().__init__(io.BytesIO(archive.read(roots[0] + "data.pkl")), encoding="utf-8")
        self._archive, self._root = archive, roots[0]
        order = roots[0] + "byteorder"
        self._swap = order in archive.namelist() and archive.read(order).decode() != sys.byteorder
        self._storages: dict[tuple[str, str], np.ndarray] = {}
        # Bound methods and strings: unlike functions and classes, a pickle cannot set their attributes.
        self._names = {
            "collections.OrderedDict": OrderedDict,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_parameter": self._rebuild_parameter,
        } | {f"torch.{storage}": storage for storage in STORAGES}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for `module.name`. Raises InputError for all that is not needed, before anything can call it."""
        if f"{module}.{name}" not in self._names:
            raise InputError(
                f"{self._archive.filename!r} asks for {module}.{name}, which tensors do not need and which was not run; "
                "save the tensors alone: torch.save(model.state_dict(), path)"
            )
        return self._names[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The storage ("storage", type, key, device, number of elements), one-dimensional and read-only."""
        _, storage, key, _, size = pid
        if (storage, key) not in self._storages:
            dtype = np.dtype(STORAGES[storage])
            data = self._archive.read(f"{self._root}data/{key}")
            if len(data) != size * dtype.itemsize:
                raise ValueError(f"storage {key} has {len(data)} bytes instead of {size * dtype.itemsize}")
            if self._swap:
                data = np.frombuffer(data, f"u{dtype.itemsize}").byteswap().tobytes()
            self._storages[storage, key] = np.ndarray(size, dtype, data)
        return self._storages[storage, key]

    def _rebuild_tensor(self, storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_) -> np.ndarray:
        """A view of the storage; NumPy makes sure that it stays inside."""
        item = storage.itemsize
        return np.ndarray(size, storage.dtype, storage, offset * item, tuple(step * item for step in stride))

    def _rebuild_parameter(self, data: np.ndarray, *_) -> np.ndarray:
        return data
