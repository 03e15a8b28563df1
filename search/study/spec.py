"""All that a worker must know of its study; travels to wherever a launcher starts the worker."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage

from search.ledger.result import Phase
from search.ledger.study_files import WORKERS
from search.space.parameters import Space
from search.study.options import Constraint, SweeperOptions, directions_of, parse_constraints
from search.study.queue import Budget, TrialQueue
from search.study.sampling.samplers import custom_space, is_grid, make_pruner, make_sampler
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
        ranks: how many GPUs the launcher of this command gives a trial.
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
    ranks: int = 1
    patience_seconds: float = 600.0
    seed_key: str = "seed"
    custom_search_space: str | None = None
    storage: str | None = field(default=None, repr=False)


def search_spec(
    options: SweeperOptions, space: Space, study_dir: Path, storage: str | None, costs: tuple[str, ...] | None
) -> StudySpec:
    """The phase that searches `space`; ValueError for no such sampler, pruner, function or cost.

    Args:
        storage: as the user wrote it.
        costs: names that constraints may limit; None for any.
    """
    sampler, pruner, custom = options.sampler or None, options.pruner or None, options.custom_search_space
    make_sampler(sampler, stream=0)
    make_pruner(pruner)
    if custom:
        custom_space(custom)
        if is_grid(sampler):
            raise ValueError(
                "hydra.sweeper.custom_search_space cannot be combined with sampler=grid or brute_force, which write "
                "down the points of hydra.sweeper.params beforehand; take another sampler"
            )
    name = str(options.study_name)
    return StudySpec(
        study_name=name,
        optuna_name=name,
        study_dir=str(study_dir),
        phase="search",
        space=space,
        directions=tuple(directions_of(options)),
        sampler=sampler,
        pruner=pruner,
        budget=Budget(
            trials=options.n_trials,
            sampled=not is_grid(sampler),
            max_skips=options.max_skips,
            size=None if custom else space.size(),
            max_retries=options.max_retries,
            allowed_failures=int(options.max_failure_rate * options.n_trials),
        ),
        stop_file=str(study_dir / WORKERS / f".stop-{uuid.uuid4().hex[:12]}"),
        constraints=parse_constraints(options.constraints, costs),
        reuse=options.reuse,
        seeds_per_trial=options.seeds_per_trial,
        trial_seconds=None if options.trial_minutes is None else 60 * options.trial_minutes,
        patience_seconds=60 * options.patience_minutes,
        seed_key=options.final.seed_key,
        custom_search_space=custom,
        storage=storage,
    )


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


def name_metrics(study: optuna.Study, names: Sequence[str] | None) -> None:
    """Name the study's objectives for Optuna's own tools, where there is a name for each and they have none yet."""
    if names and len(names) == len(study.directions) and not study.metric_names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(names))


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
