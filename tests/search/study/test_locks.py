"""Locks are exclusive, and free the moment their holder is dead."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from search.study.locks import FileLock, is_held

HOLD = """
import sys, time
from pathlib import Path
from search.study.locks import FileLock

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


def test_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    lock, inside, seen = FileLock(tmp_path / "x.lock"), [0], []

    def work() -> None:
        for _ in range(50):
            with lock:
                inside[0] += 1
                seen.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1] * 200
