"""One job of the `local` launcher in a process of its own: the launcher's side of it, and below that the job's.

The process is a fresh interpreter, or forked from one that has done nothing but import (`forkserver`): so its environment was
set before torch was imported, and it shares no CUDA state. It reads the job from the launcher and never from a file; the same
pipe tells it that the launcher has died.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from omegaconf import open_dict

from search.study.launching.forkserver import ForkedProcess, ForkServer, interpreter
from search.study.launching.slots import Slot

READY, PROGRESS, DONE = b"R", b"P", b"D"  # one letter, then 8 bytes with the length of what follows
HEAD = 9
CHUNK, READS = 1 << 16, 17  # a pipe holds 1 MiB at most, where nobody raised the limit
TAIL_LINES = 20
KILL_SECONDS = 10.0  # until the kernel has taken a killed process away
PARTIAL_SECONDS = 0.5  # a line without its end is shown after so long
WATCH_SECONDS = 1.0
_START = (
    "import json, sys; inbox = open(int(sys.argv[1]), 'rb'); head = json.loads(inbox.readline()); "
    "sys.path[:] = head['path']; from search.study.launching.job import main; main(inbox, head, *map(int, sys.argv[2:]))"
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


class JobProcess:
    """One job in a process and a session of its own, so that a Ctrl-C at the terminal does not reach it.

    Args:
        job: what the caller knows the job by.
        payload: the pickled job.
        env: the whole environment of the process.
        grace: seconds that it may take to stop when the launcher is dead.
        server: forks it; without one, or where that has died, it is a fresh interpreter.
    """

    def __init__(
        self,
        job: int,
        slot: Slot,
        payload: bytes,
        env: Mapping[str, str],
        grace: float,
        server: ForkServer | None = None,
    ) -> None:
        self.job, self.slot = job, slot
        self.ready, self.progress = False, 0
        self.result: bytes | None = None
        self.result_at = 0.0
        self._lines, self._heard = _Lines(), bytearray()
        head = {"path": sys.path, "argv": sys.argv, "parent": os.getpid(), "grace": grace, "size": len(payload)}
        head |= {"env": dict(env), "run": f"{__name__}:main"}
        self._unsent = memoryview(json.dumps(head).encode() + b"\n" + payload)
        self._process, (self._inbox, self._outbox, self._stderr) = _started(env, server)

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have `selector` call back where there is something to read or to write."""
        selector.register(self._inbox, selectors.EVENT_WRITE, self.feed)
        selector.register(self._outbox, selectors.EVENT_READ, self.hear)
        selector.register(self._stderr, selectors.EVENT_READ, self.hear_stderr)

    def feed(self) -> bool:
        """Send more of the job; False when there is no more."""
        try:
            self._unsent = self._unsent[os.write(self._inbox, self._unsent[:CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:  # it died; `poll` will tell
            return False
        return bool(self._unsent)

    def hear(self) -> bool:
        """Take what the process says; False at its end."""
        data, is_open = _read(self._outbox)
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
        data, is_open = _read(self._stderr)
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
        for handle in (self._inbox, self._outbox, self._stderr):
            with contextlib.suppress(KeyError):
                selector.unregister(handle)
            os.close(handle)
        return list(self._lines.tail)


def _started(
    env: Mapping[str, str], server: ForkServer | None
) -> tuple[subprocess.Popen[bytes] | ForkedProcess, tuple[int, int, int]]:
    """The process, and our ends of the pipes to its job, from its job and from its stderr."""
    inbox_end, inbox = os.pipe()
    outbox, outbox_end = os.pipe()
    stderr, stderr_end = os.pipe()
    try:
        real_stderr = os.dup(2)
    except OSError:
        real_stderr = os.open(os.devnull, os.O_WRONLY)
    theirs = (inbox_end, outbox_end, stderr, real_stderr)
    process: subprocess.Popen[bytes] | ForkedProcess | None = None
    try:
        if server is not None:
            process = server.start((*theirs, stderr_end))
        if process is None:
            process = subprocess.Popen(
                [*interpreter(_START), *map(str, theirs)],
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
    return process, (inbox, outbox, stderr)


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


_launcher: int | None = None  # of a job: where the launcher listens; None in a process of another launcher


class _Stopped(SystemExit):
    """SIGTERM asks the job to save what it has and to stop."""


def progress() -> None:
    """Tell the `local` launcher that this worker gets on, so that its earlier deaths are forgotten; else do nothing."""
    if _launcher is not None:
        _send(_launcher, PROGRESS)


def main(inbox: BinaryIO, head: Mapping[str, Any], outbox: int, stderr_end: int, launchers_stderr: int) -> None:
    """Run the job that `inbox` holds, and that has `head["size"]` bytes; the pipe ends when the launcher dies.

    Args:
        outbox: file descriptor for READY, PROGRESS and DONE.
        stderr_end: the reading end of our own stderr, held so that writing never fails after the launcher's death.
        launchers_stderr: where the launcher's own stderr goes.
    """
    global _launcher
    for handle in (inbox.fileno(), outbox, stderr_end, launchers_stderr):
        os.set_inheritable(handle, False)
    sys.argv[:] = head["argv"]
    for stream in (sys.stdout, sys.stderr):
        # whole lines, each in one write; PYTHONUNBUFFERED would write a line and its end apart
        stream.reconfigure(line_buffering=True, write_through=False)  # type: ignore[union-attr]
    code = 0
    try:
        signal.signal(signal.SIGTERM, _on_sigterm)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` leaves it ignored
        payload = inbox.read(head["size"])
        _launcher = outbox
        watch = (inbox.fileno(), head["parent"], head["grace"], launchers_stderr)
        threading.Thread(target=_watch, args=watch, name="launcher-watch", daemon=True).start()
        _send(outbox, READY)
        _send(outbox, DONE, _packed(_outcome(payload)))
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except _Stopped:
        code = 128 + signal.SIGTERM
    sys.exit(code)


def failed(error: BaseException, overrides: Sequence[str]) -> JobReturn:
    """The return of a job that raised `error`, or never came to its end."""
    job = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    job.return_value = error
    return job


def _outcome(payload: bytes) -> JobReturn:
    overrides: list[str] = []
    try:
        number, overrides, shared = pickle.loads(payload)  # from the launcher's pipe
        return _run(number, overrides, shared)
    except _Stopped:
        raise
    except SystemExit as error:
        return failed(RuntimeError(f"the job ended itself with sys.exit({error.code!r})"), overrides)
    except Exception as error:  # it could not be unpacked or composed here, or a callback raised
        return failed(error, overrides)


def _run(number: int, overrides: Sequence[str], shared: bytes) -> JobReturn:
    """Set this process up as the launcher's is, and run the job as Hydra's own launchers do."""
    context, config, task, singletons = pickle.loads(shared)
    setup_globals()
    Singleton.set_state(singletons)
    sweep_config = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(sweep_config):
        sweep_config.hydra.job.id = f"{sweep_config.hydra.job.name}_{number}"
        sweep_config.hydra.job.num = number
    HydraConfig.instance().set_config(sweep_config)
    return run_job(
        hydra_context=context,
        task_function=task,
        config=sweep_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _packed(job: JobReturn) -> bytes:
    """The job's return as bytes; what cannot travel is told in words."""
    error = _error_of(job)
    if error is not None:
        error.add_note("In the job's process:\n" + "".join(traceback.format_exception(error)).rstrip())
    try:
        data: bytes = cloudpickle.dumps(job)
        if error is not None:
            pickle.loads(data)  # an exception with a signature of its own is packed well, and then cannot be unpacked
        return data
    except Exception as trouble:
        if error is not None:
            told = RuntimeError(f"{type(error).__name__}: {error}")
            told.__notes__ = list(error.__notes__)
        else:
            told = RuntimeError(
                f"the job came to its end, but its return value cannot be sent to the launcher ({trouble}): return "
                "numbers, text, or other plain values"
            )
        plain: bytes = cloudpickle.dumps(failed(told, job.overrides or []))
        return plain


def _error_of(job: JobReturn) -> BaseException | None:
    with contextlib.redirect_stderr(io.StringIO()):  # where Hydra announces it
        try:
            job.return_value  # noqa: B018
        except BaseException as error:
            return error
    return None


def _send(handle: int, kind: bytes, body: bytes = b"") -> None:
    data = memoryview(kind + len(body).to_bytes(HEAD - 1, "big") + body)
    with contextlib.suppress(BrokenPipeError):  # the launcher is dead: `_watch` sees it as well
        while data:
            data = data[os.write(handle, data) :]


def _on_sigterm(number: int, _: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the second one must not cut short what the first one saves
    raise _Stopped(128 + number)


def _watch(inbox: int, parent: int, grace: float, launchers_stderr: int) -> None:
    """Wait for the launcher's death; then ask the job to stop, and after `grace` seconds end all processes of the job."""
    poller = select.poll()
    poller.register(inbox, select.POLLIN)
    while os.getppid() == parent:  # a forked relative of the launcher may hold the pipe open
        if poller.poll(WATCH_SECONDS * 1000) and not os.read(inbox, 1):
            break
    os.dup2(launchers_stderr, 2)
    for stream in (1, 2):
        if _is_broken(stream):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)  # a print must not fail while the job saves
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(grace)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _is_broken(stream: int) -> bool:
    """Whether nobody can read what is written: a closed terminal, or a pipe without a reader."""
    poller = select.poll()
    poller.register(stream, 0)
    return any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for _, event in poller.poll(0))
