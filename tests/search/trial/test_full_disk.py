"""A trial on a disk that fills up: interrupted, not failed; its last state goes on, bit for bit, where there is room again."""

import contextlib
import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from search.channel import Stopped, opened
from search.ledger.files import is_disk_full
from search.ledger.result import read_result
from search.ledger.study_files import STATE_FILE
from search.trial.run import run_trial

from ...tmpfs import tmpfs
from .conftest import Small
from .test_state import ALWAYS, RANDOM, Halting, assert_equal_trials, stop, train


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file may grow beyond `free` bytes: a real error of the operating system in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_the_state_and_not_the_trial(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small("train.epochs=2", "train.state_every_seconds=0")
    with full_disk(100_000), caplog.at_level(logging.WARNING, "xvol"):
        result = train(config, tmp_path / "full")
    assert (result.status, result.epochs) == ("ok", 2)
    warnings = [record.getMessage() for record in caplog.records if "could not be saved" in record.getMessage()]
    assert len(warnings) == 2
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["history.csv", "result.json"]
    with full_disk(100_000), opened(Halting(3)), pytest.raises(Stopped, match="could not be saved"):
        run_trial(config, tmp_path / "stopped")
    stopped = read_result(tmp_path / "stopped" / "result.json")
    assert (stopped.status, stopped.reason) == (
        "interrupted",
        "stopped at epoch 1, step 3; its state could not be saved",
    )


@pytest.mark.slow
def test_a_disk_that_fills_up_leaves_the_last_state(small: Small, tmp_path: Path) -> None:
    config = small(*RANDOM)
    stopped, second, third = (tmp_path / name for name in ("stopped", "second", "third"))
    train(config, tmp_path / "whole")
    stop(config, stopped, Halting(7))
    content = (stopped / STATE_FILE).read_bytes()
    with full_disk(100_000), opened(Halting(1, resume_from=str(stopped))), pytest.raises(Stopped):
        run_trial(config, second)
    assert (second / STATE_FILE).read_bytes() == content
    assert train(config, third, Halting(resume_from=str(second))).resumed_from == str(second)
    assert_equal_trials(tmp_path / "whole", third)


class Filling(Halting):
    """A study during which something else fills the disk, after the second epoch."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def report(self, step: int, value: float) -> None:
        if step == 2:
            with (self.folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1024))


def test_a_full_disk_interrupts_a_trial(small: Small, tmp_path: Path) -> None:
    config = small(*ALWAYS, "train.epochs=3")
    train(config, tmp_path / "whole")
    with tmpfs(tmp_path / "disk", mebibytes=4) as disk:
        with opened(Filling(disk)), pytest.raises(OSError, match=r"No space left|disk full") as caught:
            run_trial(config, disk / "first")
        assert is_disk_full(caught.value)
        assert (disk / "first" / STATE_FILE).is_file()
        (disk / "filler").unlink()
        if (disk / "first" / "result.json").exists():  # there may have been room for it, or not
            assert read_result(disk / "first" / "result.json").status == "interrupted"
        train(config, disk / "second", Halting(resume_from=str(disk / "first")))
        assert_equal_trials(tmp_path / "whole", disk / "second")
