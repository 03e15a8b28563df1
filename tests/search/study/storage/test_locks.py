"""Locks are exclusive, and free the moment their holder is dead."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from search.study.storage.locks import FileLock, StudyLock, is_held, study_lock
from search.study.storage.opening import open_storage
from search.study.storage.patience import Patience

HOLD = """
import sys, time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from search.study.storage.locks import FileLock

with FileLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_gives_its_lock_back_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert not is_held(path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert is_held(path)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    start = time.monotonic()
    with FileLock(path):
        assert time.monotonic() - start < 5
    assert not is_held(path)


def check_that_threads_take_turns(lock: Callable[[], AbstractContextManager[object]], turns: int) -> None:
    inside, seen = [0], []

    def work() -> None:
        for _ in range(turns):
            with lock():
                inside[0] += 1
                seen.append(inside[0])
                time.sleep(0.0005)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 4 * turns


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "x.lock")
    check_that_threads_take_turns(lambda: lock, turns=50)


def test_two_study_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path)
    check_that_threads_take_turns(lambda: study_lock(storage, tmp_path, "s"), turns=20)


def test_those_who_ask_do_not_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.touch()
    with path.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not is_held(path)


def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(None, tmp_path)

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("search.study.storage.locks.fcntl.flock", no_locks)
    with pytest.raises(ValueError, match=r"has no file locks .*postgresql://"), study_lock(storage, tmp_path, "s"):
        pass
    monkeypatch.undo()
    with study_lock(storage, tmp_path, "s"):  # what failed holds nothing
        pass


class Server:
    """A lock on a server, which forgets it when the server goes away."""

    def __init__(self) -> None:
        self.patience, self.log = Patience("the server", 30), list[str]()

    def acquire(self) -> None:
        self.log.append("acquire")

    def ensure(self) -> None:
        self.log.append("ensure")

    def release(self) -> None:
        self.log.append("release")


def test_a_servers_lock_is_taken_again_after_an_outage_inside(tmp_path: Path) -> None:
    server, failures = Server(), [OSError(errno.EIO, "x")]

    def call() -> None:
        if failures:
            raise failures.pop()
        server.log.append("call")

    with StudyLock(tmp_path / "x.lock", server):
        server.patience.call(call)
    assert server.log == ["acquire", "ensure", "call", "release"]
    assert server.patience.before_retry == []


def test_a_disk_without_locks_will_do_where_a_server_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("search.study.storage.locks.fcntl.flock", no_locks)
    for _ in range(2):
        with StudyLock(tmp_path / "x.lock", server):
            pass
    assert server.log == ["acquire", "release"] * 2
