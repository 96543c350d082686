"""Zip archives that anybody may have made: what they claim is checked before memory is taken for it.

Errors are those of `zipfile`; the readers of .pt and .npz files make InputErrors of them.
"""

import io
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from ssd_jax.files.paths import Path, local_copy, to_path

LARGEST_DIRECTORY = 2 << 20  # bytes of the list of members, of which a reader makes twenty times as many
CHUNK = 1 << 20  # bytes read at a time
HEADER = 30  # bytes of a member before its name
SMALL = 64 << 20  # bytes that members may take, however small the file


@contextmanager
def open_archive(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive whose members lie apart from each other, are not encrypted and are stored or deflated.

    Raises:
        OSError: if the file cannot be opened.
        zipfile.BadZipFile: if it is no such archive.
    """
    with _File(local_copy(to_path(path))) as file, zipfile.ZipFile(file) as archive:
        _check(archive)
        yield archive


class _File(io.FileIO):
    """A file of which nobody reads much at once, whatever lengths it claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = max(os.fstat(self.fileno()).st_size - self.tell(), 0)
        if size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f"its list of members has {size} bytes, more than {LARGEST_DIRECTORY}")
        return super().read(size) or b""


def _check(archive: zipfile.ZipFile) -> None:
    members = sorted(archive.infolist(), key=lambda each: each.header_offset)
    repeated = next((name for name, count in Counter(each.filename for each in members).items() if count > 1), None)
    if repeated is not None:
        raise zipfile.BadZipFile(f"it holds {repeated!r:.80} more than once")
    end = 0
    for each in members:
        stored = each.compress_type == zipfile.ZIP_STORED
        if each.flag_bits & 1 or not (stored or each.compress_type == zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"its member {each.filename!r:.80} is encrypted, or neither stored nor deflated")
        if each.header_offset < end or (stored and each.compress_size != each.file_size):
            raise zipfile.BadZipFile(f"its member {each.filename!r:.80} overlaps others, or is not as large as it says")
        end = each.header_offset + HEADER + each.compress_size
    if end > archive.start_dir:
        raise zipfile.BadZipFile("its last member reaches into the list of members")


def check_sizes(archive: zipfile.ZipFile, names: Collection[str]) -> None:
    """Raises BadZipFile if the members of these names take more than SMALL bytes and twice the file's own size."""
    assert archive.fp is not None
    size = os.fstat(archive.fp.fileno()).st_size
    total = sum(archive.getinfo(name).file_size for name in names)
    if total > max(SMALL, 2 * size):
        raise zipfile.BadZipFile(f"its members would take {total} bytes, far more than the {size} of the file")


def read_into(buffer: memoryview, read: Callable[[int], bytes]) -> None:
    """Fills bytes by the `read` of a member. Raises BadZipFile if it ends before, or does not have its checksum."""
    while len(buffer):
        data = read(min(len(buffer), CHUNK))
        if not data:
            raise zipfile.BadZipFile("one of its members ends too early")
        buffer[: len(data)] = data
        buffer = buffer[len(data) :]


def read_small(archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    """A whole member. Raises BadZipFile if it has more than `largest` bytes."""
    size = archive.getinfo(name).file_size
    if size > largest:
        raise zipfile.BadZipFile(f"its member {name!r:.80} has {size} bytes, but must have at most {largest}")
    buffer = bytearray(size)
    with archive.open(name) as member:
        read_into(memoryview(buffer), member.read)
    return bytes(buffer)
