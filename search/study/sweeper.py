"""One study, read from top to bottom: what it is, whether it may go on in its storage, its phases, and its tables.

A study is a search (`search_run`) or a design (`design_run`), which say what is trained. In a phase workers are launched
until none of its trials is left to run.
"""

from __future__ import annotations

import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import optuna
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import FrozenTrial, TrialState

from search import report
from search.channel import Application
from search.design.trials import first_seed_of
from search.ledger.files import write_atomic
from search.ledger.record import supersede
from search.ledger.secrets import mask, mask_logs, masked_tree, note_variables
from search.ledger.study_files import WORKERS, note_settings, write_objectives
from search.ledger.tracker import TrackerConfig
from search.ledger.wandb_study import StudyProcess
from search.space.parameters import Space
from search.study.identity import claim_identity, current_name, grow, is_known, may_change, write_identity
from search.study.launching.compose import Composer, without_hydra
from search.study.launching.forked_app import ForkedApplication
from search.study.launching.launcher import is_local, server_of, worker_count
from search.study.launching.slots import ranks_of
from search.study.launching.stopping import Interrupts
from search.study.liveness import check_shared_folder
from search.study.options import SweeperOptions, directions_of
from search.study.queue import TrialQueue
from search.study.recovery import mend_lost, recover
from search.study.spec import StudySpec, name_metrics, open_queue, search_spec
from search.study.standing import Standing
from search.study.trials import CELL, FOLDER, REASON, SKIPPED
from search.study.worker import NextPhase, NoCallbacks, Worker, WorkerReport
from search.terminal import Block

log = logging.getLogger("xvol")
BASELINE_HASH = "baseline_hash"
POLL_SECONDS = 1.0
MAX_IN_VAIN = 3  # launcher calls in a row that break down without any trial having ended


class StudyRun(ABC):
    """Runs the study that the sweeper's options and a command line describe.

    Args:
        options: keys of `hydra.sweeper`, checked.
        composer: of `config`.
        hydra_context, task, config: what Hydra hands to a sweeper; `task` is an `Application`, or a plain function.
    """

    def __init__(
        self,
        options: SweeperOptions,
        composer: Composer,
        hydra_context: HydraContext,
        task: TaskFunction,
        config: DictConfig,
    ) -> None:
        self.options, self.composer, self.context, self.app = options, composer, hydra_context, Application.of(task)
        note_variables(OmegaConf.to_container(config, resolve=False))
        # as it was written, before its environment variables were filled in
        written = OmegaConf.to_container(config.hydra.sweeper, resolve=False).get("storage")  # type: ignore[union-attr]
        self.storage = options.storage if written is None else str(written)
        self.config = _without_password(config, options.storage)
        self.study_dir = Path(str(config.hydra.sweep.dir)).absolute()
        needed = Worker.needs(self.app, self.config)
        server = server_of(self.config.hydra.launcher, needed) if self.app.checks else None
        self.live = StudyProcess(self.study_dir)
        self.asked = self.app if server is None else ForkedApplication(self.app, server, self.config)

    def run(self, space: Space) -> dict[str, Any]:
        """Run, or go on with, the study over `space`; return its counts.

        Raises:
            ValueError: what the user asked for cannot be run.
            RuntimeError: too many trials failed, or launchers fail without bringing any trial to its end.
            KeyboardInterrupt: the user stopped the study, and the running trials have saved their state.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        mask_logs()
        spec = search_spec(self.options, space, self.study_dir, self.storage, self.app.costs)
        spec = replace(spec, ranks=ranks_of(self.config.hydra.launcher))
        with Interrupts(Path(spec.stop_file), owner=True) as self.interrupts, closing(self.live):
            try:
                queue = self.train(spec)
            finally:
                self._end_checks()
            write_study_tables(self.study_dir, self.live)
            return vars(queue.counts())

    def _end_checks(self) -> None:
        """All is checked: give back what that has taken."""
        if isinstance(self.asked, ForkedApplication):
            self.asked.close()

    @abstractmethod
    def train(self, spec: StudySpec) -> TrialQueue:
        """Open the study and run its phases; return the queue whose counts are the study's."""

    def open(self, spec: StudySpec, check: Callable[[], dict[str, Any]]) -> tuple[StudySpec, TrialQueue]:
        """Check what is new, then open the study, or the one that it grew into."""
        config, search = self._identity(spec.space)
        facts = {} if is_known(spec, config, search) else check()
        self.study_dir.mkdir(parents=True, exist_ok=True)
        queue = open_queue(spec)
        check_shared_folder(queue.study, self.study_dir)
        recover(queue, spec)
        spec = replace(spec, optuna_name=current_name(queue.storage, spec.optuna_name))
        queue = open_queue(spec)
        with queue.lock():
            old_values = claim_identity(queue.study, str(self.study_dir), config, search)
            if old_values is not None:
                _refuse_while_running(queue, spec)
                until_now = {**self._until_now(spec.space), **old_values, **(self.options.old_values or {})}
                name = grow(queue.study, queue.storage, spec.space.parameters, until_now)
                log.info("the study takes new parameters or choices: its %d trials are kept", len(queue.trials()))
                spec = replace(spec, optuna_name=name)
                queue = open_queue(spec)
                write_identity(queue.study, config, search)
            note_settings(self.study_dir, may_change(self.options))
        if len(facts.get("senses") or {}) > 1:
            write_objectives(self.study_dir, facts["senses"])
        if facts.get("arch_hash"):
            queue.study.set_user_attr(BASELINE_HASH, facts["arch_hash"])
        plain = masked_tree(OmegaConf.to_container(self.config, resolve=False))
        write_atomic(self.study_dir / "multirun.yaml", OmegaConf.to_yaml(plain))
        return spec, queue

    def _until_now(self, space: Space) -> dict[str, Any]:
        """What the earlier trials had for parameters that the config says nothing of: choices of groups, defaults of options."""
        written = self.study_dir / "multirun.yaml"
        choices = OmegaConf.select(OmegaConf.load(written), "hydra.runtime.choices") if written.is_file() else None
        found = {str(name): option for name, option in (choices or {}).items() if option is not None}
        config = self.trial_config(space.fixed)
        defaults = {parameter.name: self.app.default_of(parameter.name, config) for parameter in space.parameters}
        return {**found, **{name: value for name, value in defaults.items() if value is not None}}

    def trial_config(self, overrides: Sequence[str]) -> DictConfig:
        """What a trial with these overrides is given."""
        return without_hydra(self.composer.compose(overrides))

    def _identity(self, space: Space) -> tuple[dict[str, Any], dict[str, Any]]:
        config: Any = OmegaConf.to_container(self.trial_config(space.fixed), resolve=True)
        distributions = {each.name: each.distribution for each in space.parameters}
        return config, {
            "direction": directions_of(self.options),
            "params": {name: optuna.distributions.distribution_to_json(each) for name, each in distributions.items()},
            "custom_search_space": self.options.custom_search_space,
            "seeds_per_trial": self.options.seeds_per_trial,
        }

    def retry_failed(self, spec: StudySpec) -> None:
        """Write down again the failed trials of a phase whose trials are all wanted."""
        for trial in open_queue(spec).retry_failed(
            lambda each: supersede(self.study_dir / str(each.user_attrs.get(FOLDER)))
        ):
            why = trial.user_attrs.get(REASON)
            log.info("%s trial %d failed (%s) and is run again", spec.phase, trial.number, why)

    def run_phase(
        self,
        spec: StudySpec,
        write: Callable[[TrialQueue], int] = lambda _: 0,
        retry: bool = True,
        then: NextPhase | None = None,
        then_trials: int = 0,
    ) -> None:
        """Launch workers until no trial of `spec` is waiting or running.

        Args:
            write: writes the trials that are known beforehand into the study; called again after each launch.
            retry: whether failed trials, where all are wanted, are run again.
            then: what the workers go on with, which is to be run as a phase after this one all the same.
            then_trials: how many trials that has, at most.
        """
        queue = open_queue(spec)
        recover(queue, spec)
        mend_lost(queue, spec)
        write(queue)
        if retry and not spec.budget.sampled:
            self.retry_failed(spec)
        self._end_checks()
        in_vain = waits_for = 0
        while not self.interrupts.requested:
            before, to_go = queue.counts(), queue.to_go()
            if to_go:
                done = f"{before.finished} of {spec.budget.trials} trials done"
                log.info("%s: %s, %d to go in %s", spec.phase, done, to_go, self.study_dir)
                error = self._launch(spec, to_go, queue, then, then_trials)
                now = queue.counts()
                moved = (now.finished, now.skipped) != (before.finished, before.skipped)
                in_vain = 0 if moved or error is None else in_vain + 1
                if error is not None and (in_vain >= MAX_IN_VAIN or isinstance(error, ValueError)):
                    raise error
                if error is not None:
                    why = mask(str(error))
                    log.warning("%s: a launcher or worker broke down (%s); workers are started again", spec.phase, why)
            elif before.running:
                if before.running != waits_for:  # told once, however long it takes
                    log.info("%s: waiting for %d trial(s) of other workers", spec.phase, before.running)
                waits_for = before.running
                time.sleep(POLL_SECONDS)
            else:
                break
            recover(queue, spec)
            write(queue)
        if self.interrupts.requested:
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

    def _launch(
        self, spec: StudySpec, to_go: int, queue: TrialQueue, then: NextPhase | None, then_trials: int
    ) -> Exception | None:
        """Run one launcher call of workers; return what broke it, if it is worth another try."""
        node, n_jobs = self.config.hydra.launcher, self.options.n_jobs
        most = worker_count(node, n_jobs)
        workers = min(most, to_go)
        if then is not None and workers < min(most, then_trials):  # it has work for more of them
            if is_local(node):
                workers = min(most, then_trials)
            else:  # an idle place of a cluster is somebody else's
                then = None
        if workers < min(n_jobs, to_go) and str(node._target_).endswith("BasicLauncher"):
            log.info("the basic launcher runs one worker; for several at once add hydra/launcher=local")
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(self.context.config_loader, callbacks=cast(Any, NoCallbacks())),
            task_function=Worker(self.app, self.config, self.context, spec, self.composer.groups, then),
            config=self.config,
        )
        lines = [[*spec.space.fixed, f"hydra.sweep.subdir={WORKERS}/{slot}"] for slot in range(workers)]
        self._announce(spec, queue)
        reports: list[WorkerReport] = []
        broken: Exception | None = None
        try:
            with Block(Standing(spec, then is not None).lines):
                jobs = launcher.launch(lines, initial_job_idx=0)
            for job in jobs:
                try:
                    reports.append(job.return_value)
                except Exception as error:
                    broken = error
        except Exception as error:  # a dead worker is an exception of joblib's, of submitit's, of Ray's
            broken = error
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if any(report.gave_up for report in reports):
            raise RuntimeError(
                f"{spec.phase}: more than {spec.budget.allowed_failures} of {spec.budget.trials} trials failed, so the study stopped "
                f"(hydra.sweeper.max_failure_rate={self.options.max_failure_rate:g}).\n{reasons(queue)}"
            )
        if broken is None and not self.interrupts.requested and any(report.stopped for report in reports):
            broken = RuntimeError("a worker was stopped from outside")  # as Slurm does; the study itself goes on
        return broken

    def _announce(self, spec: StudySpec, queue: TrialQueue) -> None:
        """Name the objectives for who looks into the storage, and start the study's own run; another application may have neither."""
        config = self.trial_config(spec.space.fixed)
        name_metrics(queue.study, OmegaConf.select(config, "objectives"))
        node = OmegaConf.select(config, "tracker")
        with contextlib.suppress(TypeError, ValueError, OmegaConfBaseException):
            tracker: Any = OmegaConf.to_container(node, resolve=True)
            self.live.start(TrackerConfig(**tracker), spec.study_name)


def fresh_seed(study: str, kind: str, trials: Iterable[FrozenTrial], searched: Collection[int] = ()) -> int:
    """The first seed of a study that gives none: the one it has begun with, or seeds of its own.

    Args:
        trials: written down already, finished or not; `searched` are seeds that a search trains on.
    """
    seeds = (str(trial.user_attrs.get(CELL, "")).rpartition("/")[2] for trial in trials)
    return first_seed_of(study, kind, {int(seed) for seed in seeds if seed.isdigit()}, searched)


def reasons(queue: TrialQueue) -> str:
    """The reasons of the first failed trials, a line each."""
    failed = [
        f"  trial {trial.number}: {trial.user_attrs[REASON]}"
        for trial in queue.trials()
        if trial.state == TrialState.FAIL and not trial.user_attrs.get(SKIPPED) and trial.user_attrs.get(REASON)
    ]
    return "\n".join([*failed[:5], *([f"  and {len(failed) - 5} more"] if len(failed) > 5 else [])])


def raise_if_nothing_worked(queue: TrialQueue) -> None:
    """Raise RuntimeError, with the reasons, where no trial came to its end with a value."""
    now = queue.counts()
    if now.complete == 0 and not any(trial.state == TrialState.COMPLETE for trial in queue.trials()):
        raise RuntimeError(
            f"none of {now.finished} trials came to its end ({now.failed} failed, {now.pruned} pruned, {now.skipped} skipped), "
            f"so there is nothing to compare.\n{reasons(queue)}"
        )


def write_study_tables(study_dir: Path, live: StudyProcess) -> None:
    """Write and print the ablation table, and the verdicts of a design with looks; then send the table to W&B.

    Nothing is done for a task of another application, which keeps no ledger.
    """
    if not any(study_dir.glob("*/*/result.json")):
        return
    table = report.write_tables(study_dir)
    print(f"\n{report.render_text(table)}", flush=True)
    verdicts = report.write_interim(study_dir)
    if verdicts is not None:
        print(f"\n{report.render_text(verdicts)}", flush=True)
    page = report.page_at_the_end(study_dir)
    at = "" if page is None else f"\nPage:       {page}"
    print(f"\nRun folder: {study_dir}\nTables:     {study_dir / 'tables'}{at}", flush=True)
    report.mirror_study(study_dir, table, live.send)  # last: what it waits for, nobody else waits for


def _without_password(config: DictConfig, storage: str | None) -> DictConfig:
    """A copy of the master config that may be written down: a password in the storage's URL is masked.

    Launchers compose each job anew from `hydra.overrides.hydra`, so the mask is an override of its own.
    """
    if storage is None or mask(storage) == storage:
        return config
    config = config.copy()
    with open_dict(config):
        kept = [line for line in config.hydra.overrides.hydra if not line.startswith("hydra.sweeper.storage=")]
        config.hydra.overrides.hydra = [*kept, f"hydra.sweeper.storage='{mask(storage)}'"]
        config.hydra.sweeper.storage = mask(storage)
    return config


def _refuse_while_running(queue: TrialQueue, spec: StudySpec) -> None:
    running = [t.number for t in queue.trials() if t.state == TrialState.RUNNING]
    if running:
        raise ValueError(
            f"{spec.study_dir}: the study takes new parameters or choices only while none of its trials run, but "
            f"{', '.join(map(str, running[:5]))} do; wait for that command to end, or stop it with Ctrl-C"
        )
