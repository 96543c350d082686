"""JSON in and out: what is written is JSON as the standard has it; what is read may be anybody's."""

import fcntl
import json
import math
import os
from typing import Any, NoReturn

from etils import epath

from ssd_jax.errors import InputError
from ssd_jax.files.paths import Path, opened, write_atomically
from ssd_jax.files.shared_file import BucketObject

LARGEST = 64 << 20  # bytes of a file that is read


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of dicts, lists, tuples, strings and numbers; numbers that are not finite, which JSON has not, become null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Writes `json_text` and a line break, whole or not at all; parent folders are made."""
    write_atomically(path, lambda file: file.write(f"{json_text(value, indent=2)}\n".encode()))


def append_json(path: Path, value: Any) -> None:
    """Adds a line of JSON to a file, whole or not at all, also where others add theirs."""
    line = json_text(value).encode() + b"\n"
    if isinstance(path, epath.Path):
        file = BucketObject(path)
        while True:
            found = file.read()
            before = found.text if found else ""
            before += "\n" * (before[-1:] not in ("", "\n"))
            if file.replace(before + line.decode(), found):
                return  # or others were faster
    with open(path, "ab+", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        cut_off = file.read(1) not in (b"", b"\n")  # by a version that did not take care
        try:
            written = file.write(b"\n" * cut_off + line)
        except OSError:
            written = 0
            raise
        finally:
            if written < cut_off + len(line):
                file.truncate(end)


def parse_json(text: str) -> Any:
    """What JSON text holds.

    Raises:
        InputError: saying in a few words why it is no JSON; nesting too deep to read and NaN or Infinity are none.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise InputError("it is nested too deep") from error
    except ValueError as error:
        raise InputError(f"it is no JSON ({error})") from error


def read_json(path: Path) -> Any:
    """What a file of JSON holds.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it cannot be read, is larger than LARGEST, or no JSON.
    """
    try:
        with opened(path) as file:
            encoded = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(encoded) > LARGEST:
        raise InputError(f"{path} cannot be read: it is larger than {LARGEST >> 20} MiB")
    try:
        return parse_json(encoded.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read: it is no text") from error
    except InputError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")
