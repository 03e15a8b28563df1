"""The moving average of the weights that a recipe keeps, and whether a training is long enough for it."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from search.recipe import TrainConfig

__all__ = ["MOST", "check_average", "initial_share", "make_average", "update_average"]

MOST = 0.05  # share of the initial weights that an average may still hold at the end


def make_average(model: nn.Module, config: TrainConfig) -> Any:
    """timm's `ModelEmaV3` of the weights of `model`; None where the recipe keeps none.

    The statistics of batch norms are the network's own, not averaged: they are an average already, and averaged once more
    they lag so far behind that a short training is evaluated near chance.
    """
    if not config.ema_decay:
        return None
    import xvol  # noqa: F401, I001  # before timm, where torch is a CPU build: see xvol/torchvision_ops.py
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=config.ema_decay, use_warmup=config.ema_warmup, exclude_buffers=True)


def update_average(average: Any, model: nn.Module, config: TrainConfig, updates: int) -> None:
    """Take in the weights after `updates` updates, counted from 1.

    timm reads the number only for its warm-up: the decay is 0 at the first update, then 1 - updates^(-2/3), at most
    `ema_decay`.
    """
    average.update(model, step=updates if config.ema_warmup else None)


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
        ValueError: more than `MOST` of the average would still be the initial weights.
    """
    if not config.ema_decay:
        return
    share = initial_share(config.ema_decay, config.ema_warmup, updates)
    if share > MOST:
        fitting = math.floor(MOST ** (1 / updates) * 100) / 100
        raise ValueError(
            f"train.ema_decay={config.ema_decay:g} without warm-up: after the {updates} updates of this training "
            f"{share:.0%} of the averaged weights, which are what is evaluated, would still be the initial ones, and at most "
            f"{MOST:.0%} are allowed. Write train.ema_warmup=true, train.ema_decay={fitting:g} or lower, or "
            "train.ema_decay=null for the weights themselves; or train longer"
        )
