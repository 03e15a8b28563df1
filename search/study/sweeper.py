"""One study, read from top to bottom: check, search, re-evaluate on fresh seeds, and write the table."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import FrozenTrial, TrialState

from search.ledger.paths import WORKERS
from search.ledger.record import close_abandoned
from search.ledger.result import Status, write_atomic
from search.ledger.secrets import mask
from search.space.parameters import Parameter, Space, parse_space
from search.study.claims import FOLDER, INTERRUPTED, REASON, Desk, count
from search.study.finals import best_arms, final_cells
from search.study.identity import claim_identity
from search.study.options import SweeperOptions, check_options, directions_of
from search.study.samplers import is_grid, make_pruner, make_sampler
from search.study.worker import Plan, Worker, custom_space, open_study

__all__ = ["StudyRun"]

log = logging.getLogger("xvol")
POLL_SECONDS = 1.0
MAX_CHECKS = 64  # configurations that are built before a study starts


class StudyRun:
    """Runs the study that the sweeper's options and a command line describe.

    Args:
        options: keys of `hydra.sweeper`.
        hydra_context, task, config: what Hydra hands to a sweeper. Where `task` has an attribute `check`, it is called
            with a composed config before the study starts; it raises ValueError for what cannot run, and returns facts
            ("arch_hash", "arm", "objectives").
    """

    def __init__(
        self, options: Mapping[str, Any], hydra_context: HydraContext, task: TaskFunction, config: DictConfig
    ) -> None:
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SweeperOptions), dict(options)))
        assert isinstance(merged, SweeperOptions)
        self.options = merged
        self.context, self.task = hydra_context, task
        self.config = _without_password(config, merged.storage)
        self.study_dir = Path(str(config.hydra.sweep.dir)).absolute()

    def run(self, arguments: list[str]) -> dict[str, Any]:
        """Run, or go on with, the study; return its counts.

        Raises:
            ValueError: what the user asked for cannot be run.
            RuntimeError: too many trials failed.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        check_options(self.options)
        space = parse_space(arguments, self.options.params or {}, self.context.config_loader)
        if not space.parameters and not self.options.custom_search_space:
            raise ValueError(
                "there is nothing to search: give at least one parameter, e.g. 'placement.policy=choice(none,stage3,stage4)', "
                "an experiment (experiment=cifar10_stages), or run without -m to train one architecture"
            )
        plan = self._plan(space)
        points = space.grid() if is_grid(self.options.sampler) else None
        base = self._compose(space.fixed)
        facts = self._check(space)
        self.study_dir.mkdir(parents=True, exist_ok=True)
        study = open_study(plan, stream=0)
        self._claim(study, base, space)
        write_atomic(self.study_dir / "multirun.yaml", OmegaConf.to_yaml(self.config))
        self._phase(study, plan, lambda desk: desk.top_up(plan.budget, points))
        _raise_if_nothing_worked(study)
        if self.options.final.top_k:
            self._re_evaluate(study, plan, facts.get("arch_hash"))
        self._write_tables()
        return vars(count(study.get_trials(deepcopy=False)))

    def _plan(self, space: Space) -> Plan:
        options = self.options
        directions = directions_of(options)
        sampler, pruner = _plain(options.sampler), _plain(options.pruner)
        make_sampler(sampler, stream=0)
        make_pruner(pruner)
        if options.custom_search_space:
            custom_space(options.custom_search_space)
        if len(directions) > 1 and pruner:
            raise ValueError(
                "hydra.sweeper.pruner: Optuna cannot prune a study with several objectives; take pruner=none, or one objective"
            )
        assert options.study_name is not None
        return Plan(
            study_name=options.study_name,
            optuna_name=options.study_name,
            study_dir=str(self.study_dir),
            phase="search",
            space=space,
            directions=tuple(directions),
            sampler=sampler,
            pruner=pruner,
            allowed_failures=int(options.max_failure_rate * options.n_trials),
            budget=options.n_trials,
            seed_key=options.final.seed_key,
            custom_search_space=options.custom_search_space,
            storage=options.storage,
        )

    def _compose(self, overrides: tuple[str, ...] | list[str]) -> DictConfig:
        return self.context.config_loader.load_sweep_config(self.config, list(overrides))

    def _check(self, space: Space) -> dict[str, Any]:
        """Compose, and let the task check, the baseline and each level of each parameter; return the baseline's facts."""
        baseline = [*space.fixed, *self.options.final.baseline, *self.options.final.overrides]
        check: Callable[[DictConfig], dict[str, Any]] | None = getattr(self.task, "check", None)
        variations = _variations(space)  # without a check, one of them shows whether the keys compose
        candidates = [baseline, *variations[: MAX_CHECKS if check else 1]]
        configs = [_task_config(self._compose(overrides)) for overrides in candidates]
        if check is None:
            return {}
        log.info("checking %d configurations of the study before it starts", len(configs))
        facts = [check(config) for config in configs]
        expected = len(directions_of(self.options))
        for fact in facts:
            if fact.get("objectives", expected) != expected:
                raise ValueError(
                    f"objectives names {fact['objectives']} metric(s), hydra.sweeper.direction {expected}: give one direction for each"
                )
        return facts[0]

    def _claim(self, study: optuna.Study, base: DictConfig, space: Space) -> None:
        config = OmegaConf.to_container(_task_config(base), resolve=True)
        assert isinstance(config, dict)
        search = {
            "direction": directions_of(self.options),
            "params": {p.name: _shown(p) for p in space.parameters},
            "custom_search_space": self.options.custom_search_space,
        }
        claim_identity(study, str(self.study_dir), config, search)  # type: ignore[arg-type]

    def _phase(self, study: optuna.Study, plan: Plan, write: Callable[[Desk], int]) -> None:
        """Launch workers until no trial of this phase is waiting or running."""
        desk = Desk(study, self.study_dir)
        while True:
            for trial in desk.recover():
                again = "it is run again" if trial.user_attrs.get(INTERRUPTED) else "it has failed"
                log.warning("%s trial %d: %s; %s", plan.phase, trial.number, trial.user_attrs[REASON], again)
                self._close_ledger(plan, trial)
            write(desk)
            now = count(study.get_trials(deepcopy=False))
            if now.waiting:
                log.info(
                    "%s: %d of %d trials done, %d to go in %s",
                    plan.phase,
                    now.finished,
                    plan.budget,
                    now.waiting,
                    self.study_dir,
                )
                self._launch(plan, now.waiting)
            elif now.running:
                log.info("%s: waiting for %d trial(s) of other workers", plan.phase, now.running)
                time.sleep(POLL_SECONDS)
            else:
                return

    def _launch(self, plan: Plan, waiting: int) -> None:
        workers = min(self.options.n_jobs, waiting)
        if workers > 1 and str(self.config.hydra.launcher._target_).endswith("BasicLauncher"):
            log.info("the basic launcher runs one worker; for n_jobs=%d at once add hydra/launcher=joblib", workers)
            workers = 1
        quiet = HydraContext(config_loader=self.context.config_loader, callbacks=Callbacks())
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=quiet,
            task_function=Worker(self.task, self.config, self.context, plan),
            config=self.config,
        )
        jobs = launcher.launch(
            [[*plan.space.fixed, f"hydra.sweep.subdir={WORKERS}/{slot}"] for slot in range(workers)], initial_job_idx=0
        )
        reports = [job.return_value for job in jobs]  # raises what a worker could not survive
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        if any(report.gave_up for report in reports):
            raise RuntimeError(
                f"{plan.phase}: more than {plan.allowed_failures} of {plan.budget} trials failed, so the study stopped "
                f"(hydra.sweeper.max_failure_rate={self.options.max_failure_rate:g}).\n{_reasons(open_study(plan, stream=0))}"
            )

    def _re_evaluate(self, search: optuna.Study, plan: Plan, baseline_hash: str | None) -> None:
        options = self.options.final
        cells = final_cells(best_arms(search, options.top_k), plan.space, options, baseline_hash)
        final = replace(
            plan,
            optuna_name=f"{plan.study_name}.final",
            phase="final",
            sampler={"_target_": "optuna.samplers.RandomSampler"},
            pruner=None,
            custom_search_space=None,
            allowed_failures=len(cells),  # a failed cell is shown in the table, it does not hide the others
            budget=len(cells),
        )
        log.info(
            "final: %d arms, the baseline among them, on %d fresh seeds", len(cells) // options.seeds, options.seeds
        )
        self._phase(open_study(final, stream=0), final, lambda desk: desk.write(cells))

    def _close_ledger(self, plan: Plan, trial: FrozenTrial) -> None:
        subdir = trial.user_attrs.get(FOLDER)
        if subdir:
            status: Status = "interrupted" if trial.user_attrs.get(INTERRUPTED) else "failed"
            folder, reason = self.study_dir / subdir, trial.user_attrs[REASON]
            close_abandoned(folder, plan.study_name, trial.number, plan.phase, status, reason)

    def _write_tables(self) -> None:
        if not any(self.study_dir.glob("*/*/result.json")):
            return  # a task of another application, which keeps no ledger
        from search.report.export import render_text
        from search.report.write import write_tables

        table = write_tables(self.study_dir)
        print(
            f"\n{render_text(table)}\n\nRun folder: {self.study_dir}\nTables:     {self.study_dir / 'tables'}",
            flush=True,
        )


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


def _task_config(config: DictConfig) -> DictConfig:
    config = config.copy()
    with open_dict(config):
        del config["hydra"]
    return config


def _plain(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else dict(value)
    assert isinstance(plain, dict)
    return {str(name): item for name, item in plain.items()} or None


def _shown(parameter: Parameter) -> str:
    return optuna.distributions.distribution_to_json(parameter.distribution)


def _variations(space: Space) -> list[list[str]]:
    """The first point of the space, and each other level of one parameter at a time."""
    levels = {p.name: p.levels() or [p.distribution.low, p.distribution.high] for p in space.parameters}  # type: ignore[attr-defined]
    first = {name: values[0] for name, values in levels.items()}
    points = [first, *({**first, name: value} for name, values in levels.items() for value in values[1:])]
    return [space.overrides(point) for point in points]


def _reasons(study: optuna.Study) -> str:
    failed = [t for t in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)) if t.user_attrs.get(REASON)]
    lines = [f"  trial {trial.number}: {trial.user_attrs[REASON]}" for trial in failed[:5]]
    return "\n".join([*lines, *([f"  and {len(failed) - 5} more"] if len(failed) > 5 else [])])


def _raise_if_nothing_worked(study: optuna.Study) -> None:
    now = count(study.get_trials(deepcopy=False))
    if now.complete == 0:
        raise RuntimeError(
            f"none of {now.finished} trials came to its end ({now.failed} failed, {now.pruned} pruned), so there is nothing to "
            f"compare.\n{_reasons(study)}"
        )
