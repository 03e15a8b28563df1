from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import xvol
from search.config import typed
from search.ledger.result import TrialResult
from search.trial import untrained as module
from search.trial.check import check_trial
from search.trial.measure import Latency, measure
from search.trial.untrained import (
    Untrained,
    facts_for_admission,
    prepare,
)

from .conftest import Small


def row() -> TrialResult:
    return TrialResult(study="demo", trial=0, phase="search", status="interrupted", seed=0, fingerprint="0123456789")


@pytest.fixture
def made(small: Small) -> Any:
    """A trial with blocks."""

    def make(*overrides: str) -> Untrained:
        return prepare(typed(small("placement.policy=stage3", *overrides)))

    return make


def test_parameters_and_macs_are_those_of_the_trained_network(made: Any) -> None:
    trial = made("branch.gamma=0.5")
    result = row()
    trial.add_costs(result, (), judged=True)
    trained = measure(trial.model, trial.input_size, trial.config.measure, seed=0)
    for name in ("params", "params_fused", "macs", "macs_fused"):
        assert getattr(result, name) == getattr(trained, name), name
    assert result.params == xvol.count_params(trial.model) != result.params_fused
    assert (result.latency_ms, result.train_memory_mb, result.zero_cost) == (None, None, {})


def test_measuring_leaves_the_network_and_its_randomness_alone(made: Any) -> None:
    trial = made("objectives=[train_memory_mb]")
    before, state = copy.deepcopy(trial.model.state_dict()), torch.get_rng_state()
    result = row()
    trial.add_costs(result, ("latency_fused_ms", "zero_cost.zen", "params"))
    trial.add_scores(result, ["zen", "snip"])
    assert all(torch.equal(value, trial.model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in trial.model.modules())
    assert (result.latency_ms or 0) > 0
    assert (result.latency_fused_ms or 0) > 0
    assert result.latency_batch == 4
    assert (result.train_memory_mb or 0) > 0
    assert set(result.zero_cost) == {"zen", "snip"}


def test_a_score_is_taken_once(made: Any) -> None:
    trial = made()
    result = row()
    result.zero_cost = {"snip": 7.0}
    trial.add_scores(result, ["snip"])
    assert result.zero_cost == {"snip": 7.0}


def test_a_score_that_is_not_finite_is_on_record_as_none_and_told_as_no_number(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = made()
    monkeypatch.setattr(module, "scores", lambda *_: {"zen": float("-inf")})
    result = row()
    trial.add_costs(result, ("zero_cost.zen",))
    assert result.zero_cost == {"zen": None}
    told = facts_for_admission(result, ("params", "zero_cost.zen", "zero_cost.snip"))
    assert told["params"] == result.params
    assert told["zero_cost.zen"] != told["zero_cost.zen"]


def shared(times: list[bool]) -> Any:
    """Stands for `latency`: whether each measurement had the machine for itself."""
    return lambda *_: Latency(1.0, 2.0, 1.0, 2.0, latency_exclusive=times.pop(0))


def test_a_latency_that_is_judged_is_measured_until_nothing_else_runs(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = made("objectives=[val_top1,latency_ms]")
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(module, "latency", shared(rest := [False, True, False]))
    result = row()
    trial.add_costs(result, (), judged=True)  # an objective: before anything is trained
    assert (result.latency_ms, result.latency_exclusive, result.latency_batch, rest) == (1.0, True, 4, [False])
    monkeypatch.setattr(module, "latency", shared([False] * 3))
    with pytest.raises(RuntimeError, match=r"judges by latency, and 3 attempts found no moment .* take macs"):
        trial.add_costs(row(), (), judged=True)
    monkeypatch.setattr(module, "latency", shared([False]))
    unjudged = row()
    trial.add_costs(unjudged, ("latency_ms",))
    assert unjudged.latency_exclusive is False


def test_arms_and_ranks_start_from_the_same_whitened_convolution(small: Small) -> None:
    def first(*overrides: str) -> torch.Tensor:
        return prepare(typed(small("train.whiten=true", *overrides))).model.conv1.weight

    plain = first()
    assert torch.equal(first("placement.policy=all"), plain)
    assert torch.equal(first("train.accumulate=2", "train.epochs=3"), plain)
    assert not torch.equal(first("seed=1"), plain)
    assert torch.equal(plain[4:], -plain[:4])
    with pytest.raises(ValueError, match=r"train\.whiten=true.*trained already"):
        check_trial(small("train.whiten=true", "backbone.pretrained=true"))
