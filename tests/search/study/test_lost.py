"""A study that is run again trains what its storage has finished and its ledger has lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.ledger.record import HISTORY_FILE
from search.ledger.result import RESULT_FILE, checksum_of, read_result

from .conftest import ENDED, Toy

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
    "another schema": (_changed(schema=0), "expected a result of schema 1, found 0"),
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
    assert "schema 9; this version reads schema 1" in done.stdout + done.stderr
    assert len(toy.trace) == traced


def test_the_result_of_a_failed_trial_is_written_anew(toy: Toy) -> None:
    command = ["x=choice(0,1)", "hydra.sweeper.study_name=faults", "admit=true", "fault=raise", "faulty=[1]"]
    command += ["hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}", "hydra.sweeper.n_trials=2"]
    command += ["hydra.sweeper.reuse=none", "hydra.sweeper.max_retries=0"]
    assert toy.run(*command).returncode == 0
    (failed,) = [trial for trial in toy.study("faults").trials if trial.state == TrialState.FAIL]
    assert toy.run(*command).returncode == 0
    result = read_result(toy.study_dir("faults") / failed.user_attrs["run_dir"] / RESULT_FILE)
    assert (result.status, result.trial, result.reason) == ("failed", failed.number, failed.user_attrs["reason"])
