"""One study, read from top to bottom: check, search, re-evaluate on fresh seeds, and write the table."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import TrialState

from search.design.options import first_seed_of
from search.ledger.files import write_atomic
from search.ledger.paths import WORKERS
from search.ledger.secrets import mask, mask_logs, masked_tree, note_variables
from search.ledger.study_files import note_settings, write_objectives
from search.space.parameters import Parameter, Space
from search.study.command import MAX_CHECKS, check_objectives, refuse_dead_parameters, searched_seeds
from search.study.design_run import DesignRun
from search.study.identity import claim_identity, current_name, grow, is_known, may_change, write_identity
from search.study.launching.compose import Composer
from search.study.launching.stopping import Interrupts
from search.study.liveness import check_shared_folder
from search.study.options import SweeperOptions, directions_of, parse_constraints
from search.study.phase import PhaseRun, raise_if_nothing_worked
from search.study.queue import Desk, Quota
from search.study.recovery import recover
from search.study.results import (
    best_arms,
    final_cells,
    final_plan,
    print_front,
    seeds_there,
    write_best,
    write_study_tables,
)
from search.study.sampling.samplers import custom_space, first_points, is_grid, make_pruner, make_sampler
from search.study.spec import Plan, open_desk

__all__ = ["StudyRun"]

log = logging.getLogger("xvol")
BASELINE_HASH = "baseline_hash"


class StudyRun:
    """Runs the study that the sweeper's options and a command line describe.

    Args:
        options: keys of `hydra.sweeper`, checked.
        hydra_context, task, config: what Hydra hands to a sweeper. A task may have these attributes: `check`, called
            with a composed config before the study starts; it raises ValueError for what cannot run, and returns facts
            ("arch_hash", "arm", "objectives", "senses"). `check_values`: the same at once, for what can be told without
            building the network. `default_of`: what a config key stands for where the config does not say it, None where
            that is not known. `costs`: names it can state before training. `score`, called with a config and names of
            zero-cost scores.
    """

    def __init__(
        self, options: SweeperOptions, hydra_context: HydraContext, task: TaskFunction, config: DictConfig
    ) -> None:
        self.options = options
        self.context, self.task = hydra_context, task
        note_variables(OmegaConf.to_container(config, resolve=False))
        self.storage = _as_written(config, options.storage)
        self.config = _without_password(config, options.storage)
        self.composer = Composer(hydra_context.config_loader, self.config)
        self.study_dir = Path(str(config.hydra.sweep.dir)).absolute()

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
        design = self.options.design.kind is not None
        plan = self._plan(space)
        if design:
            with Interrupts(Path(plan.stop_file), owner=True) as interrupts:
                run = DesignRun(self.options, self.task, self._trial_config, self._phases(interrupts), self._opened)
                desk = run.run(plan)
                write_study_tables(self.study_dir)
                return vars(desk.counts())
        points = space.grid() if is_grid(self.options.sampler) else None
        with Interrupts(Path(plan.stop_file), owner=True) as interrupts:
            self.phases = self._phases(interrupts)
            plan, desk = self._opened(plan, lambda: self._check(space))
            if points is not None:
                self.phases.run(plan, lambda desk: desk.write_points(points))
            else:
                self._warm_start(plan, desk)
                self.phases.run(plan)
            raise_if_nothing_worked(desk)
            write_best(desk.study, self.study_dir)
            print_front(self.study_dir)
            if self.options.final.top_k:
                self._re_evaluate(desk, plan)
            write_study_tables(self.study_dir)
            return vars(desk.counts())

    def _phases(self, interrupts: Interrupts) -> PhaseRun:
        return PhaseRun(self.options, self.context, self.task, self.config, self.study_dir, interrupts)

    def _plan(self, space: Space) -> Plan:
        options = self.options
        directions = directions_of(options)
        sampler, pruner = _plain(options.sampler), _plain(options.pruner)
        make_sampler(sampler, stream=0)
        make_pruner(pruner)
        if options.custom_search_space:
            custom_space(options.custom_search_space)
            if is_grid(sampler):
                raise ValueError(
                    "hydra.sweeper.custom_search_space cannot be combined with sampler=grid or brute_force, which write "
                    "down the points of hydra.sweeper.params beforehand; take another sampler"
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
            quota=Quota(
                budget=options.n_trials,
                sampled=not is_grid(sampler),
                max_skips=options.max_skips,
                size=None if options.custom_search_space else space.size(),
                max_retries=options.max_retries,
                allowed_failures=int(options.max_failure_rate * options.n_trials),
            ),
            stop_file=str(self.study_dir / WORKERS / f".stop-{uuid.uuid4().hex[:12]}"),
            constraints=parse_constraints(options.constraints, getattr(self.task, "costs", None)),
            reuse=options.reuse,
            seeds_per_trial=options.seeds_per_trial,
            trial_seconds=None if options.trial_minutes is None else 60 * options.trial_minutes,
            patience_seconds=60 * options.patience_minutes,
            seed_key=options.final.seed_key,
            custom_search_space=options.custom_search_space,
            storage=self.storage,
        )

    def _opened(self, plan: Plan, check: Callable[[], dict[str, Any]]) -> tuple[Plan, Desk]:
        """Check what is new, then open the study, or the one that it grew into."""
        config, search = self._identity(plan.space)
        facts = {} if is_known(plan, config, search) else check()
        self.study_dir.mkdir(parents=True, exist_ok=True)
        desk, storage = open_desk(plan, stream=0)
        check_shared_folder(desk.study, self.study_dir)
        recover(desk, plan)
        plan = replace(plan, optuna_name=current_name(storage, plan.optuna_name))
        desk, storage = open_desk(plan, stream=0)
        with desk.lock():
            old_values = claim_identity(desk.study, str(self.study_dir), config, search)
            if old_values is not None:
                _refuse_while_running(desk, plan)
                until_now = {**self._until_now(plan.space), **old_values, **(self.options.old_values or {})}
                name = grow(desk.study, storage, plan.space.parameters, until_now)
                log.info("the study takes new parameters or choices: its %d trials are kept", len(desk.trials()))
                plan = replace(plan, optuna_name=name)
                desk, storage = open_desk(plan, stream=0)
                write_identity(desk.study, config, search)
            note_settings(self.study_dir, may_change(self.options))
        if len(facts.get("senses") or {}) > 1:
            write_objectives(self.study_dir, facts["senses"])
        if facts.get("arch_hash"):
            desk.study.set_user_attr(BASELINE_HASH, facts["arch_hash"])
        plain = masked_tree(OmegaConf.to_container(self.config, resolve=False))
        write_atomic(self.study_dir / "multirun.yaml", OmegaConf.to_yaml(plain))
        return plan, desk

    def _until_now(self, space: Space) -> dict[str, Any]:
        """What the earlier trials had for parameters that the config says nothing of: choices of groups, defaults of options."""
        written = self.study_dir / "multirun.yaml"
        choices = OmegaConf.select(OmegaConf.load(written), "hydra.runtime.choices") if written.is_file() else None
        found = {str(name): option for name, option in (choices or {}).items() if option is not None}
        default_of: Callable[[str, DictConfig], Any] | None = getattr(self.task, "default_of", None)
        if default_of is not None:
            config = self._trial_config(space.fixed)
            found.update({p.name: value for p in space.parameters if (value := default_of(p.name, config)) is not None})
        return found

    def _compose(self, overrides: tuple[str, ...] | list[str]) -> DictConfig:
        return self.composer.compose(overrides)

    def _trial_config(self, overrides: Sequence[str]) -> DictConfig:
        """What a trial with these overrides is given."""
        return _task_config(self._compose(list(overrides)))

    def _identity(self, space: Space) -> tuple[dict[str, Any], dict[str, Any]]:
        config = OmegaConf.to_container(_task_config(self._compose(space.fixed)), resolve=True)
        assert isinstance(config, dict)
        search = {
            "direction": directions_of(self.options),
            "params": {p.name: _shown(p) for p in space.parameters},
            "custom_search_space": self.options.custom_search_space,
            "seeds_per_trial": self.options.seeds_per_trial,
        }
        return config, search  # type: ignore[return-value]

    def _check(self, space: Space) -> dict[str, Any]:
        """Compose, and let the task check, the baseline and each level of each parameter; return the baseline's facts."""
        baseline = [*space.fixed, *self.options.final.baseline, *self.options.final.overrides]
        check: Callable[[DictConfig], dict[str, Any]] | None = getattr(self.task, "check", None)
        # without a check, one of them shows whether the keys compose
        points = space.variations()[: MAX_CHECKS if check else 1]
        candidates = [baseline, *(space.overrides(point) for point in points)]
        check_values = getattr(self.task, "check_values", None)  # what can be told without building a network
        configs: list[DictConfig] = []
        for overrides in candidates:
            configs.append(self._trial_config(overrides))
            if check_values is not None:
                check_values(configs[-1])
        if check is None:
            return {}
        refuse_dead_parameters(space, points, configs[1:])
        log.info("checking %d configurations of the study before it starts", len(configs))
        facts = [check(config) for config in configs]
        for fact in facts:
            check_objectives(fact, directions_of(self.options))
        return facts[0]

    def _warm_start(self, plan: Plan, desk: Desk) -> None:
        options = self.options.warm_start
        if options.score is None or desk.trials():
            return
        score = getattr(self.task, "score", None)
        if score is None:
            raise ValueError("hydra.sweeper.warm_start.score: this application offers no scores; leave it null")
        composed = lambda overrides: _task_config(self._compose(overrides))  # noqa: E731
        desk.suggest(first_points(options, plan.space, composed, score))

    def _re_evaluate(self, search: Desk, plan: Plan) -> None:
        options = self.options.final
        baseline_hash = search.study.user_attrs.get(BASELINE_HASH)
        arms = best_arms(search.study, options.top_k, baseline_hash)
        if options.first_seed is None:
            there = seeds_there(open_desk(final_plan(plan, 0), stream=0)[0].trials())
            searched = searched_seeds(self.config, plan.space, options.seed_key, plan.seeds_per_trial)
            options = replace(options, first_seed=first_seed_of(plan.study_name, "final", there, searched))
        cells = final_cells(arms, plan.space, options, baseline_hash)
        final = replace(final_plan(plan, len(cells)), constraints=())
        log.info(
            "final: %d arms, the baseline among them, on %d seeds from %d on",
            len(cells) // options.seeds, options.seeds, options.first_seed,
        )  # fmt: skip
        self.phases.run(final, lambda desk: desk.write(cells))


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


def _refuse_while_running(desk: Desk, plan: Plan) -> None:
    running = [t.number for t in desk.trials() if t.state == TrialState.RUNNING]
    if running:
        raise ValueError(
            f"{plan.study_dir}: the study takes new parameters or choices only while none of its trials run, but "
            f"{', '.join(map(str, running[:5]))} do; wait for that command to end, or stop it with Ctrl-C"
        )


def _as_written(config: DictConfig, storage: str | None) -> str | None:
    """The storage's URL before its environment variables were filled in, where the config still has it."""
    written = OmegaConf.to_container(config.hydra.sweeper, resolve=False).get("storage")  # type: ignore[union-attr]
    return storage if written is None else str(written)


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
