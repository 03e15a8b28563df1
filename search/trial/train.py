"""The training loop: epochs of one recipe, and the accuracy of what they make."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.trial.datasets.batches import Batches
from search.trial.optim import make_optimizer, make_scheduler
from search.trial.recipe import TrainConfig

__all__ = ["Diverged", "Epoch", "Score", "Trainer", "evaluate"]

CHECK_EVERY = 25  # steps between looks at the loss: a look waits for the accelerator


class Diverged(RuntimeError):
    """The loss or the logits are no longer finite."""


@dataclass(frozen=True)
class Score:
    """Top-1 in percent and mean cross-entropy in nats, over a whole split."""

    top1: float
    loss: float


@dataclass(frozen=True)
class Epoch:
    """One finished epoch; `epoch` counts from 1, `lr` is that of the last step, `seconds` includes the evaluation."""

    epoch: int
    train_loss: float
    val_loss: float
    val_top1: float
    lr: float
    seconds: float


class Trainer:
    """Trains `model` by one recipe, an epoch at a time.

    Args:
        model: on the device it is trained on.
        train: batches of the training split.
        val: batches of the validation split, in order.
    """

    def __init__(self, model: nn.Module, train: Batches, val: Batches, config: TrainConfig) -> None:
        self.model = model
        self.config = config
        self._train, self._val = train, val
        self._device = next(model.parameters()).device
        self._optimizer = make_optimizer(model, config)
        self._scheduler = make_scheduler(self._optimizer, config, steps=config.epochs * len(train))
        self._ema = _ema(model, config.ema_decay)

    @property
    def evaluated(self) -> nn.Module:
        """The network that scores are of: the average of the weights where the recipe keeps one."""
        return self.model if self._ema is None else self._ema.module

    def epochs(self) -> Iterator[Epoch]:
        """Train and evaluate, epoch after epoch.

        Raises:
            Diverged: the loss or a logit is not finite.
        """
        for number in range(1, self.config.epochs + 1):
            start = time.monotonic()
            loss = self._epoch(number)
            score = evaluate(self.evaluated, self._val, amp=self.config.amp)
            lr = float(self._optimizer.param_groups[0]["lr"])
            yield Epoch(number, loss, score.loss, score.top1, lr, time.monotonic() - start)

    def _epoch(self, number: int) -> float:
        self.model.train()
        self._train.set_epoch(number)
        total = torch.zeros((), device=self._device)
        steps = 0
        for images, labels in self._train:
            total += self._step(images, labels)
            steps += 1
            if steps % CHECK_EVERY == 0 and not math.isfinite(float(total)):
                break
        loss = float(total) / steps
        if not math.isfinite(loss):
            raise Diverged(
                f"diverged: training loss {loss} in epoch {number}, step {steps}, at train.lr={self.config.lr:g}"
            )
        return loss

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        with _autocast(self._device, self.config.amp):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self._optimizer.step()
        self._scheduler.step()
        if self._ema is not None:
            self._ema.update(self.model)
        return loss.detach()


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, amp: bool = False) -> Score:
    """Score `model` on all of `batches`; the model's mode is restored.

    Raises:
        Diverged: a logit is not finite.
    """
    was_training = model.training
    model.eval()
    correct = total = 0
    loss = 0.0
    for images, labels in batches:
        with _autocast(images.device, amp):
            logits = model(images)
        logits = logits.float()
        if not bool(torch.isfinite(logits).all()):
            raise Diverged("diverged: a logit is not finite in evaluation")
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(1) == labels).sum())
        total += len(labels)
    model.train(was_training)
    return Score(100.0 * correct / total, loss / total)


def _ema(model: nn.Module, decay: float | None) -> Any:
    if not decay:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay)


def _autocast(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager[None]:
    if not enabled:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
