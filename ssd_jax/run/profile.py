"""A trace of some steps of training, and the share of its time in which no compiled program ran."""

import logging
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax

from ssd_jax.files.paths import Path, move_folder

WARM_UP = 2  # steps before the trace begins

logger = logging.getLogger(__name__)


@dataclass
class Profiler:
    """Traces `steps` steps into a folder, once the first WARM_UP are over; none if 0.

    Attributes:
        folder: for `tensorboard --logdir`, with the plugin of the package xprof.
        steps: to trace.
    """

    folder: Path
    steps: int
    taken: int = field(default=0, init=False)
    started: float = field(default=0.0, init=False)
    written: pathlib.Path = field(default_factory=pathlib.Path, init=False)  # the folder, or its copy on this machine

    def after_step(self, result: Any) -> None:
        """To be called after every step with what it made; waits for it where the trace begins and ends."""
        self.taken += 1
        if self.steps and self.taken == WARM_UP:
            jax.block_until_ready(result)
            self.written = self.folder if isinstance(self.folder, pathlib.Path) else pathlib.Path(tempfile.mkdtemp())
            jax.profiler.start_trace(self.written)
            self.started = time.perf_counter()
        if self.steps and self.taken == WARM_UP + self.steps:
            jax.block_until_ready(result)
            self.end()

    def end(self) -> None:
        """Ends a trace that has begun, and says what it shows."""
        if not self.started:
            return
        seconds, self.started = time.perf_counter() - self.started, 0.0
        jax.profiler.stop_trace()
        traced = self.taken - WARM_UP
        latest = max(self.written.glob("**/*.xplane.pb"), key=lambda path: path.stat().st_mtime_ns, default=None)
        if latest is None or not traced:
            return
        share = 1 - busy_seconds(jax.profiler.ProfileData.from_file(str(latest))) / seconds
        if self.written != self.folder:
            move_folder(self.written, self.folder)
            shutil.rmtree(self.written)
        logger.info(
            "%d steps took %.3g s, %.1f %% of it outside compiled programs; trace in %s: tensorboard --logdir it",
            traced,
            seconds,
            100 * max(share, 0),
            self.folder,
        )


def busy_seconds(profile: Any) -> float:
    """How long at least one operation of a compiled program ran, seconds: on the first device that the trace shows.

    TPUs show them in a line "XLA Ops", GPUs in one for each stream; other lines hold whole steps, with the gaps between.
    CPUs show operations among the threads of the host, each with another event at its end, and XLA's executor, which starts
    them and waits for them: what passes between two operations of a program is its own.
    """
    for plane in profile.planes:
        lines = [line for line in plane.lines if line.name.startswith(("XLA Ops", "Stream"))]
        events = [event for line in lines for event in _events(line)]
        if plane.name.startswith("/device:") and events:
            return union((event.start_ns, event.duration_ns) for event in events) / 1e9
    events = [event for plane in profile.planes for line in plane.lines for event in _events(line)]
    ends = {event.name.removeprefix("end: ") for event in events if event.name.startswith("end: ")}
    programs = [each for each in events if each.name in ends or each.name.startswith("ThunkExecutor::Execute")]
    return union((event.start_ns, event.duration_ns) for event in programs) / 1e9


def _events(line: Any) -> list[Any]:
    return list(line.events)


def union(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals (start, length)."""

    def pieces() -> Iterator[float]:
        covered = float("-inf")
        for start, length in sorted(intervals):
            yield max(start + length - max(start, covered), 0)
            covered = max(covered, start + length)

    return sum(pieces())
