"""A frame of anybody's is judged as a study is, and what cannot be compared is refused with what mends it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import search
from search.report.ablation import ablation_table
from search.report.given import given_trials, metric_of
from search.report.reading.load import load_study
from search.report.render import RENDERERS
from search.report.write import FORMATS, paper_grid, save_table

RESULTS = Path(__file__).parents[3] / "docs" / "results"
FIGURES = [
    "n",
    "mean",
    "sd",
    "n_paired",
    "diff",
    "ci_low",
    "ci_high",
    "p_value",
    "p_corrected",
    "g_z",
    "mdd",
    "verdict",
]
ASKED: dict[str, Any] = {"arm": "model", "seed": "seed", "metric": "acc", "baseline": "a"}


def runs(**changes: Any) -> pd.DataFrame:
    columns = {
        "model": ["a"] * 4 + ["b"] * 4 + ["c"] * 4,
        "seed": [0, 1, 2, 3] * 3,
        "acc": [70.0, 71.0, 70.5, 70.2, 72.1, 73.0, 72.4, 72.2, 70.1, 70.8, 70.9, 70.0],
    }
    return pd.DataFrame(columns | changes)


@pytest.mark.parametrize("study", ["paper_branch_ablation", "paper_stage_placement"])
def test_a_study_read_as_anybodys_frame_is_judged_alike(study: str) -> None:
    frame = load_study(RESULTS / study / "trials.csv")
    ours = ablation_table(frame, "test_top1", phase="final")
    finished = frame[(frame["phase"] == "final") & (frame["status"] == "ok")]
    theirs = search.compare(finished, arm="arm", seed="seed", metric="test_top1", baseline=ours.baseline)
    pd.testing.assert_frame_equal(theirs.data.set_index("arm")[FIGURES], ours.data.set_index("arm")[FIGURES])
    assert theirs.data["arm"].tolist() == ours.data["arm"].tolist()


def test_every_form_is_written(tmp_path: Path) -> None:
    table = search.compare(runs(), **ASKED)
    said = {name: render(table) for name, render in RENDERERS.items()}
    assert all("b" in text and "72.4" in text for text in said.values())
    assert "b (+2.00 in acc" in table.conclusion
    assert not any("final" in note or "selection" in note for note in [table.conclusion, *table.notes])
    written = save_table(table, tmp_path, None, FORMATS)
    assert {path.suffix for path in written} == {".md", ".tex", ".csv", ".html", ".parquet", ".txt", ".json"}
    assert pd.read_parquet(tmp_path / "comparison.parquet")["diff"].dropna().round(9).tolist() == [2.0, 0.025]


def test_a_failed_training_is_shown_and_never_averaged() -> None:
    frame = runs(acc=[70.0, 71.0, 70.5, 70.2, 72.1, 73.0, 72.4, float("nan"), 70.1, 70.8, 70.9, 70.0])
    rows = search.compare(frame.drop(index=11), **ASKED).data.set_index("arm")
    assert rows.loc["b", "missing"] == "1 failed"
    assert rows.loc["c", "missing"] == "1 absent"
    assert rows.loc["b", "verdict"].startswith("ahead of the baseline on the 3 of 4 seeds")


def test_levels_that_are_numbers_keep_their_names() -> None:
    table = search.compare(runs(model=[64.0] * 4 + [128.0] * 4 + [0.5] * 4), **ASKED | {"baseline": 64})
    assert table.data["arm"].tolist() == ["64", "128", "0.5"]


def test_which_way_is_better_must_be_said_of_a_loss() -> None:
    losses = runs().rename(columns={"acc": "val_loss"})
    with pytest.raises(ValueError, match="higher_is_better=False"):
        search.compare(losses, **ASKED | {"metric": "val_loss"})
    frame = search.compare(losses, **ASKED | {"metric": "val_loss"}, higher_is_better=False).data.set_index("arm")
    assert frame.loc["b", "verdict"] == "worse than the baseline"


@pytest.mark.parametrize(
    ("changes", "asked", "said"),
    [
        ({}, {"arm": "modle"}, "no column 'modle'. Did you mean 'model'"),
        ({}, {"seed": "rng"}, "no column 'rng'"),
        ({}, {"baseline": "A"}, "no row has model='A', the baseline"),
        ({}, {"metric": "seed"}, "three columns"),
        ({"acc": ["70%"] * 12}, {}, "no number in 12 of 12 rows, first '70%' in row 0"),
        ({"acc": [float("nan")] * 12}, {}, "no finite value"),
        ({"seed": [0, 1, 2, 2] * 3}, {}, "'a' seed 2, 'b' seed 2 and 'c' seed 2"),
        ({"seed": [*range(4), *range(4, 8), *range(8, 12)]}, {}, "'a' has 0-3, 'b' has 4-7 and 'c' has 8-11"),
        ({"seed": ["x", *[0] * 11]}, {}, "seed 'seed' is 'x' in row 0"),
        ({"seed": [0.5, *[0] * 11]}, {}, "seeds are whole numbers"),
        ({"model": [None, *["b"] * 11]}, {}, "1 of 12 rows have no model, first row 0"),
        ({"status": list(np.arange(12))}, {"metric": "status"}, "rename the column"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        search.compare(runs(**changes), **ASKED | asked)


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="no row"):
        search.compare(runs().iloc[:0], **ASKED)


def test_the_grid_for_a_paper_has_the_same_figures() -> None:
    trials = given_trials(runs(), arm="model", seed="seed", metric=metric_of("acc"), baseline="a")
    table = ablation_table(trials)
    grid = paper_grid(trials, table)
    assert grid is not None
    assert grid.data["mean"].tolist() == table.data["mean"].tolist()
