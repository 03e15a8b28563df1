"""Being told to stop: once asks for it softly, twice insists."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
