from __future__ import annotations

import pytest

from search.ledger.paths import trial_subdir
from search.ledger.result import Phase


@pytest.mark.parametrize(
    ("phase", "number", "seed", "expected"),
    [
        ("search", 7, 0, "trials/0007-s0"),
        ("final", 12345, 1000, "final/12345-s1000"),
        ("single", 0, -1, "single/0000-s-1"),
    ],
)
def test_a_trials_folder(phase: Phase, number: int, seed: int, expected: str) -> None:
    assert trial_subdir(phase, number, seed) == expected


def test_no_two_trials_of_a_study_share_a_folder() -> None:
    phases: tuple[Phase, ...] = ("search", "final", "single")
    folders = [trial_subdir(p, number, seed) for p in phases for number in range(12) for seed in range(12)]
    assert len(set(folders)) == len(folders)
