"""Factorial designs: R's published analysis, exact agreement in balanced designs, and fallbacks that say so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.anova import AnovaRM

from search.report.effects.effects import BLOCKS, MEANS, MIXED, factorial_effects

# Yates 1935 (R's dataset npk): yield of peas; block, then N, P, K at two levels.
NPK_TABLE = """
1 011 49.5  1 110 62.8  1 000 46.8  1 101 57.0  2 100 59.8  2 111 58.5  2 001 55.5  2 010 56.0
3 010 62.8  3 111 55.8  3 100 69.5  3 001 55.0  4 100 62.0  4 111 48.8  4 001 45.5  4 010 44.2
5 110 52.0  5 000 51.5  5 101 49.8  5 011 48.8  6 101 57.2  6 110 59.0  6 011 53.2  6 000 56.0
"""


def npk() -> pd.DataFrame:
    words = NPK_TABLE.split()
    rows = zip(words[::3], words[1::3], words[2::3], strict=True)
    frame = pd.DataFrame([(int(b), *map(int, cell), float(y)) for b, cell, y in rows], columns=["block", *"NPK", "y"])
    return frame.astype({name: pd.CategoricalDtype([0, 1]) for name in "NPK"})


def design(seeds: int = 5, seed_sd: float = 3.0, effect: float = 1.0, number: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(number)
    cells = [(where, branch, seed) for seed in range(seeds) for where in "abc" for branch in ("conv", "pssa")]
    frame = pd.DataFrame(cells, columns=["where", "branch", "seed"])
    frame["y"] = 60 + (seed_sd * rng.normal(size=seeds))[frame["seed"]] + rng.normal(size=len(frame))
    frame["y"] += effect * ((frame["branch"] == "pssa") & (frame["where"] == "c"))
    return frame


def test_a_published_analysis() -> None:
    """R: summary(aov(yield ~ block + (N + P + K)^2, npk)); the seventh interaction is confounded with the blocks."""
    result = factorial_effects(npk(), "y", ["N", "P", "K"], seed="block")
    assert (result.method, result.n, result.seeds, result.degrees, result.notes) == (MIXED, 24, 6, 12, [])
    assert result.noise_sd == pytest.approx(np.sqrt(15.44), rel=1e-3)
    assert result.terms["term"].tolist() == ["N", "P", "K", "N x P", "N x K", "P x K"]
    assert result.terms["f"].to_numpy() == pytest.approx([12.259, 0.544, 6.166, 1.378, 2.146, 0.031], abs=1e-3)
    published = [0.00437, 0.47490, 0.02880, 0.26317, 0.16865, 0.86275]
    assert result.terms["p_value"].to_numpy() == pytest.approx(published, abs=2e-5)
    main = result.estimates.query("term == 'N'").iloc[0]
    assert (main["level"], main["estimate"]) == ("1", pytest.approx(5.6167, abs=1e-4))


def test_one_factor_is_the_classic_repeated_measures_analysis() -> None:
    frame = design().query("branch == 'conv'")
    result = factorial_effects(frame, "y", ["where"])
    classic = AnovaRM(frame, "y", "seed", within=["where"]).fit().anova_table.iloc[0]
    assert result.method == MIXED
    assert result.terms["f"][0] == pytest.approx(classic["F Value"], rel=1e-4)
    assert result.terms["p_value"][0] == pytest.approx(classic["Pr > F"], rel=1e-4)


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


def test_where_seeds_do_not_differ_the_seed_becomes_a_block_and_that_is_said() -> None:
    methods = set()
    for number in range(4):
        frame = design(seed_sd=0.0, number=number)
        frame["y"] -= 0.999 * (
            frame.groupby("seed")["y"].transform("mean") - 60
        )  # less between seeds than chance gives
        result = factorial_effects(frame, "y", ["where", "branch"])
        methods.add(result.method)
        assert result.seed_sd is None
        assert "the mixed model could not be fitted" in result.notes[0]
        assert "least squares, seed as fixed block instead" in result.notes[0]
        assert result.terms["p_value"].between(0, 1).all()
    assert methods == {BLOCKS}


def test_missing_cells_are_left_out_and_counted() -> None:
    frame = design()
    frame.loc[[3, 8], "y"] = [np.nan, np.inf]
    result = factorial_effects(frame, "y", ["where", "branch"])
    assert (result.n, result.notes[0]) == (28, "2 of 30 rows have no finite y, factor or seed: left out")
    assert result.degrees == 28 - 5 - 5


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


def test_one_seed_of_each_cell_leaves_nothing_to_judge_by() -> None:
    result = factorial_effects(design(seeds=1), "y", ["where", "branch"])
    assert (result.method, result.degrees, result.noise_sd) == (MEANS, 0, None)
    assert result.terms["p_value"].isna().all()
    assert result.estimates["low"].isna().all()
    assert result.estimates["estimate"].notna().all()
    assert "leave no degree of freedom for noise" in result.notes[0]


def test_one_seed_without_interactions_says_what_is_unknown() -> None:
    result = factorial_effects(design(seeds=1), "y", ["where", "branch"], interactions=False)
    assert (result.method, result.degrees) == (BLOCKS, 2)
    assert "the seed cannot be a random effect with a single seed" in result.notes[0]


def test_faults_of_the_caller() -> None:
    frame = design()
    with pytest.raises(ValueError, match="no column 'wher' in the frame; columns: where, branch, seed, y"):
        factorial_effects(frame, "y", ["wher"])
    with pytest.raises(ValueError, match=r"too few in branch \(1\)"):
        factorial_effects(frame.query("branch == 'conv'"), "y", ["where", "branch"])
    with pytest.raises(ValueError, match="factors must be one or more different columns"):
        factorial_effects(frame, "y", ["where", "where"])
