import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xvol.allowed import check_choice, check_number, meant, suggest


def test_what_was_meant() -> None:
    assert meant("pssaa", ["conv", "pssa"]) == "; did you mean pssa?"
    assert meant("zzz", ["conv", "pssa"]) == ""
    assert meant("CONV", ["conv", "pssa"]) == "; did you mean conv?"
    assert meant(3, ["conv"]) == ""


def test_near_matches_come_first() -> None:
    assert suggest("psa", ["conv", "pssa"]) == "did you mean 'pssa'? Allowed: conv, pssa"
    assert suggest("zzz", ["conv"]) == "Allowed: conv"
    assert suggest("zzz", []) == "there are none to choose from"


@given(st.text(max_size=8), st.lists(st.text("abcdef", min_size=1, max_size=5), min_size=1, max_size=30))
def test_a_list_is_never_longer_than_asked_for(given_name: str, names: list[str]) -> None:
    text = suggest(given_name, names, shown=5).rsplit("Allowed: ")[-1]
    assert text.count(", ") <= 5
    assert (f"and {len(names) - 5} more" in text) == (len(names) > 5)


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
