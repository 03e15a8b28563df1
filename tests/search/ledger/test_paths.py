from __future__ import annotations

import pytest

from search.ledger.paths import run_in_words, trial_subdir
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


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("mine/trials/0003-s0", "trial 3"),
        ("old/trials/0003-s0", "trial 3 of study old"),
        ("old/final/0001-s1000.2", "final trial 1 of study old"),
        ("single/2026-11-22_10-00-00", "single/2026-11-22_10-00-00"),
        ("/elsewhere/old/trials/0003-s0", "/elsewhere/old/trials/0003-s0"),
    ],
)
def test_a_run_is_named_as_a_reader_looks_for_it(place: str, words: str) -> None:
    assert run_in_words(place, "/runs/mine") == words
