"""A worker: one job of any Hydra launcher that claims trial after trial until none is left.

A launcher's call is a batch barrier. Handing it one long-lived worker for each slot, in place of one job for each
trial, is what keeps slots from waiting for each other.
"""

from __future__ import annotations

import importlib
import logging
import os
import platform
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from optuna.trial import Trial, TrialState

from search.channel import Channel, Pruned, opened
from search.ledger.paths import WORKERS, trial_subdir
from search.ledger.result import Phase
from search.ledger.secrets import mask
from search.space.parameters import Space
from search.study.claims import FOLDER, REASON, Desk, count
from search.study.locks import FileLock
from search.study.samplers import make_pruner, make_sampler
from search.study.storage import open_storage

__all__ = ["Plan", "StudyChannel", "Worker", "WorkerReport", "custom_space", "open_study"]

log = logging.getLogger("xvol")


@dataclass(frozen=True)
class Plan:
    """All that a worker must know of its study; travels to wherever the launcher starts the worker.

    Attributes:
        study_name: the study's name for people; `optuna_name` is its name in the storage.
        storage: as the user gave it. It may hold a password, so it is never part of a config or of a `repr`.
        space: parameters and fixed overrides. Final trials carry their own overrides instead of parameters.
        allowed_failures: trials that may fail before workers stop taking new ones.
    """

    study_name: str
    optuna_name: str
    study_dir: str
    phase: Phase
    space: Space
    directions: tuple[str, ...]
    sampler: dict[str, Any] | None
    pruner: dict[str, Any] | None
    allowed_failures: int
    budget: int
    seed_key: str = "seed"
    custom_search_space: str | None = None
    storage: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class WorkerReport:
    """What a worker did: how many trials it brought to an end, and whether it stopped because too many failed."""

    trials: int
    gave_up: bool


def open_study(plan: Plan, stream: int) -> optuna.Study:
    """Open, or create, the study of `plan`; `stream` keeps the samplers of different workers apart."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=plan.optuna_name,
        storage=open_storage(plan.storage, Path(plan.study_dir)),
        directions=list(plan.directions),  # type: ignore[arg-type]
        sampler=make_sampler(plan.sampler, stream),
        pruner=make_pruner(plan.pruner),
        load_if_exists=True,
    )


class StudyChannel(Channel):
    """The line between a running trial and its Optuna study."""

    def __init__(self, trial: Trial, plan: Plan, is_baseline: bool) -> None:
        super().__init__(plan.study_name, trial.number, plan.phase, is_baseline, plan.study_dir)
        self._trial = trial
        self._plan = plan
        self._single = len(plan.directions) == 1

    def report(self, step: int, value: float) -> None:
        """Tell Optuna; with several objectives there is no pruning, and nothing to tell."""
        if self._single:
            self._trial.report(value, step)

    def should_prune(self) -> bool:
        """Ask the study's pruner."""
        return self._single and self._trial.should_prune()

    def note(self, name: str, value: Any) -> None:
        """Store the fact as a user attribute of the trial."""
        super().note(name, value)
        self._trial.set_user_attr(name, value)

    def standing(self) -> str:
        """Trials done, and the best so far."""
        study = self._trial.study
        trials = study.get_trials(deepcopy=False)
        now = count(trials)
        text = f"{now.finished}/{self._plan.budget} done"
        text += "".join(f", {n} {word}" for n, word in ((now.pruned, "pruned"), (now.failed, "failed")) if n)
        done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        if done and self._single and self._plan.phase == "search":
            pick = max if self._plan.directions[0] == "maximize" else min
            best = pick(done, key=lambda trial: float(trial.values[0]))
            text += f", best {best.values[0]:.4g} ({best.user_attrs.get('arm', f'trial {best.number}')})"
        return text


class Worker:
    """Plays the task function of a launcher's job.

    Args:
        task: the application's task function.
        config: the master config, from which each trial's is composed.
        hydra_context: Hydra's.
        plan: the study.
    """

    def __init__(self, task: TaskFunction, config: DictConfig, hydra_context: HydraContext, plan: Plan) -> None:
        self.task, self.config, self.hydra_context, self.plan = task, config, hydra_context, plan

    def __call__(self, _: DictConfig) -> WorkerReport:
        """Claim and run trials until none is left, or too many have failed."""
        slot = HydraConfig.get().job.num
        own_config = HydraConfig.instance().cfg
        study = open_study(self.plan, stream=0)
        study.sampler = make_sampler(self.plan.sampler, stream=len(study.get_trials(deepcopy=False)) * 64 + slot)
        desk = Desk(study, Path(self.plan.study_dir))
        name = f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:6]}.lock"
        ended = 0
        lock = FileLock(Path(self.plan.study_dir) / WORKERS / name)
        with lock:
            try:
                while not self._too_many_failed(study):
                    trial = desk.claim(name)
                    if trial is None:
                        return WorkerReport(ended, gave_up=False)
                    self._run(desk, trial)
                    HydraConfig.instance().cfg = own_config
                    configure_log(own_config.hydra.job_logging, own_config.hydra.verbose)  # type: ignore[union-attr]
                    ended += 1
                return WorkerReport(ended, gave_up=True)
            finally:
                lock.path.unlink(missing_ok=True)

    def _too_many_failed(self, study: optuna.Study) -> bool:
        return count(study.get_trials(deepcopy=False)).failed > self.plan.allowed_failures

    def _run(self, desk: Desk, trial: Trial) -> None:
        """Compose the trial's config, run it as a Hydra job of its own, and tell the study how it ended."""
        try:
            overrides = self._overrides(trial)
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            seed = int(config.get(self.plan.seed_key) or 0)
            subdir = trial_subdir(self.plan.phase, trial.number, seed)
            with open_dict(config):
                config.hydra.job.num = trial.number
                config.hydra.job.id = f"{self.plan.optuna_name}_{trial.number}"
                config.hydra.sweep.subdir = subdir
            trial.set_user_attr(FOLDER, subdir)
            channel = StudyChannel(trial, self.plan, bool(trial.user_attrs.get("is_baseline")))
            with opened(channel):
                job = run_job(
                    hydra_context=self.hydra_context,
                    task_function=_outcome_of(self.task),
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
        except Exception as error:  # composing, sampling, or a broken folder: this trial's fault alone
            self._settle(desk, trial, error)
        except BaseException:
            desk.interrupt(trial, "interrupted")
            raise
        else:
            self._settle(desk, trial, _value_of(job))

    def _overrides(self, trial: Trial) -> Sequence[str]:
        written = trial.user_attrs.get("overrides")
        if written is not None:
            return list(written)
        values = {
            parameter.name: _suggest(trial, parameter.name, parameter.distribution)
            for parameter in self.plan.space.parameters
        }
        overrides = self.plan.space.overrides(values)
        if self.plan.custom_search_space:
            base = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            custom_space(self.plan.custom_search_space)(base, trial)
            overrides += [f"{name}={value}" for name, value in trial.params.items() if name not in values]
        return overrides

    def _settle(self, desk: Desk, trial: Trial, outcome: Any) -> None:
        """Tell the study a value, or why there is none; no result of a trial may end the worker."""
        study, name = desk.study, f"{self.plan.phase} {trial.number}"
        if isinstance(outcome, Pruned | optuna.TrialPruned):
            log.info("%s: %s", name, outcome)
            study.tell(trial, state=TrialState.PRUNED)
            return
        if not isinstance(outcome, BaseException):
            try:
                study.tell(trial, values=list(_floats(outcome, len(self.plan.directions))))
                return
            except (TypeError, ValueError) as error:
                outcome = error
        reason = mask(f"{type(outcome).__name__}: {outcome}")
        trial.set_user_attr(REASON, reason)
        log.error("%s failed: %s (the study goes on)", name, reason)
        study.tell(trial, state=TrialState.FAIL)


def _outcome_of(task: TaskFunction) -> Callable[[DictConfig], Any]:
    """`task`, returning an exception in place of raising it, so that Hydra prints no trace of a pruned trial."""

    def run(config: DictConfig) -> Any:
        try:
            return task(config)
        except Exception as error:
            return error

    return run


def _value_of(job: JobReturn) -> Any:
    try:
        return job.return_value
    except Exception as error:
        return error


def _floats(outcome: Any, expected: int) -> list[float]:
    values = [float(value) for value in (outcome if isinstance(outcome, list | tuple) else [outcome])]
    if len(values) != expected:
        raise ValueError(
            f"the trial returned {len(values)} value(s), hydra.sweeper.direction names {expected}; "
            "give one direction for each objective"
        )
    if any(value != value for value in values):
        raise ValueError("the trial returned NaN")
    return values


def _suggest(trial: Trial, name: str, distribution: Any) -> Any:
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
