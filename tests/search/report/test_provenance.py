from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.report.arms import list_arms
from search.report.provenance import made_by, odd_trials
from search.report.reading.load import load_study

from .conftest import Add

CODE = {"operator": "a" * 10, "trial": "b" * 10}
WITH = {**CODE, "branch pssa": "c" * 10}


def made(code: dict[str, str] | None, commit: str = "0123456789ab") -> dict[str, Any]:
    return {"commit": commit, **({} if code is None else {"code": code})}


def said(study: Path) -> list[str]:
    return odd_trials(list_arms(load_study(study)))


@pytest.fixture
def alike(add: Add) -> Add:
    """A study whose cells were all made by the same; the arm of seed 3 is added by the test."""
    for seed in range(4):
        add("plain", seed, provenance=made(CODE), data_digest="d" * 10)
    for seed in range(3):
        add("stage3", seed, provenance=made(WITH), data_digest="d" * 10)
    return add


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "a branch": ({"provenance": made({**WITH, "branch pssa": "x"})}, "other code of branch pssa"),
    "a commit and its code": (
        {"provenance": made({**WITH, "trial": "x"}, "ffff+changes")},
        "commit ffff+changes, other code of trial",
    ),
    "a commit alone": ({"provenance": made(WITH, "ffff")}, "commit ffff, the same code"),
    "images": ({"data_digest": "x"}, "other images"),
    "an old version": ({"provenance": made(None), "data_digest": None}, "code not on record"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_cell_that_something_else_made_is_named(study: Path, alike: Add, case: str) -> None:
    values, words = OTHERS[case]
    alike("stage3", 3, **{"provenance": made(WITH), "data_digest": "d" * 10, **values})
    assert said(study) == [f"Not made as the rest of the table: stage3 seed 3 ({words})."]


def test_branches_of_an_arm_alone_are_no_difference(study: Path, alike: Add) -> None:
    assert said(study) == []
    alike("stage3", 3, status="failed", provenance=made(WITH, "ffff"))
    assert said(study) == [], "what is not averaged is not named"


def test_old_studies_are_compared_by_commit(study: Path, add: Add) -> None:
    for seed in range(3):
        add("plain", seed, provenance=made(None))
        add("stage3", seed, provenance=made(None, "ffff" if seed else "0123456789ab"))
    assert said(study) == ["Not made as the rest of the table: stage3 seeds 1-2 (commit ffff)."]


def test_the_line_stays_short(study: Path, alike: Add) -> None:
    for seed in range(10, 20):
        alike(f"arm{seed}", seed, provenance=made(CODE, "ffff"), data_digest="d" * 10)
        alike("plain", seed, provenance=made(CODE), data_digest="d" * 10)
    (line,) = said(study)
    assert line.count("commit ffff") == 3
    assert line.endswith("; and 7 more.")


def test_what_trials_begin_with_differs_by_design_and_a_file_of_weights_does_not() -> None:
    code = {"operator": "a", "root": "b", "checkpoint": "c", "weights": "d"}
    assert {name for name in made_by(json.dumps({"code": code}), None) if name.startswith("other code of")} == {
        "other code of operator",
        "other code of weights",
    }
