"""The optimiser, the learning-rate schedule and the average of the weights of a recipe, in timm's terms."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch

import xvol  # noqa: F401  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
from timm.optim import Muon, create_optimizer_v2, get_optimizer_class, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.overrides import TorchFunctionMode

from search.recipe import TrainConfig
from xvol.allowed import meant, nearest

MOST_INITIAL = 0.05  # share of the initial weights that an average may still hold at the end
MUON_FLOAT32 = "muon_float32"  # beside timm's names
OWN_KEYS = ("opt", "lr", "momentum", "weight_decay", "layer_decay")  # of the recipe, so not among its `opt_kwargs`


class _NoBfloat16(TorchFunctionMode):
    """What is to become bfloat16 becomes float32."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.to and kwargs.get("dtype") is torch.bfloat16:
            kwargs = kwargs | {"dtype": torch.float32}
        return func(*args, **kwargs)


class MuonFloat32(Muon):
    """timm's Muon, but for its Newton-Schulz steps: timm has no option to take them in float32, and on CPUs bfloat16 is slower."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]  # torch's two overloads
        """One update."""
        with _NoBfloat16():
            loss: float | None = super().step(closure)
        return loss


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """timm's optimiser of that name, or `MuonFloat32`; biases and norms are not decayed.

    Raises:
        ValueError: timm knows no such optimiser, its package is not installed, it needs second derivatives, or it takes
            no such learning rate, momentum, weight decay or further argument.
    """
    known = [*map(str, list_optimizers()), MUON_FLOAT32]
    name = "muon" if config.opt == MUON_FLOAT32 else config.opt
    if config.opt not in known:
        near = nearest(config.opt, known, 5) or ["sgd", "adamw", "lamb"]
        raise ValueError(
            f"train.opt={config.opt}: timm knows no such optimiser; near it: {', '.join(near)} "
            f"(all of them: timm.optim.list_optimizers(), and {MUON_FLOAT32})"
        )
    info = get_optimizer_info(name)
    if info.second_order:
        raise ValueError(f"train.opt={config.opt} needs second derivatives, which are not computed here; take another")
    package = info.opt_class.partition(".")[0] if isinstance(info.opt_class, str) else None
    if package and find_spec(package) is None:
        raise ValueError(
            f"train.opt={config.opt} is of the package {package}, which is not installed; install it, or take another"
        )
    opt_class = get_optimizer_class(name, bind_defaults=False)
    arguments = _momentum(opt_class, config.momentum) | _further(config, opt_class, info.has_eps, info.has_betas)
    if opt_class is SGD and not {"foreach", "fused"} & arguments.keys():
        # On a CPU torch would take one tensor after the other in Python; the arithmetic is the same, to the last bit.
        arguments["foreach"] = True
    rates: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.layer_decay is not None:
        rates["layer_decay"] = config.layer_decay
    try:
        optimizer = create_optimizer_v2(model, opt=name, **rates, **arguments)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value}" for name, value in {**rates, **arguments}.items())
        raise ValueError(f"train.opt={config.opt} does not take {given}: {error}") from None
    assert isinstance(optimizer, Optimizer)
    return MuonFloat32(optimizer.param_groups) if config.opt == MUON_FLOAT32 else optimizer


def _momentum(opt_class: Any, momentum: float) -> dict[str, Any]:
    """Momentum under the optimiser's own names for it: the first of its betas where it has some, the others untouched."""
    takes = inspect.signature(opt_class).parameters
    if "betas" in takes and isinstance(takes["betas"].default, tuple):
        betas = {"betas": (momentum, *takes["betas"].default[1:])}
        return {**betas, "momentum": momentum} if "momentum" in takes else betas  # Muon's betas are its fallback's
    # Nesterov's step is the plain one where there is no momentum, and torch refuses to be asked for it then
    plain = {"nesterov": False} if momentum == 0 and "nesterov" in takes else {}
    return {"momentum": momentum, **plain}


def _further(config: TrainConfig, opt_class: Any, has_eps: bool, has_betas: bool) -> dict[str, Any]:
    """The recipe's `opt_kwargs`; ValueError for one that timm would leave out or the optimiser does not know."""
    known = [inspect.signature(taker).parameters.values() for taker in (opt_class, create_optimizer_v2)]
    takes = {one.name for each in known for one in each if one.kind is not one.VAR_KEYWORD}
    takes -= {*OWN_KEYS, "params", "model_or_params", "param_group_fn"}
    takes -= {name for name, has in (("eps", has_eps), ("betas", has_betas)) if not has}
    for name in config.opt_kwargs:
        if name in OWN_KEYS:
            raise ValueError(f"train.opt_kwargs.{name}: write train.{name}, which is a key of its own")
        if name not in takes:
            raise ValueError(
                f"train.opt_kwargs.{name}: train.opt={config.opt} takes no {name}; it takes {', '.join(sorted(takes))}"
                f"{meant(name, takes)}"
            )
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.opt_kwargs.items()}


def hand_over(before: Optimizer, optimizer: Optimizer, pairs: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Let a new optimiser go on where `before`, of the same recipe, stands.

    Args:
        pairs: of parameters of the new one, those of `before` in whose place they stand. Others begin, at the rate of the day.
    """
    groups = {parameter: group for group in before.param_groups for parameter in group["params"]}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            old = pairs.get(parameter)
            if old is not None and old.shape == parameter.shape and old in before.state:
                optimizer.state[parameter] = copy.deepcopy(before.state[old])
        there = next((groups[pairs[each]] for each in group["params"] if each in pairs), None)
        if there is not None:  # rates, and counters that some optimisers keep for a whole group
            group.update(copy.deepcopy({name: value for name, value in there.items() if name != "params"}))
            continue
        there = before.param_groups[0]  # a group of branches alone
        group["lr"] = there["lr"] * group.get("lr_scale", 1.0) / there.get("lr_scale", 1.0)
        group.update({name: there[name] for name in ("step",) if name in there})


class OneCycle(OneCycleLR):
    """torch's, called as timm's schedules are."""

    def step_update(self, num_updates: int) -> None:
        """After each update; `num_updates` is counted by torch itself."""
        self.step()


def make_scheduler(optimizer: Optimizer, config: TrainConfig, steps: int) -> OneCycle | Scheduler:
    """The schedule over `steps` updates; `step_update(number)` is to be called after each of them, with how many there were."""
    if config.schedule == "onecycle" and steps > 1:
        rates = [config.lr * group.get("lr_scale", 1.0) for group in optimizer.param_groups]  # by layer
        # momentum stays as configured: cycling it would need another key for each family of optimisers
        return OneCycle(
            optimizer, max_lr=rates, total_steps=steps, pct_start=config.warmup_share or 1e-8, cycle_momentum=False
        )
    name = config.schedule if config.schedule in ("cosine", "multistep") and steps > 1 else "constant"
    warm = round(config.warmup_share * steps) if name != "constant" else 0
    # its epochs are our updates; it lets the rate fall one before a milestone
    ends = [round(end * steps / config.epochs) + 1 for end in config.decay_epochs] if name == "multistep" else []
    scheduler, _ = create_scheduler_v2(
        optimizer,
        name,
        num_epochs=max(1, steps - warm) if config.warmup_prefix else steps,
        decay_milestones=ends,
        decay_rate=config.decay_rate,
        warmup_epochs=warm,
        warmup_prefix=config.warmup_prefix and name != "multistep",
        warmup_lr=config.lr / (warm + 1) if config.warmup_lr is None else config.warmup_lr,
        min_lr=config.min_lr,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    assert isinstance(scheduler, Scheduler)
    return scheduler


class Average:
    """The moving average of a network's weights that timm's task keeps, fed with tensors that are looked up once.

    timm's own `update_ema` walks all modules of both networks at each update, which takes several times as long as averaging
    them. The buffers are the network's own, as they are with `exclude_buffers`.
    """

    def __init__(self, ema: ModelEmaV3, model: nn.Module) -> None:
        self._ema = ema
        self._weights = [list(network.parameters()) for network in (ema.module, model)]
        self._buffers = [list(network.buffers()) for network in (ema.module, model)]

    @torch.no_grad()
    def update(self, number: int | None) -> None:
        """After update `number`, counted from 1, which timm's warm-up hangs on; None where there is no warm-up."""
        mine, theirs = self._weights
        torch._foreach_lerp_(mine, theirs, weight=1.0 - self._ema.get_decay(number))
        if self._buffers[0]:
            torch._foreach_copy_(self._buffers[0], self._buffers[1])


def initial_share(decay: float, warmup: bool, updates: int) -> float:
    """Share of the average, 0 to 1, that is still the initial weights after `updates` updates.

    With timm's warm-up it is 0 from the first update on, which replaces them.
    """
    if updates < 1:
        return 1.0
    return 0.0 if warmup else decay**updates


def check_average(config: TrainConfig, updates: int) -> None:
    """Refuse an average that would be of untrained networks at the end.

    Args:
        updates: optimiser steps of the whole training.

    Raises:
        ValueError: more than `MOST_INITIAL` of the average would still be the initial weights.
    """
    if not config.ema_decay or not config.epochs:  # nothing is trained, so nothing is averaged
        return
    share = initial_share(config.ema_decay, config.ema_warmup, updates)
    if share > MOST_INITIAL:
        fitting = math.floor(MOST_INITIAL ** (1 / updates) * 100) / 100
        raise ValueError(
            f"train.ema_decay={config.ema_decay:g} without warm-up: after the {updates} updates of this training "
            f"{share:.0%} of the averaged weights, which are what is evaluated, would still be the initial ones, and at most "
            f"{MOST_INITIAL:.0%} are allowed. Write train.ema_warmup=true, train.ema_decay={fitting:g} or lower, or "
            "train.ema_decay=null for the weights themselves; or train longer"
        )
