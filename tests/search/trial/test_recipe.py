from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from search.ledger.result import TrialResult
from search.trial.recipe import OBJECTIVES, SCHEDULES, TrainConfig, check_objectives


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("schedule", "step"),
        ("lr", 0.0),
        ("lr", -1.0),
        ("lr", math.nan),
        ("warmup", 1.0),
        ("warmup", -0.1),
        ("ema_decay", 1.0),
        ("ema_decay", -0.5),
        ("label_smoothing", 1.0),
        ("clip_grad", 0.0),
        ("clip_grad", -1.0),
        ("weight_decay", -1e-4),
        ("momentum", -0.1),
    ],
)
def test_a_value_out_of_its_range_is_named_with_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name}={value}: .*(at least|allowed|above)"):
        TrainConfig(**{name: value}).check()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_values_at_their_borders_are_allowed(schedule: str) -> None:
    TrainConfig(epochs=1, schedule=schedule, warmup=0.0, ema_decay=None, label_smoothing=0.0, clip_grad=None).check()
    TrainConfig(ema_decay=0.0, warmup=0.999, weight_decay=0.0, momentum=0.0).check()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["test_top1"], "would choose on test data"),
        (["val_top1", "test_loss"], "would choose on test data"),
        (["accuracy"], "unknown metric 'accuracy'; allowed are val_top1"),
        (["fuse_error"], "unknown metric"),
        ([], "at least one"),
    ],
)
def test_an_objective_is_known_and_never_of_test(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_objectives(names)


def test_every_objective_is_a_column_of_the_ledger_and_none_is_of_test() -> None:
    check_objectives(list(OBJECTIVES))
    assert set(OBJECTIVES) <= {column.name for column in fields(TrialResult)}
    assert not [name for name in OBJECTIVES if "test" in name]
