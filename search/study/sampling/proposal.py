"""What a trial asks its sampler for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.trial import Trial

__all__ = ["custom_space", "suggest"]


def suggest(trial: Trial, name: str, distribution: Any) -> Any:
    """A value for the parameter `name`."""
    kinds = optuna.distributions
    if isinstance(distribution, kinds.CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, kinds.IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def custom_space(dotted: str) -> Callable[[DictConfig, Trial], None]:
    """The function that `hydra.sweeper.custom_search_space` names; ValueError where there is none."""
    module, _, name = dotted.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"hydra.sweeper.custom_search_space={dotted}: give package.module.function ({error})"
        ) from None
    if not callable(function):
        raise ValueError(f"hydra.sweeper.custom_search_space={dotted}: it is no function but {type(function).__name__}")
    return function
