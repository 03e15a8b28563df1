"""The optimiser and the learning-rate schedule of a recipe."""

from __future__ import annotations

import difflib
import inspect
import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from search.trial.recipe import TrainConfig

__all__ = ["make_optimizer", "make_scheduler"]


def make_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """timm's optimiser of that name; biases and norms are not decayed.

    Raises:
        ValueError: timm knows no such optimiser.
    """
    import xvol  # noqa: F401, I001  # before timm, where torch is a CPU build: see xvol/torchvision_ops.py
    from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers

    known = [str(name) for name in list_optimizers()]
    if config.opt not in known:
        near = difflib.get_close_matches(config.opt, known, n=5, cutoff=0.4) or ["sgd", "adamw", "lamb"]
        raise ValueError(
            f"train.opt={config.opt}: timm knows no such optimiser; near it: {', '.join(near)} "
            "(all of them: timm.optim.list_optimizers())"
        )
    arguments = _momentum(get_optimizer_info(config.opt).opt_class, config.momentum)
    optimizer = create_optimizer_v2(model, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay, **arguments)
    assert isinstance(optimizer, Optimizer)
    return optimizer


def _momentum(opt_class: Any, momentum: float) -> dict[str, Any]:
    """Momentum under the optimiser's own name for it: the first of its betas where it has some, the others untouched."""
    betas = inspect.signature(opt_class).parameters.get("betas")
    if betas is not None and isinstance(betas.default, tuple):
        return {"betas": (momentum, *betas.default[1:])}
    return {"momentum": momentum}


def make_scheduler(optimizer: Optimizer, config: TrainConfig, steps: int) -> LRScheduler:
    """The schedule over `steps` optimiser steps; to be stepped after each of them."""
    if config.schedule == "onecycle" and steps > 1:
        # momentum stays as configured: cycling it would need another key for each family of optimisers
        return OneCycleLR(
            optimizer, max_lr=config.lr, total_steps=steps, pct_start=config.warmup or 1e-8, cycle_momentum=False
        )
    if config.schedule == "constant" or steps <= 1:
        return LambdaLR(optimizer, lambda step: 1.0)
    warm = round(config.warmup * steps)

    def cosine(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return LambdaLR(optimizer, cosine)
