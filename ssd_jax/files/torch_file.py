"""Reads files of `torch.save` without PyTorch, without running any code that they carry, within memory of their own size.

Since PyTorch 1.6 such a file is a zip archive: ROOT/data.pkl pickles containers whose tensors refer to storages,
ROOT/data/KEY holds the bytes of storage KEY, ROOT/byteorder says which byte comes first. Before, it was a row of pickles:
a magic number, a version, what machine wrote it, the containers, the keys of the storages; then the length of each storage
as int64 and its bytes, little-endian.
"""

import io
import math
import os
import pathlib
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ssd_jax.errors import InputError, one_line
from ssd_jax.files.archive import SMALL, check_sizes, open_archive, read_into, read_small
from ssd_jax.files.paths import Path, local_copy, to_path
from ssd_jax.files.restricted_pickle import set_item, unpickle

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
PICKLE = 16 << 20  # bytes that the pickled containers may have
DIMENSIONS = 64  # of a tensor, which are as many as NumPy's arrays may have
REPEATED = 2  # times that tensors may be as large as the file: weights that layers share are there once


def read_torch_file(path: str | Path) -> dict[str, Any]:
    """What was given to `torch.save`, a dict, with NumPy arrays in place of tensors.

    Args:
        path: a .pt or .pth file of PyTorch >= 0.4, holding numbers, strings, containers and tensors.

    Returns:
        The dict. Arrays are read-only, with the shape and dtype of the tensor.

    Raises:
        InputError: if the file is missing, of another format, damaged, claims more than it holds, or holds anything else;
            that is not run.
    """
    try:
        here = local_copy(to_path(path))
        with open(here, "rb") as file:
            start = file.read(len(LEGACY))
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    if start != LEGACY and not start.startswith(b"PK"):
        raise InputError(f"{str(path)!r} is no checkpoint; give a .pt file written by torch.save")
    try:
        contents = _read_legacy(here) if start == LEGACY else _read_zip(here)
    except InputError as error:
        raise InputError(f"{str(path)!r} {error}") from error
    except Exception as error:  # a broken archive or pickle raises almost anything
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"{str(path)!r} is truncated or damaged ({reason}); download it again, or save it again with torch.save"
        ) from error
    if not isinstance(contents, dict):
        raise InputError(f"{str(path)!r} holds a {type(contents).__name__}; it must hold a dict of tensors")
    return contents


def _read_zip(path: pathlib.Path) -> Any:
    with open_archive(path) as archive:
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise InputError("is a zip file, but not one of torch.save: it must hold one data.pkl")
        check_sizes(archive, names)
        order = roots[0] + "byteorder"
        swap = order in names and read_small(archive, order, 16).decode() != sys.byteorder

        def storage(key: str, dtype: np.dtype, size: int) -> np.ndarray:
            name = f"{roots[0]}data/{key}"
            _check_length(key, archive.getinfo(name).file_size, size * dtype.itemsize)
            data = np.empty(size, f"u{dtype.itemsize}")
            with archive.open(name) as member:
                read_into(data.view(np.uint8).data, member.read)
            return data.byteswap(inplace=True) if swap else data

        tensors = _Tensors(os.path.getsize(path), storage)
        return tensors.unpickle(io.BytesIO(read_small(archive, roots[0] + "data.pkl", PICKLE)))


def _read_legacy(path: pathlib.Path) -> Any:
    found: dict[str, np.ndarray] = {}
    left = size_of_file = os.path.getsize(path)

    def storage(key: str, dtype: np.dtype, size: int) -> np.ndarray:
        nonlocal left
        left -= size * dtype.itemsize
        if left < 0:
            raise ValueError(f"its storages claim more bytes than the {size_of_file} of the file")
        found[key] = np.empty(size, f"u{dtype.itemsize}")
        return found[key]  # tensors may look at it before it is filled

    tensors = _Tensors(size_of_file, storage)
    with open(path, "rb") as file:
        pickles = io.BytesIO(file.read(PICKLE))
        pickles.seek(len(LEGACY))
        *_, contents, keys = (tensors.unpickle(pickles) for _ in range(4))
        if sorted(keys) != sorted(found):
            raise ValueError("the storages that it holds are not those that its tensors need")
        file.seek(pickles.tell())
        for key in keys:
            data = found[key]
            _check_length(key, int.from_bytes(file.read(8), "little") * data.itemsize, data.nbytes)
            _check_length(key, file.readinto(data.view(np.uint8).data), data.nbytes)
            if sys.byteorder == "big":
                data.byteswap(inplace=True)
    return contents


def _check_length(key: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"storage {key!r:.80} has {found} bytes instead of {expected}")


class _Storage(NamedTuple):
    """The memory of tensors, one-dimensional and read-only."""

    array: np.ndarray


class _Tensors:
    """The tensors of a file, views of its storages.

    Args:
        size: bytes of the file.
        storage: gives the bits of a storage by key, dtype and number of elements, as unsigned integers.
    """

    def __init__(self, size: int, storage: Callable[[str, np.dtype, int], np.ndarray]):
        self._left, self._read = max(SMALL, REPEATED * size), storage
        self._storages: dict[str, _Storage] = {}
        self._names = {
            "collections.OrderedDict": _ordered_dict,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        } | {f"torch.{name}": np.dtype(dtype) for name, dtype in STORAGES.items()}

    def unpickle(self, file: io.BytesIO) -> Any:
        """The containers of the pickle that begins where `file` stands."""
        return unpickle(file, self._named, self._storage)

    def _named(self, name: str) -> Any:
        """What stands for a name. Raises InputError for all that is not needed, before anything can call it."""
        if name not in self._names:
            raise InputError(
                f"asks for {one_line(name)}, which tensors do not need and which was not run; "
                "save the tensors alone: torch.save(model.state_dict(), path)"
            )
        return self._names[name]

    def _storage(self, pid: Any) -> _Storage:
        """That of the persistent id ("storage", dtype, key, device, number of elements)."""
        _, dtype, key, _, size, *views = pid[:6]
        good = isinstance(dtype, np.dtype) and isinstance(key, str) and isinstance(size, int) and size >= 0
        if not good or views not in ([], [None]):
            raise ValueError("a storage is not described as torch.save does")
        if key not in self._storages:
            array = self._read(key, dtype, size).view(dtype)
            array.flags.writeable = False
            self._storages[key] = _Storage(array)
        found = self._storages[key]
        if (found.array.dtype, found.array.size) != (dtype, size):
            raise ValueError(f"storage {key!r:.80} is of two types or sizes")
        return found

    def _tensor(self, storage: _Storage, offset: int, size: tuple, stride: tuple, *_) -> np.ndarray:
        """A view of a storage; NumPy makes sure that it stays inside."""
        if not isinstance(storage, _Storage) or not len(size) == len(stride) <= DIMENSIONS:
            raise ValueError("a tensor is not described as torch.save does")
        array = storage.array
        if not all(isinstance(each, int) for each in (*size, *stride)) or math.prod(size) > array.size:
            raise ValueError("a tensor has strides by which it is larger than its storage")
        strides = tuple(step * array.itemsize for step in stride)
        tensor = np.ndarray(size, array.dtype, array, offset * array.itemsize, strides)
        self._left -= tensor.nbytes
        if self._left < 0:
            raise ValueError("its tensors are together far larger than the file")
        return tensor


def _ordered_dict(pairs: list | None = None) -> OrderedDict:
    """Of pairs, if Python 2 pickled it; they are moved, for a pickle may give one list many times."""
    made = OrderedDict()
    if pairs is not None:
        for key, value in pairs:
            set_item(made, key, value)
        pairs.clear()
    return made
