"""What is read of each arm, from a frame of several trials a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.report.reading.load import load_study
from search.report.values import paired_difference

from .conftest import Add


def test_from_a_frame_only_finished_cells_count_and_each_once(study: Path, add: Add) -> None:
    for seed, (plain, stage3) in enumerate([(60.0, 61.0), (61.0, 63.0), (62.0, 64.5)]):
        add("plain", seed, test_top1=plain)
        add("stage3", seed, test_top1=stage3)
    expected = paired_difference(load_study(study), "stage3", "plain", "test_top1")
    assert (expected.n, expected.mean) == (3, pytest.approx(5.5 / 3))
    add("stage3", 2, test_top1=64.5)  # the same cell again, reused
    add("stage3", 3, test_top1=0.0, status="failed")
    add("stage3", 4, test_top1=0.0, status="pruned")
    add("stage3", 5, test_top1=0.0, status="interrupted")
    add("stage3", 6)  # finished without the metric
    for seed in range(3, 7):
        add("plain", seed, test_top1=99.0)
    assert paired_difference(load_study(study), "b" * 10, "plain", "test_top1") == expected


def test_a_retried_cell_counts_once_it_finished(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    add("stage3", 0, status="failed")
    add("stage3", 0, test_top1=61.0)
    add("stage3", 0, test_top1=69.0)  # not the luckier of two
    assert paired_difference(load_study(study), "stage3", "plain", "test_top1").mean == 1.0


def test_faults_of_the_caller(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    add("stage3", 0, test_top1=60.0, recipe_hash="other")
    add("stage3+4", 0, phase="search", val_top1=60.0)
    frame = load_study(study)
    with pytest.raises(ValueError, match=r"the phases search, final; keep one: frame\[frame.phase == 'final'\]"):
        paired_difference(frame, "stage3", "plain", "test_top1")
    frame = frame[frame["phase"] == "final"]
    with pytest.raises(ValueError, match="metric 'top1' is no column"):
        paired_difference(frame, "stage3", "plain", "top1")
    with pytest.raises(ValueError, match=r"no arm is called 'plane'. Did you mean 'plain'\? Arms: 'plain'"):
        paired_difference(frame, "stage3", "plane", "test_top1")
    with pytest.raises(ValueError, match="compare arms of one recipe"):
        paired_difference(frame, "stage3", "plain", "test_top1")
