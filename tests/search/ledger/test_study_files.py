"""A study's folder says what its design declared to vary, also after it has grown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.design.kinds import factorial
from search.ledger.files import NewerVersion
from search.ledger.result import Phase, TrialResult, write_result
from search.ledger.study_files import (
    CHANGES_FILE,
    DESIGN_FILE,
    OBJECTIVES_FILE,
    Cell,
    asked,
    note_settings,
    read_changes,
    read_design,
    read_objectives,
    run_in_words,
    trial_subdir,
    write_design,
    write_objectives,
)

FACTORS = {"where": ["placement=none", "placement=stage3"], "lr": ["train.lr=0.1", "train.lr=0.3"]}


def test_what_is_declared_is_read_back(tmp_path: Path) -> None:
    beside = [Cell("root", ("placement=none",))]
    write_design(tmp_path, "factorial", factorial(FACTORS), ["data=digits"], "seed", beside)
    design = read_design(tmp_path)
    assert design is not None
    assert design.beside == (Cell("root", ("data=digits", "placement=none")),)
    assert (design.kind, design.seed_key) == ("factorial", "seed")
    assert design.factors == {"where": ["none", "stage3"], "lr": ["0.1", "0.3"]}
    assert [cell.name for cell in design.cells] == ["baseline", "lr=0.3", "where=stage3", "where=stage3, lr=0.3"]
    assert design.cells[1].overrides == ("data=digits", "placement=none", "train.lr=0.3")
    assert [cell.is_baseline for cell in design.cells] == [True, False, False, False]


def test_a_design_that_grows_keeps_its_cells(tmp_path: Path) -> None:
    write_design(tmp_path, "factorial", factorial(FACTORS))
    write_design(tmp_path, "factorial", factorial(FACTORS | {"lr": ["train.lr=0.1", "train.lr=0.5"]}))
    design = read_design(tmp_path)
    assert design is not None
    assert design.factors == {"where": ["none", "stage3"], "lr": ["0.3", "0.1", "0.5"]}
    assert len(design.cells) == 6


def test_secrets_are_masked_as_in_results(tmp_path: Path) -> None:
    write_design(tmp_path, "factorial", factorial(FACTORS), ["data.url=postgresql://me:hunter2@host/db"])
    assert "hunter2" not in (tmp_path / DESIGN_FILE).read_text()


def test_no_design(tmp_path: Path) -> None:
    assert read_design(tmp_path) is None
    assert read_design(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 0}', '{"schema": 1, "kind": "x", "seed_key": "s", "cells": [3]}']
)
def test_what_cannot_be_read_is_named_and_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / DESIGN_FILE).write_text(text)
    with pytest.raises(ValueError, match=f"{DESIGN_FILE}: not a readable design"):
        read_design(tmp_path)
    write_design(tmp_path, "factorial", factorial(FACTORS))
    assert json.loads((tmp_path / DESIGN_FILE).read_text())["kind"] == "factorial"


def test_one_of_a_later_version_is_refused_and_kept(tmp_path: Path) -> None:
    text = '{"schema": 2}'
    (tmp_path / DESIGN_FILE).write_text(text)
    for act in (lambda: read_design(tmp_path), lambda: write_design(tmp_path, "factorial", [])):
        with pytest.raises(NewerVersion, match="schema 2; this version reads schema 1"):
            act()
    assert (tmp_path / DESIGN_FILE).read_text() == text


def test_what_was_written_is_read_in_its_order(tmp_path: Path) -> None:
    assert read_objectives(tmp_path) == {}
    senses = {"val_top1": "maximize", "latency_ms": "minimize"}
    write_objectives(tmp_path / "new", senses)
    assert list(read_objectives(tmp_path / "new").items()) == list(senses.items())


@pytest.mark.parametrize("text", ["", "[1]", '{"macs": "down"}', "\x00"])
def test_what_is_no_record_of_objectives_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / OBJECTIVES_FILE).write_text(text)
    with pytest.raises(ValueError, match=OBJECTIVES_FILE):
        read_objectives(tmp_path)


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


@pytest.mark.parametrize(
    ("phase", "number", "seed", "expected"),
    [
        ("search", 7, 0, "trials/0007-s0"),
        ("final", 12345, 1000, "final/12345-s1000"),
        ("single", 0, -1, "single/0000-s-1"),
    ],
)
def test_a_trials_folder(phase: Phase, number: int, seed: int, expected: str) -> None:
    assert trial_subdir(phase, number, seed) == expected


def test_no_two_trials_of_a_study_share_a_folder() -> None:
    phases: tuple[Phase, ...] = ("search", "final", "single")
    folders = [trial_subdir(p, number, seed) for p in phases for number in range(12) for seed in range(12)]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("mine/trials/0003-s0", "trial 3"),
        ("old/trials/0003-s0", "trial 3 of study old"),
        ("old/final/0001-s1000.2", "final trial 1 of study old"),
        ("single/2026-11-22_10-00-00", "single/2026-11-22_10-00-00"),
        ("/elsewhere/old/trials/0003-s0", "/elsewhere/old/trials/0003-s0"),
    ],
)
def test_a_run_is_named_as_a_reader_looks_for_it(place: str, words: str) -> None:
    assert run_in_words(place, "/runs/mine") == words
