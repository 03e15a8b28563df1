"""A search space in code, as `hydra.sweeper.custom_search_space` names it."""

import optuna
from omegaconf import DictConfig


def conditional(config: DictConfig, trial: optuna.Trial) -> None:
    """`y` varies only where `x` is even."""
    if config.x % 2 == 0:
        trial.suggest_int("y", 10, 12)
