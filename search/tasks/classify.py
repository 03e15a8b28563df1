"""Classification: which of a number of classes an image is of. Judged by top-1 on images in memory."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from timm.task import ClassificationTask

from search.config import Config
from search.data.images import DataInfo, load_data
from search.data.loaders import Loaders, image_loaders
from search.recipe import TrainConfig
from search.space.architecture import Architecture
from search.tasks.base import Diverged
from search.tasks.model import build


class Classify:
    """See `search.tasks.base.Task`."""

    def data(
        self, config: Config, splits: Collection[str], device: torch.device, rank: int = 0, world: int = 1
    ) -> Loaders:
        """Loaders over images in memory, with the top-1 of who always guesses the most frequent class."""
        data = load_data(config.data, with_test="test" in splits)
        loaders = image_loaders(
            data, config.data, config.train, seed=config.seed, device=device, rank=rank, world=world
        )
        return replace(loaders, chance={"chance_top1": chance_top1(loaders.train.labels, loaders.val.labels)})

    def model(self, config: Config, info: DataInfo) -> tuple[nn.Module, Architecture]:
        """The timm backbone with its blocks, and an output for each class."""
        return build(config, info.channels, len(info.classes), info.image_size)

    def training(self, model: nn.Module, recipe: TrainConfig) -> ClassificationTask:
        """Cross-entropy in nats, in single precision whatever the network computes in."""

        def criterion(output: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(output.float(), target, label_smoothing=recipe.label_smoothing)

        return ClassificationTask(model, criterion, verbose=False)

    def evaluator(self, device: torch.device) -> ClassifyEvaluator:
        """Top-1 and loss."""
        return ClassifyEvaluator(device)

    def probe_input(self, info: DataInfo) -> tuple[int, int, int]:
        """One image."""
        return info.channels, info.image_size, info.image_size


class ClassifyEvaluator:
    """Top-1 in percent and mean cross-entropy in nats over all images.

    As timm's `ClassificationEvaluator`, but for the loss: that one weighs the means of batches, which gives other last bits
    than the sum over images that earlier results are of; and it lets pass what is not finite.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._loss, self._correct, self._total = 0.0, 0, 0

    def update(self, output: Tensor, target: Tensor) -> None:
        """Take in logits (B, K) and int64 labels (B,)."""
        logits = output.float()
        if not bool(torch.isfinite(logits).all()):
            raise Diverged("diverged: a logit is not finite in evaluation")
        self._loss += float(F.cross_entropy(logits, target, reduction="sum"))
        self._correct += int((logits.argmax(1) == target).sum())
        self._total += len(target)

    def compute(self, distributed: bool = False) -> dict[str, float]:
        """The metrics "top1" and "loss"."""
        sums = [self._loss, float(self._correct), float(self._total)]
        if distributed:
            shared = torch.tensor(sums, dtype=torch.float64, device=self._device)
            torch.distributed.all_reduce(shared)
            sums = shared.tolist()
        loss, correct, total = sums
        return {"top1": 100.0 * correct / total, "loss": loss / total}


def chance_top1(train_labels: Tensor, labels: Tensor) -> float:
    """Percent of `labels` that are of the class most frequent in training: what a network that learned nothing reaches."""
    return 100.0 * float((labels == train_labels.bincount().argmax()).double().mean())
