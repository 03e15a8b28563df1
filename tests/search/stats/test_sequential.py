"""The sequential rule: its split of the error, its verdicts, and no verdict that later seeds take back."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from search.stats.sequential import (
    FINISHED,
    FOUND,
    GIVEN_UP,
    SEQUENTIAL_COLUMNS,
    UNDECIDED,
    WAITING,
    plan_looks,
    sequential_verdicts,
)

LOOKS = st.lists(st.integers(2, 40), min_size=1, max_size=6, unique=True).map(sorted)


def values(effects: dict[str, float], n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    base = rng.normal(60, 3, n)
    return pd.DataFrame({"plain": base} | {name: base + e + rng.normal(0, 1, n) for name, e in effects.items()})


@given(LOOKS, st.floats(0.001, 0.2), st.sampled_from(["hwang_shih_decani", "obrien_fleming", "pocock"]))
def test_the_looks_spend_the_error_and_no_more(looks: list[int], alpha: float, spending: str) -> None:
    plan = plan_looks(looks, alpha=alpha, spending=spending)  # type: ignore[arg-type]
    assert sum(plan.alphas) == pytest.approx(alpha)
    assert all(each >= 0 for each in plan.alphas)
    assert plan.looks == tuple(looks)


def test_published_spending() -> None:
    """Lan and DeMets 1983 at a quarter, half, three quarters and all of the data, two-sided 5%.

    The spent error 0.0001, 0.0056, 0.0236, 0.05 (O'Brien-Fleming type) and 0.0179, 0.0310, 0.0414, 0.05 (Pocock type)
    stands in the tables of group-sequential software, e.g. R's ldbounds.
    """
    spent = np.cumsum(plan_looks([5, 10, 15, 20], spending="obrien_fleming").alphas)
    assert spent == pytest.approx([0.0001, 0.0056, 0.0236, 0.05], abs=5e-5)
    spent = np.cumsum(plan_looks([5, 10, 15, 20], spending="pocock").alphas)
    assert spent == pytest.approx([0.0179, 0.0310, 0.0414, 0.05], abs=5e-5)
    # R's gsDesign, sfHSD with param = -2: alpha (1 - exp(2 t)) / (1 - exp(2))
    spent = np.cumsum(plan_looks([5, 10, 15, 20]).alphas)
    assert spent == pytest.approx([0.00508, 0.01345, 0.02725, 0.05], abs=5e-6)


def test_verdicts_and_what_to_add() -> None:
    plan = plan_looks([4, 6, 12], spending="pocock")
    frame = values({"large": 9.0, "none": 0.0, "late": 0.0}, 6)
    frame.loc[3:, "late"] = np.nan
    table = sequential_verdicts(plan, frame, "plain")
    assert table.dtypes.astype(str).to_dict() == SEQUENTIAL_COLUMNS
    assert table["verdict"].to_dict() == {"large": FOUND, "none": UNDECIDED, "late": WAITING}
    assert table["seeds_to_add"].to_dict() == {"large": 0, "none": 6, "late": 1}
    assert table["n"].astype(object).where(table["n"].notna(), None).tolist() == [4, 6, None]
    assert table.loc["large", "bound"] == pytest.approx(plan.alphas[0] / 3)  # Holm over three rows
    assert table.loc["none", "bound"] == pytest.approx(plan.alphas[1] / 2)  # at the second look; one row is found
    assert table.loc["large", "level"] == pytest.approx(1 - plan.alphas[0] / 3)
    last = sequential_verdicts(plan, values({"none": 0.0}, 12), "plain")
    assert (last.loc["none", "verdict"], last.loc["none", "seeds_to_add"]) == (FINISHED, 0)


@given(st.integers(0, 50), st.integers(4, 12), st.permutations(["a", "b", "c"]))
@settings(max_examples=15, deadline=None)
def test_what_was_found_stays_found_and_order_of_rows_does_not_matter(seed: int, n: int, order: list[str]) -> None:
    plan = plan_looks([4, 8, 12])
    frame = values({"a": 0.0, "b": 2.0, "c": 4.0}, 12, seed)
    early, late = (sequential_verdicts(plan, frame.iloc[:k], "plain") for k in (n, 12))
    found = early.index[early["verdict"] == FOUND]
    pd.testing.assert_frame_equal(early.loc[found], late.loc[found])
    again = sequential_verdicts(plan, frame[[*order, "plain"]], "plain")
    pd.testing.assert_frame_equal(again.loc[late.index], late)


def test_a_failed_seed_is_made_up_for_by_the_next() -> None:
    plan = plan_looks([4, 8])
    frame = values({"a": 5.0}, 6)
    frame.loc[1, "a"] = np.nan
    table = sequential_verdicts(plan, frame, "plain")
    kept = frame.drop(index=1).iloc[:4]
    assert table.loc["a", "n"] == 4
    assert table.loc["a", "mean"] == pytest.approx((kept["a"] - kept["plain"]).mean())


def test_the_same_difference_on_every_seed_is_no_finding() -> None:
    frame = values({}, 4)
    frame["constant"] = frame["plain"] + 1
    table = sequential_verdicts(plan_looks([4]), frame, "plain")
    assert table.loc["constant", "verdict"] == FINISHED
    assert table.loc["constant", ["p_value", "low"]].isna().all()


def test_a_row_that_cannot_be_found_any_more_is_given_up() -> None:
    plan, frame = plan_looks([5, 8, 12, 20], margin=0.5), values({"none": 0.0, "small": 0.4, "large": 3.0}, 8, seed=3)
    table = sequential_verdicts(plan, frame, "plain")
    assert table["verdict"].to_dict() == {"none": GIVEN_UP, "small": UNDECIDED, "large": FOUND}
    chance = table["chance"]
    assert chance["none"] < 0.1 < chance["small"] < 1
    assert pd.isna(chance["large"])
    assert table["seeds_to_add"].to_dict() == {"none": 0, "small": 4, "large": 0}


@given(st.integers(0, 200), st.floats(0.1, 3), st.floats(0, 2))
@settings(max_examples=25, deadline=None)
def test_giving_up_takes_findings_and_adds_none(seed: int, margin: float, effect: float) -> None:
    frame = values({"a": effect, "b": 0.0, "c": 0.3}, 20, seed)
    plans = plan_looks([5, 8, 20]), plan_looks([5, 8, 20], margin=margin)
    without, given_up = (sequential_verdicts(plan, frame, "plain") for plan in plans)
    assert set(given_up.index[given_up["verdict"] == FOUND]) <= set(without.index[without["verdict"] == FOUND])
    assert (given_up["n"] <= 20).all()


def test_the_chance_that_is_left_is_that_of_simulated_ends() -> None:
    """Of 4,000 ways to go on from 8 seeds, with the spread seen and the margin, or what is seen, as the truth."""
    plan, frame = plan_looks([8, 20], margin=0.5), values({"a": 0.3}, 8, seed=1)
    chance = sequential_verdicts(plan, frame, "plain").loc["a", "chance"]
    deltas = (frame["a"] - frame["plain"]).to_numpy()
    rng = np.random.default_rng(0)
    means = (deltas.sum() + rng.normal(max(0.5, deltas.mean()), deltas.std(ddof=1), (4000, 12)).sum(axis=1)) / 20
    bound = stats.t.isf(plan.alphas[-1] / 2, 19) * deltas.std(ddof=1) / 20**0.5
    assert chance == pytest.approx((np.abs(means) > bound).mean(), abs=0.03)


@pytest.mark.slow
def test_the_error_holds_on_simulated_tables() -> None:
    """A coarse check; benchmarks/statistics_truth.py simulates 10,000 tables."""
    plan, false = plan_looks([3, 5]), 0
    for seed in range(150):
        false += (sequential_verdicts(plan, values({"a": 0.0, "b": 0.0}, 5, seed), "plain")["verdict"] == FOUND).any()
    assert false <= 16  # at 5%, more than 16 of 150 has a chance below 0.1%


@pytest.mark.parametrize("looks", [[], [1, 5], [5, 5], [8, 5]])
def test_looks_must_ascend(looks: list[int]) -> None:
    with pytest.raises(ValueError, match="looks must be ascending numbers of seeds from 2 on"):
        plan_looks(looks)


def test_faults_of_the_caller() -> None:
    with pytest.raises(ValueError, match="alpha must lie between 0 and 1, got 5"):
        plan_looks([5], alpha=5)
    with pytest.raises(ValueError, match="margin: 0 is no number above zero"):
        plan_looks([5], margin=0)
    with pytest.raises(ValueError, match="unknown spending function 'linear'"):
        plan_looks([5], spending="linear")  # type: ignore[arg-type]
    frame = values({"a": 0.0}, 4)
    with pytest.raises(ValueError, match="the baseline 'plane' is none of the arms: plain, a"):
        sequential_verdicts(plan_looks([4]), frame, "plane")
    with pytest.raises(ValueError, match="a seed occurs twice"):
        sequential_verdicts(plan_looks([4]), pd.concat([frame, frame]), "plain")
