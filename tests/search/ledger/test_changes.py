"""What is changed between the commands of a study is written down once, in order, and survives a torn line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.ledger.changes import CHANGES_FILE, asked, note_settings, read_changes
from search.ledger.result import TrialResult, write_result

FIRST: dict[str, Any] = {
    "n_trials": 8,
    "sampler._target_": "optuna.samplers.TPESampler",
    "final.first_seed": 1000,
    "final.seeds": 5,
}


def result(folder: Path, number: int) -> None:
    trial = folder / "final" / f"{number:04d}-s0"
    trial.mkdir(parents=True)
    write_result(trial, TrialResult(study="demo", trial=number, phase="final", status="ok", seed=0))


def test_only_what_differs_is_written_down(tmp_path: Path) -> None:
    note_settings(tmp_path, FIRST)
    note_settings(tmp_path, FIRST)
    assert read_changes(tmp_path) == []
    note_settings(tmp_path, FIRST | {"n_trials": 16, "sampler._target_": "optuna.samplers.RandomSampler"})
    note_settings(tmp_path, FIRST | {"n_trials": 16})
    one, two = read_changes(tmp_path)
    assert one.changed == {
        "n_trials": (8, 16),
        "sampler._target_": ("optuna.samplers.TPESampler", "optuna.samplers.RandomSampler"),
    }
    assert list(two.changed) == ["sampler._target_"]
    assert (one.results, one.seeds_added) == (0, False)
    assert one.at.endswith("+00:00")


@pytest.mark.parametrize(
    ("now", "added"),
    [
        ({"final.seeds": 9}, True),
        ({"final.seeds": 3}, False),
        ({"final.first_seed": 2000}, True),
        ({"final.first_seed": 1001, "final.seeds": 4}, False),
        ({"final.first_seed": None}, True),
        ({"n_trials": 9}, False),
    ],
)
def test_seeds_are_added_where_results_stood(tmp_path: Path, now: dict[str, Any], added: bool) -> None:
    note_settings(tmp_path, FIRST)
    result(tmp_path, 0)
    note_settings(tmp_path, FIRST | now)
    (change,) = read_changes(tmp_path)
    assert (change.results, change.seeds_added) == (1, added)


def test_seeds_that_were_added_before_any_result_flatter_nobody(tmp_path: Path) -> None:
    note_settings(tmp_path, FIRST)
    note_settings(tmp_path, FIRST | {"final.seeds": 9})
    assert not read_changes(tmp_path)[0].seeds_added


@given(cut=st.integers(0, 400))
def test_a_torn_line_loses_no_other(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("study")
    note_settings(folder, FIRST)
    note_settings(folder, FIRST | {"n_trials": 9})
    whole = (folder / CHANGES_FILE).read_bytes()
    (folder / CHANGES_FILE).write_bytes(whole[: max(len(whole) - cut, 0)])
    note_settings(folder, FIRST | {"n_trials": 10})
    text = (folder / CHANGES_FILE).read_bytes()
    assert text.startswith(whole[: max(len(whole) - cut, 0)])  # nothing is taken back
    changes = read_changes(folder)
    assert not changes or changes[-1].changed["n_trials"][1] == 10


def test_a_password_is_not_written_down(tmp_path: Path) -> None:
    note_settings(tmp_path, FIRST | {"sampler.api_key": "hunter2"})
    assert "hunter2" not in (tmp_path / CHANGES_FILE).read_text()


def test_seeds_asked_for() -> None:
    assert asked({"final.first_seed": 3, "final.seeds": 2}, "final") == {(False, 3), (False, 4)}
    assert asked({}, "design") == set()
