"""An arm that failed on some seeds is never called better, and its worst case is a bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.report.ablation import AblationTable, ablation_table
from search.report.judging import Judging
from search.report.reading.load import load_study
from search.stats.paired import ArmValues, survivors

from .conftest import Add

BASE = [60.0, 61.0, 62.0, 59.0, 60.5]
FAILED: dict[str, Any] = {"status": "failed", "reason": "loss became NaN", "test_top1": None}


def fill(add: Add, shift: float = 3.0, **changes: dict[str, Any]) -> None:
    """Plain and stage3 on five seeds; `changes` by "<arm> <seed>"."""
    for seed, base in enumerate(BASE):
        add("plain", seed, **({"test_top1": base} | changes.get(f"plain {seed}", {})))
        value = base + shift + 0.1 * (seed % 3)
        add(
            "stage3", seed, **({"test_top1": value, "test_loss": 2.0 - value / 100} | changes.get(f"stage3 {seed}", {}))
        )


def made(study: Path, **options: Any) -> AblationTable:
    return ablation_table(load_study(study), judging=Judging(**options))


@pytest.mark.parametrize("how", [FAILED, {"test_top1": float("nan")}])
def test_an_arm_that_failed_on_a_seed_is_ahead_on_the_others(study: Path, add: Add, how: dict[str, Any]) -> None:
    fill(add, **{"stage3 2": how})
    table = made(study)
    row = table.data.set_index("arm").loc["stage3"]
    assert row["verdict"] == "ahead of the baseline on the 4 of 5 seeds it survived"
    assert (row["n_paired"], row["n_lost"]) == (4, 1)
    assert row["worst_diff"] == pytest.approx((3.0 + 3.1 + 3.0 + 3.1 - 62.0) / 5)
    assert "better than the baseline" not in table.conclusion
    assert "counted as 0 %, the difference is -9.960 points" in table.conclusion


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (-3.0, "behind the baseline on the 4 of 5 seeds it survived"),
        (-0.1, "cannot be told from seed noise on the 4 of 5 seeds it survived"),
    ],
)
def test_each_verdict_names_the_survivors(study: Path, add: Add, shift: float, words: str) -> None:
    fill(add, shift, **{"stage3 0": FAILED})
    table = made(study)
    assert table.data.set_index("arm").loc["stage3", "verdict"] == words
    same = made(study, margin=10).data.set_index("arm").loc["stage3", "verdict"]
    assert "equivalent within ±10 points" in same
    assert same.endswith("on the 4 of 5 seeds it survived")
    assert "stage3 is equivalent to the baseline (plain)" in made(study, margin=10).conclusion


def test_a_failure_of_the_baseline_is_said_too(study: Path, add: Add) -> None:
    fill(add, **{"plain 1": FAILED})
    row = made(study).data.set_index("arm").loc["stage3"]
    assert row["verdict"] == "ahead of the baseline on the 4 of 5 seeds the baseline survived"
    assert row.isna()["worst_diff"]
    add("stage4", 7, test_top1=60.0)  # a seed that nobody else has: no failure
    assert made(study).data.set_index("arm").loc["stage4", "n_lost"] == 0


def test_both_may_fail_and_a_killed_trial_is_no_failure(study: Path, add: Add) -> None:
    fill(add, **{"plain 1": FAILED, "stage3 4": FAILED, "stage3 0": {"status": "interrupted"}})
    row = made(study).data.set_index("arm").loc["stage3"]
    assert row["verdict"] == "ahead of the baseline on the 2 of 4 seeds both survived"


def test_a_loss_has_no_worst_value(study: Path, add: Add) -> None:
    fill(
        add,
        **{"stage3 2": FAILED | {"test_loss": None}, **{f"plain {n}": {"test_loss": 2 - 0.001 * n} for n in range(5)}},
    )
    table = ablation_table(load_study(study), "test_loss")
    row = table.data.set_index("arm").loc["stage3"]
    assert row["verdict"] == "ahead of the baseline on the 4 of 5 seeds it survived"
    assert row.isna()["worst_diff"]


@given(st.lists(st.floats(0, 100), min_size=5, max_size=5), st.lists(st.floats(0, 100), min_size=5, max_size=5))
def test_the_worst_case_is_a_bound(arm: list[float], baseline: list[float]) -> None:
    def values(numbers: list[float], lost: list[int]) -> ArmValues:
        kept = [seed for seed in range(5) if seed not in lost]
        return ArmValues(
            values=np.array([numbers[seed] for seed in kept]),
            seeds=np.array(kept),
            failed=np.array(lost, dtype=int),
            all_seeds=np.arange(5),
            statuses=[],
            params=None,
            macs=None,
            latency_ms=None,
            latency_fused_ms=None,
            latency_exclusive=False,
        )

    found = survivors(values(arm, [1, 3]), values(baseline, []), 0.0)
    assert found.worst is not None
    assert found.worst <= np.mean(np.array(arm) - np.array(baseline)) + 1e-9  # whatever the lost seeds would have shown
