"""What top-1, the loss and the chance level are, and timm's own words on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.mixup import mixup_target
from timm.data.random_erasing import RandomErasing
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from timm.task import ClassificationEvaluator, ClassificationTask
from torch import nn

from search.config import typed
from search.data.keyed import keyed
from search.recipe import TrainConfig
from search.tasks.base import Diverged, KeepsSamples
from search.tasks.classify import Classify, ClassifyEvaluator, ClassifyTraining, chance_top1, criterion

from .conftest import Small

CPU = torch.device("cpu")


def batches(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(4 + number, 5, generator=draw), torch.randint(0, 5, (4 + number,), generator=draw))
        for number in range(count)
    ]


def test_the_evaluator_says_what_timms_says() -> None:
    ours, theirs = ClassifyEvaluator(CPU), ClassificationEvaluator()
    for output, target in batches():
        ours.update(output, target)
        theirs.update(output, target)
    found, expected = ours.compute(), theirs.compute()
    assert found["top1"] == expected["top1"]
    assert found["loss"] == pytest.approx(expected["loss"])


def test_logits_are_kept_where_that_is_asked_for() -> None:
    evaluator = ClassifyEvaluator(CPU)
    assert isinstance(evaluator, KeepsSamples)
    assert evaluator.per_sample() is None
    evaluator.keep = True
    for output, target in batches():
        evaluator.update(1e5 * output, target)
    found, (outputs, targets) = evaluator.per_sample(), (torch.cat(part) for part in zip(*batches(), strict=True))
    assert found is not None
    assert found["logits"].dtype == np.float16
    np.testing.assert_array_equal(found["logits"], (1e5 * outputs).clamp(-65504, 65504).half().numpy())
    np.testing.assert_array_equal(found["target"], targets.numpy())


def test_a_logit_that_is_not_finite_has_no_score() -> None:
    with pytest.raises(Diverged, match="not finite"):
        ClassifyEvaluator(CPU).update(torch.tensor([[float("inf"), 0.0]]), torch.tensor([0]))


def test_ranks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, *parts = (ClassifyEvaluator(CPU) for _ in range(3))
    for number, (output, target) in enumerate(batches()):
        whole.update(output, target)
        parts[number % 2].update(output, target)

    def all_reduce(sums: torch.Tensor) -> None:
        sums += torch.tensor([parts[1]._loss, parts[1]._correct, parts[1]._total], dtype=torch.float64)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    assert parts[0].compute(distributed=True) == pytest.approx(whole.compute())


def test_the_loss_is_cross_entropy_in_single_precision() -> None:
    net = nn.Linear(5, 5).bfloat16()
    training = Classify().training(net, TrainConfig(label_smoothing=0.1))
    assert isinstance(training, ClassificationTask)
    output, target = batches(1)[0]
    made = training(output.bfloat16(), target)
    assert made["loss"].dtype == torch.float32
    assert torch.equal(made["loss"], F.cross_entropy(net(output.bfloat16()).float(), target, label_smoothing=0.1))


def soft(smoothing: float = 0.0) -> torch.Tensor:
    return mixup_target(batches(1)[0][1], 5, lam=0.7, smoothing=smoothing)


@pytest.mark.parametrize(
    ("recipe", "mixed", "expected"),
    [
        ({"loss": "bce", "label_smoothing": 0.1}, False, BinaryCrossEntropy(0.1)),
        ({"loss": "bce", "bce_sum": True}, False, BinaryCrossEntropy(0.0, sum_classes=True)),
        ({"loss": "bce", "target_threshold": 0.2, "mixup": 0.1}, True, BinaryCrossEntropy(0.0, target_threshold=0.2)),
        ({"cutmix": 1.0, "label_smoothing": 0.1}, True, SoftTargetCrossEntropy()),
    ],
)
def test_other_losses_are_timms(recipe: dict[str, Any], mixed: bool, expected: nn.Module) -> None:
    output, labels = batches(1)[0]
    target = soft() if mixed else labels
    assert torch.equal(
        criterion(TrainConfig(**recipe))(output.bfloat16(), target), expected(output.bfloat16().float(), target)
    )


def test_images_are_erased_and_mixed_as_timm_does_it() -> None:
    net = timm.create_model("xvol_proxy_resnet", num_classes=5, in_chans=1).eval()
    recipe = TrainConfig(mixup=0.2, cutmix=1.0, reprob=0.5, recount=2, label_smoothing=0.1)
    images, labels = torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 3])
    with keyed("here"):
        made = Classify().training(net, recipe)(images.clone(), labels)
    with keyed("here"):
        erased = RandomErasing(0.5, mode="pixel", max_count=2, device="cpu")(images.clone())
        mixed, shares = Mixup(0.2, 1.0, label_smoothing=0.1, num_classes=5)(erased, labels)
    assert torch.equal(made["output"], net(mixed))
    assert torch.equal(made["loss"], SoftTargetCrossEntropy()(net(mixed), shares))
    assert not torch.equal(mixed, images)


def test_chance_is_the_most_frequent_class_of_training() -> None:
    assert chance_top1(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0, 0])) == 25.0


def test_test_images_come_only_to_who_asks_for_them(small: Small) -> None:
    task, config = Classify(), typed(small())
    loaders = task.data(config, ("train", "val"), CPU)
    assert loaders.test is None
    assert 9 <= loaders.chance["chance_top1"] <= 12
    with_test = task.data(config, ("train", "val", "test"), CPU).test
    assert with_test is not None
    assert with_test.samples == 80
    assert task.probe_input(loaders.info) == (1, 16, 16)


def test_the_first_epochs_see_smaller_images() -> None:
    sizes: list[tuple[int, ...]] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(tuple(images.shape))
            return images.mean((2, 3)) * self.scale

    training = ClassifyTraining(Net(), TrainConfig(low_res=0.75, low_res_epochs=2))
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    for epoch in (0, 1, 2, 0):  # in whatever order: a training that goes on begins in the midst
        training.set_epoch(epoch)
        training(images, labels)
    assert sizes == [(4, 3, 6, 6), (4, 3, 6, 6), (4, 3, 8, 8), (4, 3, 6, 6)]
