"""Reads arrays of .npz files that anybody may have made: no pickles, and no more memory than the file accounts for."""

import io
import math
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ssd_jax.errors import InputError, one_line
from ssd_jax.files.archive import SMALL, check_sizes, open_archive, read_into
from ssd_jax.files.paths import Path, to_path

LARGEST_HEADER = 1 << 16  # bytes that come before the numbers of an array
KINDS = "biufUS"  # numbers and strings
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class StoredArray:
    """An array that lies in an .npz file.

    Attributes:
        path: of the file.
        name: of the array.
        shape, dtype: of the array.
        column_major: whether its first axis varies fastest.
        start: bytes of its member before its numbers.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    column_major: bool
    start: int

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Its rows in order, `size` at a time but for the last, or fewer where these took more than SMALL bytes.

        Raises:
            InputError: if the file is damaged, or a single row takes more.
        """
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        if self.column_major or row > SMALL:
            raise InputError(
                f"{str(self.path)!r} holds {self.name} in rows of {row} bytes, which cannot be read one by one"
            )
        size = max(min(size, SMALL // max(row, 1)), 1)
        with _opened(self.path) as archive, archive.open(f"{self.name}.npy") as member:
            member.read(self.start)
            for start in range(0, self.shape[0], size):
                batch = np.empty((min(size, self.shape[0] - start), *self.shape[1:]), self.dtype)
                read_into(batch.reshape(-1).view(np.uint8).data, member.read)
                yield batch


def stored_arrays(path: str | Path) -> dict[str, StoredArray]:
    """The arrays of an .npz file by name, their numbers unread.

    Raises:
        OSError: if the file cannot be opened.
        InputError: if it is damaged or no .npz file, or holds objects.
    """
    with _opened(path) as archive:
        return {name.removesuffix(".npy"): _stored(archive, name, to_path(path)) for name in _names(archive)}


def read_npz(path: str | Path, *, without: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by name, but those `without`. Raises as `stored_arrays`, and InputError for bombs."""
    with _opened(path) as archive:
        names = [name for name in _names(archive) if name.removesuffix(".npy") not in without]
        check_sizes(archive, names)
        return {name.removesuffix(".npy"): _array(archive, _stored(archive, name, to_path(path))) for name in names}


@contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    try:
        with open_archive(path) as archive:
            yield archive
    except (OSError, InputError):
        raise
    except Exception as error:  # a broken archive or header raises almost anything
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{str(path)!r} is damaged or no .npz file ({reason}); make or download it again") from error


def _names(archive: zipfile.ZipFile) -> list[str]:
    """Of the members that are arrays."""
    names = [name for name in archive.namelist() if name.endswith(".npy")]
    odd = [
        name for name in names if not name.isprintable() or name.startswith("/") or {"..", "\\"} & {*name, *name.split("/")}
    ]
    if odd:
        raise zipfile.BadZipFile(f"it holds an array of the name {odd[0]!r:.80}")
    return names


def _stored(archive: zipfile.ZipFile, name: str, path: Path) -> StoredArray:
    with archive.open(name) as member:
        header = io.BytesIO(member.read(LARGEST_HEADER))
    version = np.lib.format.read_magic(header)
    if version not in READERS:
        raise ValueError(f"{name} is of version {version}")
    shape, column_major, dtype = READERS[version](header)
    if dtype.kind not in KINDS or not dtype.itemsize:
        raise ValueError(f"{name} holds {dtype!s:.40}, but must hold numbers or strings")
    size, start = archive.getinfo(name).file_size, header.tell()
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != size - start:
        raise ValueError(f"{name} is said to be {dtype} {shape!s:.80}, but has {size - start} bytes")
    return StoredArray(path, name.removesuffix(".npy"), shape, dtype, column_major, start)


def _array(archive: zipfile.ZipFile, stored: StoredArray) -> np.ndarray:
    array = np.empty(stored.shape[::-1] if stored.column_major else stored.shape, stored.dtype)
    with archive.open(f"{stored.name}.npy") as member:
        member.read(stored.start)
        read_into(array.reshape(-1).view(np.uint8).data, member.read)
    return array.T if stored.column_major else array
