"""Once asks softly, twice insists."""

import os
import signal
from pathlib import Path

import pytest

from search.study.launching import interrupts
from search.study.launching.interrupts import Interrupts


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
    monkeypatch.setattr(interrupts, "LOOK_SECONDS", 0.0)
    worker = Interrupts(tmp_path / "stop")
    with Interrupts(tmp_path / "stop", owner=True):
        assert not worker.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert worker.requested
    assert not (tmp_path / "stop").exists()


def test_a_stop_file_is_no_first_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "LOOK_SECONDS", 0.0)
    (tmp_path / "stop").touch()
    with Interrupts(tmp_path / "stop") as asked:
        assert asked.requested
        os.kill(os.getpid(), signal.SIGINT)  # raises nothing
