"""Trials are grouped by what was built, not by what it was called."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.report.arms import find_arm, list_arms
from search.report.reading.load import load_study

from .conftest import Add


def test_one_network_under_two_names_is_one_arm(study: Path, add: Add) -> None:
    add("plain", 0, arch_hash="e" * 10)
    add("stage3 at none", 1, arch_hash="e" * 10)
    (arm,) = list_arms(load_study(study))
    assert (arm.label, arm.cells["seed"].tolist(), arm.is_baseline) == ("plain", [0, 1], True)


def test_two_networks_under_one_name_are_told_apart(study: Path, add: Add) -> None:
    add("stage3", 0, arch_hash="0123456789")
    add("stage3", 0, arch_hash="0123999999")
    arms = list_arms(load_study(study))
    assert [arm.label for arm in arms] == ["stage3 [0123456789]", "stage3 [0123999999]"]
    assert find_arm(arms, "01234") is arms[0]
    for name in ("0123", "stage3"):
        with pytest.raises(ValueError, match=f"'{name}' names 2 arms"):
            find_arm(arms, name)


def test_two_recipes_are_never_averaged(study: Path, add: Add) -> None:
    add("plain", 0, recipe_hash="r1")
    add("plain", 1, recipe_hash="r2")
    assert [arm.label for arm in list_arms(load_study(study))] == ["plain [recipe r1]", "plain [recipe r2]"]


def test_a_failure_before_the_network_was_known_goes_to_its_arm_by_name(study: Path, add: Add) -> None:
    add("stage3", 1, arch_hash=None, recipe_hash=None, status="failed")
    add("stage3", 0)
    add(None, 2, status="failed", recipe_hash=None)
    (arm,) = list_arms(load_study(study))
    assert arm.cells["status"].tolist() == ["ok", "failed"]


def test_a_name_alone_makes_an_arm(study: Path, add: Add) -> None:
    add("stage9", 0, arch_hash=None, status="failed")
    (arm,) = list_arms(load_study(study))
    assert (arm.label, arm.arch_hash) == ("stage9", None)
