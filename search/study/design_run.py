"""A study that is a design: every cell trained on every seed, or in looks on as many as its row needs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import TaskFunction
from omegaconf import DictConfig
from optuna.trial import FrozenTrial

from search.design.kinds import Cell
from search.design.options import Facts, design_of, first_seed_of, first_seeds, written_trials
from search.ledger.metric import CLASSIFY, chosen_by
from search.ledger.secrets import mask
from search.ledger.study_files import write_design
from search.space.parameters import Space
from search.study.command import refuse_equal_cells
from search.study.interim import cells_to_read, claim_looks, is_looked_at, look_plan, next_step, standing
from search.study.options import SweeperOptions
from search.study.phase import PhaseRun, raise_if_nothing_worked
from search.study.queue import Desk
from search.study.results import final_plan, seeds_there
from search.study.spec import Plan, open_desk
from search.study.trials import CELL, OVERRIDES

if TYPE_CHECKING:
    from search.stats.sequential import LookPlan

__all__ = ["DesignRun"]

log = logging.getLogger("xvol")
Opened = Callable[[Plan, Callable[[], dict[str, Any]]], tuple[Plan, Desk]]


class DesignRun:
    """Runs the cells of `options.design`.

    Args:
        options: keys of `hydra.sweeper`.
        task: the application; its attributes `facts` and `check` are asked where it has them.
        config: composes what a trial with such overrides is given.
        phases: runs what is written down.
        opened: checks what is new by calling its second argument, and opens the study.
    """

    def __init__(
        self,
        options: SweeperOptions,
        task: TaskFunction,
        config: Callable[[Sequence[str]], DictConfig],
        phases: PhaseRun,
        opened: Opened,
    ) -> None:
        self._options, self._design = options, options.design
        self._task, self._config, self._phases, self._opened = task, config, phases, opened

    def run(self, search: Plan) -> Desk:
        """Run, or go on with, the design; more seeds, levels or factors go on where the study stands.

        Raises:
            ValueError, RuntimeError, KeyboardInterrupt: as `StudyRun.run`.
        """
        options, fixed = self._design, search.space.fixed
        design = design_of(options, search.space, self._facts(fixed), self._options.final.seed_key)
        for control in design.controls:
            log.info("control of %s", control)
        if design.fraction is not None:
            log.info("%s", design.fraction.describe())
        cells = len(design.cells) * first_seeds(options)
        plan = replace(final_plan(search, cells), space=Space((), fixed))
        matched = {control.cell.name for control in design.controls}
        plan, desk = self._opened(plan, lambda: self._check_cells(design.cells, fixed, matched))
        at_looks = open_desk(look_plan(plan), stream=0)[0] if options.looks or is_looked_at(desk) else None
        looked = [] if at_looks is None else at_looks.trials()
        if options.first_seed is None:
            there = seeds_there([*desk.trials(), *looked])
            options = self._design = replace(options, first_seed=first_seed_of(plan.study_name, "design", there))
        written = self._written(design.cells, fixed)
        retries = plan.quota.max_retries
        metric = chosen_by(str(self._config(fixed).get("task", CLASSIFY)))
        looks = claim_looks(desk, looked, Path(plan.study_dir), options, design.cells, retries, metric)
        _refuse_other_cells([*desk.trials(), *looked], written)
        write_design(Path(plan.study_dir), str(options.kind), design.cells, fixed, self._options.final.seed_key)
        several = f", looks at {', '.join(map(str, looks.looks))} seeds" if looks else ""
        log.info(
            "design %s: %d cells on %d seeds from %d on%s",
            options.kind, len(design.cells), first_seeds(options), options.first_seed, several,
        )  # fmt: skip
        if looks is None or at_looks is None:
            self._phases.run(plan, lambda desk: desk.write(written))
            raise_if_nothing_worked(desk)
        else:
            self._run_looks(look_plan(plan), at_looks, design.cells, looks, metric)
            to_read = cells_to_read(at_looks.trials())
            log.info("the looks are over: test images are read, once, of %d networks", len(to_read))
            self._train(plan, desk, to_read)
        return desk

    def _run_looks(self, plan: Plan, desk: Desk, cells: Sequence[Cell], looks: LookPlan, metric: str) -> None:
        """Train, look, and add seeds to the rows that are undecided, until none is or no look is left."""
        counts = {cell.name: first_seeds(self._design) for cell in cells}
        while True:
            written = self._written(cells, plan.space.fixed, counts)
            self._train(plan, desk, written)
            raise_if_nothing_worked(desk)
            first = self._design.first_seed
            assert first is not None
            now = standing(desk, Path(plan.study_dir), looks, cells, first, metric)
            step = next_step(looks, now, first)
            log.info("%s", step.text)
            if not step.counts:
                return
            counts = {name: max(count, step.counts.get(name, 0)) for name, count in counts.items()}

    def _train(self, plan: Plan, desk: Desk, written: Sequence[Mapping[str, Any]]) -> None:
        """Train what is written down; what failed is run again now, since after the look its seed is lost."""
        names = {trial.user_attrs.get(CELL) for trial in desk.trials()} | {cell[CELL] for cell in written}
        plan = replace(plan, quota=replace(plan.quota, budget=len(names)))
        self._phases.run(plan, lambda desk: desk.write(written))
        while desk.to_retry():
            self._phases.run(plan, lambda desk: desk.write(written))

    def _written(
        self, cells: Sequence[Cell], fixed: Sequence[str], counts: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        return written_trials(cells, self._design, fixed, self._options.final.seed_key, counts)

    def _facts(self, fixed: Sequence[str]) -> Facts | None:
        """What the application can tell of a network, for controls and matched placements."""
        facts = getattr(self._task, "facts", None)
        return None if facts is None else lambda lines: facts(self._config([*fixed, *lines]))

    def _check_cells(self, cells: Sequence[Cell], fixed: Sequence[str], matched: Collection[str]) -> dict[str, Any]:
        """Check the baseline, which must run; tell which other cells cannot, since they will be shown as failed.

        Raises:
            ValueError: the baseline cannot run, or two cells that are no `matched` controls are the same configuration.
        """
        configs = [self._config([*fixed, *cell.overrides]) for cell in cells]
        refuse_equal_cells(cells, configs, fixed, matched)
        check_values = getattr(self._task, "check_values", None)
        if check_values is not None:  # told without building a network
            check_values(configs[0])
        check = getattr(self._task, "check", None)
        if check is None:
            return {}
        for cell, config in zip(cells, configs, strict=True):
            try:
                check(config)
            except ValueError as error:
                if cell.is_baseline:
                    raise
                log.warning("cell %s cannot run, and will be shown as failed: %s", cell.name, mask(str(error)))
        return {}


def _refuse_other_cells(trials: Sequence[FrozenTrial], written: Sequence[Mapping[str, Any]]) -> None:
    """A cell of this name that was trained with other overrides is another cell."""
    known = {trial.user_attrs.get(CELL): trial.user_attrs.get(OVERRIDES) for trial in trials}
    for cell in written:
        before = known.get(cell[CELL], cell[OVERRIDES])
        if before != cell[OVERRIDES]:
            differ = sorted(set(before or ()) ^ set(cell[OVERRIDES]))
            raise ValueError(
                f"cell {cell[CELL]} of the design was trained with other overrides before ({', '.join(differ)} differ); "
                "give the level another label, or the study another hydra.sweeper.study_name"
            )
