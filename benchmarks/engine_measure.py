"""What a command costs: CPU seconds of all processes it starts, and wall seconds.

CPU seconds are user and system time as the kernel hands them to whoever waits for a process. A process that outlives
its parent would escape, so this one makes itself the reaper of all orphans below it (Linux: PR_SET_CHILD_SUBREAPER);
elsewhere orphans are not counted, and `complete_tree` is False.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Cost", "complete_tree", "measure"]

PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 20.0  # for what the command leaves behind


@dataclass(frozen=True)
class Cost:
    """What one run of a command came to.

    Attributes:
        start: when it was started, on the system's monotonic clock.
        cpu: seconds of user and system time of the command and all that it started.
        wall: seconds until the command itself ended.
        code: its exit status, negative for a signal.
        log: what it printed, standard output and error together.
        left: processes that had not ended `GRACE_SECONDS` later and were killed.
    """

    start: float
    cpu: float
    wall: float
    code: int
    log: str
    left: int


@cache
def complete_tree() -> bool:
    """Whether orphans of a command come to this process, so that their time is counted."""
    if not sys.platform.startswith("linux"):
        return False
    return ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0


def measure(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    timeout: float = 3600.0,
) -> Cost:
    """Run `command` in a session of its own and count. No other child of this process may be running meanwhile.

    Args:
        log: file that takes what the command prints.

    Raises:
        TimeoutError: it ran for longer than `timeout` seconds; its process group was killed.
    """
    complete_tree()
    before, start, late = _children_cpu(), time.monotonic(), False
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            list(command), env=dict(environment), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            late = True
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    wall = time.monotonic() - start
    left = _reap()
    text = log.read_text(encoding="utf-8", errors="replace")
    if late:
        raise TimeoutError(f"{' '.join(command)}: not done after {timeout:g} s; it printed at the end:\n{text[-2000:]}")
    return Cost(start, _children_cpu() - before, wall, process.returncode, text, left)


def _reap() -> int:
    """Wait for orphans; kill those that stay, and return how many did."""
    end, killed = time.monotonic() + GRACE_SECONDS, 0
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return killed
        if pid:
            continue
        if time.monotonic() > end:
            for orphan in _own_children():
                os.kill(orphan, signal.SIGKILL)
                killed += 1
            end += GRACE_SECONDS
        time.sleep(0.02)


def _own_children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
