"""Limits on costs."""

import pytest

from search.study.options import parse_constraints


def test_a_bare_number_is_the_most() -> None:
    most, least = parse_constraints({"params": 1e6, "macs": ">= 2e3"}, ("params", "macs"))
    assert most.violation({"params": 1_000_000}) is None
    assert most.violation({"params": 1_000_001}) == "params 1e+06 is above 1e+06"
    assert least.violation({"macs": 2000}) is None
    assert least.violation({"macs": 1999}) == "macs 1999 is below 2000"


@pytest.mark.parametrize(
    ("given", "message"), [({"prams": 1}, "allowed are params, macs"), ({"macs": "< 3"}, "<=1.2e6")]
)
def test_what_is_no_limit_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_constraints(given, ("params", "macs"))


def test_a_cost_that_was_not_stated_is_no_pass() -> None:
    (limit,) = parse_constraints({"latency_ms": 3}, None)
    with pytest.raises(ValueError, match="did not state it"):
        limit.violation({"params": 1})
