"""What dead workers leave in the ledger."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.ledger.record import HISTORY_FILE
from search.ledger.result import RESULT_FILE, TrialResult, checksum_of, read_result, write_result
from search.study.recovery import recover
from search.study.spec import open_queue
from search.study.trials import BASELINE, CELL, FOLDER, OVERRIDES, RETRY_OF, TRIES

from .conftest import ENDED, Toy
from .test_spec import spec


def test_the_record_of_a_dead_workers_trial_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    queue = open_queue(spec(tmp_path))
    trial = queue.claim("dead.lock")
    assert trial is not None
    trial.set_user_attr(FOLDER, "trials/0000-s3")
    folder = tmp_path / "trials" / "0000-s3"
    folder.mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert recover(queue, spec(tmp_path)) == 1
    assert "search trial 0: its worker died; it is run again" in caplog.text
    row = read_result(folder / RESULT_FILE)
    assert (row.status, row.reason, row.seed, row.attempt) == ("interrupted", "its worker died", 3, 1)
    assert recover(queue, spec(tmp_path)) == 0


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
    mine = spec(tmp_path)
    if cell:
        mine = replace(mine, budget=replace(mine.budget, sampled=False))
    queue = open_queue(mine)
    cells = [{CELL: "a/3", OVERRIDES: ["seed=3"], BASELINE: True}] if cell else []
    queue.write(cells)
    trial = queue.claim("dead.lock")
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
            patch.setattr(queue.storage, name, mortal(getattr(queue.storage, name), lives))
        with contextlib.suppress(Died):
            recover(queue, mine)
    another = open_queue(mine)
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
    mine = spec(tmp_path)
    queue = open_queue(replace(mine, budget=replace(mine.budget, max_retries=0)))
    trial = queue.claim("dead.lock")
    assert trial is not None
    trial.set_user_attr(FOLDER, "trials/0000-s3")
    folder = tmp_path / "trials" / "0000-s3"
    folder.mkdir(parents=True)
    write_result(folder, TrialResult(study="s", trial=0, phase="search", status="ok", seed=3))
    recover(queue, mine)
    assert [trial.state for trial in queue.trials()] == [TrialState.FAIL, TrialState.WAITING]
    assert read_result(folder / RESULT_FILE).status == "ok"


Damage = Callable[[Path], object]


def _changed(**values: object) -> Damage:
    def change(folder: Path) -> None:
        row = json.loads((folder / RESULT_FILE).read_text()) | values
        (folder / RESULT_FILE).write_text(json.dumps(row | {"checksum": checksum_of(row)}))

    return change


DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda folder: (folder / RESULT_FILE).unlink(), "its result is gone"),
    "empty": (lambda folder: (folder / RESULT_FILE).write_bytes(b""), "not a readable result"),
    "truncated": (
        lambda folder: (folder / RESULT_FILE).write_bytes((folder / RESULT_FILE).read_bytes()[:-40]),
        "not a readable result",
    ),
    "binary": (lambda folder: (folder / RESULT_FILE).write_bytes(bytes(range(256))), "not a readable result"),
    "another schema": (_changed(schema=0), "expected a result of schema 1 or 2, found 0"),
    "another run": (_changed(fingerprint="0123456789"), "of another run"),
    "another trial": (_changed(trial=4), "that of toy, final trial 4"),
    "edited": (
        lambda folder: (folder / RESULT_FILE).write_text(
            (folder / RESULT_FILE).read_text().replace('"test_top1": -', '"test_top1": ')
        ),
        "its checksum does not fit",
    ),
    "history gone": (lambda folder: (folder / HISTORY_FILE).unlink(), "its history holds 0 of 2 epochs"),
    "folder gone": (shutil.rmtree, "its folder is gone"),
}


def table(toy: Toy) -> str:
    return (toy.study_dir() / "tables" / "ablation.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_lost_result_of_a_final_trial_is_trained_again(ended: Toy, kind: str) -> None:
    toy = ended
    damage, why = DAMAGES[kind]
    before, traced = table(toy), len(toy.trace)
    folder = toy.study_dir() / "final" / "0002-s1001"
    content = (folder / RESULT_FILE).read_bytes()
    damage(folder)
    done = toy.run(*ENDED)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    (line,) = [line for line in said.splitlines() if "final trial 2" in line and "trained again" in line]
    assert why in line
    assert table(toy) == before
    assert len(toy.trace) == traced + 1
    (again,) = [t for t in toy.study("toy.final").trials if t.user_attrs.get("retry_of") == 2]
    assert again.state == TrialState.COMPLETE
    aside = toy.study_dir() / "aside" / "final" / "0002-s1001" / RESULT_FILE
    assert aside.exists() == (kind not in ("missing", "folder gone"))
    if kind == "history gone":
        assert aside.read_bytes() == content
        third = toy.run(*ENDED)
        assert "trained again" not in third.stdout + third.stderr
        assert len(toy.trace) == traced + 1


@pytest.mark.slow
def test_a_lost_result_of_the_search_is_trained_again(ended: Toy) -> None:
    toy = ended
    traced = len(toy.trace)
    shutil.rmtree(toy.study_dir() / "trials" / "0001-s0")
    assert toy.run(*ENDED).returncode == 0
    assert len(toy.trace) == traced + 1
    assert [t.state.name for t in toy.study().trials] == ["COMPLETE"] * 4
    assert toy.study().trials[1].params == toy.study().trials[3].params


def test_a_result_of_a_later_version_stops_the_command(ended: Toy) -> None:
    toy = ended
    traced = len(toy.trace)
    _changed(schema=9)(toy.study_dir() / "final" / "0000-s1000")
    done = toy.run(*ENDED)
    assert done.returncode != 0
    assert "schema 9; this version reads schema 2" in done.stdout + done.stderr
    assert len(toy.trace) == traced


@pytest.mark.slow
def test_the_result_of_a_failed_trial_is_written_anew(toy: Toy) -> None:
    command = ["x=choice(0,1)", "hydra.sweeper.study_name=faults", "admit=true", "fault=raise", "faulty=[1]"]
    command += ["hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}", "hydra.sweeper.n_trials=2"]
    command += ["hydra.sweeper.reuse=none", "hydra.sweeper.max_retries=0"]
    assert toy.run(*command).returncode == 0
    (failed,) = [trial for trial in toy.study("faults").trials if trial.state == TrialState.FAIL]
    assert toy.run(*command).returncode == 0
    result = read_result(toy.study_dir("faults") / failed.user_attrs["run_dir"] / RESULT_FILE)
    assert (result.status, result.trial, result.reason) == ("failed", failed.number, failed.user_attrs["reason"])
