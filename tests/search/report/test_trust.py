"""Which rankings are compared, in numbers that can be checked by hand."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search.ledger.metric import metric_columns, metric_named
from search.report.ablation import ablation_table
from search.report.rankings import budget_cases, divide, epoch_cases, phase_case, study_case, validation_of
from search.report.reading.load import load_study
from search.report.render import render_text
from search.report.trust import (
    TRUST_COLUMNS,
    trust_notes,
    trust_table,
)

from .conftest import Add

ARMS = ("plain", "stage3", "stage4", "stage3+4")
TOP1 = metric_named("test_top1")


def history(folder: Path, *top1: float) -> None:
    rows = ["epoch,train_loss,val_loss,val_top1,lr,seconds"] + [
        f"{at},1,1,{value},0.1,1" for at, value in enumerate(top1, 1)
    ]
    (folder / "history.csv").write_text("\n".join(rows) + "\n")


def settings(folder: Path, **train: object) -> None:
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump({"train": train, "data": {"name": "digits"}}))


def test_the_search_against_the_re_evaluation(study: Path, add: Add) -> None:
    for arm, value in zip(ARMS, (60, 64, 63, 62), strict=True):
        add(arm, 0, phase="search", val_top1=float(value))
    add("stage3", 1, phase="search", status="failed", val_top1=1.0)  # what failed is in no mean
    for seed in (1000, 1001):
        for arm, value in zip(ARMS[:3], (70, 71, 72), strict=True):
            add(arm, seed, test_top1=float(value), val_top1=50.0)
    case = phase_case(load_study(study), TOP1)
    assert case is not None
    assert (case.cheap.metric.column, case.expensive.metric.column) == ("val_top1", "test_top1")
    assert case.seeds == ((1, 1), (2, 2))
    assert (case.trust.n, case.trust.tau, case.trust.k) == (3, pytest.approx(1 / 3), 1)  # of 3 pairs, one is swapped
    assert (case.trust.overlap, case.trust.regret, case.trust.top_k) == (0.0, 1.0, ())
    assert phase_case(load_study(study), metric_named("train_seconds")) is None


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_no_seed_stands_behind_both_rankings(cheap: set[int], expensive: set[int]) -> None:
    own, divided = divide(set(cheap), set(expensive))
    assert not own[0] & own[1]
    assert own[0] | own[1] == cheap | expensive
    assert own[0] <= cheap
    assert own[1] <= expensive
    assert set(divided) == cheap & expensive
    assert bool(own[0]) + bool(own[1]) >= min(2, len(cheap | expensive), bool(cheap) + bool(expensive))


def test_luck_that_two_rankings_share_is_not_taken_for_agreement(study: Path, add: Add) -> None:
    """Arms that are equal, luck of an arm's seed that is the same at both budgets: tau is 1 where seeds are shared."""
    luck = [[0.1, 0.4], [0.2, 0.3], [0.3, 0.2], [0.4, 0.1]]
    for seed in range(2):
        for position, arm in enumerate(ARMS):
            history(add(arm, seed, phase="search", val_top1=60.0), *[50 + luck[position][seed]] * 4)
    half, _ = epoch_cases(load_study(study), "search", TOP1)
    assert (half.divided, half.seeds, half.trust.tau) == ((0, 1), ((1, 1), (1, 1)), -1.0)


def test_one_seed_cannot_be_divided(study: Path, add: Add) -> None:
    for position, arm in enumerate(ARMS):
        history(add(arm, 0, phase="search", val_top1=60.0), *[50 + position] * 4)
    half, _ = epoch_cases(load_study(study), "search", TOP1)
    assert (half.arms, half.trust.n, half.trust.tau, half.divided) == (4, 0, None, (0,))


def test_no_case_without_both_phases(study: Path, add: Add) -> None:
    for arm in ARMS:
        add(arm, 0, test_top1=60.0)
    assert phase_case(load_study(study), TOP1) is None


def test_budgets_that_differ_in_their_epochs_alone(study: Path, add: Add) -> None:
    short, long, other = ({"epochs_planned": n, "recipe_hash": h} for n, h in ((2, "r2"), (8, "r8"), (4, "r4")))
    for position, arm in enumerate(ARMS):
        for seed in range(2):
            settings(add(arm, seed, test_top1=60.0 + position, **short), epochs=2, lr=0.1)
            settings(add(arm, seed, test_top1=70.0 - position, **long), epochs=8, lr=0.1)
            settings(add(arm, seed, test_top1=50.0 + position, **other), epochs=4, lr=0.2)  # another rate: alone
    (case,) = budget_cases(load_study(study), "final", TOP1)
    assert (case.cheap.epochs, case.expensive.epochs) == ((2, 2), (8, 8))
    assert (case.trust.n, case.trust.tau) == (4, -1.0)
    assert case.settings == {"train.epochs": [2, 8]}
    assert case.trust.regret == 3.0


def test_what_a_pruner_would_have_trusted(study: Path, add: Add) -> None:
    curves = {"plain": (1, 4, 2, 1), "stage3": (1, 3, 3, 2), "stage4": (1, 2, 1, 3), "stage3+4": (1, 1, 4, 4)}
    for arm, values in curves.items():
        for seed in range(2):
            folder = add(arm, seed, phase="search", val_top1=float(values[-1]))
            history(folder, *(value + seed for value in values))
    history(add("torn", 0, phase="search", val_top1=9.0), 1, 2)
    add("pruned", 0, phase="search", status="pruned", epochs=2)
    half, later = epoch_cases(load_study(study), "search", TOP1)
    assert (half.cheap.epochs, later.cheap.epochs, half.expensive.epochs) == ((2, 2), (3, 3), (4, 4))
    assert (half.trust.n, half.trust.tau) == (4, -1.0)
    assert later.trust.tau == pytest.approx(1 / 3)
    assert half.left_out == 1
    assert half.trust.regret == 3.0
    assert epoch_cases(load_study(study), "search", metric_named("train_seconds")) == []


def test_three_epochs_have_one_point_in_between(study: Path, add: Add) -> None:
    for position, arm in enumerate(ARMS):
        for seed in range(2):
            history(add(arm, seed, val_top1=3.0, epochs=3, epochs_planned=3), position, position, position)
    (case,) = epoch_cases(load_study(study), "final", TOP1)
    assert (case.cheap.epochs, case.trust.tau) == ((2, 2), 1.0)


def two_studies(tmp_path: Path, add: Add, study: Path) -> tuple[Path, Path]:
    for position, arm in enumerate(ARMS):
        settings(add(arm, 0, phase="search", val_top1=60.0 + position, recipe_hash="r2"), epochs=2, lr=0.1)
    cheap = study.rename(tmp_path / "cheap")
    for position, arm in enumerate(ARMS[1:]):
        settings(add(arm, 1, test_top1=70.0 + position, val_top1=1.0, recipe_hash="r8"), epochs=8, lr=0.1)
    return cheap, study.rename(tmp_path / "expensive")


def test_two_studies(tmp_path: Path, study: Path, add: Add) -> None:
    cheap, expensive = two_studies(tmp_path, add, study)
    case = study_case(cheap, expensive)
    assert (case.cheap.metric.column, case.expensive.metric.column) == ("val_top1", "test_top1")
    assert (case.trust.n, case.trust.tau, case.trust.overlap) == (3, 1.0, 1.0)
    assert case.settings == {"train.epochs": [2, 8]}
    assert study_case(cheap, expensive, metric="val_top1").trust.tau is None  # all tied in the expensive one
    with pytest.raises(ValueError, match=r"no finished trial of .*cheap, phase 'search', has test_top1"):
        study_case(cheap, expensive, metric="test_top1")


def test_a_metric_and_what_a_search_saw_of_it() -> None:
    known = metric_columns()
    found = {name: twin.column if (twin := validation_of(metric)) else None for name, metric in known.items()}
    assert {found[name] for name in ("test_p_true", "val_p_true")} == {"val_p_true"}
    assert found["probe_p_true"] == "probe_p_true"  # these images are nobody's test data
    own = {name: found[name] for name, metric in known.items() if not metric.from_samples}
    assert own.pop("train_seconds") is None
    assert {"test_top1", "val_loss", "test_mask_ap"} < own.keys()
    assert all(twin == f"val_{name.partition('_')[2]}" for name, twin in own.items())


def test_a_name_of_two_networks_is_told_apart(study: Path, add: Add) -> None:
    for seed, (phase, metric) in enumerate((("search", "val_top1"), ("final", "test_top1"))):
        for position, arch in enumerate(("e" * 10, "f" * 10, "0" * 10)):
            add("twin" if position < 2 else "else", seed, phase=phase, arch_hash=arch, **{metric: float(position)})
    case = phase_case(load_study(study), TOP1)
    assert case is not None
    assert case.trust.n == 3
    assert case.trust.top_k == ("else",)
    assert pd.notna(case.trust.tau)


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
        "Proxy trust: the search phase (val top-1 %, 4 epochs, 2 seeds an arm) against the final re-evaluation (test top-1 %, "
        "4 epochs, 3 seeds an arm): Kendall's tau 0.73 (95% interval "
    )
    assert said.endswith(") over 6 arms, 3 of 3 best the same (by chance 1.5), its winner is 0.10 points behind.")
    assert "Seed noise lowers tau" in caution
    assert len(f"{said} {caution}".split()) < 80


@pytest.mark.parametrize("order", [(1, 2, 3, 4, 6, 5), (4, 1, 6, 2, 5, 3)], ids=["agrees", "by chance"])
def test_a_ranking_that_is_no_better_than_chance_is_called_that(study: Path, add: Add, order: tuple[int, ...]) -> None:
    for arm, value, other in zip(SIX, SIX.values(), order, strict=True):
        add(arm, 0, phase="search", val_top1=50.0 + value)
        add(arm, 1000, test_top1=70.0 + other)
    said, _ = notes(study)
    chance = order[0] != 1
    assert ("it holds 0, so this ranking is no better than chance" in said) == chance
    in_table = " ".join(trust_table([study]).notes)
    assert ("no better than chance" in in_table) == chance


def test_a_loss_is_better_when_it_is_lower(ranked: Path) -> None:
    said, _ = notes(ranked, "test_loss")
    assert "Kendall's tau 1.00 over 6 arms" in said
    assert "its winner is the best there" in said


def test_nothing_is_said_of_two_arms_or_one_phase(study: Path, add: Add) -> None:
    for arm in ("plain", "stage3"):
        add(arm, 0, phase="search", val_top1=60.0)
        add(arm, 1000, test_top1=60.0)
    assert notes(study) == []
    frame = load_study(study)
    assert trust_notes(frame, ablation_table(frame, phase="search")) == []
    with pytest.raises(ValueError, match=r"demo has no 3 arms that are ranked twice.*--trust CHEAP EXPENSIVE"):
        trust_table([study])


def test_the_report_of_one_study(ranked: Path) -> None:
    report = trust_table([ranked])
    assert report.data["kind"].tolist() == ["phases", "epochs", "epochs"]
    assert {name: str(dtype) for name, dtype in report.data.dtypes.items()} == TRUST_COLUMNS
    assert report.data["tau"].tolist()[:2] == pytest.approx([11 / 15, -1.0])
    assert report.data["tau"].isna().tolist() == [False, False, True]
    assert report.rows[1].cells[0].text.startswith("the search phase after half of the epochs (val top-1 %, 2 epochs")
    assert [row.cells[3].text for row in report.rows] == ["0.73", "-1.00", "-"]
    notes = " ".join(report.notes)
    assert "all arms are tied in one ranking" in notes
    assert "2 seeds of both divided between them" in notes
    assert max(map(len, render_text(report).splitlines())) <= 120
    assert report.data["top_k"].tolist()[0] == "stage1; stage2; stage3+4"
    assert trust_table([ranked], phase="search").data["kind"].tolist() == ["epochs", "epochs"]


def test_the_report_of_two_studies(ranked: Path, tmp_path: Path, add: Add, study: Path) -> None:
    cheap = ranked.rename(tmp_path / "cheap")
    for arm, value in list(SIX.items())[:4]:
        add(arm, 0, test_top1=70.0 - value)
    report = trust_table([cheap, study])
    (row,) = report.rows
    assert row.cells[0].text == f"{cheap}, the final re-evaluation (test top-1 %, 4 epochs, 3 seeds an arm)"
    assert row.cells[1].text.startswith(f"{study}, ")
    assert "no setting of the recipe on record differs; 2 arms only in the first" in report.notes[0]
    assert report.data["tau"].tolist() == pytest.approx([-2 / 3])


def test_rankings_of_one_seed_are_not_compared(study: Path, add: Add) -> None:
    for arm, value in SIX.items():
        history(add(arm, 0, phase="search", val_top1=50.0 + value), 1, 50 - value, 50, 50 + value)
    report = trust_table([study])
    assert "not compared, both rest on seed 0, and luck that they share" in report.notes[0]
    assert report.data["tau"].isna().all()


def test_faults(ranked: Path, tmp_path: Path, add: Add, study: Path) -> None:
    with pytest.raises(ValueError, match="3 given"):
        trust_table([ranked] * 3)
    with pytest.raises(ValueError, match="train_seconds ranks no arm"):
        trust_table([ranked], metric="train_seconds")
    cheap = ranked.rename(tmp_path / "cheap")
    add("another", 0, test_top1=1.0)
    with pytest.raises(ValueError, match="no network in common"):
        trust_table([cheap, study])
    for arm in ("plain", "stage3"):
        add(arm, 0, test_top1=1.0)
    assert "not compared, 2 arms in both" in trust_table([cheap, study]).notes[0]
