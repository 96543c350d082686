"""What a run says of itself: TensorBoard events, curves and pictures, and its curves as lines of JSON."""

import contextlib
import logging
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made when it is imported

from ssd_jax.files.json_file import append_json
from ssd_jax.files.paths import Path, opened, upload

METRICS = "metrics.jsonl"
UPLOADED = 60.0  # seconds from one copy to a bucket to the next: objects cannot grow, and are written anew

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Events:
    """Writes events, each of them at once and in the caller's thread.

    tensorboardX's own SummaryWriter has a thread for it: where the disk is full, that dies and all others wait for ever.

    Attributes:
        file: of events, to append to; None writes nothing.
        lines: file of a line of JSON for every call of `scalars`: {"step": .., "time": seconds since 1970, "loss": .., ..}.
            Where training went on from an earlier step, steps come again; of a name the last line of a step holds.
        bucket: folder of a bucket that the files are copied to once in a while.
    """

    file: EventsWriter | None
    lines: pathlib.Path | None = None
    bucket: Path | None = None
    uploaded: float = field(default_factory=time.monotonic, init=False)
    sizes: dict[str, int] = field(default_factory=dict, init=False)  # of the files there

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves by name. Raises OSError if they cannot be written."""
        self._write([summary.scalar(name, value) for name, value in values.items()], step)
        if self.lines is not None:
            append_json(self.lines, {"step": step, "time": time.time(), **values})

    def picture(self, name: str, picture: UInt8[np.ndarray, "h w c"], step: int) -> None:
        """A picture. Raises OSError if it cannot be written."""
        self._write([summary.image(name, picture, dataformats="HWC")], step)

    def _write(self, summaries: list, step: int) -> None:
        if self.file is not None:
            for each in summaries:
                self.file.write_event(Event(summary=each, step=step, wall_time=time.time()))
            self.file.flush()

    @property
    def due(self) -> bool:
        """Whether it is time to `upload`."""
        return self.bucket is not None and time.monotonic() - self.uploaded > UPLOADED

    def upload(self) -> None:
        """Copies to the bucket, if there is one, the files that have grown; warns if that fails: the next time may do."""
        self.uploaded = time.monotonic()
        if self.bucket is None or self.lines is None:
            return
        for file in self.lines.parent.iterdir():
            size = file.stat().st_size
            try:
                if self.sizes.get(file.name) != size:
                    upload(file, self.bucket / file.name)
                    self.sizes[file.name] = size
            except OSError as error:
                logger.warning("%s is not up to date: %s", error.filename or self.bucket / file.name, error.strerror)


@contextmanager
def open_events(folder: Path, *, write: bool) -> Iterator[Events]:
    """A new file of events in a folder, and its metrics.jsonl, or none; closed at the end.

    Raises:
        OSError: if they cannot be written.
    """
    if not write:
        yield Events(None)
        return
    if isinstance(folder, pathlib.Path):
        with _written(folder) as events:
            yield events
        return
    with tempfile.TemporaryDirectory() as scratch:
        here = pathlib.Path(scratch)
        with contextlib.suppress(FileNotFoundError), opened(folder / METRICS) as before:
            (here / METRICS).write_bytes(before.read())
        with _written(here, folder) as events:
            yield events
            events.upload()  # not after an error: the folder may be another run's by now


@contextmanager
def _written(folder: pathlib.Path, bucket: Path | None = None) -> Iterator[Events]:
    """Events that are written to a folder of this machine, and copied to one of a bucket."""
    file = EventsWriter(str(folder / "events"))
    try:
        yield Events(file, folder / METRICS, bucket)
    finally:
        file.close()
