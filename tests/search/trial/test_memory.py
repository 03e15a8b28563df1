from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from search.config import typed
from search.recipe import TrainConfig
from search.trial.memory import train_memory_mb
from search.trial.model import build

from .conftest import Small

CPU = torch.device("cpu")
RECIPE = TrainConfig(opt="sgd", momentum=0.9)
SIZE = (1, 8, 8)


def kept(model: nn.Module, batch: int = 16, recipe: TrainConfig = RECIPE) -> float:
    """Bytes."""
    return train_memory_mb(model, SIZE, batch, recipe, CPU) * 2**20


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
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    figures = {train_memory_mb(model, (1, 16, 16), 8, config.train, CPU) for _ in range(2)}
    assert len(figures) == 1
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
    half = train_memory_mb(model, (1, 16, 16), 8, replace(config.train, amp=True), CPU)
    assert half != figures.pop()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_an_accelerator_is_asked_for_its_peak() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    on_cpu = train_memory_mb(model, SIZE, 16, RECIPE, CPU)
    assert train_memory_mb(model, SIZE, 16, RECIPE, torch.device("cuda")) >= on_cpu / 2
