"""Known answers on nets small enough for a pencil, and that scoring leaves no trace."""

from __future__ import annotations

import copy
import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from search.config import typed
from search.objectives import ZERO_COST
from search.tasks.classify import Classify
from search.trial.untrained import prepare
from search.trial.zero_cost import SCORE_BATCH, scores

from .conftest import Small

LABELS = torch.tensor([0, 1, 1, 0])


def score(model: nn.Module, name: str, images: Tensor, labels: Tensor = LABELS, seed: int = 0) -> float:
    return scores(model, Classify(), (images, labels[: len(images)]), [name], seed)[name]


def linear(*weights: list[list[float]]) -> nn.Sequential:
    """Matrices behind each other, on flattened images."""
    net = nn.Sequential(nn.Flatten())
    for values in weights:
        layer = nn.Linear(len(values[0]), len(values), bias=False)
        layer.weight.data = torch.tensor(values)
        net.append(layer)
    return net


def images(*rows: list[float]) -> Tensor:
    return torch.tensor(rows).reshape(len(rows), 1, 1, -1)


def test_synflow_of_a_linear_net_is_its_layers_times_its_flow() -> None:
    net = linear([[1.0, -2.0], [3.0, 4.0]], [[-1.0, 0.5], [2.0, 0.0]])
    # |W2| |W1| 1 = [[1, .5], [2, 0]] [3, 7] = [6.5, 6]; each of the two layers holds the whole flow of 12.5
    assert score(net, "synflow", images([9.0, 9.0])) == pytest.approx(25.0)


@given(st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_synflow_is_conserved_from_layer_to_layer(layers: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    weights = [torch.randn(3, 3, generator=draw) for _ in range(layers)]
    flow = torch.ones(3)
    for weight in weights:
        flow = weight.abs() @ flow
    net = linear(*(weight.tolist() for weight in weights))
    assert score(net, "synflow", images([1.0, 2.0, 3.0])) == pytest.approx(layers * float(flow.sum()), rel=1e-5)


def test_snip_and_grad_norm_of_a_linear_classifier() -> None:
    net = linear([[0.0, 1.0], [2.0, 0.0]])
    batch = images([1.0, 0.0], [0.0, 1.0])
    labels = torch.tensor([0, 0])
    # the gradient of the mean cross-entropy is mean over images of (softmax - one-hot) x^T
    logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    gap = torch.softmax(logits, 1) - F.one_hot(labels, 2)
    gradient = gap.T @ torch.eye(2) / 2
    assert score(net, "grad_norm", batch, labels) == pytest.approx(float(gradient.norm()), rel=1e-6)
    expected = 1.0 * abs(float(gradient[0, 1])) + 2.0 * abs(float(gradient[1, 0]))
    assert score(net, "snip", batch, labels) == pytest.approx(expected, rel=1e-6)


def test_naswot_counts_the_units_that_two_images_share() -> None:
    net = nn.Sequential(linear([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), nn.ReLU(), nn.Linear(3, 2))
    batch = images([1.0, 2.0], [1.0, -3.0])  # codes 111 and 100
    # K = [[3, 1], [1, 3]], of determinant 8
    assert score(net, "naswot", batch) == pytest.approx(math.log(8))


def test_naswot_of_images_that_look_alike_is_minus_infinity() -> None:
    net = nn.Sequential(linear([[1.0, 1.0]]), nn.ReLU(inplace=True))
    assert score(net, "naswot", images([1.0, 1.0], [2.0, 2.0])) == -math.inf


def test_naswot_needs_rectified_units() -> None:
    with pytest.raises(ValueError, match=r"naswot: Sequential has no rectifying module \(ReLU.*leave naswot out"):
        score(linear([[1.0, 1.0]]), "naswot", images([1.0, 1.0], [2.0, 2.0]))


def test_jacob_cov_of_a_linear_net_has_one_eigenvalue() -> None:
    net = linear([[1.0, 2.0, -1.0], [0.0, 1.0, 5.0]])
    batch = torch.randn(4, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    # every image has the same Jacobian: correlations are all 1, eigenvalues 4, 0, 0, 0
    k = 1e-5
    expected = -(math.log(4 + k) + 1 / (4 + k)) - 3 * (math.log(k) + 1 / k)
    assert score(net, "jacob_cov", batch) == pytest.approx(expected, rel=1e-6)


def test_jacob_cov_of_uncorrelated_images_is_the_best() -> None:
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.flatten(1) ** 2).sum(1, keepdim=True) / 2  # an image is its own Jacobian

    batch = images([1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0])
    k = 1e-5
    assert score(Squares(), "jacob_cov", batch) == pytest.approx(-2 * (math.log(1 + k) + 1 / (1 + k)), rel=1e-6)
    assert math.isnan(score(Squares(), "jacob_cov", images([1.0, -1.0], [1.0, 1.0])))  # no variance, no correlation


class Features(nn.Module):
    """A network whose features are what its layers give; the head plays no part in zen."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


def test_zen_of_one_convolution_is_the_log_of_how_far_noise_moves_it() -> None:
    batch = torch.zeros(4, 1, 5, 5)
    # f is linear, so f(x) - f(x + a e) = a w e, for a single weight w whatever the images are
    weight = torch.randn(1, 1, 1, 1, generator=torch.Generator().manual_seed(0 + 1))
    draw = torch.Generator().manual_seed(0)
    _, noise = (torch.randn(batch.shape, generator=draw, dtype=torch.float64) for _ in range(2))
    expected = math.log(0.01 * abs(float(weight)) * float(noise.flatten(1).norm(dim=1).mean()))
    net = Features(nn.Conv2d(1, 1, 1))
    assert score(net, "zen", batch, seed=0) == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        net.layers[0].weight.fill_(100.0)  # type: ignore[union-attr, operator]
    assert score(net, "zen", batch, seed=0) == pytest.approx(expected, rel=1e-6)  # weights are drawn anew


def test_zen_gives_back_what_a_batch_norm_takes() -> None:
    """Lin et al., section 3.2: without the second term a norm would hide how much the network spreads its input."""
    batch = torch.zeros(16, 1, 12, 12)
    plain = score(Features(nn.Conv2d(1, 1, 1)), "zen", batch)
    normed = score(Features(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=1e-12)), "zen", batch)
    assert normed == pytest.approx(plain, abs=1e-3)


@pytest.fixture
def network(small: Small) -> nn.Module:
    overrides = ("placement.policy=stage3", "branch.gamma=1", "backbone.kwargs.drop_rate=0.2")
    return prepare(typed(small(*overrides))).model


def test_scoring_leaves_no_trace(network: nn.Module) -> None:
    batch = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    given_images = batch.clone()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # frozen norms stay frozen
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    torch.manual_seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    with torch.no_grad():
        found = scores(network, Classify(), (batch, torch.arange(8)), ZERO_COST, seed=0)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not [module for module in network.modules() if module._forward_pre_hooks or module._forward_hooks]
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]
    assert torch.equal(batch, given_images)
    assert not batch.requires_grad
    assert list(found) == list(ZERO_COST)
    assert all(math.isfinite(value) for value in found.values())


def test_one_seed_is_one_score_whatever_is_asked_beside(network: nn.Module) -> None:
    batch = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = scores(network, Classify(), (batch, torch.arange(8)), ZERO_COST, seed=5)
    torch.rand(7)
    backwards = scores(network, Classify(), (batch, torch.arange(8)), ZERO_COST[::-1], seed=5)
    assert found == backwards
    assert scores(network, Classify(), (batch, torch.arange(8)), ["zen"], seed=6) != scores(
        network, Classify(), (batch, LABELS), ["zen"], seed=5
    )


def test_an_unknown_score_is_refused_with_the_list(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="unknown score 'grasp'; allowed are synflow, naswot"):
        scores(network, Classify(), (torch.zeros(2, 1, 16, 16), LABELS), ["grasp"], seed=0)


def test_the_minibatch_is_drawn_by_the_seed_and_is_no_batch_of_training(small: Small) -> None:
    def batch_of(*overrides: str) -> tuple[Tensor, Tensor]:
        return prepare(typed(small("data.batch_size=100", *overrides))).loaders.train.sample(SCORE_BATCH)

    batch, labels = batch_of()
    assert batch.shape == (SCORE_BATCH, 1, 16, 16)
    assert torch.equal(batch, batch_of()[0])
    assert not torch.equal(batch, batch_of("seed=1")[0])
    assert len(batch_of("data.batch_size=5")[1]) == 5
    assert labels.dtype == torch.int64
