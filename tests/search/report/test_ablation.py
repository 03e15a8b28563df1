"""The table averages what finished, shows what did not, and its words hold in every case."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from search.ledger.metric import NOT_ALONE_MEANS
from search.ledger.study_files import LOOKS_FILE
from search.report.ablation import DATA_COLUMNS, AblationTable, ablation_table
from search.report.reading.load import load_study
from search.report.render import render_text, to_csv, to_html, to_markdown

from .conftest import Add

TOP1 = {
    "plain": [60.0, 61.0, 62.0, 59.0, 60.5],
    "stage3": [60.4, 60.9, 62.6, 58.9, 61.0],
    "stage4": [62.1, 63.0, 64.2, 60.9, 62.6],
}


def fill(add: Add, **changes: dict[str, object]) -> None:
    """A study of three arms on five fresh seeds, seed-major; `changes` by "<arm> <seed>"."""
    for seed in range(5):
        for arm, values in TOP1.items():
            row = {"test_top1": values[seed], "params": 1000, "latency_ms": 1.0 + seed, "latency_fused_ms": 0.5}
            add(arm, 100 + seed, **(row | changes.get(f"{arm} {seed}", {})))


def table_of(study: Path, **options: str) -> AblationTable:
    table = ablation_table(load_study(study), **options)  # type: ignore[arg-type]
    assert {name: str(dtype) for name, dtype in table.data.dtypes.items()} == DATA_COLUMNS
    assert all(note.strip() and "nan" not in note.split() and "<NA>" not in note for note in table.notes)
    return table


def notes(table: AblationTable) -> str:
    return "\n".join(table.notes)


def test_latencies_measured_alone_count_alone_and_others_are_marked_in_every_form(study: Path, add: Add) -> None:
    alone: dict[str, object] = {"latency_ms": 9.0, "latency_exclusive": True}
    fill(add, **{"stage3 0": alone, "stage4 0": {"latency_ms": None, "latency_fused_ms": None}})
    table = table_of(study)
    data = table.data.set_index("arm")
    assert data["latency_ms"].to_dict() == {"plain": 3.0, "stage3": 9.0, "stage4": 3.5}
    assert data["latency_exclusive"].to_dict() == {"plain": False, "stage3": True, "stage4": False}
    for form in (render_text(table), to_markdown(table), to_html(table)):
        assert "3.00?" in form
        assert "9.00?" not in form
        assert NOT_ALONE_MEANS in " ".join(form.split())
    assert "latency_exclusive" in to_csv(table).splitlines()[0]


def test_numbers(study: Path, add: Add) -> None:
    fill(add)
    table = table_of(study)
    data = table.data.set_index("arm")
    assert table.data["arm"].tolist() == ["plain", "stage4", "stage3"]
    assert data["mean"].to_dict() == pytest.approx({arm: sum(values) / 5 for arm, values in TOP1.items()})
    assert data.loc["stage3", "diff"] == pytest.approx(data.loc["stage3", "mean"] - data.loc["plain", "mean"])
    assert data["verdict"].fillna("").tolist() == ["", "better than the baseline", "cannot be told from seed noise"]
    assert data["latency_ms"].tolist() == [3.0] * 3
    assert data["missing"].isna().all()
    assert pd.isna(data.loc["plain", "diff"])
    assert (
        "stage4 (+2.06 points, 95% interval +1.92 to +2.20, 5 seeds) is better than the baseline (plain)."
        in table.conclusion
    )
    assert "stage3 cannot be told from the baseline (plain)." in table.conclusion
    assert "5 seeds find a true difference of 0.69 points with a power of 80%" in table.conclusion
    assert "corrected over 2 comparisons by Holm's method" in notes(table)
    assert "seeds 100-104; commit 0123456789ab." in notes(table)
    assert "15 trials" not in notes(table)  # all of them ok


def test_seeds_are_called_fresh_where_they_are(study: Path, add: Add) -> None:
    fill(add, **{"plain 0": {"reused_from": "demo/final/0000-s100"}})  # an earlier attempt of its own
    assert table_of(study).title.startswith("demo: final re-evaluation on fresh seeds, ")
    add("stage5", 100, test_top1=1.0, reused_from="old/final/0003-s100")
    assert "demo: final re-evaluation, 1 of 16 results taken over from old, " in table_of(study).title


def test_a_failed_cell_is_shown_and_not_averaged(study: Path, add: Add) -> None:
    fill(add, **{"stage4 2": {"status": "failed", "test_top1": 10.0, "reason": "loss became NaN\nTraceback ..."}})
    table = table_of(study)
    row = table.data.set_index("arm").loc["stage4"]
    assert (row["n"], row["n_paired"], row["missing"]) == (4, 4, "1 failed")
    assert row["mean"] == pytest.approx((62.1 + 63.0 + 60.9 + 62.6) / 4)
    assert row["diff"] == pytest.approx((2.1 + 2.0 + 1.9 + 2.1) / 4)
    assert "failed stage4 seed 102: loss became NaN." in notes(table)
    assert row["verdict"] == "ahead of the baseline on the 4 of 5 seeds it survived"


def test_what_never_ran_is_missing(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    add("plain", 1, test_top1=61.0)
    add("stage3", 0, test_top1=60.0)
    add("stage3", 1, status="pruned")
    add("stage4", 0)
    (study / "final" / "0005-s2" / ".hydra").mkdir(parents=True)
    data = table_of(study).data.set_index("arm")
    assert data["missing"].to_dict() == {
        "plain": "1 unfinished",
        "stage3": "1 pruned, 1 unfinished",
        "stage4": "1 unfinished, 1 absent, 1 without test_top1",
    }


def test_only_the_search_phase_is_there(study: Path, add: Add) -> None:
    for arm, value in (("plain", 60.0), ("stage3", 61.0), ("stage4", 59.0)):
        add(arm, 0, phase="search", val_top1=value)
    add("stage3+4", 0, phase="search", status="pruned", val_top1=30.0)
    table = table_of(study)
    assert (table.phase, table.metric.column) == ("search", "val_top1")
    assert table.data["verdict"].dropna().unique().tolist() == ["too few seeds (n=1)", "too few seeds (n=0)"]
    assert table.data["n"].tolist() == [1, 1, 1, 0]
    assert "selection bias" in notes(table)
    assert "There is no final re-evaluation" in notes(table)
    assert "Nothing can be said about stage3, stage4 and stage3+4, which share fewer than two" in table.conclusion
    assert "the numbers that chose the arms" in table.conclusion


def test_the_search_phase_can_be_asked_for(study: Path, add: Add) -> None:
    fill(add)
    add("plain", 0, phase="search", val_top1=60.0)
    table = table_of(study, phase="search")
    assert "This table does not read the final re-evaluation" in notes(table)
    assert "There is no final" not in notes(table) + table.conclusion
    with pytest.raises(ValueError, match="no trial of phase 'single'; phases with trials: final, search"):
        table_of(study, phase="single")


def test_all_failed(study: Path, add: Add) -> None:
    add("plain", 0, status="failed", reason="boom")
    add("stage3", 0, status="failed", reason="boom")
    table = table_of(study)
    assert table.conclusion == "No arm has a finished trial with test_top1: nothing can be compared."
    assert table.data["missing"].tolist() == ["1 failed", "1 failed"]


def test_failed_before_any_network_was_known(study: Path, add: Add) -> None:
    for seed in range(7):
        add(None, seed, status="failed", reason=f"boom {seed}")
    table = table_of(study)
    assert len(table.data) == 0
    assert "nothing can be compared" in table.conclusion
    assert "failed seed 0: boom 0" in notes(table)
    assert "and 2 more" in notes(table)


def test_only_the_baseline(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    assert table_of(study).conclusion == "Only the baseline, plain, was measured: there is nothing to compare it with."


def test_the_baseline_failed(study: Path, add: Add) -> None:
    add("plain", 0, status="failed")
    add("stage3", 0, test_top1=60.0)
    assert "The baseline, plain, finished on no seed" in table_of(study).conclusion


def test_no_baseline_and_one_by_hand(study: Path, add: Add) -> None:
    for seed in range(3):
        add("stage3", seed, test_top1=60.0 + seed, is_baseline=False)
        add("stage4", seed, test_top1=61.0 + seed**2, is_baseline=False)
    table = table_of(study)
    assert table.baseline is None
    assert table.data["diff"].isna().all()
    assert table.data["verdict"].isna().all()
    assert "No arm is marked as the baseline" in notes(table)
    assert "no single baseline row" in table.conclusion
    assert table_of(study, baseline="stage4").data["arm"].tolist() == ["stage4", "stage3"]
    assert table_of(study, baseline="bbbb").baseline == "stage3"
    with pytest.raises(ValueError, match="Did you mean 'stage3'"):
        table_of(study, baseline="stag3")


def test_two_baselines(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    add("stage3", 0, test_top1=60.0, is_baseline=True)
    table = table_of(study)
    assert table.baseline is None
    assert "2 arms are marked as baseline (plain and stage3)" in notes(table)


def test_arms_of_another_recipe_are_not_compared(study: Path, add: Add) -> None:
    for seed in range(2):
        add("plain", seed, test_top1=60.0)
        add("stage3", seed, test_top1=60.0 + seed, recipe_hash="other")
    table = table_of(study)
    assert table.data["verdict"].dropna().tolist() == ["trained by another recipe: not compared"]
    assert table.data["diff"].isna().all()
    assert "stage3 was trained by another recipe than the baseline" in table.conclusion


def test_no_spread_is_said(study: Path, add: Add) -> None:
    for seed in range(3):
        add("plain", seed, test_top1=60.0 + seed)
        add("stage3", seed, test_top1=60.5 + seed)
        add("stage4", seed, test_top1=60.0 + seed)
    table = table_of(study)
    assert "stage4 equals the baseline on each of 3 shared seeds." in table.conclusion
    assert "stage3 differs from the baseline by +0.50 points on each of 3 shared seeds" in table.conclusion


def test_none_can_be_told(study: Path, add: Add) -> None:
    fill(add, **{f"stage4 {seed}": {"test_top1": 60.0 + (-1) ** seed} for seed in range(5)})
    assert table_of(study).conclusion.startswith(
        "None of the 2 arms can be told from the baseline (plain). By the spread measured, 5 seeds "
    )


def test_a_loss_is_better_when_lower(study: Path, add: Add) -> None:
    for seed in range(3):
        add("plain", seed, test_top1=60.0, test_loss=1.0 + 0.01 * seed)
        add("stage3", seed, test_top1=60.0, test_loss=0.8 + 0.012 * seed)
        add("stage4", seed, test_top1=60.0, test_loss=1.2 + 0.012 * seed)
    table = table_of(study, metric="test_loss")
    assert table.data["arm"].tolist() == ["plain", "stage3", "stage4"]
    assert table.data["verdict"].dropna().tolist() == ["better than the baseline", "worse than the baseline"]
    assert "nats" in table.conclusion


def test_metrics_that_are_not_there(study: Path, add: Add) -> None:
    add("plain", 0, val_top1=60.0)
    with pytest.raises(
        ValueError, match="no finished trial of phase 'final' has test_loss; metrics with values: val_top1"
    ):
        table_of(study, metric="test_loss")
    with pytest.raises(ValueError, match=r"metric 'test_top' is not one of test_top1, .*; did you mean test_top1\?"):
        table_of(study, metric="test_top")
    table = table_of(study)
    assert table.metric.column == "val_top1"
    assert "the validation images are the ones that chose the arms" in notes(table)


def test_repeats_and_unequal_versions_are_said(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    add("plain", 0, test_top1=60.0)
    add("stage3", 0, test_top1=60.0, provenance={"commit": "ffff", "python": "3.11.7", "versions": {"torch": "2.12.0"}})
    add("stage4", 0, test_top1=60.0, provenance={"versions": None})
    text = notes(table_of(study))
    assert "1 trial repeated an arm and seed" in text
    assert "torch (2.12.0, 2.13.0)" in text
    assert (
        "Not made as the rest of the table: stage3 seed 0 (commit ffff); stage4 seed 0 (commit not on record)." in text
    )


@pytest.mark.parametrize(("commits", "said"), [(("aaaa", "aaaa"), False), ((None, None), True)])
def test_versions_of_an_installed_release_stand_for_its_commit(
    study: Path, add: Add, commits: tuple[str | None, ...], said: bool
) -> None:
    for arm, commit, version in zip(("plain", "stage3"), commits, ("0.1.0", "0.2.0"), strict=True):
        add(arm, 0, test_top1=60.0, provenance={"commit": commit, "python": "3.11", "versions": {"xvol": version}})
    assert ("xvol (0.1.0, 0.2.0)" in notes(table_of(study))) == said


def test_unreadable_results_are_named(study: Path, add: Add) -> None:
    path = add("plain", 0, test_top1=60.0)
    (add("stage3", 0) / "result.json").write_text("{")
    assert f"Unreadable, left out: {path.parent / '0001-s0'}" in notes(table_of(study))
    (path / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"holds no trial that could be read. .*0000-s0"):
        table_of(study)


def test_many_arms_are_counted_not_listed(study: Path, add: Add) -> None:
    for seed in range(3):
        add("plain", seed, test_top1=60.0)
        for number in range(8):
            add(f"arm{number}", seed, test_top1=62.0 + number + 0.1 * seed)
            add(f"noise{number}", seed, test_top1=60.0 + number * (seed - 1) + 0.1 * seed)
    conclusion = table_of(study).conclusion
    assert "and 4 more are better than the baseline (plain)." in conclusion
    assert "8 arms cannot be told from the baseline (plain)." in conclusion


def test_seeds_that_were_added_after_looking_are_said(study: Path, add: Add) -> None:
    fill(add)
    words = "Seeds were added to undecided rows after looking at their results"
    assert words not in table_of(study).conclusion
    (study / LOOKS_FILE).write_text("{}")
    assert words in table_of(study).conclusion
