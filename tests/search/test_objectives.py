from __future__ import annotations

from dataclasses import fields

import pytest

from search.ledger.result import TrialResult
from search.objectives import COSTS, check_costs, check_objectives, sense_of, senses


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["test_top1"], "would choose on test data"),
        (["val_top1", "test_loss"], "would choose on test data"),
        (["accuracy"], "unknown metric 'accuracy'; allowed are val_top1"),
        (["fuse_error"], "unknown metric"),
        (["zero_cost.synflow"], r"zero_cost\.synflow is not measured; add it, e\.g\. measure\.zero_cost=\[synflow\]"),
        (["zero_cost.sinflow"], "unknown score 'sinflow'; .*did you mean synflow"),
        ([], "at least one"),
    ],
)
def test_an_objective_is_known_and_never_of_test(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_objectives(names)


def test_every_objective_is_a_column_of_the_ledger_and_none_is_of_test() -> None:
    check_objectives(list(senses()))
    assert set(senses()) <= {column.name for column in fields(TrialResult)} | {"val_top1", "val_loss"}
    assert not [name for name in senses() if "test" in name]


def test_each_objective_has_a_better_direction() -> None:
    assert [name for name in senses() if sense_of(name) == "maximize"] == ["val_top1"]
    assert sense_of("zero_cost.zen") == "maximize"


def test_a_cost_is_known_before_training() -> None:
    check_costs(COSTS)
    assert {"params", "macs_fused", "latency_ms", "train_memory_mb", "zero_cost.zen"} <= set(COSTS)
    for name in ("val_top1", "test_top1", "param", "zero_cost.x"):
        with pytest.raises(ValueError, match=f"cost '{name}' is not known before training; allowed are params"):
            check_costs([name])
