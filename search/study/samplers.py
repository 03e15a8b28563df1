"""Optuna's samplers and pruners from their configuration, by name from Optuna alone: nothing else is imported or called."""

from __future__ import annotations

import difflib
import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

__all__ = ["GRID", "is_grid", "make_pruner", "make_sampler"]

GRID = "optuna.samplers.GridSampler"


def is_grid(config: Mapping[str, Any] | None) -> bool:
    """Whether every point of the space is asked for."""
    return bool(config) and config.get("_target_") == GRID  # type: ignore[union-attr]


def make_sampler(config: Mapping[str, Any] | None, stream: int) -> BaseSampler:
    """Build the sampler; None is Optuna's default for the study.

    Args:
        config: `_target_` and arguments.
        stream: distinguishes workers and resumptions, so that one `seed` never gives two of them the same numbers.

    Raises:
        ValueError: unknown sampler or argument.
    """
    import optuna

    arguments = dict(config or {"_target_": "optuna.samplers.TPESampler"})
    if is_grid(arguments):  # the points are written into the study beforehand; nothing is left to sample
        return optuna.samplers.RandomSampler(seed=arguments.get("seed"))
    if arguments.get("seed") is not None:
        arguments["seed"] = (int(arguments["seed"]) + 1_000_003 * stream) % 2**32
    sampler = _from_optuna("hydra.sweeper.sampler", optuna.samplers, optuna.samplers.BaseSampler, arguments)
    assert isinstance(sampler, optuna.samplers.BaseSampler)
    return sampler


def make_pruner(config: Mapping[str, Any] | None) -> BasePruner:
    """Build the pruner; None never prunes. A wrapped pruner is given as a nested mapping with its own `_target_`.

    Raises:
        ValueError: unknown pruner or argument.
    """
    import optuna

    if not config:
        return optuna.pruners.NopPruner()
    arguments = {
        name: make_pruner(value) if isinstance(value, Mapping) and "_target_" in value else value
        for name, value in config.items()
    }
    pruner = _from_optuna("hydra.sweeper.pruner", optuna.pruners, optuna.pruners.BasePruner, arguments)
    assert isinstance(pruner, optuna.pruners.BasePruner)
    return pruner


def _from_optuna(key: str, module: Any, base: type, config: Mapping[str, Any]) -> Any:
    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    allowed = {
        name: kind
        for name in module.__all__
        if inspect.isclass(kind := getattr(module, name)) and issubclass(kind, base) and kind is not base
    }
    target = str(config.get("_target_", ""))
    prefix, _, name = target.rpartition(".")
    if prefix != module.__name__ or name not in allowed:
        near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(
            f"{key}._target_={target or 'missing'}: give {module.__name__}.NAME with NAME one of {', '.join(sorted(allowed))}{hint}"
        )
    try:
        inspect.signature(allowed[name]).bind(**arguments)
    except TypeError as error:
        takes = [p for p in inspect.signature(allowed[name]).parameters if not p.startswith("_")]
        raise ValueError(f"{key}: {name} {error}; it takes {', '.join(takes) or 'no arguments'}") from None
    with warnings.catch_warnings():  # which of Optuna's own defaults are experimental is not the user's doing
        warnings.filterwarnings("ignore", category=_experimental())
        try:
            return allowed[name](**arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key}: {name}: {error}") from None


def _experimental() -> type[Warning]:
    import optuna

    return optuna.exceptions.ExperimentalWarning
