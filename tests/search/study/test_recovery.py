"""What dead workers leave in the ledger."""

import logging
from pathlib import Path

import pytest

from search.ledger.result import RESULT_FILE, read_result
from search.study.marks import FOLDER
from search.study.plan import open_desk
from search.study.recovery import recover

from .test_plan import plan


def test_the_record_of_a_dead_workers_trial_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    desk, _ = open_desk(plan(tmp_path), stream=0)
    trial = desk.claim("dead.lock")
    assert trial is not None
    trial.set_user_attr(FOLDER, "trials/0000-s3")
    folder = tmp_path / "trials" / "0000-s3"
    folder.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert recover(desk, plan(tmp_path)) == 1
    assert "search trial 0: its worker died; it is run again" in caplog.text
    row = read_result(folder / RESULT_FILE)
    assert (row.status, row.reason, row.seed, row.attempt) == ("interrupted", "its worker died", 3, 1)
    assert recover(desk, plan(tmp_path)) == 0
