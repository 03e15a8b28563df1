"""What plots of a search show is what its trials came to, and whom the journal names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.ledger.study_files import write_objectives
from search.report import load_study, plots
from search.report.plots.searching import is_log, numbers, searched
from search.report.plots.workers import workers_of

from ..conftest import Add


def test_the_best_so_far_never_falls(whole: Path) -> None:
    data = plots.history_data(load_study(whole)).frame
    assert data["best"].is_monotonic_increasing
    assert data["best"].iloc[-1] == data["value"].max()
    assert (data["best"] >= data["value"]).all()
    assert data.loc[data["on_best"], "value"].tolist() == data.loc[data["on_best"], "best"].tolist()


def test_of_several_objectives_the_first_is_shown_in_its_own_sense(own: Path) -> None:
    write_objectives(own, {"macs": "minimize", "val_top1": "maximize"})
    data = plots.history_data(load_study(own))
    assert data.frame["best"].is_monotonic_decreasing
    assert data.frame["best"].iloc[-1] == data.frame["value"].min()


def test_a_trial_of_several_seeds_counts_by_its_mean(study: Path, add: Add) -> None:
    for trial, seed, top1 in ((0, 0, 60.0), (0, 1, 62.0), (1, 0, 65.0)):
        add("stage3", seed, "search", trial=trial, val_top1=top1, overrides=[f"rank={trial}", f"seed={seed}"])
    trials, _, higher = searched(load_study(study))
    assert higher
    assert trials["value"].to_dict() == {0: 61.0, 1: 65.0}
    assert [name for name in trials if name != "value"] == ["rank"]


def test_what_sets_the_best_apart_is_important(whole: Path) -> None:
    frame = load_study(whole)
    assert set(plots.importance_data(frame).frame["parameter"]) == {"placement.policy", "branch.options.pssa.rank"}
    rng = np.random.default_rng(0)
    trials = pd.DataFrame(
        {
            "phase": "search",
            "trial": range(60),
            "status": "ok",
            "overrides": [f"what={'ab'[at % 2]}; width={rng.integers(1, 9)}; seed=0" for at in range(60)],
            "val_top1": [60.0 + 5 * (at % 2) + rng.normal(0, 0.1) for at in range(60)],
        }
    )
    data = plots.importance_data(trials).frame
    assert data["importance"].sum() == pytest.approx(1)
    assert data["parameter"].iloc[0] == "what"
    with pytest.raises(plots.NothingToShow, match="9 finished trials"):
        plots.importance(frame[frame["trial"] < 9])


def test_each_path_is_a_trial_with_its_settings(whole: Path) -> None:
    frame = load_study(whole)
    data = plots.parallel_data(frame)
    assert data.frame["value"].is_monotonic_decreasing
    best = data.frame.iloc[0]
    assert (best["placement.policy"], best["branch.options.pssa.rank"]) == ("stage4", "8")
    assert len(data.frame) == 16


def test_a_study_that_searched_nothing_says_so(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    frame = load_study(study)
    for draw in (plots.history, plots.importance, plots.parallel):
        with pytest.raises(plots.NothingToShow, match="nothing was searched"):
            draw(frame)
    with pytest.raises(plots.NothingToShow, match="began and ended"):
        plots.timeline(frame)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [(["1", "2.5", None], [1.0, 2.5, np.nan]), (["1", "stage3"], None), (["1", "nan"], None), (["inf", "1"], None)],
)
def test_a_parameter_is_numbers_where_every_value_is_one(texts: list[str | None], expected: list[float] | None) -> None:
    found = numbers(pd.Series(texts, dtype=object))
    assert (found is None) == (expected is None)
    if found is not None:
        np.testing.assert_array_equal(found.to_numpy(), expected)


def test_what_spans_two_decades_is_shown_by_its_logarithm() -> None:
    assert is_log(pd.Series([0.001, 0.1]))
    assert not is_log(pd.Series([0.0, 100.0]))
    assert not is_log(pd.Series([1.0, 50.0]))


def test_the_timeline_knows_workers_and_their_idle_time(whole: Path) -> None:
    data = plots.timeline_data(load_study(whole)).frame
    assert data.groupby("worker").size().to_dict() == {1: 14, 2: 14}
    worked, whole_time = 14 * 60, 14 * 60 + 13 * 20
    assert data["idle"].unique() == pytest.approx([1 - worked / whole_time])
    assert data["start_s"].min() == 0


def test_a_torn_journal_tells_what_stands_before(own: Path) -> None:
    found = workers_of(own)
    assert found["trials/0000-s0"] == "w0"
    assert len(found) == 28
    (own / "study.journal").unlink()
    assert workers_of(own) == {}


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 300)), min_size=1, max_size=12))
def test_trainings_without_a_worker_never_overlap_in_a_row(spans: list[tuple[int, int]]) -> None:
    times = pd.to_datetime("2026-11-30", utc=True)
    frame = pd.DataFrame(
        {
            "reused_from": None,
            "started_at": [(times + pd.Timedelta(seconds=start)).isoformat() for start, _ in spans],
            "finished_at": [(times + pd.Timedelta(seconds=start + length)).isoformat() for start, length in spans],
            "phase": "search",
            "run_dir": [f"trials/{number}" for number in range(len(spans))],
        }
    )
    data = plots.timeline_data(frame).frame
    for _, own in data.groupby("worker"):
        assert (own["start_s"].to_numpy()[1:] >= own["end_s"].to_numpy()[:-1]).all()
    assert data["trials"].sum() <= len(spans)  # of the first two dozen workers
    assert data["idle"].between(0, 1).all()
