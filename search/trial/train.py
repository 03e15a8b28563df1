"""The training loop: epochs of one recipe, the scores of what they make, and where it stands between two steps."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from timm.layers import convert_sync_batchnorm
from timm.utils import dispatch_clip_grad
from torch import Tensor, nn

from search.data.keyed import key, reseed, restored
from search.data.loaders import Batch, Loader
from search.recipe import TrainConfig
from search.slot import clock, give_way
from search.tasks.base import Diverged, Evaluator, Scores
from search.tasks.model import added_gammas
from search.trial.optim import Average, hand_over, make_optimizer, make_scheduler
from search.trial.ranks import Group, Ranks, Statistics

if TYPE_CHECKING:
    from timm.task import TrainingTask

CHECK_EVERY = 25  # steps between looks at the loss: a look waits for the accelerator


class Halted(Exception):
    """Training was asked to stop, and stands between two steps: `step` steps of epoch `epoch` (from 1) are done."""

    def __init__(self, epoch: int, step: int) -> None:
        super().__init__(f"halted at epoch {epoch}, step {step}")
        self.epoch, self.step = epoch, step


@runtime_checkable
class CountsEpochs(Protocol):
    """A training task that does not learn alike in all epochs, e.g. mixes images in the first ones only."""

    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch, counted from 0."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch; `epoch` counts from 1, `lr` is that of the last step.

    Attributes:
        scores: of the validation images, by the ledger's columns; none where the recipe does not evaluate this epoch.
        seconds: of training and evaluation, without waiting while another worker measured.
    """

    epoch: int
    train_loss: float
    scores: dict[str, float | None]
    lr: float
    seconds: float

    @property
    def row(self) -> dict[str, float | None]:
        """All of it by the ledger's columns."""
        plain: dict[str, float | None] = {
            "epoch": self.epoch,
            "train_loss": self.train_loss,
            "lr": self.lr,
            "seconds": self.seconds,
        }
        return plain | self.scores


class Trainer:
    """Trains a network by one recipe, an epoch at a time; what is learned is its task's alone.

    Whatever a step draws from a global generator (mixing, erasing, dropout) hangs on seed, epoch, step and part alone: not on
    what was drawn before it, so that no arm shifts another's, and a training that goes on needs no generator's state.

    Args:
        training: the task around the network, on the device it is trained on, in the recipe's form (see `formed`). Modules that are
            in eval mode stay in it.
        train: batches of the training split, one for each update.
        val: batches of the validation split.
        scores: makes a new evaluator for a pass over the validation split, with the ledger's columns.
        seed: of what steps draw.
        last: epoch after which training ends; None for that of the recipe.
        halt: asked before the first step of an epoch and after each step; True ends the training with `Halted`.
    """

    def __init__(
        self,
        training: TrainingTask,
        train: Loader,
        val: Iterable[Batch],
        scores: Callable[[], Scores],
        config: TrainConfig,
        seed: int = 0,
        halt: Callable[[], bool] = lambda: False,
        last: int | None = None,
    ) -> None:
        self.model = cast(nn.Module, training.get_trainable_module())
        self.config, self._seed, self._last = config, seed, last or config.epochs
        self._training, self._train, self._val, self._scores, self._halt = training, train, val, scores, halt
        self._device = next(self.model.parameters()).device
        self._at_rest = [module for module in self.model.modules() if not module.training]
        self._optimizer = make_optimizer(self.model, config)
        self._scheduler = make_scheduler(self._optimizer, config, steps=config.epochs * len(train))
        self._gammas = [] if config.gamma_to is None else added_gammas(self.model)
        if config.ema_decay:
            # The statistics of batch norms are the network's own, not averaged: they are an average already, and averaged
            # once more they lag so far behind that a short training is evaluated near chance.
            ema: Any = training.setup_ema(config.ema_decay, use_warmup=config.ema_warmup, exclude_buffers=True)
            self._average = Average(ema, self.model)
        if config.compile:
            training.compile()  # around `model`, which stays as it is and is what is evaluated and saved
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.amp_type == "float16")
        self._ranks, self._statistics = Ranks(), Statistics(self.model if config.accumulate > 1 else nn.Identity())
        self._scored: Scores | None = None
        self._done = self._steps = 0  # finished epochs; steps of the running one
        self._total = torch.zeros((), device=self._device)  # of the running epoch's losses
        self._seconds = 0.0  # that the running epoch took before it was interrupted

    @property
    def evaluated(self) -> nn.Module:
        """The network that scores are of: the average of the weights where the recipe keeps one."""
        average: Any = self._training.get_trainable_module(ema=True)
        return self.model if average is None else cast(nn.Module, average.module)

    def outcome(self) -> tuple[nn.Module, Scores]:
        """The network that scores are of, and the evaluator of the last pass over the validation split."""
        if self._scored is None:  # a trainer that was put at the end of the last epoch
            self._scored = self._scores()
            evaluate(self.evaluated, self._val, self._scored, self.config.amp_type)
        return self.evaluated, self._scored

    def join(self, group: Group) -> None:
        """Train on as one rank of a group, from where rank 0 stands; `train` gives this rank's part of each batch."""
        self._ranks = group
        stand = io.BytesIO()
        if group.rank == 0:
            torch.save(self.state_dict(), stand)
        stand = io.BytesIO(group.from_first(stand.getvalue()))
        if group.rank:
            self.load_state_dict(torch.load(stand, map_location=self._device, weights_only=True))
        group.wrap(self._training)

    def epochs(self) -> Iterator[Epoch]:
        """Train and evaluate, epoch after epoch, from where the trainer stands; in a group, rank 0 alone evaluates.

        Raises:
            Diverged: the loss or an output is not finite.
            Halted: `halt` asked for it; `state_dict` holds all that is needed to go on.
        """
        for number in range(self._done + 1, self._last + 1):
            start = clock() - self._seconds
            try:
                with restored():
                    loss = self._epoch(number)
            except Halted:
                self._seconds = clock() - start
                raise
            scores: dict[str, float | None] = {}
            is_due = number % self.config.eval_every == 0 or number == self._last
            if is_due and self._ranks.rank == 0:  # whose scores are then those of one process, to the last bit
                self._scored = self._scores()
                scores = evaluate(self.evaluated, self._val, self._scored, self.config.amp_type)
            self._done, self._steps, self._seconds, self._total = number, 0, 0.0, torch.zeros_like(self._total)
            rate = max(float(group["lr"]) for group in self._optimizer.param_groups)  # that of the head
            yield Epoch(number, loss, scores, rate, clock() - start)

    def state_dict(self) -> dict[str, Any]:
        """All that training depends on from between two epochs, or after `Halted`; plain containers and tensors."""
        return {
            "model": self.model.state_dict(),
            "ema": self.evaluated.state_dict() if self._training.has_ema() else None,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "scaler": self._scaler.state_dict(),
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
        self._scaler.load_state_dict(state["scaler"])
        self._done, self._steps, self._seconds = int(state["epoch"]), int(state["step"]), float(state["seconds"])
        self._total = state["total"].to(self._device)

    def go_on_from(self, plain: Trainer, names: Mapping[str, str]) -> None:
        """Go on where the training of a plain network stands, between two epochs, in one that was converted from it.

        What both have takes over its value, its average and what the optimiser knows of it; what this one alone has begins.

        Args:
            plain: by the same recipe.
            names: of this network's state, those in the plain one's, see `xvol.plain_names`.
        """
        for ours, theirs in ((self.model, plain.model), (self.evaluated, plain.evaluated)):
            take_state(ours, theirs.state_dict(), names)
        known = dict(plain.model.named_parameters())
        pairs = {ours: known[names[name]] for name, ours in self.model.named_parameters() if names.get(name) in known}
        hand_over(plain._optimizer, self._optimizer, pairs)
        self._scheduler.load_state_dict(plain._scheduler.state_dict())
        self._scaler.load_state_dict(plain._scaler.state_dict())
        self._done = plain._done

    def _epoch(self, number: int) -> float:
        self.model.train()
        for module in self._at_rest:
            module.eval()
        if isinstance(self._training, CountsEpochs):
            self._training.set_epoch(number - 1)
        batches = self._train.at(number, self._steps)
        if self._steps == 0:
            self._obey_halt(number)
        for inputs, targets in batches:
            self._total += self._step(number, inputs, targets)
            self._steps += 1
            if self._steps % CHECK_EVERY == 0 and not math.isfinite(float(self._total)):
                break
            give_way()  # first: where somebody measures, the other ranks wait at the next line
            self._obey_halt(number)
        self._ranks.end_epoch(self.model)
        loss = float(self._total) / self._steps
        if not math.isfinite(loss):
            raise Diverged(
                f"diverged: training loss {loss} in epoch {number}, step {self._steps}, at train.lr={self.config.lr:g}"
            )
        return loss

    def _obey_halt(self, number: int) -> None:
        if self._ranks.halts(self._halt):
            raise Halted(number, self._steps)

    def _step(self, number: int, inputs: Any, targets: Any) -> Tensor:
        """One update; the mean loss of its parts, those of all ranks."""
        ranks, count = self._ranks, self.config.accumulate
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros_like(self._total)
        mine = ranks.parts(count)
        with self._statistics.of_an_update(ranks.world):
            for turn, part in enumerate(mine):
                # as ranks share a batch: two ranks of one part are one rank of two
                share = slice(turn, None, len(mine))
                self._reseed(number, part)
                if ranks.rank and not ranks.averages:  # what is there already, rank 0 adds to its part
                    self._optimizer.zero_grad(set_to_none=True)
                with self._training.no_sync() if ranks.averages and part != mine[-1] else contextlib.nullcontext():
                    with autocast(self._device, self.config.amp_type):
                        loss: Tensor = self._training(inputs[share], targets[share])["loss"] / count
                    self._scaler.scale(loss * ranks.world if ranks.averages else loss).backward()
                for told in ranks.gathered(torch.cat([loss.detach().float().view(1), *self._statistics.seen()])):
                    total += told[0]
                    self._statistics.count(told[1:])
        self._reseed(number, "update")  # some optimisers draw too
        self._update()
        return total

    def _reseed(self, number: int, part: int | str) -> None:
        """Let the global generators give what a part of the running step draws."""
        place = (self._seed, "step", number, self._steps, part)
        reseed(*place)
        if self._device.type != "cpu":
            torch.manual_seed(key(*place))  # the accelerator's too

    def _update(self) -> None:
        config = self.config
        if config.clip_grad is not None:
            self._scaler.unscale_(self._optimizer)
            clipped = self._training.get_clip_parameters(exclude_head=config.clip_mode == "agc")
            dispatch_clip_grad(clipped, config.clip_grad, mode=config.clip_mode)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        updates = self._done * len(self._train) + self._steps + 1
        self._raise_gammas(updates)
        self._scheduler.step_update(updates)
        # timm reads the number for its warm-up: the decay is 0 at the first update, then 1 - updates^(-2/3), at most ema_decay
        if config.ema_decay:
            self._average.update(updates if config.ema_warmup else None)

    @torch.no_grad()
    def _raise_gammas(self, updates: int) -> None:
        """Take the step of the recipe's `gamma_to` that belongs to an update, counted from 1."""
        gamma_to, epochs = self.config.gamma_to, self.config.gamma_epochs
        if gamma_to is None or epochs is None:
            return
        steps = max(1, round(epochs * len(self._train)))
        for gamma in self._gammas if updates <= steps else []:
            gamma.add_(gamma_to / steps)


@torch.no_grad()
def take_state(model: nn.Module, plain: Mapping[str, Tensor], names: Mapping[str, str]) -> None:
    """Give `model` what the state of the plain network it was converted from holds, by `xvol.plain_names`; the rest stays."""
    for name, value in model.state_dict().items():
        there = plain.get(names.get(name, ""))
        if there is not None and there.shape == value.shape:
            value.copy_(there)


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], evaluator: Evaluator, amp_type: str | None = None
) -> dict[str, float | None]:
    """Score `model` on all of `batches` under `autocast`; the model's mode is restored.

    Raises:
        Diverged: an output is not finite.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    for inputs, targets in batches:
        with autocast(device, amp_type):
            output = model(inputs)
        evaluator.update(output, targets)
        give_way()
    model.train(was_training)
    return dict(evaluator.compute())


def autocast(device: torch.device, amp_type: str | None) -> contextlib.AbstractContextManager[None]:
    """Autocast to the type of that name, see `TrainConfig.amp_type`; None: nothing."""
    if amp_type is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, amp_type))


def check_form(model: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Raise ValueError where `model` cannot be trained on `device` in the form that the recipe says."""
    if config.amp_type == "float16" and device.type != "cuda":
        raise ValueError(f"train.amp=float16 is for CUDA, and the device is {device.type}: take train.amp=bfloat16")
    if config.sync_bn and (device.type != "cuda" or config.accumulate == 1):
        raise ValueError(
            f"train.sync_bn=true is for a trial on several GPUs, of which each takes one part of the batch of an update, and here the "
            f"device is {device.type} and train.accumulate={config.accumulate}; leave it false"
        )
    if config.grad_checkpointing:
        try:
            cast(Any, model).set_grad_checkpointing(True)
        except (AttributeError, AssertionError):
            name = type(model).__name__
            raise ValueError(
                f"train.grad_checkpointing=true: timm's {name} has no activation checkpointing; leave it false"
            ) from None
        cast(Any, model).set_grad_checkpointing(False)


def formed(model: nn.Module, config: TrainConfig, device: torch.device) -> nn.Module:
    """`model` on its device in the form that the recipe trains it in, checked by `check_form`; changed in place."""
    check_form(model, config, device)
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # of no stub, but of the docs
    if config.sync_bn:
        model = convert_sync_batchnorm(model)
    if config.grad_checkpointing:
        cast(Any, model).set_grad_checkpointing(True)
    return model


def unformed(model: nn.Module, config: TrainConfig, built: nn.Module) -> nn.Module:
    """`model` as it was `built`, with what it has learned: so it is tested, measured and saved."""
    if config.sync_bn:  # whose norms are of other classes
        learned, model = model.state_dict(), copy.deepcopy(built).to(next(model.parameters()).device)
        model.load_state_dict(learned)
    if config.grad_checkpointing:
        cast(Any, model).set_grad_checkpointing(False)
    plain: nn.Module = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return plain
