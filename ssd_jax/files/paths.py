"""Where cached files lie, and writing files so that none is ever left half-written under its final name."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ssd_jax.errors import InputError


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/ssd_jax, by default ~/.cache/ssd_jax; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ssd_jax"


def check_writable(folder: Path) -> None:
    """Raises InputError unless `folder` is one that can be written to, or can be made; makes nothing."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{str(folder)!r} cannot be written to: {str(there)!r} is no folder, or not yours; choose another")


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Calls `write` with a binary file beside `path`, then renames it to `path`; parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
