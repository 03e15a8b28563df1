from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import xvol
from search.trial.config import typed
from search.trial.measure import latency_ms, measure
from search.trial.model import build
from search.trial.recipe import MeasureConfig

from .conftest import Small

SIZE = (1, 16, 16)
QUICK = MeasureConfig(latency_batch=4, latency_repeats=1)


@pytest.fixture
def model(small: Small) -> nn.Module:
    """A network with blocks whose attention has a weight, so that fusing has something to do."""
    made, _ = build(typed(small("placement.policy=stage3", "branch.gamma=1")), 1, 10, 16)
    return made.eval()


def weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_both_forms_are_counted_and_timed(model: nn.Module) -> None:
    costs = measure(model, SIZE, QUICK, seed=0)
    fused = xvol.fuse(model, SIZE)  # plain convolutions take their norms in too
    assert (costs.params, costs.params_fused) == (weights(model), weights(fused))
    assert costs.params > costs.params_fused
    assert (costs.macs, costs.macs_fused) == (xvol.count_macs(model, SIZE), xvol.count_macs(fused, SIZE))
    assert costs.latency_ms is not None
    assert costs.latency_fused_ms is not None
    assert costs.latency_ms > 0
    assert costs.latency_fused_ms > 0
    assert 0 <= costs.fuse_error < 1e-3


def test_the_network_is_left_as_it_was(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, SIZE, QUICK, seed=0)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_the_same_seed_measures_the_same_images(model: nn.Module) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = (measure(model, SIZE, QUICK, seed=5).fuse_error for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def test_without_repeats_nothing_is_timed(model: nn.Module) -> None:
    costs = measure(model, SIZE, MeasureConfig(latency_batch=2, latency_repeats=0), seed=0)
    assert (costs.latency_ms, costs.latency_fused_ms) == (None, None)
    assert costs.params > 0


@pytest.mark.parametrize("shift", [1.0, float("nan")])
def test_a_fused_form_that_is_another_network_is_refused(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, shift: float
) -> None:
    def wrong(trained: nn.Module, *_: object) -> nn.Module:
        twin = copy.deepcopy(trained)
        with torch.no_grad():
            twin.fc.bias += shift  # type: ignore[union-attr, operator]
        return twin

    monkeypatch.setattr(xvol, "fuse", wrong)
    with pytest.raises(RuntimeError, match=r"another network: a logit differs by .*measure\.fuse_tolerance=0\.001"):
        measure(model, SIZE, QUICK, seed=0)


def test_the_tolerance_grows_with_the_logits(model: nn.Module) -> None:
    with torch.no_grad():
        model.fc.weight.mul_(1e4)  # type: ignore[union-attr, operator]
    costs = measure(model, SIZE, QUICK, seed=0)
    assert costs.fuse_error < 1e-3 * 1e5


def test_models_take_turns_and_the_median_is_kept() -> None:
    order: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            order.append(self.name)
            return x

    times = latency_ms([Named("a"), Named("b")], torch.zeros(1), repeats=2)
    assert order == ["a", "b"] * 5  # three of them to warm up
    assert all(time is not None and 0 < time < 1000 for time in times)
