"""Leases: a file that says who writes into a folder, renewed as long as he does.

Whoever holds a lease is taken for dead if he does not renew it for EXPIRES seconds, or if he is a process of this machine
that runs no more.
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

from ssd_jax.errors import InputError
from ssd_jax.files.json_file import parse_json
from ssd_jax.files.paths import Path
from ssd_jax.files.shared_file import Found, SharedFile, shared_file

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
    file: SharedFile
    holder: Holder

    def check(self) -> None:
        """Raises InputError if somebody else has taken it over, as he may if this process stood still for too long."""
        try:
            found = _holder(self.file.read())
        except OSError as error:
            logger.warning("the lease %s cannot be read: %s", self.path, error)
            return
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
    mine = Lease(path, shared_file(path), Holder(_machine(), os.getpid(), uuid.uuid4().hex))
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
        try:
            found = mine.file.read()
            holder = _holder(found)
            if found is not None and holder is not None and holder.token == mine.holder.token:
                mine.file.delete(found)
        except OSError as error:
            logger.warning("the lease %s stays until it expires: %s", path, error)


def _take(mine: Lease) -> None:
    """Waits for the lease if it must. Raises InputError if somebody holds it."""
    path, file, text, said = mine.path, mine.file, json.dumps(asdict(mine.holder)), False
    first_age = None
    while not file.create(text):
        found = file.read()
        other, age = _holder(found), file.age()
        if age is None:
            continue  # deleted in the meantime
        if age > EXPIRES or (other is not None and other.is_gone):
            file.replace(text, found)
            mine.check()  # of several that take it over at once, one has it
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
        try:
            found = mine.file.read()
            holder = _holder(found)
            if found is None or holder is None or holder.token != mine.holder.token:
                return  # `check` will say so
            mine.file.touch(found)
        except OSError as error:
            logger.warning("the lease %s cannot be renewed: %s", mine.path, error)


def _holder(found: Found | None) -> Holder | None:
    """Who holds the lease; None if it is not there, or not written yet."""
    try:
        return None if found is None else Holder(**parse_json(found.text))
    except (InputError, TypeError):
        return None


def _machine() -> str:
    """The host, and the space that process numbers are of: containers share the one and not the other."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{socket.gethostname()} {space}".strip()
