"""The front of a study with several objectives: read, marked in the table, written and printed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.ledger.study_files import write_objectives
from search.report.ablation import ablation_table
from search.report.front import front_table, fronts_of
from search.report.reading.load import load_study
from search.report.render import render_text, to_csv, to_html, to_latex, to_markdown
from search.report.write import write_tables
from search.study.search_run import print_front

from .conftest import Add

SENSES = {"val_top1": "maximize", "latency_ms": "minimize"}
POINTS: dict[str, dict[str, Any]] = {
    "plain": {"val_top1": 60.0, "latency_ms": 1.0},
    "stage3": {"val_top1": 62.0, "latency_ms": 2.0},
    "stage4": {"val_top1": 61.0, "latency_ms": 3.0},  # dominated by stage3
    "stage1": {"val_top1": 99.0, "latency_ms": 0.1, "latency_exclusive": False},  # its latency does not count
    "stage2": {"val_top1": 60.0, "latency_ms": 1.0},  # equal to plain
}


@pytest.fixture
def searched(study: Path, add: Add) -> Path:
    for arm, values in POINTS.items():
        add(arm, phase="search", **({"latency_exclusive": True} | values))
    write_objectives(study, SENSES)
    return study


def test_members_others_and_what_cannot_be_held_against_them(searched: Path) -> None:
    (front,) = fronts_of(load_study(searched))
    found = {arm.label: member for arm, member in zip(front.arms, front.members, strict=True)}
    assert found == {"plain": True, "stage3": True, "stage4": False, "stage1": None, "stage2": True}


def test_the_table_marks_them_in_every_form(searched: Path) -> None:
    table = ablation_table(load_study(searched))
    assert table.data.set_index("arm")["on_front"].fillna(False).to_dict() == {
        arm: arm in ("plain", "stage2", "stage3") for arm in POINTS
    }
    for form in (render_text(table), to_markdown(table), to_latex(table), to_html(table)):
        assert "Pareto" in form
        text = form[form.index("Pareto") :]
        assert text.count("front") >= 3
        assert "val_top1 (higher is better) and latency_ms (lower is better)" in " ".join(
            form.replace("\\_", "_").replace("\\", "").split()
        )
    assert "on_front" in to_csv(table).splitlines()[0]


def test_the_fronts_of_both_phases_are_files_and_the_search_s_is_printed(
    searched: Path, add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        add("plain", seed, test_top1=70.0, val_top1=0.0, latency_ms=1.0, latency_exclusive=True)
        add("stage3", seed, test_top1=69.0, val_top1=99.0, latency_ms=2.0, latency_exclusive=True)
    write_tables(searched)
    rows = pd.read_csv(io.StringIO((searched / "tables" / "front.csv").read_text()))
    assert list(zip(rows["phase"], rows["arm"], strict=True)) == [
        ("search", "stage3"),
        ("search", "plain"),
        ("search", "stage2"),
        ("final", "plain"),  # by test images there, and so alone
    ]
    assert rows["test_top1"].tolist()[-1] == 70.0
    assert "phase final" in (searched / "tables" / "front.md").read_text()
    print_front(searched)
    printed = capsys.readouterr().out
    assert render_text(front_table(fronts_of(load_study(searched))[0])) in printed
    assert "phase final" not in printed


def test_a_study_of_one_objective_has_no_front(study: Path, add: Add, capsys: pytest.CaptureFixture[str]) -> None:
    add("plain", phase="search", val_top1=1.0)
    assert fronts_of(load_study(study)) == []
    assert "Pareto" not in render_text(write_tables(study))
    assert not (study / "tables" / "front.csv").exists()
    print_front(study)
    assert capsys.readouterr().out == ""


def test_an_objective_that_no_trial_has_leaves_the_front_empty(study: Path, add: Add) -> None:
    add("plain", phase="search", val_top1=1.0)
    write_objectives(study, {"val_top1": "maximize", "zero_cost.zen": "maximize"})
    (front,) = fronts_of(load_study(study))
    assert front.members == (None,)
    write_tables(study)
