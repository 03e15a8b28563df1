"""Classification: which of a number of classes an image is of. Judged by top-1."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import create_classification_loss
from timm.task import ClassificationTask

from search.config import Architecture, Config
from search.data.images import DataInfo, load_data
from search.data.loaders import Loaders, image_loaders
from search.ledger.tracker import Picture
from search.recipe import TrainConfig
from search.tasks.base import Diverged
from search.tasks.model import build, shrink

FLOAT16_MAX = 65_504.0
LARGEST_PICTURE = 128  # pixels


class Classify:
    """See `search.tasks.base.Task`."""

    def data(
        self, config: Config, splits: Collection[str], device: torch.device, rank: int = 0, world: int = 1
    ) -> Loaders:
        """Loaders of images, with the top-1 of who always guesses the most frequent class."""
        data = load_data(config.data, config.train, config.backbone.name, with_test="test" in splits)
        loaders = image_loaders(
            data, config.data, config.train, seed=config.seed, device=device, rank=rank, world=world
        )
        return replace(loaders, chance={"chance_top1": chance_top1(loaders.train.labels, loaders.val.labels)})

    def model(self, config: Config, info: DataInfo) -> tuple[nn.Module, Architecture]:
        """The timm backbone with its blocks, and an output for each class."""
        return build(config, info.channels, len(info.classes), info.image_size)

    def training(self, model: nn.Module, recipe: TrainConfig) -> ClassificationTask:
        """The recipe's loss in nats, on images that are erased and mixed as it says."""
        return ClassifyTraining(model, recipe)

    def evaluator(self, config: Config, device: torch.device) -> ClassifyEvaluator:
        """Top-1 and loss."""
        return ClassifyEvaluator(device)

    def pictures(self, inputs: Tensor, output: Tensor, target: Tensor, info: DataInfo) -> list[Picture]:
        """The images as they were before they were normalised, at most `LARGEST_PICTURE` pixels wide and high."""
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (info.mean, info.std))
        pixels = ((inputs.float().cpu() * std + mean).clamp(0, 1) * 255).round().byte()
        stride = -(-max(pixels.shape[-2:]) // LARGEST_PICTURE)
        sure, said = output.float().softmax(1).max(1)
        return [
            Picture(
                image[:, ::stride, ::stride].permute(1, 2, 0).numpy(),
                f"{info.classes[true]}: {'right' if true == guess else f'taken for {info.classes[guess]}'} ({share:.0%})",
            )
            for image, true, guess, share in zip(pixels, target.tolist(), said.tolist(), sure.tolist(), strict=True)
        ]

    def probe_input(self, info: DataInfo) -> tuple[int, int, int]:
        """One image."""
        return info.channels, info.image_size, info.image_size


class ClassifyTraining(ClassificationTask):
    """timm's task, with what its train.py does to a batch before: erasing, then mixup or cutmix. It may change the batch in place.

    Args:
        model: on the device of the images; with timm's `num_classes` where the recipe mixes.
    """

    def __init__(self, model: nn.Module, recipe: TrainConfig) -> None:
        super().__init__(model, criterion(recipe), verbose=False)
        self._off_epoch, self._low_res, self._low_epochs = recipe.mixup_off_epoch, recipe.low_res, recipe.low_res_epochs
        self._share: float | None = None  # of the image's side, that images of this epoch are resized to
        self._erase = None
        if recipe.reprob:
            device = next(model.parameters()).device
            self._erase = RandomErasing(recipe.reprob, mode=recipe.remode, max_count=recipe.recount, device=device)
        self._mix = None
        if recipe.mixes:
            self._mix = Mixup(
                recipe.mixup,
                recipe.cutmix,
                prob=recipe.mixup_prob,
                switch_prob=recipe.mixup_switch_prob,
                mode=recipe.mixup_mode,
                label_smoothing=recipe.label_smoothing,
                num_classes=model.num_classes,
            )

    def set_epoch(self, epoch: int) -> None:
        """Mix in the first `mixup_off_epoch` epochs alone, where it is not 0; and shrink in the first `low_res_epochs`.

        Targets stay shares of classes.
        """
        self._share = self._low_res if epoch < self._low_epochs else None
        if self._mix is not None:
            self._mix.mixup_enabled = not 0 < self._off_epoch <= epoch

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Loss and output for normalised images (B, C, H, W) and labels (B,)."""
        if self._share is not None:
            input = shrink(input, self._share)
        if self._erase is not None:
            input = self._erase(input)
        if self._mix is not None:
            input, target = self._mix(input, target)
        return super().forward(input, target)


def criterion(recipe: TrainConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits (B, K) against labels (B,) or shares of classes (B, K), in single precision."""
    loss: nn.Module
    if recipe.loss == "ce" and not recipe.mixes:  # timm's smoothing has other last bits than results so far
        loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    else:
        bce: dict[str, Any] = (
            {"bce_target_thresh": recipe.target_threshold, "bce_sum": recipe.bce_sum} if recipe.loss == "bce" else {}
        )
        loss = create_classification_loss(
            recipe.loss, smoothing=recipe.label_smoothing, soft_targets=recipe.mixes, **bce
        )
    return lambda output, target: loss(output.float(), target)


class ClassifyEvaluator:
    """Top-1 in percent and mean cross-entropy in nats over all images.

    As timm's `ClassificationEvaluator`, but for the loss: that one weighs the means of batches, which gives other last bits
    than the sum over images that earlier results are of; and it lets pass what is not finite.

    Attributes:
        keep: whether `per_sample` is asked for.
    """

    def __init__(self, device: torch.device) -> None:
        self.keep = False
        self._kept: list[tuple[Tensor, Tensor]] = []
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
        if self.keep:
            self._kept.append((logits.clamp(-FLOAT16_MAX, FLOAT16_MAX).half().cpu(), target.cpu()))

    def per_sample(self) -> dict[str, np.ndarray] | None:
        """Logits, float16 (N, K), at most 65,504 in size, and labels, int64 (N,)."""
        if not self.keep:
            return None
        logits, target = (torch.cat(parts).numpy() for parts in zip(*self._kept, strict=True))
        return {"logits": logits, "target": target}

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
