"""The page of the proxies is made from what is committed; and a small study shows what its tables would say."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import proxies  # noqa: E402  # a script beside the package


def test_the_page_is_made_from_what_is_committed() -> None:
    assert (proxies.RESULTS / "proxies.md").read_text(encoding="utf-8") == proxies.page()


@pytest.fixture
def table() -> pd.DataFrame:
    """Under Muon the arm gains what it loses under SGD; each training with noise of a tenth of a point."""
    noise = np.random.default_rng(0)
    rows = [
        {"recipe": recipe, "arm": arm, "seed": seed, "test_top1": 70 + gain * (arm == "stage3") + noise.normal(0, 0.1)}
        for recipe, gain in ((proxies.MUON, 1.0), (proxies.SGD, -1.0))
        for arm in ("plain", "stage3")
        for seed in range(9)
    ]
    return pd.DataFrame(rows)


def test_an_optimiser_that_favours_an_arm_is_told(table: pd.DataFrame) -> None:
    *_, row = proxies.optimisers(table)
    arm, n, gain, *_, p_value = (cell.strip() for cell in row.strip("| ").split("|"))
    assert (arm, n) == ("stage3", "9")
    assert float(gain) == pytest.approx(2, abs=0.15)
    assert float(p_value) < 1e-6
    under = [line.split(" | ") for line in proxies.arms(table) if "stage3" in line]
    assert [float(cells[3]) for cells in under] == pytest.approx([1, -1], abs=0.1)
