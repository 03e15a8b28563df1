"""Corrections over rows: published examples, laws, and intervals that belong to them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from search.stats.corrections import Correction, adjusted_p_values, simultaneous_intervals

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(lambda values: pd.Series(values, dtype=float))
ALL: tuple[Correction, ...] = ("holm", "bonferroni", "bh", "none")

# Benjamini and Hochberg 1995, section 4: fifteen p-values of a trial of thrombolysis; also in SciPy's documentation.
PUBLISHED = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
PUBLISHED += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]


def rows(n: int, means: list[float], sds: list[float]) -> pd.DataFrame:
    frame = pd.DataFrame({"n": float(n), "mean": means, "sd": sds}, dtype=float)
    t = frame["mean"] / frame["sd"] * np.sqrt(n)
    return frame.assign(p_value=2 * stats.t.sf(abs(t), n - 1))


def test_the_published_example() -> None:
    values = pd.Series(PUBLISHED)
    findings = {name: int((adjusted_p_values(values, name) <= 0.05).sum()) for name in ALL}
    assert findings == {"bonferroni": 3, "holm": 3, "bh": 4, "none": 9}
    assert adjusted_p_values(values, "bh").to_numpy() == pytest.approx(stats.false_discovery_control(values))


FEW = settings(max_examples=20, deadline=None)  # statsmodels collects garbage at each correction


@pytest.mark.slow
@FEW
@given(P_VALUES)
def test_from_least_to_most_strict(values: pd.Series[float]) -> None:
    none, bh, holm, bonferroni = (adjusted_p_values(values, name) for name in ("none", "bh", "holm", "bonferroni"))  # type: ignore[arg-type]
    assert none.equals(values)
    for less, more in ((none, bh), (bh, holm), (holm, bonferroni)):
        assert (less <= more + 1e-12).all()
    assert bonferroni.to_numpy() == pytest.approx(np.minimum(values * len(values), 1))


@pytest.mark.slow
@FEW
@given(P_VALUES, st.randoms(use_true_random=False), st.sampled_from(ALL))
def test_order_of_rows_does_not_matter(values: pd.Series[float], random: object, correction: Correction) -> None:
    order = list(values.index)
    random.shuffle(order)  # type: ignore[attr-defined]
    there = adjusted_p_values(values, correction)
    assert adjusted_p_values(values[order], correction)[values.index].to_numpy() == pytest.approx(there.to_numpy())


@pytest.mark.slow
@FEW
@given(P_VALUES, st.sampled_from(ALL))
def test_a_row_that_could_not_be_tested_does_not_count(values: pd.Series[float], correction: Correction) -> None:
    longer = pd.concat([values, pd.Series([np.nan], index=["untested"])])
    adjusted = adjusted_p_values(longer, correction)
    assert np.isnan(adjusted["untested"])
    assert adjusted.iloc[:-1].to_numpy() == pytest.approx(adjusted_p_values(values, correction).to_numpy())


def test_nothing_tested() -> None:
    assert adjusted_p_values(pd.Series([np.nan, np.nan])).isna().all()
    assert adjusted_p_values(pd.Series([], dtype=float)).empty


@pytest.mark.slow
@FEW
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(0.1, 3)), min_size=1, max_size=8),
    st.integers(2, 12),
    st.sampled_from(ALL),
)
def test_intervals_agree_with_the_findings(arms: list[tuple[float, float]], n: int, correction: Correction) -> None:
    frame = rows(n, [mean for mean, _ in arms], [sd for _, sd in arms])
    result = simultaneous_intervals(frame, correction)
    outside = (result["low"] > 0) | (result["high"] < 0)
    boundary = (result[["low", "high"]].abs().min(axis=1) < 1e-9) | (abs(result["p_adjusted"] - 0.05) < 1e-9)
    if correction == "holm":  # one way only: Holm may find more
        assert (result["finding"] | ~outside | boundary).all()
    else:
        assert ((result["finding"] == outside) | boundary).all()
    assert (result["agrees"] == (outside == result["finding"])).all()


def test_levels() -> None:
    frame = rows(5, [3.0, 3.0, 0.1, 0.1], [1.0] * 4)  # p = 0.0026, 0.0026, 0.83, 0.83
    assert simultaneous_intervals(frame, "holm")["level"].unique() == pytest.approx([1 - 0.05 / 4])
    assert simultaneous_intervals(frame, "bh")["level"].unique() == pytest.approx([1 - 2 * 0.05 / 4])
    assert simultaneous_intervals(frame, "none")["level"].unique() == pytest.approx([0.95])


def test_a_row_without_a_test_has_no_interval() -> None:
    frame = pd.DataFrame({"n": [5, 1], "mean": [1.0, 1.0], "sd": [0.5, np.nan], "p_value": [0.01, np.nan]})
    result = simultaneous_intervals(frame, "holm")
    assert result["low"].notna().tolist() == [True, False]
    assert result["finding"].tolist() == [True, False]
    assert result["level"][0] == 0.95  # the only row that counts


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="unknown correction 'sidak'; corrections: holm, bonferroni, bh, none"):
        adjusted_p_values(pd.Series([0.1]), "sidak")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"between 0 and 1, got 0\.1 to 1\.5"):
        adjusted_p_values(pd.Series([0.1, 1.5]))
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 5"):
        simultaneous_intervals(rows(5, [1.0], [1.0]), alpha=5)
