from __future__ import annotations

import copy
import itertools
import re
from typing import Any

import pytest
import torch

import xvol
from search.channel import Channel
from search.config import Config, typed
from search.data.load import Data, load_data
from search.ledger.result import TrialResult
from search.trial import admission
from search.trial.admission import admitted, fingerprint_of, measure_before_training, score_untrained
from search.trial.measure import Latency, measure
from search.trial.model import build

from .conftest import Small

CPU = torch.device("cpu")


def row() -> TrialResult:
    return TrialResult(study="demo", trial=0, phase="search", status="interrupted", seed=0, fingerprint="0123456789")


@pytest.fixture
def made(small: Small) -> Any:
    """Config, data and network of a trial with blocks."""

    def make(*overrides: str) -> tuple[Config, Data, torch.nn.Module]:
        config = typed(small("placement.policy=stage3", *overrides))
        data = load_data(config.data, with_test=False)
        return config, data, build(config, data.channels, len(data.classes), data.image_size)[0]

    return make


def test_a_fingerprint_is_equal_for_the_same_run_and_for_no_other() -> None:
    facts = {"arch_hash": ("a", "b"), "recipe_hash": ("c", "d"), "seed": (0, 1), "epochs": (2, 3)}
    phases, contents = ("search", "final"), ("0123456789", "abcdef0123")
    all_of_them = [fingerprint_of(*values) for values in itertools.product(*facts.values(), phases, contents)]
    assert len(set(all_of_them)) == len(all_of_them) == 64
    assert all(re.fullmatch("[0-9a-f]{10}-[0-9a-f]{10}", text) for text in all_of_them)
    assert fingerprint_of("a", "c", 0, 2, "single", "e") == fingerprint_of("a", "c", 0, 2, "search", "e")
    assert len({text.partition("-")[0] for text in all_of_them}) == 32, "what was asked for has the same first half"


def test_parameters_and_macs_are_those_of_the_trained_network(made: Any) -> None:
    config, data, model = made("branch.gamma=0.5")
    result = row()
    measure_before_training(result, model, config, data, CPU, ())
    trained = measure(model, (1, 16, 16), config.measure, seed=0)
    for name in ("params", "params_fused", "macs", "macs_fused"):
        assert getattr(result, name) == getattr(trained, name), name
    assert result.params == xvol.count_params(model) != result.params_fused
    assert (result.latency_ms, result.train_memory_mb, result.zero_cost) == (None, None, {})


def test_measuring_leaves_the_network_and_its_randomness_alone(made: Any) -> None:
    config, data, model = made("objectives=[train_memory_mb]")
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    result = row()
    measure_before_training(result, model, config, data, CPU, ("latency_fused_ms", "zero_cost.zen", "params"))
    score_untrained(result, model, ["zen", "snip"], config, data, CPU)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert (result.latency_ms or 0) > 0
    assert (result.latency_fused_ms or 0) > 0
    assert result.latency_batch == 4
    assert (result.train_memory_mb or 0) > 0
    assert set(result.zero_cost) == {"zen", "snip"}


def test_a_score_is_taken_once(made: Any) -> None:
    config, data, model = made()
    result = row()
    result.zero_cost = {"snip": 7.0}
    score_untrained(result, model, ["snip"], config, data, CPU)
    assert result.zero_cost == {"snip": 7.0}


def test_a_score_that_is_not_finite_is_on_record_as_none_and_told_as_no_number(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data, model = made()
    monkeypatch.setattr("search.trial.admission.scores", lambda *_: {"zen": float("-inf")})
    result, told = row(), []
    measure_before_training(result, model, config, data, CPU, ("zero_cost.zen",))
    assert result.zero_cost == {"zen": None}
    monkeypatch.setattr(Channel, "admit", lambda self, _, facts: told.append(facts["zero_cost.zen"]))
    assert admitted(Channel(costs=("zero_cost.zen",)), result) is None
    assert told[0] != told[0]


def shared(times: list[bool]) -> Any:
    """Stands for `latency`: whether each measurement had the machine for itself."""
    return lambda *_: Latency(1.0, 2.0, 1.0, 2.0, latency_exclusive=times.pop(0))


def test_a_latency_that_is_judged_is_measured_until_nothing_else_runs(
    made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, data, model = made("objectives=[val_top1,latency_ms]")
    monkeypatch.setattr(admission, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(admission, "latency", shared(rest := [False, True, False]))
    result = row()
    measure_before_training(result, model, config, data, CPU, ())  # an objective: before anything is trained
    assert (result.latency_ms, result.latency_exclusive, result.latency_batch, rest) == (1.0, True, 4, [False])
    monkeypatch.setattr(admission, "latency", shared([False] * 3))
    with pytest.raises(RuntimeError, match=r"judges by latency, and 3 attempts found no moment .* take macs"):
        measure_before_training(row(), model, config, data, CPU, ())
    monkeypatch.setattr(admission, "latency", shared([False]))
    unjudged = row()
    measure_before_training(unjudged, model, config, data, CPU, ("latency_ms",), judged=False)
    assert unjudged.latency_exclusive is False
