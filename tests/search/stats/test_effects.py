"""Factorial designs: what per-seed contrasts are exactly, an error that holds where effects vary by seed, missing cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from search.stats.effects import factorial_effects


def design(seeds: int = 5, seed_sd: float = 3.0, effect: float = 1.0, number: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(number)
    cells = [(where, branch, seed) for seed in range(seeds) for where in "abc" for branch in ("conv", "pssa")]
    frame = pd.DataFrame(cells, columns=["where", "branch", "seed"])
    frame["y"] = 60 + (seed_sd * rng.normal(size=seeds))[frame["seed"]] + rng.normal(size=len(frame))
    frame["y"] += effect * ((frame["branch"] == "pssa") & (frame["where"] == "c"))
    return frame


@given(st.integers(0, 10**6), st.integers(2, 9), st.floats(0, 5))
@settings(max_examples=30, deadline=None)
def test_a_factor_of_two_levels_is_the_paired_t_test_over_seeds(number: int, seeds: int, slope: float) -> None:
    frame = design(seeds, number=number)
    frame["y"] += (slope * np.random.default_rng(number).normal(size=seeds))[frame["seed"]] * (
        frame["branch"] == "pssa"
    )
    result = factorial_effects(frame, "y", ["where", "branch"])
    means = frame.pivot_table("y", "seed", "branch")
    paired = stats.ttest_rel(means["pssa"], means["conv"])
    term = result.terms.set_index("term").loc["branch"]
    assert (term["df"], term["df_error"], result.degrees) == (1, seeds - 1, seeds - 1)
    assert term["p_value"] == pytest.approx(paired.pvalue, rel=1e-6)
    line = result.estimates.set_index("term").loc["branch"]
    assert (line["estimate"], line["p_value"]) == pytest.approx(((means["pssa"] - means["conv"]).mean(), paired.pvalue))
    interval = paired.confidence_interval()
    assert (line["low"], line["high"]) == pytest.approx((interval.low, interval.high), rel=1e-6)


def test_the_error_is_held_where_an_effect_varies_by_seed() -> None:
    """A model of seed + noise finds this effect, which is none on average, in 16 % of studies."""
    found = []
    for number in range(80):
        frame = design(effect=0.0, number=number)
        slopes = np.random.default_rng([number, 1]).normal(size=5)
        frame["y"] += slopes[frame["seed"]] * (frame["branch"] == "pssa")
        found.append(factorial_effects(frame, "y", ["where", "branch"]).terms["p_value"][1] <= 0.05)
    assert np.mean(found) <= 0.05 + 3 * (0.05 * 0.95 / 80) ** 0.5


def test_one_factor_is_the_classic_repeated_measures_analysis() -> None:
    frame = design(effect=3.0).query("branch == 'pssa'")
    result = factorial_effects(frame, "y", ["where"]).terms.iloc[0]
    classic = AnovaRM(frame, "y", "seed", within=["where"]).fit().anova_table.iloc[0]
    assert (result["df"], result["df_error"]) == (classic["Num DF"], classic["Den DF"])
    assert result["f"] == pytest.approx(classic["F Value"])
    assert 0.05 > result["p_value"] > classic["Pr > F"]  # Greenhouse and Geisser: fewer degrees of freedom


def test_two_factors_are_the_classic_repeated_measures_analysis() -> None:
    frame = design(seeds=6)
    classic = AnovaRM(frame, "y", "seed", within=["where", "branch"]).fit().anova_table["F Value"]
    assert factorial_effects(frame, "y", ["where", "branch"]).terms["f"].to_numpy() == pytest.approx(classic.to_numpy())


def test_estimates_are_differences_of_means_in_a_balanced_design() -> None:
    frame = design()
    result = factorial_effects(frame, "y", ["where", "branch"])
    estimates = result.estimates.set_index(["term", "level"])["estimate"]
    by_where, by_both = frame.groupby("where")["y"].mean(), frame.groupby(["where", "branch"])["y"].mean()
    assert estimates["where", "b"] == pytest.approx(by_where["b"] - by_where["a"], abs=1e-6)
    gain = by_both.xs("pssa", level="branch") - by_both.xs("conv", level="branch")
    assert estimates["where x branch", "c x pssa"] == pytest.approx(gain["c"] - gain["a"], abs=1e-6)
    assert (result.estimates["low"] < result.estimates["estimate"]).all()
    assert (result.estimates["estimate"] < result.estimates["high"]).all()


@given(st.permutations(range(30)), st.floats(0.5, 5), st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_order_scale_and_shift_do_not_matter(order: list[int], scale: float, number: int) -> None:
    frame = design(number=number)
    levels = {"where": pd.CategoricalDtype(["a", "b", "c"]), "branch": pd.CategoricalDtype(["conv", "pssa"])}
    here = factorial_effects(frame.astype(levels), "y", ["where", "branch"])
    moved = frame.astype(levels).iloc[order].assign(y=lambda rows: rows["y"] * scale - 7)
    there = factorial_effects(moved, "y", ["where", "branch"])
    assert there.terms["f"].to_numpy() == pytest.approx(here.terms["f"].to_numpy(), rel=1e-3)
    assert there.estimates["estimate"].to_numpy() == pytest.approx(
        here.estimates["estimate"] * scale, rel=1e-4, abs=1e-6
    )


def test_a_seed_that_lacks_a_cell_is_left_out_and_named() -> None:
    frame = design()
    frame.loc[[3, 8], "y"] = [np.nan, np.inf]  # one cell each on seeds 0 and 1
    result = factorial_effects(frame, "y", ["where", "branch"])
    assert (result.n, result.seeds, result.degrees) == (18, 3, 2)
    assert result.notes == [
        "2 of 30 rows have no finite y, factor or seed: left out",
        "left out, since not every cell finished there: seed 0, 1",
    ]
    whole = factorial_effects(frame.query("seed > 1"), "y", ["where", "branch"])
    pd.testing.assert_frame_equal(result.estimates, whole.estimates)


def test_a_cell_that_most_seeds_lack_goes_before_the_seeds_do() -> None:
    frame = design()
    lacks = (frame["where"] == "c") & (frame["branch"] == "pssa") & (frame["seed"] != 2)
    result = factorial_effects(frame[~lacks], "y", ["where", "branch"])
    assert (result.n, result.seeds) == (25, 5)
    assert result.notes[0] == "left out, since most seeds lack it: c x pssa (on 1 of 5)"
    assert result.terms["term"].tolist() == ["where", "branch"]


def test_equal_numbers_are_no_certainty() -> None:
    result = factorial_effects(design().assign(y=61.7), "y", ["where", "branch"])
    assert result.terms["p_value"].isna().all()
    assert result.estimates["p_value"].isna().all()


def test_an_interaction_with_an_empty_cell_is_not_made_up() -> None:
    frame = design().query("not (where == 'c' and branch == 'pssa')")
    result = factorial_effects(frame, "y", ["where", "branch"])
    assert result.terms["term"].tolist() == ["where", "branch"]
    assert result.notes == [
        "where x branch cannot be estimated and is not in the model: 1 of its cells has no finished run"
    ]


def test_aliased_terms_are_named() -> None:
    frame = design()
    frame["again"] = frame["branch"]
    result = factorial_effects(frame, "y", ["branch", "again"])
    assert result.terms["term"].tolist() == ["branch"]
    assert (
        "again is aliased with branch, as in a fraction of a factorial: what stands at branch may be either, or both"
        in result.notes
    )
    assert (
        "branch x again cannot be estimated and is not in the model: 2 of its cells have no finished run"
        in result.notes
    )


def test_without_two_seeds_of_the_same_cells_nothing_is_tested() -> None:
    frame = design(seeds=6)
    one_each = frame[frame.groupby("seed").cumcount() == frame["seed"]]  # each cell on a seed of its own
    for rows, expected in ((design(seeds=1), 1), (one_each, 6)):
        result = factorial_effects(rows, "y", ["where", "branch"])
        assert (result.seeds, result.degrees, result.n) == (expected, 0, 6)
        assert result.terms["p_value"].isna().all()
        assert result.estimates["low"].isna().all()
        assert result.notes[0].startswith("no two seeds hold two cells in common: estimates without")


def test_faults_of_the_caller() -> None:
    frame = design()
    with pytest.raises(ValueError, match="no column 'wher' in the frame; columns: where, branch, seed, y"):
        factorial_effects(frame, "y", ["wher"])
    with pytest.raises(ValueError, match=r"too few in branch \(1\)"):
        factorial_effects(frame.query("branch == 'conv'"), "y", ["where", "branch"])
    with pytest.raises(ValueError, match="factors must be one or more different columns"):
        factorial_effects(frame, "y", ["where", "where"])
