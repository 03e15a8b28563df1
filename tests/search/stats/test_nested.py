"""Orders nested in roots: laws that hold for all values, agreement with statsmodels, and what one order or one root comes to."""

from __future__ import annotations

import warnings
from dataclasses import astuple, fields, replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from search.stats.nested import (
    MixedModel,
    NestedDifference,
    Spreads,
    difference_of_variances,
    differences,
    judged_deltas,
    over_roots,
    root_means,
)
from search.stats.paired import EQUAL, ArmValues, PairedDifference, compared, shared, survivors, verdict

FEW = settings(max_examples=40, deadline=None)  # a likelihood is maximised in each
VALUE = st.floats(0, 100).map(lambda value: round(value, 3))


@st.composite
def studies(draw: st.DrawFn, most_orders: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An arm and the baseline, (1, N) each, and the root of each pair; every root has an order, and means differ."""
    orders = draw(st.lists(st.integers(1, most_orders), min_size=2, max_size=5))
    roots = np.repeat(np.arange(len(orders)), orders)
    values = st.lists(VALUE, min_size=len(roots), max_size=len(roots))
    first, second = np.array([draw(values)]), np.array([draw(values)])
    assume(root_means(first - second, roots).std() > 1e-3)
    return first, second, roots


def one(first: np.ndarray, second: np.ndarray, roots: np.ndarray) -> NestedDifference:
    return over_roots(first, second, roots)[0]


def same(result: object, other: object, rel: float = 1e-5) -> None:
    """Compare two results of one kind, value by value; a spread of nothing is found to the root of what is rounding."""
    for each in fields(other):  # type: ignore[arg-type]
        value, wanted = getattr(result, each.name), getattr(other, each.name)
        if isinstance(wanted, Spreads | MixedModel):
            same(value, wanted, rel)
        else:
            assert value == (wanted if wanted is None else pytest.approx(wanted, rel=rel, abs=1e-4)), each.name


@FEW
@given(studies(most_orders=1))
def test_with_one_order_a_root_it_is_the_paired_t_test(study: tuple[np.ndarray, ...]) -> None:
    result, plain = one(*study), compared(*study[:2])[0]
    assert astuple(result)[: len(fields(PairedDifference))] == astuple(plain)
    assert result.pairs == plain.n
    assert result.spreads == Spreads()
    model = result.mixed
    assert (model.mean, model.low, model.high, model.degrees) == pytest.approx(
        (plain.mean, plain.low, plain.high, plain.n - 1), rel=1e-6, abs=1e-6
    )
    assert model.sd_within is None


@FEW
@given(studies(), st.data())
def test_neither_names_of_roots_nor_the_order_of_pairs_matters(
    study: tuple[np.ndarray, ...], data: st.DataObject
) -> None:
    first, second, roots = study
    names = np.array(data.draw(st.permutations(range(10, 20))))
    order = data.draw(st.permutations(range(len(roots))))
    same(over_roots(first[:, order], second[:, order], names[roots][order])[0], one(*study))


@FEW
@given(studies())
def test_the_sign_turns_with_the_arms(study: tuple[np.ndarray, ...]) -> None:
    first, second, roots = study
    result, turned = one(first, second, roots), one(second, first, roots)
    assert result.mixed.mean is not None
    assert result.mixed.low is not None
    assert result.mixed.high is not None
    same(turned.spreads, result.spreads)
    assert (turned.mean, turned.sd, turned.p_value) == pytest.approx(
        (-float(result.mean or 0.0), result.sd, result.p_value), abs=1e-9
    )
    assert (turned.mixed.mean, turned.mixed.low, turned.mixed.high) == pytest.approx(
        (-result.mixed.mean, -result.mixed.high, -result.mixed.low), rel=1e-4, abs=1e-4
    )


@FEW
@given(studies(), st.lists(VALUE, min_size=20, max_size=20))
def test_what_a_root_and_order_does_to_both_arms_cancels(study: tuple[np.ndarray, ...], shifts: list[float]) -> None:
    first, second, roots = study
    shift = np.array(shifts)[: len(roots)]
    result, shifted = one(*study), one(first + shift, second + shift, roots)
    unpaired = ("correlation", "variance_ratio")
    same(*(replace(each, **dict.fromkeys(unpaired)) for each in (shifted, result)))


@FEW
@given(studies(), st.integers(2, 4))
def test_an_order_that_only_repeats_another_tells_nothing(study: tuple[np.ndarray, ...], times: int) -> None:
    first, second, roots = study
    once = [root_means(values, roots) for values in (first, second)]
    result = one(*(np.repeat(values, times, axis=1) for values in once), np.repeat(np.arange(roots.max() + 1), times))
    assert astuple(result)[:6] == pytest.approx(astuple(compared(*once)[0])[:6], abs=1e-9)
    assert result.spreads.within == pytest.approx(0, abs=1e-6)
    assert result.spreads.between == pytest.approx(result.sd, abs=1e-6)


@FEW
@given(st.integers(2, 6), st.integers(2, 4), st.integers(0, 2**31))
def test_balanced_designs_have_a_closed_form(n_roots: int, n_orders: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    deltas = rng.normal(size=(n_roots, n_orders)) + rng.uniform(0, 2) * rng.normal(size=(n_roots, 1))
    result = one(deltas.reshape(1, -1), np.zeros((1, deltas.size)), np.repeat(np.arange(n_roots), n_orders))
    inside = deltas.var(axis=1, ddof=1).mean()
    means = deltas.mean(axis=1).var(ddof=1)
    assert result.spreads.within == pytest.approx(inside**0.5)
    assert result.spreads.between == pytest.approx(max(means - inside / n_orders, 0.0) ** 0.5)
    assert result.mixed.mean == pytest.approx(deltas.mean())
    assert result.mixed.degrees == pytest.approx(n_roots - 1)
    residual = max(means * n_orders, deltas.var(ddof=1))  # that of all pairs, where roots differ by less than chance
    assert result.mixed.se == pytest.approx((residual / deltas.size) ** 0.5, rel=1e-4)


@pytest.mark.parametrize("roots", [[0] * 4 + [1] * 4 + [2] * 4 + [3] * 4, [0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5]])
@pytest.mark.parametrize("between", [0.3, 1.0])
def test_the_mixed_model_is_that_of_statsmodels(roots: list[int], between: float) -> None:
    rng = np.random.default_rng(len(roots))
    deltas = between * rng.normal(size=6)[roots] + 0.5 * rng.normal(size=len(roots))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a spread near zero, where its optimiser wavers
        theirs = smf.mixedlm("delta ~ 1", pd.DataFrame({"delta": deltas, "root": roots}), groups="root").fit(reml=True)
    ours = one(deltas[None], np.zeros((1, len(roots))), np.array(roots)).mixed
    assert ours.mean == pytest.approx(theirs.params["Intercept"], abs=1e-4)
    assert ours.se == pytest.approx(theirs.bse["Intercept"], rel=0.02)  # theirs is of a Hessian by differences
    assert ours.sd_within == pytest.approx(theirs.scale**0.5, rel=1e-3)
    assert ours.sd_between == pytest.approx(theirs.cov_re.iloc[0, 0] ** 0.5, abs=1e-3)


@FEW
@given(st.lists(VALUE, min_size=6, max_size=6))
def test_equal_values_have_no_spread(values: list[float]) -> None:
    both = np.array([values])
    result = one(both, both, np.array([0, 0, 1, 1, 2, 2]))
    assert (result.n, result.pairs, result.mean, result.sd) == (3, 6, 0.0, 0.0)
    assert (result.spreads.between, result.spreads.within, result.low, result.p_value) == (0.0, 0.0, None, None)
    assert result.mixed == MixedModel()
    assert verdict(result) == EQUAL.replace("seed", "root")


def test_rows_are_judged_each_by_itself() -> None:
    rng = np.random.default_rng(3)
    roots = np.array([0, 0, 1, 1, 1, 2, 3])
    second = rng.normal(60, 1, size=(5, 7))
    first = second + rng.normal(size=(5, 7))
    first[3] = second[3]
    together = over_roots(first, second, roots)
    for row, result in enumerate(together):
        same(result, one(first[row : row + 1], second[row : row + 1], roots), rel=1e-9)


def test_one_root_tells_nothing_of_others() -> None:
    first, second = np.array([[61.0, 62.5, 61.9]]), np.full((1, 3), 60.0)
    result = one(first, second, np.array([7, 7, 7]))
    assert (result.n, result.pairs, result.low, result.p_value) == (1, 3, None, None)
    assert verdict(result) == "too few roots (n=1)"
    assert result.spreads.between is None
    assert result.spreads.within == pytest.approx(np.std([1.0, 2.5, 1.9], ddof=1))


def test_a_variance_from_which_nothing_is_taken_has_the_interval_of_a_variance() -> None:
    value, low, high = (float(each[0]) for each in difference_of_variances(np.array([2.0]), np.zeros(1), (4, 9), 0.025))
    assert (value, low, high) == pytest.approx((2.0, 8 / stats.chi2.isf(0.025, 4), 8 / stats.chi2.isf(0.975, 4)))


def arm(values: list[float], seeds: list[int], roots: list[int] | None, failed: tuple[int, ...] = ()) -> ArmValues:
    return ArmValues(
        values=np.array(values),
        seeds=np.array(seeds),
        failed=np.array(failed, dtype=np.int64),
        all_seeds=np.array(seeds),
        statuses=["ok"] * len(seeds),
        params=None,
        macs=None,
        latency_ms=None,
        latency_fused_ms=None,
        latency_exclusive=None,
        roots=None if roots is None else np.array(roots),
    )


def test_arms_are_compared_over_the_roots_that_both_have() -> None:
    base = arm([60.0, 61.0, 62.0, 63.0, 60.0], [0, 1, 2, 100, 101], [0, 1, 2, 0, 1])
    other = arm([61.0, 61.5, 65.0], [0, 1, 100], [0, 1, 0])
    result = differences([other, base], base)[0]
    assert isinstance(result, NestedDifference)
    assert (result.n, result.pairs, result.mean) == (2, 3, pytest.approx(((1.0 + 2.0) / 2 + 0.5) / 2))
    assert judged_deltas(other, base) == pytest.approx([1.5, 0.5])
    elsewhere = arm(
        [61.0, 61.5, 65.0], [0, 1, 100], [0, 1, 2]
    )  # seed 100 went on from another root than the baseline's
    assert shared(elsewhere, base)[0].tolist() == [0, 1]
    scratch = arm([61.0, 61.5], [0, 1], None)
    assert differences([scratch], arm([60.0, 61.0], [0, 1], None))[0].unit == "seed"


def test_a_failed_training_counts_within_its_root() -> None:
    base = arm([60.0, 60.0, 60.0, 60.0], [0, 1, 100, 101], [0, 1, 0, 1])
    other = arm([61.0, 61.0, 61.0], [0, 1, 101], [0, 1, 1], failed=(100,))
    lived = survivors(other, base, 0.0)
    assert (lived.tried, lived.lost) == (4, 1)
    assert lived.worst == pytest.approx(((1.0 - 60.0) / 2 + 1.0) / 2)
