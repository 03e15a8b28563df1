"""Sums of gains held against combinations: exact where gains add up, no better than chance where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from search.report.library import Library, read_library
from search.report.placing_check import CHECK_COLUMNS, check_table
from search.report.reading.load import load_study

from .conftest import Add
from .test_library import LOSSES, P, X, fill, sites_of

COMBINATIONS = {
    f"stage1+stage2: {X}": 0.18,
    f"stage1: {X}; stage3: {P}": 0.11,
    f"stage1: {P}; stage2: {X}": -0.22,
    f"stage1+stage3: {P}": -0.29,
    f"stage2: {X}; stage3: {P}": -0.01,
}
"""Sums of the means of `LOSSES`."""


@pytest.fixture
def library(study: Path, add: Add) -> Library:
    fill(add)
    found = read_library(load_study(study), "val_loss")
    (study / "final").rename(study.parent / "library")
    return found


def combined(study: Path, add: Add, gains: dict[str, float], noise: float = 0.0, **more: Any) -> pd.DataFrame:
    """Four seeds from scratch of the plain network and of combinations."""
    random = np.random.default_rng(0)
    for seed in range(7000, 7004):
        add("plain", seed, val_loss=1.0, **more)
        for arm, gain in gains.items():
            add(arm, seed, val_loss=1.0 - gain + noise * random.normal(), sites=sites_of(arm), **more)
    return load_study(study)


def test_gains_that_add_up(study: Path, add: Add, library: Library) -> None:
    gains = {f"stage1: {X}": 0.15, **COMBINATIONS, "layer9: conv+pssa(rank=7)": 0.2}
    table = check_table(combined(study, add, gains), library)
    row = table.data.iloc[0]
    assert [*table.data.columns] == [*CHECK_COLUMNS]
    assert (row["arms"], row["several"]) == (6, 5)
    assert row["error_mean"] == pytest.approx(0, abs=1e-9)
    assert row["error_sd"] == pytest.approx(0, abs=1e-9)
    assert row["tau"] == pytest.approx(1.0)
    assert row["regret"] == 0
    assert "better than chance" in table.conclusion
    assert any("layer9" in note for note in table.notes)
    assert any("measure different gains" in note for note in table.notes)


def test_an_error_that_all_sums_share_is_told(study: Path, add: Add, library: Library) -> None:
    less = {arm: gain - 0.05 for arm, gain in COMBINATIONS.items()}
    row = check_table(combined(study, add, less), library).data.iloc[0]
    assert row["error_mean"] == pytest.approx(0.05)
    assert row["error_sd"] == pytest.approx(0, abs=1e-9)
    assert row["error_by_noise"] > 0  # the roots of the library differ


def test_a_ranking_of_noise_is_no_better_than_chance(study: Path, add: Add, library: Library) -> None:
    table = check_table(combined(study, add, dict.fromkeys(COMBINATIONS, 0.0), noise=1.0), library)
    row = table.data.iloc[0]
    assert row["tau_seeds_low"] < 0 < row["tau_seeds_high"]
    assert "no better than chance" in table.conclusion


def test_too_few_arms_show_nothing(study: Path, add: Add, library: Library) -> None:
    few = {name: COMBINATIONS[name] for name in [*COMBINATIONS][:3]}
    table = check_table(combined(study, add, few), library)
    assert table.data["tau_low"].isna().all()
    assert "nothing is shown" in table.conclusion


def test_a_study_without_such_arms_is_refused(study: Path, add: Add, library: Library) -> None:
    frame = combined(study, add, {"layer9: conv+pssa(rank=7)": 0.2})
    with pytest.raises(ValueError, match=r"no finished arm is a combination of the library's places.*layer9"):
        check_table(frame, library)


def test_seeds_of_both_are_told(study: Path, add: Add, library: Library) -> None:
    add("plain", 101, val_loss=1.0)
    for arm, gain in COMBINATIONS.items():
        add(arm, 101, val_loss=1.0 - gain, sites=sites_of(arm))
    assert any("seeds 101" in note for note in check_table(load_study(study), library).notes)
    assert len(library.options) == len(LOSSES)
