"""One phase of a study: workers are launched until none of its trials is left to run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log
from hydra.types import HydraContext
from omegaconf import DictConfig
from optuna.trial import TrialState

from search.channel import Application
from search.ledger.paths import WORKERS
from search.ledger.record import supersede
from search.ledger.secrets import mask
from search.study.launching.launcher import worker_count
from search.study.launching.stopping import Interrupts
from search.study.options import SweeperOptions
from search.study.queue import TrialQueue
from search.study.recovery import mend_lost, recover
from search.study.spec import StudySpec, open_queue
from search.study.trials import FOLDER, REASON, SKIPPED
from search.study.worker import Worker, WorkerReport

log = logging.getLogger("xvol")
POLL_SECONDS = 1.0
MAX_IN_VAIN = 3  # launcher calls in a row that break down without any trial having ended


class _NoCallbacks:
    """Of a worker's job: the user's callbacks are of the trials."""

    def on_job_start(self, **_: object) -> None:
        """Do nothing."""

    def on_job_end(self, **_: object) -> None:
        """Do nothing."""


class PhaseRun:
    """Runs phases of one study.

    Args:
        options: keys of `hydra.sweeper`.
        context, config: what Hydra handed to the sweeper; `config` without any password.
        app: what trials are given to.
        study_dir: the study's folder.
        interrupts: tells whether the user wants to stop.
    """

    def __init__(
        self,
        options: SweeperOptions,
        context: HydraContext,
        app: Application,
        config: DictConfig,
        study_dir: Path,
        interrupts: Interrupts,
    ) -> None:
        self._options, self._context, self._app, self._config = options, context, app, config
        self._dir, self._interrupts = study_dir, interrupts

    def run(self, spec: StudySpec, write: Callable[[TrialQueue], int] = lambda _: 0) -> None:
        """Launch workers until no trial of `spec` is waiting or running.

        Args:
            write: writes down, in the study it is given, the trials that are known beforehand; called again after each
                launch.

        Raises:
            KeyboardInterrupt: the user stopped the study; running trials have saved their state.
            RuntimeError: too many trials failed, or launchers break down without bringing any trial to its end.
        """
        queue = open_queue(spec)
        recover(queue, spec)
        mend_lost(queue, spec)
        write(queue)
        if not spec.budget.sampled:
            for trial in queue.retry_failed(lambda trial: supersede(self._dir / str(trial.user_attrs.get(FOLDER)))):
                log.info(
                    "%s trial %d failed (%s) and is run again", spec.phase, trial.number, trial.user_attrs.get(REASON)
                )
        in_vain = 0
        while not self._interrupts.requested:
            before = queue.counts()
            to_go = queue.to_go()
            if to_go:
                log.info(
                    "%s: %d of %d trials done, %d to go in %s",
                    spec.phase, before.finished, spec.budget.trials, to_go, self._dir,
                )  # fmt: skip
                error = self._launch(spec, to_go, queue)
                now = queue.counts()
                moved = (now.finished, now.skipped) != (before.finished, before.skipped)
                in_vain = 0 if moved or error is None else in_vain + 1
                if error is not None and (in_vain >= MAX_IN_VAIN or isinstance(error, ValueError)):
                    raise error
                if error is not None:
                    log.warning(
                        "%s: a launcher or worker broke down (%s); workers are started again",
                        spec.phase,
                        mask(str(error)),
                    )
            elif before.running:
                log.info("%s: waiting for %d trial(s) of other workers", spec.phase, before.running)
                time.sleep(POLL_SECONDS)
            else:
                break
            recover(queue, spec)
            write(queue)
        if self._interrupts.requested:
            raise KeyboardInterrupt
        now = queue.counts()
        if spec.budget.sampled and now.finished < spec.budget.trials:
            why = f"{queue.streak} proposals in a row needed no training (reused or infeasible)"
            if queue.is_covered():
                why = f"each of the {spec.budget.size} points of the space was asked for"
            log.warning(
                "%s: ended at %d of %d trials: %s, so it holds nothing new; widen the space, or loosen the constraints",
                spec.phase, now.finished, spec.budget.trials, why,
            )  # fmt: skip

    def _launch(self, spec: StudySpec, to_go: int, queue: TrialQueue) -> Exception | None:
        """Run one launcher call of workers; return what broke it, if it is worth another try.

        Raises:
            RuntimeError: too many trials failed.
        """
        workers = min(worker_count(self._config.hydra.launcher, self._options.n_jobs), to_go)
        if workers < min(self._options.n_jobs, to_go) and _is_basic(self._config):
            log.info("the basic launcher runs one worker; for several at once add hydra/launcher=local")
        quiet = HydraContext(self._context.config_loader, callbacks=cast(Any, _NoCallbacks()))
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=quiet,
            task_function=Worker(self._app, self._config, self._context, spec),
            config=self._config,
        )
        reports: list[WorkerReport] = []
        broken: Exception | None = None
        try:
            jobs = launcher.launch(
                [[*spec.space.fixed, f"hydra.sweep.subdir={WORKERS}/{slot}"] for slot in range(workers)],
                initial_job_idx=0,
            )
            for job in jobs:
                try:
                    reports.append(job.return_value)
                except Exception as error:
                    broken = error
        except Exception as error:  # a dead worker is an exception of joblib's, of submitit's, of Ray's
            broken = error
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        if any(report.gave_up for report in reports):
            raise RuntimeError(
                f"{spec.phase}: more than {spec.budget.allowed_failures} of {spec.budget.trials} trials failed, so the study stopped "
                f"(hydra.sweeper.max_failure_rate={self._options.max_failure_rate:g}).\n{reasons(queue)}"
            )
        if broken is None and not self._interrupts.requested and any(report.stopped for report in reports):
            broken = RuntimeError("a worker was stopped from outside")  # as Slurm does; the study itself goes on
        return broken


def reasons(queue: TrialQueue) -> str:
    """The reasons of the first failed trials, a line each."""
    counted = (
        trial for trial in queue.trials() if trial.state == TrialState.FAIL and not trial.user_attrs.get(SKIPPED)
    )
    failed = [trial for trial in counted if trial.user_attrs.get(REASON)]
    lines = [f"  trial {trial.number}: {trial.user_attrs[REASON]}" for trial in failed[:5]]
    return "\n".join([*lines, *([f"  and {len(failed) - 5} more"] if len(failed) > 5 else [])])


def raise_if_nothing_worked(queue: TrialQueue) -> None:
    """Raise RuntimeError, with the reasons, where no trial came to its end with a value."""
    now = queue.counts()
    if now.complete == 0 and not any(trial.state == TrialState.COMPLETE for trial in queue.trials()):
        raise RuntimeError(
            f"none of {now.finished} trials came to its end ({now.failed} failed, {now.pruned} pruned, {now.skipped} skipped), "
            f"so there is nothing to compare.\n{reasons(queue)}"
        )


def _is_basic(config: DictConfig) -> bool:
    return str(config.hydra.launcher._target_).endswith("BasicLauncher")
