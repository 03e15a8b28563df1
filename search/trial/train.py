"""The training loop: epochs of one recipe, the scores of what they make, and where it stands between two steps."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from search.data.loaders import Loader
from search.recipe import TrainConfig
from search.slot import clock, give_way
from search.tasks.base import Diverged, Evaluator
from search.trial.optim import make_optimizer, make_scheduler

if TYPE_CHECKING:
    from timm.task import TrainingTask

CHECK_EVERY = 25  # steps between looks at the loss: a look waits for the accelerator


class Halted(Exception):
    """Training was asked to stop, and stands between two steps: `step` steps of epoch `epoch` (from 1) are done."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"halted at epoch {epoch}, step {step}")
        self.epoch, self.step = epoch, step


@dataclass(frozen=True)
class Epoch:
    """One finished epoch; `epoch` counts from 1, `lr` is that of the last step.

    Attributes:
        scores: of the validation images, by the ledger's columns.
        seconds: of training and evaluation, without waiting while another worker measured.
    """

    epoch: int
    train_loss: float
    scores: dict[str, float]
    lr: float
    seconds: float

    @property
    def row(self) -> dict[str, float]:
        """All of it by the ledger's columns."""
        plain = {"epoch": self.epoch, "train_loss": self.train_loss, "lr": self.lr, "seconds": self.seconds}
        return plain | self.scores


class Trainer:
    """Trains a network by one recipe, an epoch at a time; what is learned is its task's alone.

    Args:
        training: the task around the network, on the device it is trained on.
        train: batches of the training split.
        val: batches of the validation split.
        scores: makes a new evaluator for a pass over the validation split, with the ledger's columns.
        halt: asked before the first step of an epoch and after each step; True ends the training with `Halted`.
    """

    def __init__(
        self,
        training: TrainingTask,
        train: Loader,
        val: Iterable[tuple[Tensor, Tensor]],
        scores: Callable[[], Evaluator],
        config: TrainConfig,
        halt: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = cast(nn.Module, training.get_trainable_module())
        self.config = config
        self._training, self._train, self._val, self._scores, self._halt = training, train, val, scores, halt
        self._device = next(self.model.parameters()).device
        self._optimizer = make_optimizer(self.model, config)
        self._scheduler = make_scheduler(self._optimizer, config, steps=config.epochs * len(train))
        if config.ema_decay:
            # The statistics of batch norms are the network's own, not averaged: they are an average already, and averaged
            # once more they lag so far behind that a short training is evaluated near chance.
            training.setup_ema(config.ema_decay, use_warmup=config.ema_warmup, exclude_buffers=True)
        self._done = self._steps = 0  # finished epochs; steps of the running one
        self._total = torch.zeros((), device=self._device)  # of the running epoch's losses
        self._seconds = 0.0  # that the running epoch took before it was interrupted

    @property
    def evaluated(self) -> nn.Module:
        """The network that scores are of: the average of the weights where the recipe keeps one."""
        average: Any = self._training.get_trainable_module(ema=True)
        return self.model if average is None else cast(nn.Module, average.module)

    def epochs(self) -> Iterator[Epoch]:
        """Train and evaluate, epoch after epoch, from where the trainer stands.

        Raises:
            Diverged: the loss or an output is not finite.
            Halted: `halt` asked for it; `state_dict` holds all that is needed to go on.
        """
        for number in range(self._done + 1, self.config.epochs + 1):
            start = clock() - self._seconds
            try:
                loss = self._epoch(number)
            except Halted:
                self._seconds = clock() - start
                raise
            scores = evaluate(self.evaluated, self._val, self._scores(), amp=self.config.amp)
            self._done, self._steps, self._seconds, self._total = number, 0, 0.0, torch.zeros_like(self._total)
            yield Epoch(number, loss, scores, float(self._optimizer.param_groups[0]["lr"]), clock() - start)

    def state_dict(self) -> dict[str, Any]:
        """All that training from here on depends on, beside torch's generators; plain containers and tensors.

        To be taken between two epochs or after `Halted`. There is no gradient scaler: bfloat16 needs none.
        """
        return {
            "model": self.model.state_dict(),
            "ema": self.evaluated.state_dict() if self._training.has_ema() else None,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
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
        if self._training.has_ema() != (state["ema"] is not None):
            raise ValueError("one of the two keeps an average of the weights, the other does not")
        if state["ema"] is not None:
            self.evaluated.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        self._done, self._steps, self._seconds = int(state["epoch"]), int(state["step"]), float(state["seconds"])
        self._total = state["total"].to(self._device)

    def _epoch(self, number: int) -> float:
        self.model.train()
        batches = self._train.at(number, self._steps)
        if self._steps == 0:
            self._obey_halt(number)
        for inputs, targets in batches:
            self._total += self._step(inputs, targets)
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

    def _step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        with autocast(self._device, self.config.amp):
            loss: Tensor = self._training(inputs, targets)["loss"]
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip_grad is not None:
            nn.utils.clip_grad_norm_(self._training.get_clip_parameters(), self.config.clip_grad)
        self._optimizer.step()
        self._scheduler.step()
        updates = self._done * len(self._train) + self._steps + 1
        # timm reads the number for its warm-up: the decay is 0 at the first update, then 1 - updates^(-2/3), at most ema_decay
        self._training.update_ema(step=updates if self.config.ema_warmup else None)
        return loss.detach()


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], evaluator: Evaluator, amp: bool = False
) -> dict[str, float]:
    """Score `model` on all of `batches`; the model's mode is restored.

    Raises:
        Diverged: an output is not finite.
    """
    was_training = model.training
    model.eval()
    for inputs, targets in batches:
        with autocast(inputs.device, amp):
            output = model(inputs)
        evaluator.update(output, targets)
        give_way()
    model.train(was_training)
    return evaluator.compute()


def autocast(device: torch.device, enabled: bool) -> contextlib.AbstractContextManager[None]:
    """The recipe's `amp`: bfloat16 autocast, or nothing."""
    if not enabled:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
