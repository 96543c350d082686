"""TensorBoard events: curves and pictures of a run."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]  # made when it is imported


@dataclass(frozen=True, eq=False)
class Events:
    """Writes events, each of them at once and in the caller's thread.

    tensorboardX's own SummaryWriter has a thread for it: where the disk is full, that dies and all others wait for ever.

    Attributes:
        file: to append to; None writes nothing.
    """

    file: EventsWriter | None

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves by name. Raises OSError if they cannot be written."""
        self._write([summary.scalar(name, value) for name, value in values.items()], step)

    def picture(self, name: str, picture: UInt8[np.ndarray, "h w c"], step: int) -> None:
        """A picture. Raises OSError if it cannot be written."""
        self._write([summary.image(name, picture, dataformats="HWC")], step)

    def _write(self, summaries: list, step: int) -> None:
        if self.file is not None:
            for each in summaries:
                self.file.write_event(Event(summary=each, step=step, wall_time=time.time()))
            self.file.flush()


@contextmanager
def open_events(folder: Path, *, write: bool) -> Iterator[Events]:
    """A new file of events in a folder, or none; closed at the end. Raises OSError if it cannot be written."""
    if not write:
        yield Events(None)
        return
    file = EventsWriter(str(folder / "events"))
    try:
        yield Events(file)
    finally:
        file.close()
