"""An exclusive slot for measuring times: whoever trains beside, in whatever study, stands still between two steps.

Two advisory locks for each machine (for an accelerator: for each device) lie in a folder of the user's. Who trains holds
`work` shared. Who measures takes `gate` alone, then `work` alone. Who trains looks at the gate between steps, gives `work` up
where it is taken, and comes back through the gate. Locks end with their holder, however that dies. All waits end: who
measures goes on without the slot and knows it, who trains goes on beside a measurement that takes too long.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

log = logging.getLogger("xvol")

WAIT_SECONDS = 30.0  # who measures waits at most so long for the others; a step longer than that cannot be waited for
MOST_SECONDS = 120.0  # a measurement in a slot takes at most so long: then the others go on
POLL_MEASURING, POLL_WORKING = 0.001, 0.01  # seconds; those who stand still must not disturb
PAUSE_SECONDS = 0.03  # between two measurements, so that those who stood still see the gate open: three looks of theirs


def _nothing() -> None:
    pass


@dataclass
class Lease:
    """What became of a wish to measure alone: whether nobody else of this user's workers was at work when the measurement began, and the
    monotonic time up to which that holds.
    """

    granted: bool
    until: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether all others have stood still up to now."""
        return self.granted and time.monotonic() < self.until


class Turnstile:
    """The two locks of one machine or accelerator, for one thread of this process.

    `name` is the same in all processes that share it; `folder` is where the locks lie, by default `xvol-slots-<user>` in the temporary
    folder. OSError where they cannot be had: it is not writable, somebody else's, or on a disk without locks.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        folder = _own_folder() if folder is None else folder
        self._gate, self._work = (
            os.open(folder / f"{name}.{part}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            for part in ("gate", "work")
        )
        self._settle = _nothing
        self._at_work = self._holds = False
        self.waited = 0.0  # seconds that this process has stood still for others
        if _take(self._gate, fcntl.LOCK_SH):  # where the disk has no locks it is told here, not in a training
            _give_back(self._gate)

    def work(self, settle: Callable[[], None] = _nothing) -> None:
        """Begin to work; waits for a measurement that is under way.

        `settle` waits until the accelerator has done what was asked of it; it is called before `work` is given up.
        """
        self._settle, self._at_work = settle, True
        self._enter()

    def rest(self) -> None:
        """Stop working, with nothing left to do on the accelerator; do nothing where one does not work."""
        if self._holds:
            _give_back(self._work)
        self._at_work = self._holds = False

    def give_way(self) -> None:
        """Stand still while somebody measures. To be called between two steps: it costs two system calls."""
        if not self._at_work:
            return
        if _take(self._gate, fcntl.LOCK_SH):
            if not self._holds:
                self._holds = _take(self._work, fcntl.LOCK_SH)
            _give_back(self._gate)
        elif self._holds:  # else it has waited for this measurement, and gone on
            self._settle()
            _give_back(self._work)
            self._enter()

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """A block in which this process does not work, whatever it does before and after."""
        was_at_work, settle = self._at_work, self._settle
        self.rest()
        try:
            yield
        finally:
            if was_at_work:
                self.work(settle)

    @contextlib.contextmanager
    def alone(self) -> Iterator[Lease]:
        """A block in which the others stand still, or, after `WAIT_SECONDS`, a lease that says they do not."""
        with self.resting():
            deadline = time.monotonic() + WAIT_SECONDS
            granted = self._wait(self._gate, fcntl.LOCK_EX, deadline, POLL_MEASURING, self._paused)
            if granted and not self._wait(self._work, fcntl.LOCK_EX, deadline, POLL_MEASURING):
                granted = False
                _give_back(self._gate)
            try:
                yield Lease(granted, time.monotonic() + MOST_SECONDS)
            finally:
                if granted:
                    os.utime(self._gate)
                    _give_back(self._work)
                    _give_back(self._gate)

    def close(self) -> None:
        """Give everything back; the object is of no more use."""
        for handle in (self._work, self._gate):
            os.close(handle)

    def _enter(self) -> None:
        start = time.monotonic()
        if self._wait(self._gate, fcntl.LOCK_SH, start + MOST_SECONDS, POLL_WORKING):
            self._holds = _take(self._work, fcntl.LOCK_SH)  # nobody has it alone without the gate
            _give_back(self._gate)
        else:
            self._holds = False
            log.warning("a measurement of latency has kept this machine for %.0f s: the training goes on", MOST_SECONDS)
        self.waited += time.monotonic() - start

    def _paused(self) -> bool:
        """Whether the last measurement, whoever made it, is over for long enough; a clock that was put back has no say."""
        return not 0 <= time.time() - os.fstat(self._gate).st_mtime < PAUSE_SECONDS

    @staticmethod
    def _wait(handle: int, how: int, deadline: float, poll: float, may: Callable[[], bool] = lambda: True) -> bool:
        while not (may() and _take(handle, how)):
            if time.monotonic() >= deadline:
                return False
            time.sleep(poll)
        return True


_at_work: Turnstile | None = None


def turnstile(name: str) -> Turnstile | None:
    """This process's turnstile of that name; None where there can be none, which is logged once."""
    return _turnstile(name, os.getpid())  # a forked child must not give its parent's locks back


@cache
def _turnstile(name: str, _: int) -> Turnstile | None:
    try:
        return Turnstile(name)
    except OSError as error:
        log.warning("latencies will be marked: no exclusive slot can be had on this machine (%s)", error)
        return None


def at_work(name: str, settle: Callable[[], None] = _nothing) -> None:
    """Say that this process works on what `name` stands for, until `off_work`; see `Turnstile.work`."""
    global _at_work
    off_work()
    _at_work = turnstile(name)
    if _at_work is not None:
        _at_work.work(settle)


def off_work() -> None:
    """Say that this process works no longer, if it did."""
    global _at_work
    if _at_work is not None:
        _at_work.rest()
    _at_work = None


def give_way() -> None:
    """Stand still while somebody measures on what this process works on. To be called between steps, batches, images."""
    if _at_work is not None:
        _at_work.give_way()


def idle() -> contextlib.AbstractContextManager[None]:
    """A block in which this process only waits, for a file or a server, so that nobody needs to wait for it."""
    return contextlib.nullcontext() if _at_work is None else _at_work.resting()


def clock() -> float:
    """Monotonic seconds, less those that this process stood still while others measured."""
    return time.monotonic() - (0.0 if _at_work is None else _at_work.waited)


def _take(handle: int, how: int) -> bool:
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _give_back(handle: int) -> None:
    fcntl.flock(handle, fcntl.LOCK_UN)


def _own_folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"xvol-slots-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of this user's")
    return folder
