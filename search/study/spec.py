"""All that a worker must know of its study; travels to wherever a launcher starts the worker."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.storages import BaseStorage

from search.ledger.result import Phase
from search.space.parameters import Space
from search.study.options import Constraint
from search.study.queue import Budget, TrialQueue
from search.study.sampling.samplers import make_sampler
from search.study.storage.opening import open_storage


@dataclass(frozen=True)
class StudySpec:
    """One phase of a study.

    Attributes:
        study_name: the study's name for people; `optuna_name` is its name in the storage.
        storage: as the user wrote it, `${oc.env:NAME}` unresolved: launchers write specs to disk, and a password must
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
    budget: Budget
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


def final_spec(spec: StudySpec, cells: int) -> StudySpec:
    """The phase that trains written-down cells to their end and reads test data."""
    return replace(
        spec,
        optuna_name=f"{spec.study_name}.final",
        phase="final",
        sampler={"_target_": "optuna.samplers.RandomSampler"},
        pruner=None,
        custom_search_space=None,
        # a failed cell is shown in the table, it does not hide the others
        budget=replace(spec.budget, trials=cells, sampled=False, allowed_failures=None),
        seeds_per_trial=1,
    )


def open_queue(spec: StudySpec) -> TrialQueue:
    """Open, or create, the study of `spec`.

    Raises:
        ValueError: the storage cannot be opened, or an environment variable in its URL is not set here.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = storage_of(spec)
    study = optuna.create_study(
        study_name=spec.optuna_name,
        storage=storage,
        directions=list(spec.directions),  # type: ignore[arg-type]
        sampler=make_sampler(spec.sampler, stream=0),
        load_if_exists=True,
    )
    return TrialQueue(study, storage, Path(spec.study_dir), spec.budget)


def storage_of(spec: StudySpec) -> BaseStorage:
    """The storage of `spec`, opened once in a process: a journal of thousands of trials is not read twice.

    Raises:
        ValueError: it cannot be opened, or an environment variable in its URL is not set here.
    """
    url = resolved(spec.storage)
    key = (os.getpid(), url, spec.study_dir, spec.patience_seconds)
    if key not in _open:
        _open[key] = open_storage(url, Path(spec.study_dir), patience_seconds=spec.patience_seconds)
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
