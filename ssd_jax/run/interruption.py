"""Signals that end a run: noted, so that the step can be finished and saved first."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from signal import Signals, signal
from typing import NoReturn

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

SIGNALS = (Signals.SIGTERM, Signals.SIGINT, Signals.SIGHUP)


class _Interrupted(BaseException):  # no error, and nothing that turns errors into others may keep it
    """Raised by the handler where nothing is lost by stopping at once."""


@dataclass
class Interruption:
    """Which of SIGNALS has come, if any, and whether it stops what runs at once."""

    signal: Signals | None = None
    at_once: bool = False

    def agreed(self, *, now: bool) -> bool:
        """Whether any process of the job was interrupted; of several processes, all ask each other if it is `now`."""
        if jax.process_count() == 1:
            return self.signal is not None
        if not now:
            return False
        numbers = process_allgather(np.array(self.signal or 0, np.int32))
        self.signal = self.signal or next((Signals(number) for number in numbers.tolist() if number), None)
        return self.signal is not None

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Leaves the block, without an error, as soon as a signal comes; for what can be made again.

        Several processes compute together: there it is not left.
        """
        self.at_once = jax.process_count() == 1
        try:
            with suppress(_Interrupted):
                yield
        finally:
            self.at_once = False

    def end(self) -> NoReturn:
        """Ends as the signal asks: KeyboardInterrupt, or SystemExit with 128 plus its number."""
        assert self.signal is not None
        if self.signal == Signals.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)


@contextmanager
def noted_signals() -> Iterator[Interruption]:
    """Within the block the first of SIGNALS is noted only; another one does what it did before. Main thread only."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def note(number: int, _) -> None:
        interruption.signal = Signals(number)
        restore()
        if interruption.at_once:
            raise _Interrupted

    before = {each: signal(each, note) for each in SIGNALS}

    def restore() -> None:
        for each, handler in before.items():
            signal(each, handler)

    try:
        yield interruption
    finally:
        restore()
