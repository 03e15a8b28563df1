from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.allowed import check_choice, check_number


def test_a_choice() -> None:
    check_choice("x", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"x=alway: allowed are always, never; did you mean always\?"):
        check_choice("x", "alway", ("always", "never"))


@given(st.floats(), st.floats(-5, 5), st.floats(-5, 5))
def test_a_number_is_in_its_range_and_finite_or_refused(given_number: float, low: float, below: float) -> None:
    inside = math.isfinite(given_number) and low <= given_number < below
    refused = contextlib.nullcontext() if inside else pytest.raises(ValueError, match=r"x=.*: at least .* and below")
    with refused:
        check_number("x", given_number, low=low, below=below)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 0.0, -1.0])
def test_what_must_be_above_is_finite_too(number: float) -> None:
    with pytest.raises(ValueError, match="must be above 0, or null for no limit"):
        check_number("x", number, above=0, null="no limit")
    check_number("x", None, above=0, null="no limit")
