"""A trial on a disk that fills up: interrupted, not failed; its last state goes on, bit for bit, where there is room again."""

import contextlib
from pathlib import Path

import pytest

from search.ledger.disk import is_disk_full
from search.ledger.paths import STATE_FILE
from search.ledger.result import read_result
from search.trial.run import run_trial

from ...tmpfs import tmpfs
from .conftest import Small
from .test_state import ALWAYS, Halting, assert_equal_trials, opened, train


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
