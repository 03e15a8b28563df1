from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from search.recipe import TrainConfig
from search.trial.average import MOST, check_average, initial_share, make_average, update_average
from search.trial.check import check_trial

from .conftest import Small


def simulated_share(config: TrainConfig, updates: int) -> float:
    """Average a weight that is 1 at the start and 0 ever after: what is left is the share of the start."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.ones_(model.weight)
    average: Any = make_average(model, config)
    nn.init.zeros_(model.weight)
    for number in range(1, updates + 1):
        update_average(average, model, config, number)
    return float(average.module.weight.detach())


@given(st.floats(0.01, 0.9999), st.booleans(), st.integers(1, 60))
def test_the_share_of_the_initial_weights_is_that_of_timms_average(decay: float, warmup: bool, updates: int) -> None:
    config = TrainConfig(ema_decay=decay, ema_warmup=warmup)
    assert initial_share(decay, warmup, updates) == pytest.approx(simulated_share(config, updates), abs=1e-9)


def test_ten_updates_at_98_percent_are_untrained_without_warm_up_and_trained_with_it() -> None:
    assert initial_share(0.98, False, 10) == pytest.approx(0.817, abs=1e-3)
    check_average(TrainConfig(ema_decay=0.98), 10)
    with pytest.raises(ValueError, match=r"10 updates .* 82% .*train\.ema_warmup=true, train\.ema_decay=0\.74"):
        check_average(TrainConfig(ema_decay=0.98, ema_warmup=False), 10)


@given(st.integers(1, 3000))
def test_the_decay_that_is_advised_is_accepted(updates: int) -> None:
    config = TrainConfig(ema_decay=0.9999, ema_warmup=False)
    if initial_share(0.9999, False, updates) <= MOST:
        return
    with pytest.raises(ValueError, match="or lower") as refused:
        check_average(config, updates)
    advised = float(str(refused.value).split("train.ema_decay=")[2].split()[0])
    check_average(TrainConfig(ema_decay=advised, ema_warmup=False), updates)


def test_no_average_is_never_refused() -> None:
    for decay in (None, 0.0):
        check_average(TrainConfig(ema_decay=decay, ema_warmup=False), 1)


def test_a_study_refuses_the_average_before_it_trains(small: Small) -> None:
    overrides = ("train.ema_decay=0.98", "train.ema_warmup=false")
    with pytest.raises(ValueError, match="after the 4 updates"):
        check_trial(small(*overrides))
    check_trial(small("train.ema_decay=0.98"))
