"""Where files lie, on this machine or in a bucket, and writing them so that none is ever left half-written under its name.

Whatever a user names may lie in a bucket of Google Cloud Storage, gs://bucket/name: `to_path` makes a path of it. Objects
of a bucket are whole or absent by themselves; what is read at random (shards, archives) is copied to this machine first.
"""

import errno
import os
import pathlib
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, Any, TypeAlias

from etils import epath

from ssd_jax.errors import InputError, one_line

Path: TypeAlias = pathlib.Path | epath.Path  # on this machine, or in a bucket

os.environ.setdefault("EPATH_USE_TF", "false")  # where TensorFlow is installed, its file system would be taken for buckets

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/{1,}")
BUCKETS = "gs"
PACKAGES = ("aiohttp", "gcsfs", "google")  # whose errors tell of buckets
NEEDED = "paths of gs:// need the extra gcs: pip install 'ssd_jax[gcs]', or gcsfs and google-cloud-storage"


def to_path(given: str | os.PathLike) -> Path:
    """The path that a user gave: of this machine, or gs://bucket/name.

    Raises:
        InputError: for other schemes, and for a bucket that is not there or cannot be read.
    """
    text = os.fspath(given)
    scheme = SCHEME.match(text)
    if scheme is None:
        return pathlib.Path(text)
    if scheme[1] != BUCKETS:
        raise InputError(f"{text!r} is of {scheme[1]}://, but must be a path of this machine or of gs://; mount or copy it")
    path = epath.Path(f"gs://{text[scheme.end() :]}")
    if len(path.parts) < 3:
        raise InputError(f"{text!r} names no bucket; give gs://bucket/name")
    _check_bucket(path.parts[2], "/".join(path.parts[3:]))
    return path


def to_local_path(given: str | os.PathLike) -> pathlib.Path:
    """The path of this machine that a user gave. Raises InputError for one of a bucket."""
    path = to_path(given)
    if not isinstance(path, pathlib.Path):
        raise InputError(f"{str(path)!r} is of a bucket, but must be a path of this machine")
    return path


def in_bucket(path: Path) -> bool:
    """Whether a path is of a bucket."""
    return isinstance(path, epath.Path)


def absolute(path: Path) -> Path:
    """The path that does not depend on the current folder."""
    return path if isinstance(path, epath.Path) else path.resolve()


@cache
def buckets() -> Any:
    """The file system of all buckets, which `etils.epath` uses, too: gcsfs's. Raises InputError without it."""
    try:
        import fsspec.config
        import gcsfs  # noqa: F401  # fails here rather than at its first use
    except ImportError as error:
        raise InputError(NEEDED) from error
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False  # others write there, too
    return fsspec.filesystem("gcs", finalize_on_close=True)


@cache
def _check_bucket(bucket: str, prefix: str) -> None:
    """Raises InputError unless objects of the bucket, their names beginning so, can be listed."""
    try:
        buckets().call("GET", "b/{}/o", bucket, prefix=prefix, maxResults=1, json_out=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no bucket gs://{bucket}; make it, or correct its name") from error
    except InputError:
        raise
    except Exception as error:  # of the network, of credentials, of rights
        raise InputError(
            f"gs://{bucket} cannot be listed: {one_line(error)}; log in (gcloud auth application-default login), or ask "
            "for the role of a storage object user"
        ) from error


@contextmanager
def as_os_errors(path: Path) -> Iterator[None]:
    """Turns whatever reading or writing a path of a bucket raises into OSErrors that name it, as those of others do."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not in_bucket(path):
            raise
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        if isinstance(error, OSError) and error.strerror:
            raise
        raise OSError(errno.EIO, one_line(error) or type(error).__name__, str(path)) from error


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to be read from its beginning. Raises OSError if it cannot be."""
    with as_os_errors(path), path.open("rb") as file:
        yield file  # pyright: ignore[reportReturnType]  # epath's annotation is of text and bytes alike


def cache_folder() -> pathlib.Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/ssd_jax, by default ~/.cache/ssd_jax; it may not exist yet."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "ssd_jax"


def local_copy(path: Path) -> pathlib.Path:
    """The file on this machine: itself, or a copy of a bucket's in the cache folder, made once for what the bucket holds.

    Raises:
        OSError: if it is not there, or cannot be copied.
    """
    if not isinstance(path, epath.Path):
        return path
    with as_os_errors(path):
        there = buckets().info(str(path))
        if there["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        folder = cache_folder() / "buckets" / path.parts[2] / path.relative_to(epath.Path(*path.parts[:3]))
        copy = folder / str(there["generation"])
        if not copy.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for older in folder.glob("[0-9]*"):
                older.unlink(missing_ok=True)
            if shutil.disk_usage(folder).free < there["size"]:
                raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for a copy in {cache_folder()}", str(path))
            with new_file(copy) as temporary:
                buckets().get_file(str(path), str(temporary))
        return copy


def exists(path: Path) -> bool:
    """Whether there is such a file or folder. Raises OSError if a bucket does not say."""
    return _type(path) is not None


def is_folder(path: Path) -> bool:
    """Whether there is such a folder. Raises OSError if a bucket does not say."""
    return _type(path) == "directory"


def _type(path: Path) -> str | None:
    """ "file" or "directory"; None if it is not there."""
    if isinstance(path, pathlib.Path):
        return "directory" if path.is_dir() else "file" if path.exists() else None
    try:
        with as_os_errors(path):
            return buckets().info(str(path))["type"]
    except FileNotFoundError:
        return None


def bytes_of(path: Path) -> int | None:
    """The size of a file; None if it is not there."""
    try:
        with as_os_errors(path):
            status: Any = path.stat()
        return status.length if in_bucket(path) else status.st_size
    except FileNotFoundError:
        return None


def check_writable(folder: Path) -> None:
    """Raises InputError unless `folder` is one that can be written to, or can be made; leaves nothing there."""
    if isinstance(folder, epath.Path):
        probe = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            with as_os_errors(probe):
                probe.write_bytes(b"")
                probe.unlink()
        except OSError as error:
            raise InputError(
                f"{str(folder)!r} cannot be written to: {error.strerror}; choose another, or ask for the role of a storage "
                "object user"
            ) from error
        return
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{str(folder)!r} cannot be written to: {str(there)!r} is no folder, or not yours; choose another")


def check_new(folder: Path) -> None:
    """Raises InputError unless nothing is at `folder`, or an empty one, and it can be written to."""
    check_writable(folder)
    if exists(folder) and any(folder.iterdir()):
        raise InputError(f"{str(folder)!r} is not an empty folder; choose another, nothing is overwritten")


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Calls `write` with a binary file elsewhere, then makes it `path`, as a whole; parent folders are made."""
    with new_file(path) as temporary, open(temporary, "wb") as file:
        write(file)


@contextmanager
def new_file(path: Path) -> Iterator[pathlib.Path]:
    """Where to write a file, on this machine; at the end of the block it becomes `path`, unless the block failed."""
    if isinstance(path, epath.Path):
        with tempfile.TemporaryDirectory() as scratch:
            temporary = pathlib.Path(scratch, path.name)
            yield temporary
            upload(temporary, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # others may write to the same folder
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[pathlib.Path]:
    """Where to write a folder, on this machine; at the end of the block it becomes `folder`, unless the block failed.

    Raises InputError as `check_new`.
    """
    check_new(folder)
    beside = folder.resolve() if isinstance(folder, pathlib.Path) else pathlib.Path(tempfile.gettempdir(), folder.name)
    temporary = beside.with_name(f".{folder.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        move_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def upload(file: pathlib.Path, path: Path) -> None:
    """Copies a file of this machine to a bucket, where it is whole or absent. Raises OSError if it cannot be."""
    with as_os_errors(path):
        buckets().put_file(str(file), str(path))


def move_folder(folder: Path, to: Path) -> None:
    """Gives a folder another name, which none has, or brings it to a bucket; its parent is made."""
    if isinstance(to, epath.Path):
        move = buckets().mv if in_bucket(folder) else buckets().put
        with as_os_errors(to):
            move(f"{folder}/", f"{to}/", recursive=True)
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    os.replace(folder, to)
