"""The time limit of a trial: an exception where Python still runs, the end of the process where it does not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

__all__ = ["EXIT_HUNG", "Deadline", "TimeUp"]

EXIT_HUNG = 75  # EX_TEMPFAIL: the worker gave up on a trial that nothing could stop
LONGEST_GRACE = 60.0
RECORD_SECONDS = 30.0  # for writing down a hung trial, which may hang on the same thing


class TimeUp(RuntimeError):
    """The trial ran longer than it may."""


class Deadline:
    """Raises TimeUp in the main thread after `seconds`; ends the process `grace` seconds later if that did not help.

    A trial that waits inside a driver or a C library never sees a Python exception; nothing but the end of its process
    gives the accelerator back.

    Args:
        seconds: None for no limit.
        hung: called from another thread just before the process is ended; writes down what happened.
        grace: seconds; None for as long as the limit itself, a minute at most.
    """

    def __init__(self, seconds: float | None, hung: Callable[[], None], grace: float | None = None) -> None:
        self._seconds, self._hung = seconds, hung
        self._grace = min(LONGEST_GRACE, seconds or 0.0) if grace is None else grace
        self._watch: threading.Timer | None = None
        self._armed = False

    def __enter__(self) -> Deadline:
        if self._seconds is None:
            return self
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, self._seconds)
            self._armed = True
        self._watch = threading.Timer(self._seconds + (self._grace if self._armed else 0.0), self._end)
        self._watch.daemon = True
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._armed:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, self._before)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        raise TimeUp(f"time limit: the trial ran longer than hydra.sweeper.trial_minutes={self._seconds / 60:g} allows")  # type: ignore[operator]

    def _end(self) -> None:
        writer = threading.Thread(target=self._hung, daemon=True)
        writer.start()
        writer.join(RECORD_SECONDS)
        os._exit(EXIT_HUNG)
