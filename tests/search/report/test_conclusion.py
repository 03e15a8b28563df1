"""What is said of the seeds is what the columns hold, rounded so that it stays true."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from search.ledger.metric import metric_named
from search.report.conclusion import resolution, rounded, rounded_up
from search.report.judging import Judging

TOP1 = metric_named("test_top1")


def row(arm: str, mdd: float | None, needed: int | None, n: int = 5) -> Any:
    low, high = (None, None) if needed is None else (needed // 3, needed * 8)
    return SimpleNamespace(arm=arm, mdd=mdd, seeds_needed=needed, seeds_low=low, seeds_high=high, n_paired=n)


def test_one_row() -> None:
    found = "By the spread measured, 5 seeds find a true difference of 0.9 points with a power of 80%."
    assert resolution([row("stage3", 0.871, 34)], TOP1, 1, Judging()) == [found]
    assert resolution([row("stage3", 0.871, 34)], TOP1, 1, Judging(margin=0.5)) == [
        found,
        "To find 0.5 points with that power takes 34 (11 to 280) seeds for stage3 (95% interval, by that of the spread).",
    ]


def test_many_rows_are_a_range() -> None:
    rows = [row(f"arm{n}", 0.5 + n, 10 * (n + 1), n=4 + n % 2) for n in range(5)] + [row("same", 0.7, None)]
    said = " ".join(resolution(rows, TOP1, 1, Judging(margin=0.5)))
    assert "4 to 5 seeds find a true difference of 0.5 to 4.5 points with a power of 80%." in said
    assert "takes from 10 (3 to 80) seeds (arm0) to more than 10,000 " in said


def test_nothing_is_said_where_nothing_was_tested() -> None:
    assert resolution([], TOP1, 1, Judging()) == []
    assert resolution([row("few", None, None, n=1)], TOP1, 1, Judging()) == []


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (7, "7"),
        (34, "34"),
        (341, "350"),
        (5796, "5,800"),
        (None, "more than 10,000"),
    ],
)
def test_seeds_are_rounded_up(needed: int | None, words: str) -> None:
    assert rounded(needed) == words


def test_a_detectable_difference_is_rounded_up() -> None:
    assert [rounded_up(value, 1) for value in (0.81, 0.8, 0.8000000001, 0.899)] == ["0.9", "0.8", "0.8", "0.9"]
