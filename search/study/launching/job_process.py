"""The launcher's side of one job process: start it, feed it, listen to it, tell it to stop."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from search.study.launching.job_child import DONE, HEAD, PROGRESS, READY
from search.study.launching.slots import Slot

CHUNK, READS = 1 << 16, 17  # a pipe holds 1 MiB at most, where nobody raised the limit
TAIL_LINES = 20
KILL_SECONDS = 10.0  # until the kernel has taken a killed process away
PARTIAL_SECONDS = 0.5  # a line without its end is shown after so long
_START = (
    "import json, sys; inbox = open(int(sys.argv[1]), 'rb'); head = json.loads(inbox.readline()); "
    "sys.path[:] = head['path']; from search.study.launching.job_child import main; main(inbox, head, *map(int, sys.argv[2:]))"
)


class _Lines:
    """Passes a process's stderr on in whole lines, and remembers the last ones."""

    def __init__(self) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest, self._since = b"", 0.0

    def add(self, data: bytes) -> None:
        if not data:
            return
        end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if end:
            self._show(self._rest + data[:end])
            self._rest = b""
        self._rest += data[end:]
        self._since = time.monotonic()

    def flush(self, now: bool = False) -> None:
        if self._rest and (now or time.monotonic() - self._since > PARTIAL_SECONDS):
            self._show(self._rest)
            self._rest = b""

    def _show(self, data: bytes) -> None:
        text = data.decode(errors="replace")
        self.tail.extend(line for line in text.splitlines() if line.strip())
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):  # nobody reads ours any longer: no reason to stop the jobs
                sys.stderr.write(text)
                sys.stderr.flush()


@dataclass(frozen=True)
class _Pipes:
    """Our ends."""

    inbox: int
    outbox: int
    stderr: int


class JobProcess:
    """One job in a fresh interpreter, in a session of its own, so that a Ctrl-C at the terminal does not reach it.

    Args:
        job: what the caller knows the job by.
        slot: where it runs.
        payload: the pickled job.
        env: the whole environment of the process.
        grace: seconds that it may take to stop when the launcher is dead.
    """

    def __init__(self, job: int, slot: Slot, payload: bytes, env: Mapping[str, str], grace: float) -> None:
        self.job, self.slot = job, slot
        self.ready, self.progress = False, 0
        self.result: bytes | None = None
        self.result_at = 0.0
        self._lines, self._heard = _Lines(), bytearray()
        head = {"path": sys.path, "argv": sys.argv, "parent": os.getpid(), "grace": grace, "size": len(payload)}
        self._unsent = memoryview(json.dumps(head).encode() + b"\n" + payload)
        self._process, self._pipes = _started(env)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have `selector` call back where there is something to read or to write."""
        selector.register(self._pipes.inbox, selectors.EVENT_WRITE, self.feed)
        selector.register(self._pipes.outbox, selectors.EVENT_READ, self.hear)
        selector.register(self._pipes.stderr, selectors.EVENT_READ, self.hear_stderr)

    def feed(self) -> bool:
        """Send more of the job; False when there is no more."""
        try:
            self._unsent = self._unsent[os.write(self._pipes.inbox, self._unsent[:CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:  # it died; `poll` will tell
            return False
        return bool(self._unsent)

    def hear(self) -> bool:
        """Take what the process says; False at its end."""
        data, is_open = _read(self._pipes.outbox)
        self._heard += data
        while len(self._heard) >= HEAD and len(self._heard) >= (
            end := HEAD + int.from_bytes(self._heard[1:HEAD], "big")
        ):
            kind, body = bytes(self._heard[:1]), bytes(self._heard[HEAD:end])
            del self._heard[:end]
            self.ready |= kind == READY
            self.progress += kind == PROGRESS
            if kind == DONE:
                self.result, self.result_at = body, time.monotonic()
        return is_open

    def hear_stderr(self) -> bool:
        """Pass on what it writes to stderr; False at its end."""
        data, is_open = _read(self._pipes.stderr)
        self._lines.add(data)
        return is_open

    def flush(self) -> None:
        """Show a line whose end does not come."""
        self._lines.flush()

    def poll(self) -> int | None:
        """None while the process lives; then its exit code, or -N where signal N ended it."""
        code = self._process.poll()
        if code is not None and code > 128 and code - 128 in (signal.SIGINT, signal.SIGTERM):
            return 128 - code  # it stopped as it was told to, by whomever
        return code

    def stop(self, number: int) -> None:
        """Ask the job to save and stop; a process that has not begun has nothing to save, and is ended."""
        self._process.send_signal(number if self.ready else signal.SIGTERM)

    def kill(self) -> None:
        """End the process and all that it started, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self, selector: selectors.BaseSelector) -> list[str]:
        """After its death: take its last words, leave nothing of it behind, and return the last lines of its stderr."""
        if self.result is None:
            self.kill()  # loaders and other children of a process that died hold its GPU
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=KILL_SECONDS)
        self.hear()
        self.hear_stderr()
        self._lines.flush(now=True)
        for handle in vars(self._pipes).values():
            with contextlib.suppress(KeyError):
                selector.unregister(handle)
            os.close(handle)
        return list(self._lines.tail)


def _started(env: Mapping[str, str]) -> tuple[subprocess.Popen[bytes], _Pipes]:
    inbox_end, inbox = os.pipe()
    outbox, outbox_end = os.pipe()
    stderr, stderr_end = os.pipe()
    try:
        real_stderr = os.dup(2)
    except OSError:
        real_stderr = os.open(os.devnull, os.O_WRONLY)
    theirs = (inbox_end, outbox_end, stderr, real_stderr)
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # -W, -X, -O as ours
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", *flags, "-c", _START, *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            stderr=stderr_end,
            env=dict(env),
            pass_fds=theirs,
            start_new_session=True,
        )
    except BaseException:
        for handle in (inbox, outbox, stderr):
            os.close(handle)
        raise
    finally:
        for handle in (inbox_end, outbox_end, stderr_end, real_stderr):
            os.close(handle)
    for handle in (inbox, outbox, stderr):
        os.set_blocking(handle, False)
    return process, _Pipes(inbox, outbox, stderr)


def _read(handle: int) -> tuple[bytes, bool]:
    """What can be read without waiting, at most as much as a pipe holds and a little more; and whether more may come."""
    parts: list[bytes] = []
    for _ in range(READS):
        try:
            part = os.read(handle, CHUNK)
        except BlockingIOError:
            break
        if not part:
            return b"".join(parts), False
        parts.append(part)
    return b"".join(parts), True
