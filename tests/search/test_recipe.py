from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from search.objectives import ZERO_COST, check_objectives
from search.recipe import SCHEDULES, MeasureConfig, TrainConfig
from search.starting import StartConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", -1),
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
        ("layer_decay", 1.5),
        ("warmup_epochs", 4),
        ("warmup_lr", 1.0),
        ("min_lr", -1e-6),
        ("loss", "mse"),
        ("target_threshold", 1.0),
        ("mixup", -0.1),
        ("mixup_prob", 1.1),
        ("mixup_mode", "image"),
        ("mixup_off_epoch", -1),
        ("reprob", 1.5),
        ("remode", "black"),
        ("recount", 0),
        ("accumulate", 0),
        ("clip_mode", "all"),
        ("low_res", 1.0),
        ("low_res_epochs", 5),
        ("amp", "half"),
        ("eval_every", 0),
        ("state_every_seconds", -1.0),
        ("state_every_seconds", math.nan),
    ],
)
def test_a_value_out_of_its_range_is_named_with_what_is_allowed(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"train\.{name}={value}: .*(at least|allowed|above)"):
        TrainConfig(**{name: value}).check()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_values_at_their_borders_are_allowed(schedule: str) -> None:
    ends = [0.5] if schedule == "multistep" else []
    given = TrainConfig(epochs=1, schedule=schedule, decay_epochs=ends, warmup=0.0, ema_decay=None, clip_grad=None)
    given.check()
    TrainConfig(ema_decay=0.0, warmup=0.999, weight_decay=0.0, momentum=0.0).check()


@pytest.mark.parametrize(
    ("schedule", "ends"), [("multistep", []), ("cosine", [1.0]), ("multistep", [2.0, 1.0]), ("multistep", [4.0])]
)
def test_where_the_rate_falls_goes_with_multistep_alone(schedule: str, ends: list[float]) -> None:
    with pytest.raises(ValueError, match=r"train\.decay_epochs=.*(ascending|below 4)"):
        TrainConfig(epochs=4, schedule=schedule, decay_epochs=ends).check()


def test_a_batch_that_cannot_be_cut_or_mixed_is_told() -> None:
    TrainConfig(accumulate=4, mixup=0.1).check_batch(64)
    TrainConfig(accumulate=4).check_batch(68)
    with pytest.raises(ValueError, match=r"train\.accumulate=4 does not divide data\.batch_size=66"):
        TrainConfig(accumulate=4).check_batch(66)
    with pytest.raises(ValueError, match="is 17: take an even number"):
        TrainConfig(accumulate=4, cutmix=1.0).check_batch(68)


def test_nothing_is_trained_only_where_something_was_before(tmp_path: Path) -> None:
    TrainConfig(epochs=0, warmup_epochs=5, low_res=0.75, low_res_epochs=2).check()
    StartConfig(kind="shared", root=str(tmp_path)).check(epochs=0)
    for start in (StartConfig(), StartConfig(kind="fork", root=str(tmp_path))):
        with pytest.raises(ValueError, match=r"train\.epochs=0: at least 1 with start\.kind=(scratch|fork)"):
            start.check(epochs=0)


def test_what_autocast_and_the_warm_up_come_to() -> None:
    types = [TrainConfig(amp=amp).amp_type for amp in (False, True, "bfloat16", "float16")]
    assert types == [None, "bfloat16", "bfloat16", "float16"]
    assert TrainConfig(warmup=0.2).warmup_share == 0.2
    assert TrainConfig(warmup=0.2, warmup_epochs=1, epochs=4).warmup_share == 0.25


def test_a_score_that_is_measured_can_be_an_objective() -> None:
    check_objectives(["val_top1", "zero_cost.zen"], ["zen", "snip"])
    MeasureConfig(zero_cost=list(ZERO_COST)).check()
    with pytest.raises(
        ValueError, match=r"measure\.zero_cost: unknown score 'gradnorm'; allowed are synflow, .*grad_norm"
    ):
        MeasureConfig(zero_cost=["gradnorm"]).check()
    with pytest.raises(ValueError, match=r"measure\.coco_backend=fast: .*; did you mean faster"):
        MeasureConfig(coco_backend="fast").check()


@pytest.mark.parametrize("given", [{"gamma_to": 0.3}, {"gamma_epochs": 2}])
def test_gammas_are_raised_over_epochs_that_are_given(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"train\.gamma_to=.*train\.gamma_epochs=.*give both"):
        TrainConfig(**given).check()
    TrainConfig(gamma_to=0.3, gamma_epochs=0.5).check()


@pytest.mark.parametrize("given", [{"low_res": 0.75}, {"low_res_epochs": 2}])
def test_smaller_images_are_given_with_the_epochs_that_see_them(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"train\.low_res=.*train\.low_res_epochs=.*give both"):
        TrainConfig(**given).check()
    TrainConfig(low_res=0.75, low_res_epochs=4).check()
