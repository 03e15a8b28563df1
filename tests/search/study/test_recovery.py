"""What dead workers leave in the ledger."""

import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.ledger.result import RESULT_FILE, TrialResult, read_result, write_result
from search.study.marks import BASELINE, CELL, FOLDER, OVERRIDES, RETRY_OF, TRIES
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


class Died(BaseException):
    """What a SIGKILL is to the code that it meets."""


def mortal(call: Callable[..., object], lives: list[int]) -> Callable[..., object]:
    def wrapped(*args: object, **kwargs: object) -> object:
        if lives[0] == 0:
            raise Died
        lives[0] -= 1
        return call(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("cell", [False, True])
@pytest.mark.parametrize("steps", range(8))
def test_whoever_takes_a_trial_back_may_die_at_each_step(
    steps: int, cell: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps: the rename of the result, two attributes, the end of the trial, the new trial; then all is done."""
    mine = plan(tmp_path)
    if cell:
        mine = replace(mine, quota=replace(mine.quota, sampled=False))
    desk, storage = open_desk(mine, stream=0)
    cells = [{CELL: "a/3", OVERRIDES: ["seed=3"], BASELINE: True}] if cell else []
    desk.write(cells)
    trial = desk.claim("dead.lock")
    assert trial is not None
    if not cell:
        trial.suggest_int("x", 0, 100)
    trial.set_user_attr(FOLDER, "trials/0000-s3")
    folder = tmp_path / "trials" / "0000-s3"
    folder.mkdir(parents=True)
    lives = [steps]
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", mortal(os.replace, lives))
        patch.setattr(Path, "unlink", mortal(Path.unlink, lives))  # the dead clean nothing up
        for name in ("set_trial_user_attr", "set_trial_state_values", "create_new_trial"):
            patch.setattr(storage, name, mortal(getattr(storage, name), lives))
        with contextlib.suppress(Died):
            recover(desk, mine)
    another, _ = open_desk(mine, stream=1)
    recover(another, mine)
    another.write(cells)
    first, *again = another.trials()
    assert first.state == TrialState.FAIL
    assert [(trial.state, trial.user_attrs[RETRY_OF], trial.user_attrs[TRIES]) for trial in again] == [
        (TrialState.WAITING, 0, 2)
    ]
    assert again[0].user_attrs.get(CELL) == ("a/3" if cell else None)
    assert cell or again[0].system_attrs["fixed_params"] == first.params
    assert os.listdir(folder) == [RESULT_FILE]
    assert read_result(folder / RESULT_FILE).status == "interrupted"


def test_a_trial_that_was_trained_is_not_given_up(tmp_path: Path) -> None:
    """Its worker died once too often, but only after the result was written: it takes its own result over."""
    mine = plan(tmp_path)
    desk, _ = open_desk(replace(mine, quota=replace(mine.quota, max_retries=0)), stream=0)
    trial = desk.claim("dead.lock")
    assert trial is not None
    trial.set_user_attr(FOLDER, "trials/0000-s3")
    folder = tmp_path / "trials" / "0000-s3"
    folder.mkdir(parents=True)
    write_result(folder, TrialResult(study="s", trial=0, phase="search", status="ok", seed=3))
    recover(desk, mine)
    assert [trial.state for trial in desk.trials()] == [TrialState.FAIL, TrialState.WAITING]
    assert read_result(folder / RESULT_FILE).status == "ok"
