"""What a shared start buys, on differences that are known."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from starts import certainty, costs, page, precision, ratio  # a script beside the package


def found(**more: Any) -> dict[str, Any]:
    return {"arms": 4, "epochs": {"root": 4, "on": 3, "scratch": 4}, "train_images": 0, "commit": "x", **more}


def test_a_root_is_paid_once_however_many_arms_go_on_from_it() -> None:
    assert costs(found(), orders=1) == {"alone": 8 / 10, "shared": 5 / (3 * 1.25 + 1)}
    assert costs(found(arms=1), orders=2) == {"alone": 8 / 16, "shared": 8 / 16}


def test_half_the_spread_is_four_times_the_certainty() -> None:
    values = np.random.default_rng(0).normal(1.0, 1.0, 200)
    halved = values.mean() + (values - values.mean()) / 2
    for of in (certainty, precision):
        times, low, high = ratio(halved, values, of, 1.0)
        assert times == pytest.approx(4.0)
        assert low < 4.0 < high
        assert ratio(halved, values, of, 0.5)[0] == pytest.approx(2.0)


def test_the_page_has_a_line_for_each_metric_with_enough_roots() -> None:
    few = {"from_roots": {"1": 1.0, "2": 2.0}, "orders": 1.0, "from_scratch": {"1": 1.0, "2": 3.0}, "null": 0.0}
    enough = {
        "from_roots": {str(n): 1.0 + n / 10 for n in range(4)},
        "orders": 1.0,
        "from_scratch": {str(n): 1.0 + n for n in range(4)},
        "null": 0.0,
    }
    text = page([found(study="s", start="shared", arm="a", metrics={"test_top1": few, "test_p_true": enough})])
    assert "test_p_true" in text
    assert "test_top1" not in text
