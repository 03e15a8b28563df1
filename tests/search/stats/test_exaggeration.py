"""Findings exaggerate by as much as simulated studies do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from search.stats.exaggeration import exaggerations


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
