"""Leases: a file that says who writes into a folder, renewed as long as he does.

Needs nothing but what a bucket has as well: to create a file unless it exists, to read it with the time of its last change,
to replace and to delete it. Whoever holds a lease is taken for dead if he does not renew it for EXPIRES seconds, or if he
is a process of this machine that runs no more.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ssd_jax.errors import InputError
from ssd_jax.files.json_file import parse_json
from ssd_jax.files.paths import write_atomically

RENEWED = 10.0  # seconds from one renewal to the next
EXPIRES = 60.0  # seconds without renewal after which a lease is nobody's

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: a process of a machine, and what tells it from all others."""

    machine: str
    process: int
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.machine.partition(' ')[0]}"

    @property
    def is_gone(self) -> bool:
        """Whether this is a process of this machine that runs no more."""
        if self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return self.process == os.getpid() and self.token not in _held


@dataclass
class Lease:
    """A lease that is held."""

    path: Path
    holder: Holder

    def check(self) -> None:
        """Raises InputError if somebody else has taken it over, as he may if this process stood still for too long."""
        found = _read(self.path)
        if found is None or found.token != self.holder.token:
            raise InputError(f"{self.path} was taken over by {found or 'nobody'}: nothing more is written here")


_held: set[str] = set()  # tokens of the leases that this process holds


@contextmanager
def lease(path: Path) -> Iterator[Lease]:
    """Holds the lease `path` within the block; parent folders are made.

    A lease of another machine that may be dead is waited for, until it expires or is renewed.

    Raises:
        InputError: if somebody holds it.
    """
    mine = Lease(path, Holder(_machine(), os.getpid(), uuid.uuid4().hex))
    _take(mine)
    _held.add(mine.holder.token)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(mine, ended), daemon=True)
    renewing.start()
    try:
        yield mine
    finally:
        ended.set()
        renewing.join()
        _held.discard(mine.holder.token)
        found = _read(path)
        if found is not None and found.token == mine.holder.token:
            path.unlink(missing_ok=True)


def _take(mine: Lease) -> None:
    """Waits for the lease if it must. Raises InputError if somebody holds it."""
    path, said = mine.path, False
    path.parent.mkdir(parents=True, exist_ok=True)
    first_age = None
    while True:
        try:
            with open(path, "x") as file:
                file.write(json.dumps(asdict(mine.holder)))
            return
        except FileExistsError:
            pass
        other, age = _read(path), _age(path)
        if age is None:
            continue  # deleted in the meantime
        if age > EXPIRES or (other is not None and other.is_gone):
            write_atomically(path, lambda file: file.write(json.dumps(asdict(mine.holder)).encode()))
            time.sleep(0.2)  # of several that take it over at once, the last one has it
            mine.check()
            return
        renewed = first_age is not None and age < first_age
        if renewed or (other is not None and other.machine == _machine()):
            raise InputError(
                f"{str(path.parent)!r} is in use by {other or 'another run'}; wait for it, stop it, or take another folder"
            )
        if not said:
            logger.info("waiting at most %.0f s for the lease of %s on %s to expire", EXPIRES - age, other, path.parent)
            said = True
        first_age = age if first_age is None else max(first_age, age)
        time.sleep(1)


def _renew(mine: Lease, ended: threading.Event) -> None:
    while not ended.wait(RENEWED):
        found = _read(mine.path)
        if found is None or found.token != mine.holder.token:
            return  # `check` will say so
        try:
            os.utime(mine.path)
        except OSError as error:
            logger.warning("the lease %s cannot be renewed: %s", mine.path, error)


def _read(path: Path) -> Holder | None:
    """Who holds the lease; None if it is not there, or not written yet."""
    try:
        return Holder(**parse_json(path.read_text()))
    except (OSError, UnicodeDecodeError, InputError, TypeError):
        return None


def _age(path: Path) -> float | None:
    """Seconds since the last change, by the clock of the file system alone; None if it is not there."""
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return None
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """The host, and the space that process numbers are of: containers share the one and not the other."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {space}".strip()
