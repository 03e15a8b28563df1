"""A worker: one job of any Hydra launcher that claims trial after trial until none is left.

A launcher's call is a batch barrier. Handing it one long-lived worker for each slot, in place of one job for each
trial, is what keeps slots from waiting for each other.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, configure_log, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import Trial, TrialState

from search.channel import Infeasible, InFlight, Pruned, Stopped, opened
from search.ledger.files import is_disk_full, try_room
from search.ledger.paths import free_subdir, trial_subdir
from search.ledger.record import seed_of
from search.ledger.secrets import mask, mask_logs, note_variables
from search.study.launching.compose import Composer
from search.study.launching.job_child import progress
from search.study.launching.stopping import Deadline, Interrupts
from search.study.liveness import Pulse, host_id
from search.study.recovery import close_ledger, recover
from search.study.sampling.pruning import Pruning
from search.study.sampling.samplers import custom_space, make_sampler, suggest
from search.study.spec import Plan, open_desk
from search.study.storage.patience import Patience, StorageGone
from search.study.trial_channel import Runs, StudyChannel
from search.study.trials import AWAITS, FOLDER, OVERRIDES, REASON, SEEDS, SKIPPED

__all__ = ["Worker", "WorkerReport"]

log = logging.getLogger("xvol")
RECOVER_SECONDS = 30.0
POLL_SECONDS = 1.0  # between two looks at a run that is waited for


@dataclass(frozen=True)
class WorkerReport:
    """What a worker did: trials it brought to an end, and whether it stopped for too many failures or for the user."""

    trials: int
    gave_up: bool = False
    stopped: bool = False


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
        """Claim and run trials until none is left, too many have failed, or the user wants to stop."""
        with Interrupts(Path(self.plan.stop_file)) as interrupts:
            shift = _Shift(self, interrupts)
            with shift.pulse:
                return shift.work()


class _Shift:
    """A worker from its first trial to its last: what it keeps open in between."""

    def __init__(self, worker: Worker, interrupts: Interrupts) -> None:
        self.task, self.context, self.plan = worker.task, worker.hydra_context, worker.plan
        self.interrupts = interrupts
        note_variables(OmegaConf.to_container(worker.config, resolve=False))
        mask_logs()
        self.composer = Composer(worker.hydra_context.config_loader, worker.config, for_jobs=True)
        self.desk, storage = open_desk(self.plan, stream=0)
        slot = HydraConfig.get().job.num
        self.desk.study.sampler = make_sampler(self.plan.sampler, stream=len(self.desk.trials()) * 64 + slot)
        self.pruning = Pruning(self.desk.study, self.plan.pruner)
        self.name = f"{host_id()}-{os.getpid()}-{uuid.uuid4().hex[:6]}.lock"
        self.runs = Runs(Path(self.plan.study_dir), self.name, self.plan.reuse)
        self.pulse = Pulse(storage, Path(self.plan.study_dir), self.name)

    def work(self) -> WorkerReport:
        own_config = HydraConfig.instance().cfg
        hydra = own_config.hydra  # type: ignore[union-attr]
        own_logging: Any = hydra.job_logging
        if own_logging:  # resolved once: it is put back after each trial
            own_logging = OmegaConf.create(OmegaConf.to_container(own_logging, resolve=True))
        ended, looked = 0, -RECOVER_SECONDS
        while not self.interrupts.requested:
            if time.monotonic() - looked >= RECOVER_SECONDS:
                recover(self.desk, self.plan)
                looked = time.monotonic()
            trial = self.desk.claim(self.name, lambda waiting: not self.runs.awaits(*waiting.user_attrs[AWAITS]))
            if trial is None and self.desk.holds:
                time.sleep(POLL_SECONDS)
                continue
            if trial is None:
                return WorkerReport(ended, gave_up=self.desk.gave_up)
            self.pulse.trial(trial._trial_id)
            try:
                self._run(trial)
            finally:
                self.pulse.trial(None)
                HydraConfig.instance().cfg = own_config
                configure_log(own_logging, hydra.verbose)
            ended += 1
            progress()
        return WorkerReport(ended, stopped=True)

    def _run(self, trial: Trial) -> None:
        """Run a trial's seeds one after the other, and tell the study how it ended."""
        values: list[tuple[float, ...]] = []
        reused = True
        several = self.plan.seeds_per_trial > 1
        done: dict[str, Any] = dict(trial.user_attrs.get(SEEDS, {})) if several else {}  # before it was put back
        try:
            overrides = self._overrides(trial)
            first = int(self.composer.compose(overrides).get(self.plan.seed_key) or 0)
            for turn, seed in enumerate(range(first, first + self.plan.seeds_per_trial)):
                if str(seed) not in done:
                    lines = [*overrides, f"{self.plan.seed_key}={seed}"] if several else overrides
                    channel = self._channel(trial, seed)
                    outcome = self._run_seed(trial, lines, seed, channel)
                    if isinstance(outcome, BaseException):
                        if not reused:
                            channel.skip = None  # an earlier seed was trained, and that counts
                        self._settle(trial, outcome, channel)
                        return
                    done[str(seed)] = [_floats(outcome, len(self.plan.directions)), channel.reused]
                    if several:
                        trial.set_user_attr(SEEDS, done)
                values.append(tuple(done[str(seed)][0]))
                reused = reused and done[str(seed)][1]
                if several and turn + 1 < self.plan.seeds_per_trial and self._is_behind(trial, turn, values[-1][0]):
                    self._mark(trial, reused)
                    self._settle(trial, Pruned(f"behind after {turn + 1} of {self.plan.seeds_per_trial} seeds"), None)
                    return
        except Exception as error:  # composing, sampling, or a broken folder: this trial's fault alone
            self._settle(trial, error, None)
        except BaseException:
            self.desk.interrupt(trial, "interrupted")
            raise
        else:
            self._mark(trial, reused)
            self.desk.study.tell(trial, [statistics.fmean(column) for column in zip(*values, strict=True)])

    def _mark(self, trial: Trial, reused: bool) -> None:
        """What trained nothing is no part of the budget; cells of a design are wanted one by one, trained or not."""
        if reused and self.plan.quota.sampled:
            trial.set_user_attr(SKIPPED, "reused")

    def _channel(self, trial: Trial, seed: int) -> StudyChannel:
        return StudyChannel(
            trial, self.plan, seed, self.desk, self.pruning, self.runs, lambda: self.interrupts.requested
        )

    def _run_seed(self, trial: Trial, overrides: Sequence[str], seed: int, channel: StudyChannel) -> Any:
        """Run the task once as a Hydra job of its own; return its value, or the exception that ended it."""
        config = self.composer.compose(overrides)
        subdir = self._subdir(trial, seed)
        with open_dict(config):
            config.hydra.job.num = trial.number
            config.hydra.job.id = f"{self.plan.optuna_name}_{trial.number}"
            config.hydra.sweep.subdir = subdir
        trial.set_user_attr(FOLDER, subdir)
        with opened(channel), Deadline(self.plan.trial_seconds, lambda: self._hung(trial)):
            job = run_job(_outcome_of(self.task), config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
        if channel.began:
            self.runs.end()
        return _value_of(job)

    def _subdir(self, trial: Trial, seed: int) -> str:
        """Where the run goes below the study's folder."""
        there = trial.user_attrs.get(FOLDER)
        if AWAITS in trial.user_attrs and there is not None and seed_of(Path(there)) == seed:
            return str(there)  # where it found that another was training the same
        subdir = free_subdir(Path(self.plan.study_dir), self.plan.phase, trial.number, seed)
        usual = trial_subdir(self.plan.phase, trial.number, seed)
        if subdir != usual:
            log.warning(
                "%s: an earlier trial of that number is there already, so the storage was put back to an earlier state; "
                "it is kept, and this one goes into %s",
                usual,
                subdir,
            )
        return subdir

    def _is_behind(self, trial: Trial, turn: int, value: float) -> bool:
        """Whether the pruner, which compares trials seed by seed, gives this one up."""
        self.pruning.report(trial, turn + 1, value)
        return self.pruning.should_prune(trial)

    def _hung(self, trial: Trial) -> None:
        minutes = (self.plan.trial_seconds or 0) / 60
        reason = f"time limit: it hung beyond hydra.sweeper.trial_minutes={minutes:g}; its process was ended"
        close_ledger(self.plan, self.desk.trials()[trial.number], reason, again=False)
        trial.set_user_attr(REASON, reason)
        self.desk.study.tell(trial.number, state=TrialState.FAIL)

    def _overrides(self, trial: Trial) -> list[str]:
        written = trial.user_attrs.get(OVERRIDES)
        if written is not None:
            return list(written)
        values = {p.name: suggest(trial, p.name, p.distribution) for p in self.plan.space.parameters}
        overrides = self.plan.space.overrides(values)
        if self.plan.custom_search_space:
            base = self.composer.compose(overrides)
            custom_space(self.plan.custom_search_space)(base, trial)
            overrides += [f"{name}={value}" for name, value in trial.params.items() if name not in values]
        return overrides

    def _settle(self, trial: Trial, outcome: BaseException, channel: StudyChannel | None) -> None:
        """Tell the study why there is no value; no result of a trial may end the worker."""
        study, name = self.desk.study, f"{self.plan.phase} {trial.number}"
        if isinstance(outcome, Stopped):
            log.info("%s: %s", name, outcome)
            self.desk.interrupt(trial, mask(str(outcome)))
            return
        if isinstance(outcome, InFlight) and channel is not None and channel.awaited:
            log.info("%s: %s; it waits, to take over the result", name, outcome)
            self.desk.put_back(trial, channel.awaited)
            return
        if is_disk_full(outcome):
            self._wait_for_space(trial, name, mask(f"the disk is full: {outcome}"))
            return
        if channel is not None and channel.skip:
            trial.set_user_attr(SKIPPED, channel.skip)
        if isinstance(outcome, Pruned | optuna.TrialPruned):
            log.info("%s: %s", name, outcome)
            study.tell(trial, state=TrialState.PRUNED)
            return
        reason = mask(str(outcome) if isinstance(outcome, Infeasible) else f"{type(outcome).__name__}: {outcome}")
        trial.set_user_attr(REASON, reason)
        if isinstance(outcome, Infeasible):  # no fault of anybody: TPE takes it for bad, other samplers pass it over
            log.info("%s: %s", name, reason)
            study.tell(trial, state=TrialState.PRUNED)
            return
        log.error("%s failed: %s (the study goes on)", name, reason)
        study.tell(trial, state=TrialState.FAIL)

    def _wait_for_space(self, trial: Trial, name: str, reason: str) -> None:
        """Wait as long as for a storage that went away, and write the trial down again."""
        folder = Path(self.plan.study_dir)
        log.warning("%s: %s; it goes on from its last saved state once there is room", name, reason)
        patience = Patience(f"the disk of {folder}", self.plan.patience_seconds)
        with contextlib.suppress(StorageGone):
            patience.call(lambda: None if self.interrupts.requested else try_room(folder))
        self.desk.interrupt(trial, reason, functools.partial(close_ledger, self.plan))


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


def _floats(outcome: Any, expected: int) -> tuple[float, ...]:
    values = tuple(float(value) for value in (outcome if isinstance(outcome, list | tuple) else [outcome]))
    if len(values) != expected:
        raise ValueError(
            f"the trial returned {len(values)} value(s), hydra.sweeper.direction names {expected}; "
            "give one direction for each objective"
        )
    if any(value != value for value in values):
        raise ValueError("the trial returned NaN")
    return values
