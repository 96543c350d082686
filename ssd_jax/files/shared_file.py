"""Files that several processes write to, here or in a bucket: made unless they are there, replaced, of a known age.

In a bucket every change asks for the generation that was read, so that of two who make one at once only one succeeds.
"""

import os
import pathlib
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from etils import epath

from ssd_jax.errors import InputError
from ssd_jax.files.paths import NEEDED, Path, as_os_errors, write_atomically

SETTLED = 0.2  # seconds after which whoever replaced a local file at the same time has done so


@dataclass(frozen=True)
class Found:
    """What a file holds, and which generation of it that is: None on this machine, where files have none."""

    text: str
    generation: int | None = None


@runtime_checkable
class SharedFile(Protocol):
    """A file that several processes write to. All raise OSError if it cannot be reached."""

    def create(self, text: str) -> bool:
        """Writes it unless it is there; whether it was not."""
        ...

    def read(self) -> Found | None:
        """What it holds; None if it is not there."""
        ...

    def age(self) -> float | None:
        """Seconds since its last change, by the clock of where it lies alone; None if it is not there."""
        ...

    def replace(self, text: str, found: Found | None) -> bool:
        """Writes it in place of what was found; whether this is what it was, where that can be known."""
        ...

    def touch(self, found: Found) -> None:
        """Makes it new, what it holds being what was found."""
        ...

    def delete(self, found: Found) -> None:
        """Removes it, what it holds being what was found, if it is there."""
        ...


def shared_file(path: Path) -> SharedFile:
    """The file at a path, whose folder is made. Raises InputError if the package that buckets need is missing."""
    if isinstance(path, epath.Path):
        return BucketObject(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return LocalFile(path)


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine, or of a disk that it shares with others."""

    path: pathlib.Path

    def create(self, text: str) -> bool:
        try:
            with open(self.path, "x") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True

    def read(self) -> Found | None:
        try:
            return Found(self.path.read_text(errors="replace"))
        except FileNotFoundError:
            return None

    def age(self) -> float | None:
        probe = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.tmp")
        try:
            probe.touch()
            return probe.stat().st_mtime - self.path.stat().st_mtime
        except FileNotFoundError:
            return None
        finally:
            probe.unlink(missing_ok=True)

    def replace(self, text: str, found: Found | None) -> bool:
        write_atomically(self.path, lambda file: file.write(text.encode()))
        time.sleep(SETTLED)
        return True

    def touch(self, found: Found) -> None:
        os.utime(self.path)

    def delete(self, found: Found) -> None:
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class BucketObject:
    """An object of a bucket of Google Cloud Storage."""

    path: epath.Path

    @cached_property
    def _bucket(self) -> Any:
        try:
            from google.cloud import storage
        except ImportError as error:
            raise InputError(NEEDED) from error
        return storage.Client(project=None).bucket(self.path.parts[2])

    def _blob(self, path: epath.Path) -> Any:
        return self._bucket.blob("/".join(path.parts[3:]))

    def _written(self, text: str, generation: int) -> bool:
        """Whether this generation, 0 for none, was what there was, so that `text` is there now."""
        from google.api_core.exceptions import PreconditionFailed

        try:
            with as_os_errors(self.path):
                self._blob(self.path).upload_from_string(text, if_generation_match=generation)
        except OSError as error:
            if isinstance(error.__cause__, PreconditionFailed):
                return False
            raise
        return True

    def create(self, text: str) -> bool:
        return self._written(text, 0)

    def read(self) -> Found | None:
        from google.api_core.exceptions import NotFound

        try:
            with as_os_errors(self.path):
                blob = self._blob(self.path)
                data = blob.download_as_bytes()
        except OSError as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        return Found(data.decode(errors="replace"), int(blob.generation))

    def age(self) -> float | None:
        with as_os_errors(self.path):
            probe = self._blob(self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.tmp"))
            probe.upload_from_string("")
            try:
                there = self._bucket.get_blob("/".join(self.path.parts[3:]))
                return None if there is None else (probe.updated - there.updated).total_seconds()
            finally:
                probe.delete()

    def replace(self, text: str, found: Found | None) -> bool:
        return self._written(text, found.generation or 0 if found else 0)

    def touch(self, found: Found) -> None:
        self._written(found.text, found.generation or 0)

    def delete(self, found: Found) -> None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        try:
            with as_os_errors(self.path):
                self._blob(self.path).delete(if_generation_match=found.generation)
        except OSError as error:
            if not isinstance(error.__cause__, (NotFound, PreconditionFailed)):
                raise
