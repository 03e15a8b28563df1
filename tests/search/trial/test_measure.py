from __future__ import annotations

import copy
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import xvol
from search import slot
from search.config import typed
from search.recipe import MeasureConfig, TrainConfig
from search.tasks.classify import Classify
from search.tasks.model import build
from search.trial import measure as measuring
from search.trial.measure import latency, measure, train_memory_mb

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
    row = costs.columns()
    assert row.keys() >= {"params", "fuse_error", "latency_ms", "latency_fused_cpu_ms"}
    assert all(row[f"latency{form}_ms"] > 0 for form in ("", "_fused", "_cpu", "_fused_cpu"))
    assert row["latency_exclusive"] is True
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
    assert not [name for name in costs.columns() if name.startswith("latency")]
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


class Noting(nn.Module):
    """Notes each call; burns so many seconds of CPU, and sleeps as many."""

    def __init__(self, name: str, order: list[str], burn: float = 0.0, sleep: float = 0.0) -> None:
        super().__init__()
        self.name, self.order, self.burn, self.sleep = name, order, burn, sleep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.order.append(self.name)
        end = time.process_time() + self.burn
        while time.process_time() < end:
            pass
        time.sleep(self.sleep)
        return x


def test_models_take_turns_and_the_median_is_kept() -> None:
    order: list[str] = []
    times = latency(Noting("a", order, 0.001), Noting("b", order, 0.003), torch.zeros(1), repeats=2)
    assert order == ["a", "b"] * 5  # three of them to warm up
    assert times.latency_cpu_ms is not None
    assert times.latency_fused_cpu_ms is not None
    assert 1 <= times.latency_cpu_ms < 3 <= times.latency_fused_cpu_ms < 1000
    assert times.latency_ms >= 0.9 * times.latency_cpu_ms


def test_what_takes_the_processor_away_marks_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "LEAST_CPU_SHARE", 0.9)
    away = Noting("a", [], burn=0.002, sleep=0.004)  # as under a scheduler that gives half of the time to others
    times = latency(away, away, torch.zeros(1), repeats=2)
    assert not times.latency_exclusive
    assert times.latency_ms > 2 * (times.latency_cpu_ms or 0)


def test_without_the_slot_it_is_measured_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slot, "WAIT_SECONDS", 0.05)
    other = slot.Turnstile("cpu")
    other.work()
    held = latency(Noting("a", []), Noting("b", []), torch.zeros(1), repeats=1)
    other.rest()
    free = latency(Noting("a", []), Noting("b", []), torch.zeros(1), repeats=1)
    assert (held.latency_exclusive, free.latency_exclusive) == (False, True)
    monkeypatch.setattr(measuring, "turnstile", lambda _: None)
    assert not latency(Noting("a", []), Noting("b", []), torch.zeros(1), repeats=1).latency_exclusive


CPU = torch.device("cpu")
RECIPE = TrainConfig(opt="sgd", momentum=0.9)
FLAT = (1, 8, 8)


def noise(batch: int, size: tuple[int, ...] = FLAT) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, *size), torch.zeros(batch, dtype=torch.int64)


def kept(model: nn.Module, batch: int = 16, recipe: TrainConfig = RECIPE) -> float:
    """Bytes."""
    return train_memory_mb(model, Classify(), noise(batch), recipe, CPU) * 2**20


def test_a_linear_classifier_keeps_what_can_be_counted_by_hand() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    weight = 4 * 64 * 10
    images, log_softmax, labels, total_weight = 4 * 16 * 64, 4 * 16 * 10, 8 * 16, 4
    assert kept(model) == 3 * weight + images + log_softmax + labels + total_weight  # weight, gradient, momentum
    adam = 2 * 4 + 4 * weight  # two moments; a step count for each of one parameter
    found = kept(model, recipe=TrainConfig(opt="adamw"))
    assert found - (images + log_softmax + labels + total_weight) in (adam - 4, adam)


def test_activations_grow_with_the_batch_and_nothing_else_does() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    one, two, three = (kept(model, batch) for batch in (16, 32, 48))
    assert two - one == three - two
    assert two - one >= 16 * 4 * 2 * 8 * 64  # what the norm and the ReLU keep


def test_a_storage_counts_once_however_often_it_is_saved() -> None:
    class Repeated(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.weights = nn.ParameterList(torch.randn(64) for _ in range(times))

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return sum((flat * weight for weight in self.weights), torch.zeros(()))[:, :10]  # each saves `flat`

    one, two = kept(Repeated(1)), kept(Repeated(2))
    assert two - one == 3 * 4 * 64  # weight, gradient, momentum; not the images again


def test_recomputing_keeps_less() -> None:
    class Recomputed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.head = inner, nn.Linear(1024, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(checkpoint(self.inner, x, use_reentrant=False))

    class Kept(Recomputed):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(x))

    inner = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.Sigmoid(), nn.Sigmoid(), nn.Sigmoid(), nn.Flatten())
    assert kept(Recomputed(inner)) <= kept(Kept(inner)) - 2 * 4 * 16 * 1024


def test_measuring_leaves_no_trace(small: Small) -> None:
    config = typed(small("placement.policy=stage3", "backbone.kwargs.drop_rate=0.2"))
    model, _ = build(config, 1, 10, 16)
    batch = noise(8, (1, 16, 16))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    figures = {train_memory_mb(model, Classify(), batch, config.train, CPU) for _ in range(2)}
    assert len(figures) == 1
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    half = train_memory_mb(model, Classify(), batch, replace(config.train, amp=True), CPU)
    assert half != figures.pop()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_accelerator_is_asked_for_its_peak() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    on_cpu = train_memory_mb(model, Classify(), noise(16), RECIPE, CPU)
    assert train_memory_mb(model, Classify(), noise(16), RECIPE, torch.device("cuda")) >= on_cpu / 2
