"""What plots of arms show is what the table has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from search.report import ablation_table, load_study, plots
from search.report.ablation import AblationTable
from search.report.judging import Judging
from search.report.plots.data import MANY, SHOWN
from search.report.trust import cases_of

from ..conftest import HOSTILE, Add


@pytest.fixture(scope="module")
def table(whole: Path) -> AblationTable:
    return ablation_table(load_study(whole), judging=Judging(margin=1.0))


def test_a_forest_has_the_differences_and_intervals_of_the_table(table: AblationTable) -> None:
    data = plots.forest_data(table)
    of_table = table.data[~table.data["is_baseline"]].set_index("arm")
    expected = of_table[["diff", "ci_low", "ci_high"]].astype("float64").to_numpy(na_value=np.nan)
    np.testing.assert_array_equal(data.frame[["diff", "low", "high"]].to_numpy(), expected)
    assert data.frame["arm"].tolist() == of_table.index.tolist()
    assert dict(zip(data.frame["arm"], data.frame["told"], strict=True))["stage3: conv+pssa(rank=8)"] == "better"
    assert data.facts["margin"] == 1.0
    assert "±1 points" in data.said


def test_of_many_arms_a_forest_shows_the_best_and_says_so(study: Path, add: Add) -> None:
    for arm in range(MANY + 2):
        for seed in range(2):
            add("plain" if arm == 0 else f"stage1: x{arm}", seed, test_top1=50.0 + arm + seed * (1 + arm % 3))
    data = plots.forest_data(ablation_table(load_study(study)))
    assert len(data.frame) == SHOWN
    assert data.frame["diff"].min() > 10
    assert f"{SHOWN} of {MANY + 1} arms" in data.said


def test_without_a_difference_there_is_no_forest(study: Path, add: Add) -> None:
    add("stage3", 0, test_top1=60.0)
    table = ablation_table(load_study(study))
    with pytest.raises(plots.NothingToShow, match="no arm has a difference"):
        plots.forest(table)
    with pytest.raises(plots.NothingToShow):
        plots.heatmap(table)
    with pytest.raises(plots.NothingToShow):
        plots.front(table)


def test_a_heatmap_has_a_cell_for_each_place_and_branches(table: AblationTable) -> None:
    data = plots.heatmap_data(table)
    assert set(zip(data.frame["where"], data.frame["what"], strict=True)) == {
        ("stage3", "conv+pssa(rank=8)"),
        ("stage4", "pssa"),
        ("stage4", HOSTILE),
    }
    values = dict(zip(data.frame["arm"], data.frame["value"], strict=True))
    assert values == dict(table.data.loc[~table.data["is_baseline"], ["arm", "diff"]].itertuples(index=False))


def test_a_heatmap_without_a_baseline_shows_means(whole: Path) -> None:
    table = ablation_table(load_study(whole), phase="search")
    data = plots.heatmap_data(table)
    assert len(data.frame) == 16
    assert data.facts["against"] is False
    assert data.frame["value"].max() == table.data["mean"].max()


def test_the_front_is_what_no_arm_beats_in_both(table: AblationTable) -> None:
    frame = plots.front_data(table).frame
    for row in frame.itertuples(index=False):
        beaten = (
            (frame["mean"] >= row.mean)
            & (frame["macs"] <= row.macs)
            & ~((frame["mean"] == row.mean) & (frame["macs"] == row.macs))
        ).any()
        assert row.front_macs == (not beaten)
    assert "front_latency_ms" not in frame  # none was measured


def test_a_latency_beside_other_work_is_left_out_where_one_was_measured_alone(study: Path, add: Add) -> None:
    for arm, alone in (("plain", True), ("stage3", True), ("stage4", False)):
        add(arm, 0, test_top1=60.0 + len(arm), macs=1000, latency_ms=1.0 + len(arm) / 10, latency_exclusive=alone)
    frame = plots.front_data(ablation_table(load_study(study))).frame.set_index("arm")
    assert frame["latency_ms"].isna().to_dict() == {"plain": False, "stage3": False, "stage4": True}
    assert frame.loc["stage4", "front_latency_ms"] is None


def test_trust_shows_the_means_whose_tau_is_told(whole: Path) -> None:
    cases = [case for case in cases_of(load_study(whole)) if case.trust.tau is not None]
    assert cases
    for case in cases:
        data = plots.trust_data(case)
        tau = data.frame["cheap"].corr(data.frame["expensive"], method="kendall")
        assert tau == pytest.approx(case.trust.tau)
        assert len(data.frame) == case.trust.n
    with pytest.raises(plots.NothingToShow):
        plots.trust(replace(cases[0], means=pd.DataFrame({"cheap": [1.0], "expensive": [2.0]})))


def test_curves_are_means_over_seeds(whole: Path) -> None:
    frame = load_study(whole)
    data = plots.curves_data(ablation_table(frame), frame).frame
    own = data[data["arm"] == "plain"]
    trials = frame[(frame["phase"] == "final") & (frame["arm"] == "plain")]
    assert own["epoch"].tolist() == [1, 2, 3, 4]
    assert own["n"].tolist() == [3] * 4
    assert own["mean"].iloc[-1] == pytest.approx(trials["val_top1"].mean() - 2, abs=1e-3)
    assert own["sd"].iloc[-1] == pytest.approx(trials["val_top1"].std(), abs=1e-3)


def test_without_histories_there_are_no_curves(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0, val_top1=60.0)
    frame = load_study(study)
    with pytest.raises(plots.NothingToShow, match=r"history\.csv"):
        plots.curves(ablation_table(frame), frame)
