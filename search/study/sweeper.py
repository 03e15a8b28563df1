"""One study, read from top to bottom: what it is, whether it may go on in its storage, its phases, and its tables.

A study is a search (`search_run`) or a design (`design_run`), which say what is trained.
"""

from __future__ import annotations

import logging
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from hydra.core.utils import configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.trial import FrozenTrial, TrialState

from search.channel import Application
from search.design.options import first_seed_of
from search.ledger.files import write_atomic
from search.ledger.paths import WORKERS
from search.ledger.secrets import mask, mask_logs, masked_tree, note_variables
from search.ledger.study_files import note_settings, write_objectives
from search.space.parameters import Space
from search.study.identity import claim_identity, current_name, grow, is_known, may_change, write_identity
from search.study.launching.compose import Composer, without_hydra
from search.study.launching.stopping import Interrupts
from search.study.liveness import check_shared_folder
from search.study.options import SweeperOptions, directions_of, parse_constraints
from search.study.phase import PhaseRun
from search.study.queue import Budget, TrialQueue
from search.study.recovery import recover
from search.study.sampling.samplers import custom_space, is_grid, make_pruner, make_sampler
from search.study.spec import StudySpec, open_queue
from search.study.trials import CELL

log = logging.getLogger("xvol")
BASELINE_HASH = "baseline_hash"


class StudyRun(ABC):
    """Runs the study that the sweeper's options and a command line describe.

    Args:
        options: keys of `hydra.sweeper`, checked.
        hydra_context, task, config: what Hydra hands to a sweeper; `task` is an `Application`, or a plain function.
    """

    def __init__(
        self, options: SweeperOptions, hydra_context: HydraContext, task: TaskFunction, config: DictConfig
    ) -> None:
        self.options, self.context, self.app = options, hydra_context, Application.of(task)
        note_variables(OmegaConf.to_container(config, resolve=False))
        # as it was written, before its environment variables were filled in
        written = OmegaConf.to_container(config.hydra.sweeper, resolve=False).get("storage")  # type: ignore[union-attr]
        self.storage = options.storage if written is None else str(written)
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
        spec = self._spec(space)
        with Interrupts(Path(spec.stop_file), owner=True) as interrupts:
            self.phases = PhaseRun(self.options, self.context, self.app, self.config, self.study_dir, interrupts)
            queue = self.train(spec)
            write_study_tables(self.study_dir)
            return vars(queue.counts())

    @abstractmethod
    def train(self, spec: StudySpec) -> TrialQueue:
        """Open the study and run its phases; return the queue whose counts are the study's."""

    def _spec(self, space: Space) -> StudySpec:
        options = self.options
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
        return StudySpec(
            study_name=options.study_name,
            optuna_name=options.study_name,
            study_dir=str(self.study_dir),
            phase="search",
            space=space,
            directions=tuple(directions_of(options)),
            sampler=sampler,
            pruner=pruner,
            budget=Budget(
                trials=options.n_trials,
                sampled=not is_grid(sampler),
                max_skips=options.max_skips,
                size=None if options.custom_search_space else space.size(),
                max_retries=options.max_retries,
                allowed_failures=int(options.max_failure_rate * options.n_trials),
            ),
            stop_file=str(self.study_dir / WORKERS / f".stop-{uuid.uuid4().hex[:12]}"),
            constraints=parse_constraints(options.constraints, self.app.costs),
            reuse=options.reuse,
            seeds_per_trial=options.seeds_per_trial,
            trial_seconds=None if options.trial_minutes is None else 60 * options.trial_minutes,
            patience_seconds=60 * options.patience_minutes,
            seed_key=options.final.seed_key,
            custom_search_space=options.custom_search_space,
            storage=self.storage,
        )

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

    def fresh_seed(self, kind: str, trials: Iterable[FrozenTrial], searched: Collection[int] = ()) -> int:
        """The first seed of a study that gives none: the one it has begun with, or seeds of its own.

        Args:
            trials: those that are written down already, finished or not.
            searched: seeds that a search trains on.
        """
        seeds = (str(trial.user_attrs.get(CELL, "")).rpartition("/")[2] for trial in trials)
        there = {int(seed) for seed in seeds if seed.isdigit()}
        return first_seed_of(str(self.options.study_name), kind, there, searched)


def write_study_tables(study_dir: Path) -> None:
    """Write and print the ablation table, and the verdicts of a design with looks; then send the table to W&B.

    Nothing is done for a task of another application, which keeps no ledger.
    """
    if not any(study_dir.glob("*/*/result.json")):
        return
    # pandas: not for a study without a ledger, and not before a mistake is told
    from search.report.mirror import mirror_study
    from search.report.render import render_text
    from search.report.write import write_interim, write_tables

    table = write_tables(study_dir)
    print(f"\n{render_text(table)}", flush=True)
    verdicts = write_interim(study_dir)
    if verdicts is not None:
        print(f"\n{render_text(verdicts)}", flush=True)
    print(f"\nRun folder: {study_dir}\nTables:     {study_dir / 'tables'}", flush=True)
    mirror_study(study_dir, table)  # last: what it waits for, nobody else waits for


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


def _plain(value: Any) -> dict[str, Any] | None:
    if not value:
        return None
    plain: Any = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return {str(name): item for name, item in plain.items()}
