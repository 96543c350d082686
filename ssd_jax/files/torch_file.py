"""Reads files of `torch.save` without PyTorch, and without running any code that they carry.

Since PyTorch 1.6 such a file is a zip archive: ROOT/data.pkl pickles containers whose tensors refer to storages,
ROOT/data/KEY holds the bytes of storage KEY, ROOT/byteorder says which byte comes first. Before, it was a row of pickles:
a magic number, a version, what machine wrote it, the containers, the keys of the storages; then the length of each storage
as int64 and its bytes, little-endian.
"""

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
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
        path: a .pt or .pth file of PyTorch >= 0.4, holding numbers, strings, containers and tensors.

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
    if start != LEGACY and not start.startswith(b"PK"):
        raise InputError(f"{str(path)!r} is no checkpoint; give a .pt file written by torch.save")
    try:
        contents = _read_legacy(path) if start == LEGACY else _read_zip(path)
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


def _read_zip(path: str | Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        roots = [name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise InputError(f"{str(path)!r} is a zip file, but not one of torch.save: it must hold one data.pkl")
        order = roots[0] + "byteorder"
        swap = order in archive.namelist() and archive.read(order).decode() != sys.byteorder

        def storage(key: str, dtype: np.dtype, size: int) -> bytes:
            data = archive.read(f"{roots[0]}data/{key}")
            _check_length(key, len(data), size * dtype.itemsize)
            return np.frombuffer(data, f"u{dtype.itemsize}").byteswap().tobytes() if swap else data

        return _Unpickler(io.BytesIO(archive.read(roots[0] + "data.pkl")), path, storage).load()


def _read_legacy(path: str | Path) -> Any:
    buffers: dict[str, tuple[bytearray, np.dtype]] = {}

    def storage(key: str, dtype: np.dtype, size: int) -> memoryview:
        buffers[key] = bytearray(size * dtype.itemsize), dtype
        return memoryview(buffers[key][0]).toreadonly()  # tensors may look at it before it is filled

    with open(path, "rb") as file:
        *_, contents, keys = (_Unpickler(file, path, storage).load() for _ in range(5))
        for key in keys:
            buffer, dtype = buffers[key]
            _check_length(key, int.from_bytes(file.read(8), "little") * dtype.itemsize, len(buffer))
            _check_length(key, file.readinto(buffer), len(buffer))
            if sys.byteorder == "big":
                buffer[:] = np.frombuffer(buffer, f"u{dtype.itemsize}").byteswap().tobytes()
    return contents


def _check_length(key: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"storage {key} has {found} bytes instead of {expected}")


class _Unpickler(pickle.Unpickler):
    """Builds containers and arrays, and refuses every name but those that tensors need.

    Args:
        file: holds the pickle.
        path: for messages.
        storage: gives the bytes of a storage by key, dtype and number of elements, read-only.
    """

    def __init__(
        self, file: io.BufferedIOBase, path: str | Path, storage: Callable[[str, np.dtype, int], bytes | memoryview]
    ):
        super().__init__(file, encoding="utf-8")
        self._path, self._storage = path, storage
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
                f"{str(self._path)!r} asks for {module}.{name}, which tensors do not need and which was not run; "
                "save the tensors alone: torch.save(model.state_dict(), path)"
            )
        return self._names[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The storage ("storage", type, key, device, number of elements, ..), one-dimensional and read-only."""
        _, storage, key, _, size, *_ = pid
        if (storage, key) not in self._storages:
            dtype = np.dtype(STORAGES[storage])
            self._storages[storage, key] = np.ndarray(size, dtype, self._storage(key, dtype, size))
        return self._storages[storage, key]

    def _rebuild_tensor(self, storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_) -> np.ndarray:
        """A view of the storage; NumPy makes sure that it stays inside."""
        item = storage.itemsize
        return np.ndarray(size, storage.dtype, storage, offset * item, tuple(step * item for step in stride))

    def _rebuild_parameter(self, data: np.ndarray, *_) -> np.ndarray:
        return data
