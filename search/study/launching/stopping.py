"""Ends that come from outside: a request to stop, once softly and twice for now; the time limit of a trial."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from search.channel import EXIT_HUNG

log = logging.getLogger("xvol")
LOOK_SECONDS = 1.0  # a look at the stop file may cross a network


class Interrupts:
    """Catches SIGINT (Ctrl-C) and SIGTERM for the length of a `with` block of the main thread.

    The first of them only sets `requested`: running trials save their state and stop. The second raises, as it would
    have without us.

    Args:
        stop_file: stands for a request that reaches workers which get no signals: those of joblib, Slurm, Ray, and on
            other machines.
        owner: whether this process speaks for all workers of its command: it creates and removes the stop file and
            tells the user.
    """

    def __init__(self, stop_file: Path, owner: bool = False) -> None:
        self._file, self._owner = stop_file, owner
        self._asked = False
        self._looked = 0.0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the running trials shall save their state and stop."""
        if not self._asked and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            with contextlib.suppress(OSError):
                self._asked = self._file.exists()
        return self._asked

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if self._owner:
            with contextlib.suppress(OSError):
                self._file.unlink(missing_ok=True)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        if self._asked and self._was_signalled:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self._asked = self._was_signalled = True
        outer = getattr(self._before.get(signal.Signals(number)), "__self__", None)
        if isinstance(outer, Interrupts):  # the basic launcher runs its worker inside the command
            outer._caught(number, frame)
        if self._owner:
            with contextlib.suppress(OSError):
                self._file.touch()
            log.warning("stopping: running trials save their state first; once more (Ctrl-C) stops them now")

    _was_signalled = False  # a stop file alone is no first signal: the next Ctrl-C still asks softly


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

    def __exit__(self, *_: object) -> None:
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
