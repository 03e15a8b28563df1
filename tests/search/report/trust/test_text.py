"""Proxy trust as a reader sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.report.reading.load import load_study
from search.report.table import ablation_table
from search.report.trust.text import TRUST_COLUMNS, trust_notes, trust_report

from ..conftest import Add
from .test_cases import history

SIX = {"plain": 1, "stage3": 2, "stage4": 3, "stage3+4": 4, "stage1": 5, "stage2": 6}


@pytest.fixture
def ranked(study: Path, add: Add) -> Path:
    """A search and a re-evaluation that swaps two pairs of its six arms; a loss that swaps none."""
    for arm, value in SIX.items():
        for seed in range(2):
            folder = add(arm, seed, phase="search", val_top1=50.0 + value, val_loss=2.0 - value / 10)
            history(folder, 1, 50 - value, 50, 50 + value)
    for arm, value in SIX.items():
        for seed in range(3):
            swapped = {1: 2, 2: 1, 5: 6, 6: 5}.get(value, value)
            add(arm, 1000 + seed, test_top1=70.0 + swapped / 10 + seed, test_loss=1.0 - value / 10)
    return study


def notes(folder: Path, metric: str | None = None) -> list[str]:
    frame = load_study(folder)
    return trust_notes(frame, ablation_table(frame, metric))


def test_the_note_under_a_table(ranked: Path) -> None:
    said, caution = notes(ranked)
    assert said.startswith(
        "Proxy trust: The search phase (val top-1 %, 4 epochs, 2 seeds an arm) against the final re-evaluation (test top-1 %, "
        "4 epochs, 3 seeds an arm): Kendall's tau 0.73 (95% interval "
    )
    assert said.endswith(
        ") over the 6 arms in both; of the best 3, 3 are the same, where chance gives 1.5; the first one's winner is 0.10 "
        "points below the best of the second."
    )
    assert "seed noise in the means lowers it" in caution
    assert "arms that the search found good" in caution
    assert all(len(line) < 1000 for line in (said, caution))  # what a table cuts a note to


def test_a_loss_is_better_when_it_is_lower(ranked: Path) -> None:
    said, _ = notes(ranked, "test_loss")
    assert "Kendall's tau 1.00 over the 6 arms" in said
    assert "the first one's winner is the best of the second" in said


def test_nothing_is_said_of_two_arms_or_one_phase(study: Path, add: Add) -> None:
    for arm in ("plain", "stage3"):
        add(arm, 0, phase="search", val_top1=60.0)
        add(arm, 1000, test_top1=60.0)
    assert notes(study) == []
    frame = load_study(study)
    assert trust_notes(frame, ablation_table(frame, phase="search")) == []
    with pytest.raises(ValueError, match=r"demo has no 3 arms that are ranked twice.*--trust CHEAP DEAR"):
        trust_report([study])


def test_the_report_of_one_study(ranked: Path) -> None:
    report = trust_report([ranked])
    assert [case.kind for case in report.cases] == ["phases", "epochs", "epochs"]
    assert {name: str(dtype) for name, dtype in report.data.dtypes.items()} == TRUST_COLUMNS
    assert report.data["tau"].tolist()[:2] == pytest.approx([11 / 15, -1.0])
    assert report.data["tau"].isna().tolist() == [False, False, True]
    assert "The search phase after half of the epochs" in report.text
    assert "all arms are tied in one ranking" in report.text
    assert "2 seeds of both divided between them" in report.text
    assert report.data["top_k"].tolist()[0] == "stage1; stage2; stage3+4"
    assert [case.kind for case in trust_report([ranked], phase="search").cases] == ["epochs", "epochs"]


def test_the_report_of_two_studies(ranked: Path, tmp_path: Path, add: Add, study: Path) -> None:
    cheap = ranked.rename(tmp_path / "cheap")
    for arm, value in list(SIX.items())[:4]:
        add(arm, 0, test_top1=70.0 - value)
    report = trust_report([cheap, study])
    assert report.text.startswith(
        f"{cheap}, the final re-evaluation (test top-1 %, 4 epochs, 3 seeds an arm) against {study}"
    )
    assert "no setting of the recipe on record differs; 2 arms only in the first" in report.text
    assert report.data["tau"].tolist() == pytest.approx([-2 / 3])


def test_rankings_of_one_seed_are_not_compared(study: Path, add: Add) -> None:
    for arm, value in SIX.items():
        history(add(arm, 0, phase="search", val_top1=50.0 + value), 1, 50 - value, 50, 50 + value)
    report = trust_report([study])
    assert "they cannot be compared: both rest on seed 0, and luck that they share" in report.text
    assert report.data["tau"].isna().all()


def test_faults(ranked: Path, tmp_path: Path, add: Add, study: Path) -> None:
    with pytest.raises(ValueError, match="3 given"):
        trust_report([ranked] * 3)
    with pytest.raises(ValueError, match="train_seconds ranks no arm"):
        trust_report([ranked], metric="train_seconds")
    cheap = ranked.rename(tmp_path / "cheap")
    add("another", 0, test_top1=1.0)
    with pytest.raises(ValueError, match="no network in common"):
        trust_report([cheap, study])
    for arm in ("plain", "stage3"):
        add(arm, 0, test_top1=1.0)
    assert "they cannot be compared: 2 arms in both" in trust_report([cheap, study]).text
