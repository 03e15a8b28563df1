"""A study that is a design: every cell trained on every seed, or in looks on as many as its row needs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from search.design.options import design_of
from search.design.start import Facts
from search.design.trials import first_seeds, number_of_trials, start_trials, starts_in_words, written_trials
from search.ledger.metric import CLASSIFY, chosen_by
from search.ledger.secrets import mask
from search.ledger.study_files import Cell, write_design
from search.space.parameters import Space
from search.stats.sequential import LookPlan
from search.study.command import refuse_equal_cells
from search.study.interim import cells_to_read, claim_looks, is_looked_at, look_spec, next_step, standing
from search.study.queue import TrialQueue
from search.study.spec import StudySpec, final_spec, open_queue
from search.study.sweeper import StudyRun, fresh_seed, raise_if_nothing_worked
from search.study.trials import CELL, OVERRIDES

log = logging.getLogger("xvol")


class DesignRun(StudyRun):
    """Runs the cells of `options.design`."""

    def train(self, spec: StudySpec) -> TrialQueue:
        """Run, or go on with, the design; more seeds, levels or factors go on where the study stands."""
        options, fixed = self.options.design, spec.space.fixed
        facts: Facts | None = (
            (lambda lines: self.asked.facts(self.trial_config([*fixed, *lines]))) if self.app.checks else None
        )
        design = design_of(options, spec.space, facts, spec.seed_key, self._recipe(fixed))
        for control in design.controls:
            log.info("control of %s", control)
        if design.fraction is not None:
            log.info("%s", design.fraction.describe())
        spec = replace(final_spec(spec, number_of_trials(design, options)), space=Space((), fixed))
        matched = {control.cell.name for control in design.controls}
        spec, queue = self.open(spec, lambda: self._check_cells(design.cells, fixed, matched))
        at_looks = open_queue(look_spec(spec)) if options.looks or is_looked_at(queue) else None
        looked = [] if at_looks is None else at_looks.trials()
        if options.first_seed is None:
            options = replace(options, first_seed=fresh_seed(spec.study_name, "design", [*queue.trials(), *looked]))
        self._design = options
        if design.starts is None:
            written = self._written(design.cells, spec)
        else:
            written = start_trials(design.starts, options, fixed, spec.seed_key)
        metric = chosen_by(str(self.trial_config(fixed).get("task", CLASSIFY)))
        looks = claim_looks(queue, looked, self.study_dir, options, design.cells, spec.budget.max_retries, metric)
        _refuse_other_cells([*queue.trials(), *looked], written)
        beside = [] if design.starts is None else design.starts.beside
        write_design(self.study_dir, str(options.kind), design.cells, fixed, spec.seed_key, beside)
        several = f", looks at {', '.join(map(str, looks.looks))} seeds" if looks else ""
        on = f"{first_seeds(options)} seeds" if design.starts is None else starts_in_words(options)
        log.info(
            "design %s: %d cells on %s from %d on%s", options.kind, len(design.cells), on, options.first_seed, several
        )
        if looks is None or at_looks is None:
            self.run_phase(spec, lambda queue: queue.write(written))
            raise_if_nothing_worked(queue)
        else:
            self._run_looks(look_spec(spec), at_looks, design.cells, looks, metric)
            to_read = cells_to_read(at_looks.trials())
            log.info("the looks are over: test images are read, once, of %d networks", len(to_read))
            self._train(spec, queue, to_read)
        return queue

    def _recipe(self, fixed: Sequence[str]) -> Mapping[str, Any]:
        """The values of `train` that all cells share; empty for an application without."""
        found = OmegaConf.to_container(self.trial_config([*fixed, *self.options.design.overrides]), resolve=True)
        train = found.get("train") if isinstance(found, dict) else None
        return train if isinstance(train, dict) else {}

    def _run_looks(
        self, spec: StudySpec, queue: TrialQueue, cells: Sequence[Cell], looks: LookPlan, metric: str
    ) -> None:
        """Train, look, and add seeds to the rows that are undecided, until none is or no look is left."""
        counts = {cell.name: first_seeds(self._design) for cell in cells}
        while True:
            written = self._written(cells, spec, counts)
            self._train(spec, queue, written)
            raise_if_nothing_worked(queue)
            first = int(self._design.first_seed or 0)
            now = standing(queue, self.study_dir, looks, cells, first, metric)
            step = next_step(looks, now, first)
            log.info("%s", step.text)
            if not step.counts:
                return
            counts = {name: max(count, step.counts.get(name, 0)) for name, count in counts.items()}

    def _train(self, spec: StudySpec, queue: TrialQueue, written: Sequence[Mapping[str, Any]]) -> None:
        """Train what is written down; what failed is run again now, since after the look its seed is lost."""
        names = {trial.user_attrs.get(CELL) for trial in queue.trials()} | {cell[CELL] for cell in written}
        spec = replace(spec, budget=replace(spec.budget, trials=len(names)))
        self.run_phase(spec, lambda queue: queue.write(written))
        while queue.to_retry():
            self.run_phase(spec, lambda queue: queue.write(written))

    def _written(
        self, cells: Sequence[Cell], spec: StudySpec, counts: Mapping[str, int] | None = None
    ) -> list[dict[str, Any]]:
        return written_trials(cells, self._design, spec.space.fixed, spec.seed_key, counts)

    def _check_cells(self, cells: Sequence[Cell], fixed: Sequence[str], matched: Collection[str]) -> dict[str, Any]:
        """Check the baseline, which must run; tell which other cells cannot, since they will be shown as failed.

        Raises:
            ValueError: the baseline cannot run, or two cells that are no `matched` controls are the same configuration.
        """
        configs = [self.trial_config([*fixed, *cell.overrides]) for cell in cells]
        refuse_equal_cells(cells, configs, fixed, matched)
        self.app.check_values(configs[0])
        if not self.app.checks:
            return {}
        for cell, config in zip(cells, configs, strict=True):
            try:
                self.asked.check(config)
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
