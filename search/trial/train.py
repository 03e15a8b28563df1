"""The training loop: epochs of one recipe, the accuracy of what they make, and where it stands between two steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.data.batches import Batches
from search.recipe import TrainConfig
from search.slot import clock, give_way
from search.trial.average import make_average, update_average
from search.trial.optim import make_optimizer, make_scheduler

__all__ = ["Diverged", "Epoch", "Halted", "Score", "Trainer", "autocast", "evaluate"]

CHECK_EVERY = 25  # steps between looks at the loss: a look waits for the accelerator


class Diverged(RuntimeError):
    """The loss or the logits are no longer finite."""


class Halted(Exception):
    """Training was asked to stop, and stands between two steps: `step` steps of epoch `epoch` (from 1) are done."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"halted at epoch {epoch}, step {step}")
        self.epoch, self.step = epoch, step


@dataclass(frozen=True)
class Score:
    """Top-1 in percent and mean cross-entropy in nats, over a whole split."""

    top1: float
    loss: float


@dataclass(frozen=True)
class Epoch:
    """One finished epoch; `epoch` counts from 1, `lr` is that of the last step.

    `seconds` includes the evaluation, but no waiting while another worker measured.
    """

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
        halt: asked before the first step of an epoch and after each step; True ends the training with `Halted`.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Batches,
        val: Batches,
        config: TrainConfig,
        halt: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.config = config
        self._train, self._val = train, val
        self._device = next(model.parameters()).device
        self._optimizer = make_optimizer(model, config)
        self._scheduler = make_scheduler(self._optimizer, config, steps=config.epochs * len(train))
        self._ema = make_average(model, config)
        self._halt = halt
        self._done = self._steps = 0  # finished epochs; steps of the running one
        self._total = torch.zeros((), device=self._device)  # of the running epoch's losses
        self._seconds = 0.0  # that the running epoch took before it was interrupted

    @property
    def evaluated(self) -> nn.Module:
        """The network that scores are of: the average of the weights where the recipe keeps one."""
        return self.model if self._ema is None else self._ema.module

    def epochs(self) -> Iterator[Epoch]:
        """Train and evaluate, epoch after epoch, from where the trainer stands.

        Raises:
            Diverged: the loss or a logit is not finite.
            Halted: `halt` asked for it; `state_dict` holds all that is needed to go on.
        """
        for number in range(self._done + 1, self.config.epochs + 1):
            start = clock() - self._seconds
            try:
                loss = self._epoch(number)
            except Halted:
                self._seconds = clock() - start
                raise
            score = evaluate(self.evaluated, self._val, amp=self.config.amp)
            self._done, self._steps, self._seconds, self._total = number, 0, 0.0, torch.zeros_like(self._total)
            lr = float(self._optimizer.param_groups[0]["lr"])
            yield Epoch(number, loss, score.loss, score.top1, lr, clock() - start)

    def state_dict(self) -> dict[str, Any]:
        """All that training from here on depends on, beside torch's generators; plain containers and tensors.

        To be taken between two epochs or after `Halted`. There is no gradient scaler: bfloat16 needs none.
        """
        return {
            "model": self.model.state_dict(),
            "ema": None if self._ema is None else self._ema.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "loader": self._train.state_dict() if self._steps else None,
            "epoch": self._done,
            "step": self._steps,
            "total": self._total,
            "seconds": self._seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict` of the same recipe and architecture.

        Raises:
            Exception: whatever torch says of a state that does not fit; the trainer and its model are then spoiled.
        """
        self.model.load_state_dict(state["model"])
        if (self._ema is None) != (state["ema"] is None):
            raise ValueError("one of the two keeps an average of the weights, the other does not")
        if self._ema is not None:
            self._ema.module.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        if state["loader"] is not None:
            self._train.load_state_dict(state["loader"])
        self._done, self._steps, self._seconds = int(state["epoch"]), int(state["step"]), float(state["seconds"])
        self._total = state["total"].to(self._device)

    def _epoch(self, number: int) -> float:
        self.model.train()
        if self._steps == 0:
            self._train.set_epoch(number)
            self._obey_halt(number)
        for images, labels in self._train:
            self._total += self._step(images, labels)
            self._steps += 1
            if self._steps % CHECK_EVERY == 0 and not math.isfinite(float(self._total)):
                break
            self._obey_halt(number)
            give_way()
        loss = float(self._total) / self._steps
        if not math.isfinite(loss):
            raise Diverged(
                f"diverged: training loss {loss} in epoch {number}, step {self._steps}, at train.lr={self.config.lr:g}"
            )
        return loss

    def _obey_halt(self, number: int) -> None:
        if self._halt():
            raise Halted(number, self._steps)

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        with autocast(self._device, self.config.amp):
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self._optimizer.step()
        self._scheduler.step()
        if self._ema is not None:
            update_average(self._ema, self.model, self.config, self._done * len(self._train) + self._steps + 1)
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
        with autocast(images.device, amp):
            logits = model(images)
        logits = logits.float()
        if not bool(torch.isfinite(logits).all()):
            raise Diverged("diverged: a logit is not finite in evaluation")
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        correct += int((logits.argmax(1) == labels).sum())
        total += len(labels)
        give_way()
    model.train(was_training)
    return Score(100.0 * correct / total, loss / total)


def autocast(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager[None]:
    """The recipe's `amp`: bfloat16 autocast, or nothing."""
    if not enabled:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
