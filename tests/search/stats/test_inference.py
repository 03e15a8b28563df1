"""All that is said of each row: agreement with SciPy, laws, and holes that stay holes."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from search.stats.inference import (
    MAX_SEEDS,
    Correction,
    adjusted_p_values,
    bootstrap_interval,
    equivalence_p_value,
    error_of_a_row,
    exaggerations,
    hedges_factor,
    minimum_detectable_difference,
    powers,
    seeds_needed,
    wilcoxon_p_value,
)

from .rows import ROW_COLUMNS, RowOptions, row_statistics

PLAIN = RowOptions(bootstrap=False)
NUMBERS = ["mean", "low", "high", "p_value", "p_adjusted", "level", "d_z", "mdd"]


def study(n: int = 6, effects: tuple[float, ...] = (0.0, 1.0, 3.0), seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    base = rng.normal(60, 3, n)
    arms = {f"arm{i}": base + effect + rng.normal(0, 1, n) for i, effect in enumerate(effects)}
    return pd.DataFrame({"plain": base} | arms)


@pytest.mark.slow
def test_one_row_for_each_arm_with_the_documented_columns() -> None:
    values = study()
    table = row_statistics(values, "plain", RowOptions(wilcoxon=True, margin=2.0))
    assert table.index.tolist() == ["arm0", "arm1", "arm2"]
    assert table.dtypes.astype(str).to_dict() == ROW_COLUMNS
    for name, row in table.iterrows():
        test = stats.ttest_rel(values[name], values["plain"])
        assert (row["p_value"], row["n"], row["missing"]) == (pytest.approx(test.pvalue), 6, 0)
        assert row["wilcoxon_p"] == pytest.approx(stats.wilcoxon(values[name] - values["plain"]).pvalue)
    assert table["level"].unique() == pytest.approx([1 - 0.05 / 3])
    assert table.loc["arm2", "finding"]
    assert pd.isna(table.loc["arm2", "seeds_needed"])
    assert not table.loc["arm0", "finding"]
    assert table.loc["arm0", "seeds_needed"] > 2
    assert pd.isna(row_statistics(values, "plain").loc["arm0", "seeds_needed"])  # no margin was given


@pytest.mark.slow
@given(st.floats(0.1, 10), st.floats(-50, 50), st.integers(0, 20))
@settings(max_examples=10, deadline=None)
def test_scale_and_shift(scale: float, shift: float, seed: int) -> None:
    values = study(seed=seed)
    here, there = (row_statistics(frame, "plain", PLAIN) for frame in (values, values * scale + shift))
    for name in NUMBERS:
        factor = 1 if name in ("p_value", "p_adjusted", "level", "d_z") else scale
        assert there[name].to_numpy(dtype=float) == pytest.approx(here[name].to_numpy(dtype=float) * factor, rel=1e-5)


@pytest.mark.slow
@given(st.permutations(["plain", "arm0", "arm1", "arm2"]), st.permutations(range(6)))
@settings(max_examples=10, deadline=None)
def test_order_of_arms_and_seeds_does_not_matter(arms: list[str], seeds: list[int]) -> None:
    values, options = study(), RowOptions(resamples=200)
    here, there = (row_statistics(frame, "plain", options) for frame in (values, values.loc[seeds, arms]))
    columns = [*NUMBERS, "boot_low", "boot_high"]
    assert there.loc[here.index, columns].to_numpy(dtype=float) == pytest.approx(here[columns].to_numpy(dtype=float))


@pytest.mark.slow
def test_holes_stay_holes() -> None:
    values = study()
    values["once"] = values["plain"].where(values.index == 2) + 1  # finished on one seed
    values["never"] = np.nan
    values["constant"] = values["plain"] + 0.5
    values["twice"] = values["arm2"].where(values.index < 2)
    values.loc[3, "arm1"] = np.nan
    values.loc[4, "arm1"] = np.inf  # a loss that ran away is no number to average
    table = row_statistics(values, "plain", RowOptions(wilcoxon=True, margin=1.0, resamples=200))
    assert table["n"].to_dict() == {"arm0": 6, "arm1": 4, "arm2": 6, "once": 1, "never": 0, "constant": 6, "twice": 2}
    assert table["missing"].to_dict() == {
        "arm0": 0,
        "arm1": 2,
        "arm2": 0,
        "once": 5,
        "never": 6,
        "constant": 0,
        "twice": 4,
    }
    undefined = [
        "low",
        "high",
        "p_value",
        "p_adjusted",
        "finding",
        "level",
        "boot_low",
        "d_z",
        "mdd",
    ]
    assert table.loc[["once", "never", "constant"], undefined].isna().all(axis=None)
    assert table.loc["once", "mean"] == pytest.approx(1)
    assert table.loc["twice", ["boot_low", "boot_high"]].isna().all()  # two seeds have no bootstrap
    assert table.loc["arm0", "level"] == pytest.approx(1 - 0.05 / 4)  # four rows could be tested
    without = row_statistics(values.drop(columns=["once", "never", "constant"]), "plain", PLAIN)
    assert table.loc[without.index, "p_adjusted"].tolist() == pytest.approx(without["p_adjusted"].tolist())


def test_arms_may_have_different_seeds() -> None:
    values = study()
    series = {name: column.dropna() for name, column in values.items()}
    series["arm1"] = series["arm1"].drop([0, 1])
    table = row_statistics(series, "plain", PLAIN)  # type: ignore[arg-type]
    assert table.loc["arm1", ["n", "missing"]].tolist() == [4, 2]


def test_nothing_to_compare() -> None:
    table = row_statistics(study()[["plain"]], "plain")
    assert table.empty
    assert list(table.columns) == list(ROW_COLUMNS)


def test_the_bootstrap_is_scipys_and_repeats_itself() -> None:
    values = study(n=9)
    deltas = (values["arm1"] - values["plain"]).to_numpy()
    for method in ("BCa", "percentile"):
        expected = stats.bootstrap((deltas,), np.mean, method=method, rng=np.random.default_rng(0)).confidence_interval
        first = bootstrap_interval(deltas, method=method)  # type: ignore[arg-type]
        assert first == (expected.low, expected.high)
        assert bootstrap_interval(deltas, method=method) == first  # type: ignore[arg-type]
        assert bootstrap_interval(deltas, method=method, seed=1) != first  # type: ignore[arg-type]


def test_wilcoxon_as_published() -> None:
    """Darwin's maize: heights of fifteen pairs of plants; SciPy's documentation gives p = 0.0413."""
    deltas = np.array([6.0, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75])
    assert wilcoxon_p_value(deltas) == pytest.approx(0.041259765625)


@pytest.mark.parametrize("deltas", [[], [1.0], [0.0, 0.0, 0.0]])
def test_wilcoxon_needs_a_difference(deltas: list[float]) -> None:
    assert wilcoxon_p_value(np.array(deltas)) is None


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="the baseline 'plane' is none of the arms: plain, arm0, arm1, arm2"):
        row_statistics(study(), "plane")
    with pytest.raises(ValueError, match="more than one value for seed 0"):
        row_statistics(pd.concat([study(), study().iloc[:1]]), "plain")
    with pytest.raises(ValueError, match="smallest difference that matters must be above zero, got 0"):
        row_statistics(study(), "plain", RowOptions(smallest=0))


@pytest.mark.slow
def test_seeds_are_reckoned_for_the_difference_that_matters() -> None:
    """By the smallest difference that matters, else by the margin; never by the one that was measured."""
    values = study(effects=(0.5,))
    needed = {
        name: int(row_statistics(values, "plain", RowOptions(bootstrap=False, **options)).loc["arm0", "seeds_needed"])  # type: ignore[arg-type]
        for name, options in {"small": {"smallest": 0.3, "margin": 2.0}, "margin": {"margin": 2.0}}.items()
    }
    sd = float((values["arm0"] - values["plain"]).std())
    assert needed == dict(zip(("small", "margin"), seeds_needed(np.array([0.3, 2.0]) / sd), strict=True))


# The "clinic" data that statsmodels tests its own two one-sided tests with, against R's equivalence::tost(eps=0.6).
FIRST = [2.84, 2.51, 2.41, 2.95, 3.14, 3.79, 4.14, 3.85, 3.02, 3.45, 5.37, 3.81, 4.19, 3.16, 3.84]
FIRST_AFTER = [2.60, 2.82, 2.18, 3.46, 4.01, 3.04, 3.47, 4.06, 2.91, 3.59, 4.51, 3.16, 3.86, 3.31, 3.02]
SECOND = [4.0, 3.26, 4.14, 3.42, 3.25, 4.34, 4.97, 4.31, 3.11, 3.41, 5.02, 4.21, 4.59, 5.3, 4.32]
SECOND_AFTER = [3.76, 3.66, 3.65, 3.6, 3.48, 2.87, 3.24, 3.92, 3.99, 4.21, 4.21, 3.31, 3.61, 2.97, 2.73]

PAIRS = st.lists(st.tuples(*[st.floats(0, 20).map(lambda value: round(value, 2))] * 2), min_size=2, max_size=10)


@pytest.mark.parametrize(
    ("before", "after", "p_value"),
    [(SECOND, SECOND_AFTER, 0.4412034046017588), (FIRST, FIRST_AFTER, 0.003166881489265175)],
)
def test_published_answers(before: list[float], after: list[float], p_value: float) -> None:
    assert equivalence_p_value(np.array(before) - np.array(after), 0.6) == pytest.approx(p_value, abs=1e-12)


@given(PAIRS, st.floats(0.1, 20))
def test_equivalent_exactly_where_the_interval_lies_inside(pairs: list[tuple[float, float]], margin: float) -> None:
    deltas = np.array([a - b for a, b in pairs])
    assume(float(deltas.std(ddof=1)) > 0.01)
    p = equivalence_p_value(deltas, margin)
    low, high = stats.ttest_1samp(deltas, 0).confidence_interval(0.9)
    assume(min(abs(abs(low) - margin), abs(abs(high) - margin)) > 1e-6)
    assert (p < 0.05) == (-margin < low and high < margin)
    assert equivalence_p_value(-deltas, margin) == pytest.approx(p)
    assert equivalence_p_value(deltas, margin * 2) <= p + 1e-12


P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12).map(lambda values: pd.Series(values, dtype=float))
ALL: tuple[Correction, ...] = ("holm", "bonferroni", "bh", "none")

# Benjamini and Hochberg 1995, section 4: fifteen p-values of a trial of thrombolysis; also in SciPy's documentation.
PUBLISHED = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
PUBLISHED += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]


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


def test_the_error_that_is_left_to_a_row() -> None:
    adjusted = pd.Series([0.01, 0.01, 0.83, 0.83, np.nan])  # four rows were tested
    left = {name: error_of_a_row(adjusted, name) for name in ALL}
    assert left == pytest.approx({"holm": 0.05 / 4, "bonferroni": 0.05 / 4, "bh": 2 * 0.05 / 4, "none": 0.05})


def test_faults_in_p_values() -> None:
    with pytest.raises(ValueError, match="unknown correction 'sidak'; corrections: holm, bonferroni, bh, none"):
        adjusted_p_values(pd.Series([0.1]), "sidak")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"between 0 and 1, got 0\.1 to 1\.5"):
        adjusted_p_values(pd.Series([0.1, 1.5]))


def power(difference: float, sd: float, n: int, alpha: float = 0.05) -> float:
    return float(powers(np.array([difference / sd]), np.array([n]), alpha)[0])


def needed(difference: float, sd: float = 1.0) -> int | None:
    return seeds_needed(np.array([difference / sd]))[0]


def test_known_answers() -> None:
    """Cohen 1988 and G*Power: d_z of 0.2, 0.5, 0.8 take 199, 34 and 15 pairs for 80% power at 5%."""
    assert seeds_needed(np.array([0.2, 0.5, 0.8])) == [199, 34, 15]
    assert power(0.5, 1.0, 34) == pytest.approx(0.8078, abs=1e-4)


@given(st.floats(0.1, 20), st.integers(2, 40), st.sampled_from([0.05, 0.01, 0.05 / 6]))
@settings(max_examples=25)
def test_the_detectable_difference_has_the_power_asked_for(sd: float, n: int, alpha: float) -> None:
    difference = minimum_detectable_difference(sd, n, alpha=alpha)
    assert power(difference, sd, n, alpha=alpha) == pytest.approx(0.8, abs=1e-4)
    assert difference == pytest.approx(sd * minimum_detectable_difference(1.0, n, alpha=alpha), rel=1e-6)


@given(st.floats(0.2, 20), st.floats(0.1, 5))  # from a 25th of the sd: below, more than MAX_SEEDS may be needed
@settings(max_examples=25)
def test_no_fewer_seeds_would_do(difference: float, sd: float) -> None:
    n = needed(difference, sd)
    assert n is not None
    assert power(difference, sd, n) >= 0.8
    assert n == 2 or power(difference, sd, n - 1) < 0.8
    assert needed(-difference, sd) == n


@pytest.mark.parametrize("n", [2, 3, 5])
def test_power_grows_with_the_difference_also_where_scipy_gives_up(n: int) -> None:
    values = [power(10**k, 1.0, n) for k in (-1, 0, 1, 1.3, 1.6, 2, 3, 6)]
    assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(values))
    assert values[-1] == pytest.approx(1)


def test_a_difference_of_nothing_is_never_settled() -> None:
    assert needed(0.0) is None
    assert needed(0.001) is None
    assert (needed(0.0285) or 0) <= MAX_SEEDS
    assert power(0.0, 1.0, 5) == pytest.approx(0.05)


def test_faults_of_who_asks_for_seeds_and_power() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        minimum_detectable_difference(1.0, 1)
    for sd in (0.0, float("nan")):
        with pytest.raises(ValueError, match="standard deviation of the difference must be a number above zero"):
            minimum_detectable_difference(sd, 5)
    with pytest.raises(ValueError, match=r"between alpha \(0.05\) and 1, got 1"):
        seeds_needed(np.ones(1), target=1)
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 0"):
        seeds_needed(np.ones(1), alpha=0)


@pytest.mark.parametrize(
    ("d_z", "n", "alpha"), [(0.3, 5, 0.05), (1.0, 5, 0.0125), (2.0, 5, 0.0125), (0.5, 20, 0.05), (1.0, 2, 0.05)]
)
def test_simulated_studies_exaggerate_by_that_factor(d_z: float, n: int, alpha: float) -> None:
    rng = np.random.default_rng(20261129)
    deltas = rng.normal(d_z, 1, (400_000, n))
    means = deltas.mean(axis=1)
    found = np.abs(stats.ttest_1samp(deltas, 0, axis=1).pvalue) <= alpha
    sizes = np.abs(means[found]) / d_z
    error = sizes.std() / np.sqrt(found.sum())
    assert exaggerations(np.array([d_z]), np.array([n]), alpha=alpha)[0] == pytest.approx(sizes.mean(), abs=4 * error)


def test_it_is_that_of_gelman_and_carlin_where_the_spread_is_known() -> None:
    """Their example: a true effect of 2 at a standard error of 8.1 is found 9.7 times too large, by their simulation."""
    n = 100_000  # so many that the spread is as good as known
    assert exaggerations(np.array([2 / 8.1 / np.sqrt(n)]), np.array([n]))[0] == pytest.approx(9.7, abs=0.2)


@given(st.floats(0.01, 5), st.integers(2, 60), st.floats(0.001, 0.2))
@settings(deadline=None, max_examples=50)
def test_less_is_exaggerated_more(d_z: float, n: int, alpha: float) -> None:
    smaller, larger = exaggerations(np.array([d_z, 1.5 * d_z]), np.array([n, n]), alpha=alpha)
    assert smaller >= larger - 1e-3
    assert larger > 0.999


def test_what_has_no_factor_is_refused() -> None:
    for d_z, n, alpha in ((0.0, 5, 0.05), (1.0, 1, 0.05), (1.0, 5, 0.0)):
        with pytest.raises(ValueError, match="not zero, at least 2 seeds"):
            exaggerations(np.array([d_z]), np.array([n]), alpha=alpha)


def test_hedges_factors_as_published() -> None:
    """Hedges 1981, table 1."""
    published = {2: 0.5642, 3: 0.7236, 4: 0.7979, 5: 0.8407, 10: 0.9228}
    assert {k: round(hedges_factor(k), 4) for k in published} == pytest.approx(published, abs=1e-4)
    with pytest.raises(ValueError, match="at least 2 degrees of freedom"):
        hedges_factor(1)
