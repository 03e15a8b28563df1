"""A process that imports once what the jobs of a launch need, and forks each of them: its side, and the launcher's.

It does nothing but import, so that it has one thread and no accelerator, and what it forks may do as a fresh interpreter does:
choose its GPU, start threads, start processes. Where an import has spoilt that it says so, and jobs get interpreters of their
own. (The fork server of `multiprocessing` runs the user's script anew in each child, whether or not it is fit for that.)
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

log = logging.getLogger("xvol")
HAS_FORK = sys.platform == "linux"  # macOS's own libraries do not stand a fork without exec
ANSWER_SECONDS = 60.0  # for a fork, in a process that waits for nothing else
WATCH_SECONDS = 1.0
MOST_BYTES = 1 << 16  # of a message
_DEVICES = ("/dev/nvidia", "/dev/kfd")  # open in a process that has woken the driver of an accelerator
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from search.study.launching.forkserver import main; main()"


def interpreter(start: str) -> list[str]:
    """The command of a fresh interpreter that runs `start`, with -W, -X and -O as ours; arguments follow."""
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, "-P", *flags, "-c", start]


class ForkServer:
    """The launcher's side.

    Args:
        env: the environment of the process, and so what libraries read at their import (OMP_NUM_THREADS).
        modules: what it imports, in this order.
    """

    def __init__(self, env: Mapping[str, str], modules: Sequence[str]) -> None:
        self.made_of = _made_of(env, modules)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = (str(theirs.fileno()), json.dumps(sys.path), json.dumps(list(modules)))
            self._process = subprocess.Popen(
                [*interpreter(_START), *words],
                stdin=subprocess.DEVNULL,
                env=dict(env),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._answers: list[dict[str, Any]] = []
        self._codes: dict[int, int] = {}
        self.is_open, self.is_ready = True, False

    def ready(self) -> bool:
        """Whether it can fork, now; it never will where `is_open` is False."""
        self._hear(0)
        for answer in self._answers:
            self.is_ready = answer["refusal"] is None
            if not self.is_ready:
                log.info("each worker imports for itself: %s", answer["refusal"])
                self.close()
        self._answers.clear()
        return self.is_ready and self.is_open

    def wait_ready(self) -> bool:
        """`ready`, once that is known."""
        while not self.ready() and self.is_open:
            select.select([self._socket], [], [], WATCH_SECONDS)
        return self.is_open

    def start(self, files: Sequence[int]) -> ForkedProcess | None:
        """A child that runs what is behind `files`, see `_become_job`; None where the server has died."""
        with contextlib.suppress(OSError):
            socket.send_fds(self._socket, [b"fork"], list(files))
            deadline = time.monotonic() + ANSWER_SECONDS
            while self.is_open and not self._answers and time.monotonic() < deadline:
                self._hear(WATCH_SECONDS)
            if self._answers:
                return ForkedProcess(self, self._answers.pop()["started"])
        self.close()
        return None

    def code(self, pid: int) -> int | None:
        """How a child has ended, as `Popen.returncode` says it; the children of a server that died are ended."""
        self._hear(0)
        if not self.is_open and pid not in self._codes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            self._codes[pid] = -signal.SIGKILL
        return self._codes.get(pid)

    def _hear(self, seconds: float) -> None:
        while self.is_open and select.select([self._socket], [], [], seconds)[0]:
            seconds = 0
            try:
                data = self._socket.recv(MOST_BYTES)
            except OSError:
                data = b""
            if not data:
                log.warning("the process that forks the workers has died; they are started again")
                self.close()
                return
            message = json.loads(data)
            if "ended" in message:
                pid, code = message["ended"]
                self._codes[pid] = code
            else:
                self._answers.append(message)

    def close(self) -> None:
        """End it; its children are no more to be asked for."""
        self.is_open = False
        self._socket.close()
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


class ForkedProcess:
    """A child of the server, with those methods of `Popen` that a job's process needs."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self._server, self.pid = server, pid

    def poll(self) -> int | None:
        """Its exit code, or -N for signal N; None while it lives."""
        return self._server.code(self.pid)

    def wait(self, timeout: float) -> int:
        """Wait for its end; TimeoutExpired where it does not come."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked job", timeout)
            time.sleep(0.005)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _made_of(env: Mapping[str, str], modules: Sequence[str]) -> tuple[Any, ...]:
    here = None
    with contextlib.suppress(OSError):  # the folder is gone
        here = os.getcwd()
    return dict(env), tuple(modules), tuple(sys.path), here


_kept: list[ForkServer] = []  # the one of this process, for the next launch


def fork_server(env: Mapping[str, str], modules: Sequence[str]) -> ForkServer | None:
    """The server of this process that was made of just this, or a new one; None where jobs need nothing, or cannot be forked."""
    if not (HAS_FORK and modules):
        return None
    if _kept and (not _kept[0].is_open or _kept[0].made_of != _made_of(env, modules)):
        end_server()
    if not _kept:
        _kept.append(ForkServer(env, modules))
    return _kept[0]


@atexit.register
def end_server() -> None:
    """End this process's server, if it has one."""
    while _kept:
        _kept.pop().close()


def main() -> None:
    """Import, say that we are ready, and fork until the launcher is gone: the whole life of the server, and of each child."""
    line, modules, parent = socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[3]), os.getppid()
    line.set_inheritable(False)
    gc.disable()  # nothing of what is imported dies, and what children share is not to be written to
    refusal = _import(modules)
    gc.freeze()
    atexit.register(gc.unfreeze)  # of children too: libraries that count their objects at the end would tell of leaks
    files: list[int] = []
    with contextlib.suppress(ConnectionError):  # the launcher is gone
        line.send(json.dumps({"refusal": refusal}).encode())
        files = _serve(line, parent) if refusal is None else []
    if files:
        _become_job(files)


def _import(modules: Sequence[str]) -> str | None:
    """Import; return why this process must not fork, None where it may."""
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # told by the job that meets it itself
            return f"{name} cannot be imported ahead ({type(error).__name__}: {error})"
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        return f"importing {', '.join(modules)} has started a thread ({', '.join(others)})"
    held = _open_files()
    if devices := sorted({name for name in held if name.startswith(_DEVICES)}):
        return (
            f"importing {', '.join(modules)} has opened {', '.join(devices)}: a forked process could not use the device"
        )
    return None


def _open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    return found


def _serve(line: socket.socket, parent: int) -> list[int]:
    """Fork a child for each message, and tell how each ends; return the files in a child, none at the launcher's end."""
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)  # else nothing would be written to `wake`
    signal.set_wakeup_fd(wake)
    files: list[int] = []
    while os.getppid() == parent and not files:
        heard = select.select([line.fileno(), woken], [], [], WATCH_SECONDS)[0]
        if line.fileno() in heard:
            data, sent, _, _ = socket.recv_fds(line, 16, 8)
            if not data:
                break
            files = _fork(line, sent)
        if woken in heard and not files:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 1 << 10)
            _tell_ends(line)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, before)
    os.close(woken)
    os.close(wake)
    line.close()
    return files


def _fork(line: socket.socket, files: list[int]) -> list[int]:
    """`files` in the child, a session of its own by the time that it is told of; nothing in the server, which closes them."""
    begun, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(begun)
        os.close(begin)
        return files
    for handle in (*files, begin):
        os.close(handle)
    os.read(begun, 1)  # returns at the child's close
    os.close(begun)
    line.send(json.dumps({"started": pid}).encode())
    return []


def _tell_ends(line: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            line.send(json.dumps({"ended": [pid, os.waitstatus_to_exitcode(status)]}).encode())


_held: list[Any] = []  # of a child: the job's pipe is watched to the very end


def _become_job(files: Sequence[int]) -> None:
    """In a child: run what the first line of its first file says, with the others; the last one becomes its stderr."""
    parent = os.getppid()
    gc.enable()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # else all children would draw the same; Python's own generator sees to that itself
    inbox, stderr = files[0], files[-1]
    os.dup2(stderr, 2)
    os.close(stderr)
    job = os.fdopen(inbox, "rb")
    _held.append(job)
    head = json.loads(job.readline())
    sys.path[:] = head["path"]
    os.environ.clear()
    os.environ.update(head["env"])
    resolve_name(head["run"])(job, head | {"parent": parent}, *files[1:-1])
