"""Once asks softly, twice insists."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.channel import EXIT_HUNG
from search.study.launching import stopping
from search.study.launching.stopping import Deadline, Interrupts, TimeUp


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks_and_the_second_raises(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupts(tmp_path / "stop") as asked:
        assert not asked.requested
        os.kill(os.getpid(), number)
        assert asked.requested
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before
    assert not (tmp_path / "stop").exists()


def test_the_owner_tells_workers_that_get_no_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)
    worker = Interrupts(tmp_path / "stop")
    with Interrupts(tmp_path / "stop", owner=True):
        assert not worker.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert worker.requested
    assert not (tmp_path / "stop").exists()


def test_a_stop_file_is_no_first_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "LOOK_SECONDS", 0.0)
    (tmp_path / "stop").touch()
    with Interrupts(tmp_path / "stop") as asked:
        assert asked.requested
        os.kill(os.getpid(), signal.SIGINT)  # raises nothing


HANGS = """
import sys, threading
from pathlib import Path
from search.study.launching.stopping import Deadline

def hung():
    Path(sys.argv[1]).write_text("written down")

with Deadline(0.2, hung, grace=0.3):
    while True:
        try:
            threading.Event().wait()
        except RuntimeError:
            pass  # as code does that nothing can stop
"""


def test_python_code_is_stopped_by_an_exception() -> None:
    start = time.monotonic()
    with pytest.raises(TimeUp, match=r"trial_minutes=0\.0016"), Deadline(0.1, lambda: None):
        time.sleep(30)
    assert time.monotonic() - start < 10


def test_a_process_that_cannot_be_stopped_is_ended_after_it_was_written_down(tmp_path: Path) -> None:
    note = tmp_path / "note"
    done = subprocess.run([sys.executable, "-c", HANGS, str(note)], timeout=60, check=False)
    assert done.returncode == EXIT_HUNG
    assert note.read_text() == "written down"


def test_nothing_happens_in_time_or_without_a_limit() -> None:
    with Deadline(5.0, lambda: pytest.fail("too soon"), grace=0.0):
        pass
    with Deadline(None, lambda: pytest.fail("no limit")):
        pass
