"""Time limits, in processes of their own where the process is to end."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.study.launching.deadline import EXIT_HUNG, Deadline, TimeUp

HANGS = """
import sys, threading
from pathlib import Path
from search.study.launching.deadline import Deadline

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
