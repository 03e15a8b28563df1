"""Tests over images, on simulated trainings with and without luck; and the page is made from what is committed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import image_tests  # noqa: E402  # a script beside the package


def trainings(luck: float, count: int = 24, images: int = 2000) -> dict[str, np.ndarray]:
    """Percent of the true class for so many trainings of one network, and whether it is right."""
    random = np.random.default_rng(0)
    level = (
        50 + random.normal(0, luck, (count, 1)) + random.normal(0, 20, images) + random.normal(0, 15, (count, images))
    )
    return {"p_true": level, "top1": 100.0 * (level > 50)}


@pytest.mark.parametrize("name", ["p_true", "top1"])
def test_luck_is_called_a_difference_over_images_and_not_over_trainings(name: str) -> None:
    with_luck, without = trainings(2.0)[name], trainings(0.0)[name]
    different, pairs = image_tests.pairs_called_different(with_luck, name)
    assert pairs == 24 * 23 / 2
    assert different / pairs > 0.4
    different, pairs = image_tests.pairs_called_different(without, name)
    assert different / pairs < 0.1
    wrong, halves = image_tests.halves_called_different(with_luck[:8])
    assert halves == 35
    assert wrong / halves < 0.15


def test_equal_trainings_differ_in_nothing() -> None:
    same = np.ones((2, 50))
    assert image_tests.pairs_called_different(same, "top1") == (0, 1)
    assert image_tests.pairs_called_different(same, "nll") == (0, 1)


def test_the_page_is_made_from_what_is_committed() -> None:
    found = json.loads((image_tests.RESULTS / "image_tests.json").read_text(encoding="utf-8"))
    assert (image_tests.RESULTS / "image_tests.md").read_text(encoding="utf-8") == image_tests.page(found)
