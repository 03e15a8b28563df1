"""All that a worker must know of its study; travels to wherever a launcher starts the worker."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.storages import BaseStorage

from search.ledger.result import Phase
from search.space.parameters import Space
from search.study.options import Constraint
from search.study.queue import Desk, Quota
from search.study.sampling.samplers import make_sampler
from search.study.storage.opening import open_storage

__all__ = ["Plan", "open_desk", "storage_of"]


@dataclass(frozen=True)
class Plan:
    """One phase of a study.

    Attributes:
        study_name: the study's name for people; `optuna_name` is its name in the storage.
        storage: as the user wrote it, `${oc.env:NAME}` unresolved: launchers write plans to disk, and a password must
            not be in them.
        space: parameters and fixed overrides. Trials that are written down beforehand carry their own overrides.
        seeds_per_trial: runs of each trial, whose mean the sampler is told.
        reuse: "all", "study" or "none": whose finished runs stand in for training the same again.
        keeps_weights: whether trials keep their weights for a later phase.
        trial_seconds: time limit of one run.
        stop_file: its existence asks the workers of one command to stop.
    """

    study_name: str
    optuna_name: str
    study_dir: str
    phase: Phase
    space: Space
    directions: tuple[str, ...]
    sampler: dict[str, Any] | None
    pruner: dict[str, Any] | None
    quota: Quota
    stop_file: str
    constraints: tuple[Constraint, ...] = ()
    reuse: str = "all"
    seeds_per_trial: int = 1
    keeps_weights: bool = False
    trial_seconds: float | None = None
    patience_seconds: float = 600.0
    seed_key: str = "seed"
    custom_search_space: str | None = None
    storage: str | None = field(default=None, repr=False)


def open_desk(plan: Plan, stream: int) -> tuple[Desk, BaseStorage]:
    """Open, or create, the study of `plan`; `stream` keeps the samplers of different workers apart.

    Raises:
        ValueError: the storage cannot be opened, or an environment variable in its URL is not set here.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = storage_of(plan)
    study = optuna.create_study(
        study_name=plan.optuna_name,
        storage=storage,
        directions=list(plan.directions),  # type: ignore[arg-type]
        sampler=make_sampler(plan.sampler, stream),
        load_if_exists=True,
    )
    return Desk(study, storage, Path(plan.study_dir), plan.quota), storage


def storage_of(plan: Plan) -> BaseStorage:
    """The storage of `plan`, opened once in a process: a journal of thousands of trials is not read twice.

    Raises:
        ValueError: it cannot be opened, or an environment variable in its URL is not set here.
    """
    url = resolved(plan.storage)
    key = (os.getpid(), url, plan.study_dir, plan.patience_seconds)
    if key not in _open:
        _open[key] = open_storage(url, Path(plan.study_dir), patience_seconds=plan.patience_seconds)
    return _open[key]


_open: dict[tuple[Any, ...], BaseStorage] = {}


def resolved(storage: str | None) -> str | None:
    """The storage's URL with its environment variables filled in."""
    if storage is None or "${" not in storage:
        return storage
    try:
        return str(OmegaConf.create({"storage": storage}).storage)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ValueError(
            f"hydra.sweeper.storage: {first}; every machine that runs a worker needs that environment variable"
        ) from None
