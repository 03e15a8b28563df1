"""A process is started, heard and ended; lines of its stderr stay whole; what comes back is told in words where it cannot travel."""

import os
import pickle
import re
import selectors
import signal
import threading
import time

import pytest
from hydra.core.utils import JobReturn, JobStatus
from hypothesis import given, settings
from hypothesis import strategies as st

from search.study.launching.job import TAIL_LINES, JobProcess, _Lines, _packed, failed, progress
from search.study.launching.slots import Slot

TEXT = st.lists(st.text("abä\n\r", max_size=8), max_size=30)


@settings(deadline=None)
@given(parts=TEXT)
def test_stderr_is_shown_unchanged_and_never_cut_inside_a_line(parts: list[str]) -> None:
    shown: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.stderr", type("Stream", (), {"write": lambda _, t: shown.append(t), "flush": lambda _: None})()
        )
        lines = _Lines()
        for part in parts:
            lines.add(part.encode())
        assert all(text[-1] in "\n\r" for text in shown)
        lines.flush(now=True)
    assert "".join(shown) == "".join(parts)
    expected = [line for line in re.split("[\n\r]", "".join(parts)) if line]
    assert list(lines.tail) == expected[-TAIL_LINES:]


def test_a_line_without_an_end_is_shown_after_a_while(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = _Lines()
    lines.add(b"50 %")
    lines.flush()
    assert capsys.readouterr().err == ""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1)
    lines.flush()
    assert capsys.readouterr().err == "50 %"


def test_a_broken_job_is_an_answer_and_not_a_death() -> None:
    process = JobProcess(0, Slot(0, None, 1), b"no pickle at all" * 9999, os.environ, grace=1)
    with selectors.DefaultSelector() as selector:
        process.register(selector)
        while process.poll() is None:
            for key, _ in selector.select(0.1):
                if not key.data():
                    selector.unregister(key.fileobj)
        process.close(selector)
    assert process.ready
    assert process.result is not None


def test_a_process_that_has_not_begun_is_ended_by_any_request_to_stop(capfd: pytest.CaptureFixture[str]) -> None:
    process = JobProcess(0, Slot(0, None, 1), b"", os.environ, grace=1)
    process.stop(signal.SIGINT)  # it has not even been fed
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() == -signal.SIGTERM
    with selectors.DefaultSelector() as selector:
        assert process.close(selector) == []
    assert capfd.readouterr().err == ""


class OddError(Exception):
    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} {right}")


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize("error", [ValueError("no luck"), OddError("no", "luck")], ids=lambda e: type(e).__name__)
def test_an_error_comes_back_with_its_trace(error: Exception) -> None:
    job = pickle.loads(_packed(failed(raised(error), ["x=1"])))
    assert job.overrides == ["x=1"]
    with pytest.raises((ValueError, RuntimeError), match="no luck") as caught:
        _ = job.return_value
    assert "raise error" in caught.value.__notes__[0]


def test_a_value_that_cannot_travel_is_told() -> None:
    job = JobReturn(overrides=["x=1"], status=JobStatus.COMPLETED)
    job.return_value = threading.Lock()
    with pytest.raises(RuntimeError, match="return value cannot be sent to the launcher"):
        _ = pickle.loads(_packed(job)).return_value


def test_values_of_classes_that_only_the_process_knows() -> None:
    class Here:
        x = 3

    job = JobReturn(status=JobStatus.COMPLETED)
    job.return_value = Here()
    assert pickle.loads(_packed(job)).return_value.x == 3


def test_progress_elsewhere_does_nothing() -> None:
    progress()
