"""A worker: one job of any Hydra launcher that claims trial after trial until none is left, of one phase and of the next.

A launcher's call is a batch barrier. Handing it one long-lived worker for each slot, in place of one job for each
trial, is what keeps slots from waiting for each other. What follows a phase hangs on what stands in the study alone, so each
worker finds it out for itself and goes on, in place of ending and being started again.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import statistics
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import Trial, TrialState

from search.channel import Application, Broken, Infeasible, InFlight, Pruned, Stopped, opened
from search.ledger.files import is_disk_full, try_room
from search.ledger.record import seed_of
from search.ledger.secrets import mask, mask_logs, note_variables
from search.ledger.study_files import free_subdir, trial_subdir
from search.study.launching.compose import Composer
from search.study.launching.job import progress
from search.study.launching.stopping import Deadline, Interrupts
from search.study.liveness import Heartbeat, host_id
from search.study.queue import TrialQueue
from search.study.recovery import close_ledger, recover
from search.study.sampling.samplers import Pruning, custom_space, make_sampler, suggest
from search.study.spec import StudySpec, open_queue
from search.study.storage.waiting import Patience, StorageGone
from search.study.trial_channel import Runs, StudyChannel
from search.study.trials import AWAITS, FOLDER, OVERRIDES, REASON, SEEDS, SKIPPED

log = logging.getLogger("xvol")
RECOVER_SECONDS = 30.0
# between two looks at a run, or a phase, that is waited for; doubled each time
FIRST_POLL_SECONDS, POLL_SECONDS = 0.05, 1.0


@dataclass(frozen=True)
class WorkerReport:
    """What a worker did: trials it brought to an end, and whether it stopped for too many failures or for the user."""

    trials: int
    gave_up: bool = False
    stopped: bool = False


class NextPhase(Protocol):
    """What follows a phase. It is sent to the workers, and each of them asks it."""

    def __call__(self, queue: TrialQueue, spec: StudySpec) -> StudySpec | None:
        """Write down, once ever, the trials of what follows the phase of `queue` and `spec`, which is over; return its spec.

        None where nothing follows.
        """
        ...


class Worker:
    """Plays the task function of a launcher's job, which sends it to where it runs.

    Args:
        app: what trials are given to.
        config: the master config, from which each trial's is composed.
        hydra_context: Hydra's.
        spec: the phase of a study.
        groups: see `Composer`.
        then: what follows it; None for nothing.
    """

    def __init__(
        self,
        app: Application,
        config: DictConfig,
        hydra_context: HydraContext,
        spec: StudySpec,
        groups: Mapping[str, list[str]],
        then: NextPhase | None = None,
    ) -> None:
        self.app, self.config, self.context, self.spec, self.groups = app, config, hydra_context, spec, groups
        self.then = then
        self.study_dir = Path(spec.study_dir)
        self.preloads = self.needs(app, config)  # asked for by the local launcher

    @staticmethod
    def needs(app: Application, config: DictConfig) -> Sequence[str]:
        """The modules that a worker imports."""
        return (__name__, *app.preloads(config))

    def __call__(self, _: DictConfig) -> WorkerReport:
        """Claim and run trials until none is left in any phase, too many have failed, or the user wants to stop."""
        note_variables(OmegaConf.to_container(self.config, resolve=False))
        mask_logs()
        self.composer = Composer(self.context.config_loader, self.config, for_jobs=True, groups=self.groups)
        self._enter(self.spec)
        self.name = f"{host_id()}-{os.getpid()}-{uuid.uuid4().hex[:6]}.lock"
        self.runs = Runs(self.study_dir, self.name, self.spec.reuse)
        heartbeat = Heartbeat(self.queue.storage, self.study_dir, self.name)
        with Interrupts(Path(self.spec.stop_file)) as self.interrupts, heartbeat:
            return self._work(heartbeat)

    def _enter(self, spec: StudySpec) -> None:
        """Take trials of this phase from now on."""
        self.spec, self.queue = spec, open_queue(spec)
        slot = HydraConfig.get().job.num
        self.queue.study.sampler = make_sampler(spec.sampler, stream=len(self.queue.trials()) * 64 + slot)
        self.pruning = Pruning(self.queue.study, spec.pruner)

    def _waits(self) -> bool:
        """Whether there may be something to claim later: a run that is waited for, or the end of a phase that others work on."""
        return self.queue.holds or (self.then is not None and not self.queue.gave_up and not self.queue.is_over())

    def _goes_on(self) -> bool:
        """Enter the next phase, if there is one; this one is over."""
        if self.then is None or self.queue.gave_up:
            return False
        after, self.then = self.then(self.queue, self.spec), None
        if after is not None:
            self._enter(after)
        return after is not None

    def _work(self, heartbeat: Heartbeat) -> WorkerReport:
        hydra = HydraConfig.get()
        own_logging: Any = hydra.job_logging
        if own_logging:  # resolved once: it is put back after each trial
            own_logging = OmegaConf.create(OmegaConf.to_container(own_logging, resolve=True))
        ended, looked, pause = 0, -RECOVER_SECONDS, FIRST_POLL_SECONDS
        while not self.interrupts.requested:
            if time.monotonic() - looked >= RECOVER_SECONDS:
                recover(self.queue, self.spec)
                looked = time.monotonic()
            trial = self.queue.claim(self.name, lambda waiting: not self.runs.awaits(*waiting.user_attrs[AWAITS]))
            if trial is None:
                if self._waits():
                    time.sleep(pause)
                    pause = min(2 * pause, POLL_SECONDS)
                elif not self._goes_on():
                    return WorkerReport(ended, gave_up=self.queue.gave_up)
                continue
            pause = FIRST_POLL_SECONDS
            heartbeat.trial(trial._trial_id)
            try:
                self._run(trial)
            finally:
                heartbeat.trial(None)
                configure_log(own_logging, hydra.verbose)
            ended += 1
            progress()
        return WorkerReport(ended, stopped=True)

    def _run(self, trial: Trial) -> None:
        """Run a trial's seeds one after the other, and tell the study how it ended."""
        spec, several = self.spec, self.spec.seeds_per_trial > 1
        done: dict[str, Any] = dict(trial.user_attrs.get(SEEDS, {})) if several else {}  # before it was put back
        values: list[tuple[float, ...]] = []
        reused, channel = True, None
        try:
            overrides = self._overrides(trial)
            config = self.composer.compose(overrides)
            first = int(config.get(spec.seed_key) or 0)
            for seed in range(first, first + spec.seeds_per_trial):
                if str(seed) not in done:
                    if several:
                        config = self.composer.compose([*overrides, f"{spec.seed_key}={seed}"])
                    channel = StudyChannel(
                        trial, spec, seed, self.queue, self.pruning, self.runs, lambda: self.interrupts.requested
                    )
                    value = self._run_seed(trial, config, seed, channel)
                    done[str(seed)] = [_floats(value, len(spec.directions)), channel.reused]
                    if several:
                        trial.set_user_attr(SEEDS, done)
                values.append(tuple(done[str(seed)][0]))
                reused = reused and done[str(seed)][1]
                if len(values) < spec.seeds_per_trial:  # the pruner compares trials seed by seed
                    self.pruning.report(trial, len(values) + 1, values[-1][0])
                    if self.pruning.should_prune(trial):
                        self._note_reuse(trial, reused)
                        raise Pruned(f"behind after {len(values)} of {spec.seeds_per_trial} seeds")
        except Exception as error:
            if channel is not None and not reused:
                channel.skip = None  # an earlier seed was trained, and that counts
            self._settle(trial, error, channel)
        except BaseException:
            self.queue.interrupt(trial, "interrupted")
            raise
        else:
            self._note_reuse(trial, reused)
            self.queue.study.tell(trial, [statistics.fmean(column) for column in zip(*values, strict=True)])

    def _note_reuse(self, trial: Trial, reused: bool) -> None:
        """What trained nothing is no part of the budget; cells of a design are wanted one by one, trained or not."""
        if reused and self.spec.budget.sampled:
            trial.set_user_attr(SKIPPED, "reused")

    def _run_seed(self, trial: Trial, config: DictConfig, seed: int, channel: StudyChannel) -> Any:
        """Train once, as a Hydra job of its own; return the value, or raise what ended it."""
        subdir = self._subdir(trial, seed)
        with open_dict(config):
            config.hydra.job.num = trial.number
            config.hydra.job.id = f"{self.spec.optuna_name}_{trial.number}"
            config.hydra.sweep.subdir = subdir
        trial.set_user_attr(FOLDER, subdir)
        with opened(channel), Deadline(self.spec.trial_seconds, lambda: self._hung(trial)):
            job = run_job(_Outcome(self.app), config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
        if channel.began:
            self.runs.end()
        outcome = job.return_value
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _subdir(self, trial: Trial, seed: int) -> str:
        """Where the run goes below the study's folder."""
        there = trial.user_attrs.get(FOLDER)
        if AWAITS in trial.user_attrs and there is not None and seed_of(Path(there)) == seed:
            return str(there)  # where it found that another was training the same
        subdir = free_subdir(self.study_dir, self.spec.phase, trial.number, seed)
        usual = trial_subdir(self.spec.phase, trial.number, seed)
        if subdir != usual:
            log.warning(
                "%s: an earlier trial of that number is there already, so the storage was put back to an earlier state; "
                "it is kept, and this one goes into %s",
                usual,
                subdir,
            )
        return subdir

    def _hung(self, trial: Trial) -> None:
        minutes = (self.spec.trial_seconds or 0) / 60
        reason = f"time limit: it hung beyond hydra.sweeper.trial_minutes={minutes:g}; its process was ended"
        close_ledger(self.spec, self.queue.trials()[trial.number], reason, again=False)
        trial.set_user_attr(REASON, reason)
        self.queue.study.tell(trial.number, state=TrialState.FAIL)

    def _overrides(self, trial: Trial) -> list[str]:
        written = trial.user_attrs.get(OVERRIDES)
        if written is not None:
            return list(written)
        values = {p.name: suggest(trial, p.name, p.distribution) for p in self.spec.space.parameters}
        overrides = self.spec.space.overrides(values)
        if self.spec.custom_search_space:
            base = self.composer.compose(overrides)
            custom_space(self.spec.custom_search_space)(base, trial)
            overrides += [f"{name}={value}" for name, value in trial.params.items() if name not in values]
        return overrides

    def _settle(self, trial: Trial, outcome: BaseException, channel: StudyChannel | None) -> None:
        """Tell the study why there is no value; no result of a trial may end the worker."""
        study, name = self.queue.study, f"{self.spec.phase} {trial.number}"
        if isinstance(outcome, Stopped):
            log.info("%s: %s", name, outcome)
            close = functools.partial(close_ledger, self.spec) if isinstance(outcome, Broken) else None
            self.queue.interrupt(trial, mask(str(outcome)), close)
            return
        if isinstance(outcome, InFlight) and channel is not None and channel.awaited:
            log.info("%s: %s; it waits, to take over the result", name, outcome)
            self.queue.put_back(trial, channel.awaited)
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
        folder = self.study_dir
        log.warning("%s: %s; it goes on from its last saved state once there is room", name, reason)
        patience = Patience(f"the disk of {folder}", self.spec.patience_seconds)
        with contextlib.suppress(StorageGone):
            patience.call(lambda: None if self.interrupts.requested else try_room(folder))
        self.queue.interrupt(trial, reason, functools.partial(close_ledger, self.spec))


class NoCallbacks:
    """Of a worker's own job: the user's callbacks are of the trials."""

    def on_job_start(self, **_: object) -> None:
        """Do nothing."""

    def on_job_end(self, **_: object) -> None:
        """Do nothing."""


class _Outcome:
    """The application, returning an exception in place of raising it, so that Hydra prints no trace of a pruned trial."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, config: DictConfig) -> Any:
        try:
            return self._app(config)
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
