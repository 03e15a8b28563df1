"""The cells of a command line, looked at from outside: composed as Hydra would, built, compared, and what earlier runs tell."""

from __future__ import annotations

import argparse
import functools
import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from search import trial
from search.app import application
from search.config import typed
from search.design.options import Design, design_of
from search.design.trials import first_seed_of, first_seeds
from search.fingerprint import fingerprint_of, recipe_hash
from search.ledger.index import Index
from search.ledger.metric import metrics_of
from search.ledger.record import seeds_below
from search.ledger.result import RESULT_FILE, Phase, TrialResult, sound_result
from search.ledger.study_files import CHECKPOINT_FILE, NO_TRIALS_INSIDE, Cell
from search.objectives import COSTS
from search.space.parameters import Space
from search.study.command import read_command
from search.study.launching.compose import Composer, without_hydra
from search.study.options import parse_constraints


@dataclass
class Row:
    """A cell of the plan: the facts of its network, or the reason why it is infeasible; the seeds on which its result is there already;
    and the costs that a constraint limits and that cannot be known before running.
    """

    cell: Cell
    facts: dict[str, Any]
    recipe: str = ""
    reason: str | None = None
    twin: str | None = None
    seconds: float | None = None
    source: str = "unknown"
    finished: set[int] = field(default_factory=set)
    unjudged: list[str] = field(default_factory=list)


class PlannedStudy:
    """The study of one command line; Hydra must stand on our config folder. ValueError where it describes none."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        loader = GlobalHydra.instance().config_loader()
        parsed = OverridesParser.create(loader).parse_overrides(list(given.overrides))
        plain = [line for line, each in zip(given.overrides, parsed, strict=True) if not each.is_sweep_override()]
        path = f"hydra.searchpath=['file://{Path(given.config_dir).absolute()}']" if given.config_dir else None
        self.config = compose("config", [*([path] if path else []), *plain], return_hydra_config=True)
        self._composer = Composer(loader, self.config)
        self.sweeper: Mapping[str, Any] = self.config.hydra.sweeper
        lines = [line for line in given.overrides if not line.lstrip("+~").startswith(("hydra.", "hydra/"))]
        options, self.space = read_command(self.config, lines, self.sweeper, self._composer, application)
        self.design = options.design
        self._facts: dict[tuple[str, ...], dict[str, Any]] = {}
        self._costs: dict[tuple[str, str], dict[str, Any]] = {}

    def made(self) -> Design:
        """The design's cells; of a search its baseline, first point and levels. ValueError where nothing varies."""
        if self.design.kind is not None:
            train: Any = OmegaConf.to_container(self.compose(self.design.overrides), resolve=True)
            return design_of(self.design, self.space, self._facts_of, recipe=train["train"])
        final = self.sweeper["final"]
        baseline = Cell("baseline", (*final["baseline"], *final["overrides"]), is_baseline=True)
        return Design([baseline, *_levels(self.space)], [])

    def compose(self, overrides: Sequence[str]) -> Any:
        """The trial's config with these overrides behind those that all cells share."""
        return without_hydra(self._composer.compose([*self.space.fixed, *overrides]))

    def _facts_of(self, overrides: Sequence[str]) -> dict[str, Any]:
        key = tuple(overrides)
        if key not in self._facts:
            self._facts[key] = trial.network_facts(self.compose(key))
        return self._facts[key]

    def row(self, cell: Cell) -> Row:
        """Build the cell's network and hold it against the constraints."""
        try:
            facts = self._facts_of(cell.overrides)
            plain = self._plain(cell)
        except (ValueError, RuntimeError, HydraException, OmegaConfBaseException) as error:
            return Row(cell, {}, reason=str(error).splitlines()[0])
        row = Row(cell, facts, recipe_hash(plain))
        self._judge(row)
        return row

    def _plain(self, cell: Cell) -> dict[str, Any]:
        plain = OmegaConf.to_container(self.compose(cell.overrides), resolve=True)
        assert isinstance(plain, dict)
        return {str(name): value for name, value in plain.items()}

    def _judge(self, row: Row) -> None:
        """Hold the row against the constraints as far as that takes no accelerator."""
        constraints = parse_constraints(self.sweeper.get("constraints"), COSTS)
        if not constraints:
            return
        config = typed(self.compose(row.cell.overrides))
        names = [constraint.name for constraint in constraints]
        judged = trial.judged_costs(config, names)
        row.unjudged = [name for name in names if name not in judged]
        try:
            key = (row.facts["arch_hash"], row.recipe)
            if key not in self._costs:
                missing = [name for name in judged if name not in row.facts]
                self._costs[key] = row.facts | (trial.costs_of(config, missing) if missing else {})
            broken = [
                text for each in constraints if each.name in judged and (text := each.violation(self._costs[key]))
            ]
        except ValueError as error:
            broken = [str(error).splitlines()[0]]
        row.reason = "; ".join(broken) or None

    def mark_twins(self, rows: list[Row]) -> None:
        """Name in each row the first one of the same network and recipe, if that is another."""
        seen: dict[tuple[str, str], str] = {}
        for row in rows:
            if row.reason is None:
                twin = seen.setdefault((row.facts["arch_hash"], row.recipe), row.cell.name)
                row.twin = None if twin == row.cell.name else twin

    def is_trained(self, row: Row) -> bool:
        """Whether the study would train the cell, and not refuse it or take another's results."""
        return row.reason is None and (row.twin is None or self.sweeper["reuse"] == "none")

    @property
    def study_dir(self) -> Path:
        """The study's folder."""
        return Path(str(self.config.hydra.sweep.dir)).absolute()

    def seeds(self, count: int | None = None) -> range:
        """The seeds of the design: the first `count`, else those that every cell is trained on."""
        first = self.design.first_seed
        if first is None:
            there = seeds_below(self.study_dir, "final")
            first = first_seed_of(str(self.sweeper["study_name"]), "design", there)
        return range(first, first + (first_seeds(self.design) if count is None else count))

    def find_finished(self, rows: list[Row]) -> None:
        """Fill in which seeds of a design need no training."""
        seeds = self.seeds(self.design.looks[-1] if self.design.looks else None)
        for row in rows:
            if self.is_trained(row):
                plain = self._plain(row.cell)
                recipe = recipe_hash(plain, anywhere=True)
                row.finished = finished_seeds(
                    self.study_dir,
                    typed(plain),
                    row.facts,
                    recipe,
                    seeds,
                    self.sweeper["reuse"],
                    bool(self.design.looks),
                )


def finished_seeds(
    study_dir: Path,
    config: Any,
    facts: Mapping[str, Any],
    recipe: str,
    seeds: Iterable[int],
    reuse: str,
    looks: bool = False,
) -> set[int]:
    """The seeds on which a trial of that network and recipe need not be trained, since its result is there.

    Args:
        study_dir: the study's own results count in any case.
        facts: `network_facts` of the config; `recipe` is its hash, wherever the images lie.
        reuse: where else results are taken from: "all" studies beside this one, "study" or "none".
        looks: whether it is trained for the looks, which read no test and keep its weights; else as a final trial.
    """
    index = _index(study_dir.parent)
    phase: Phase = "search" if looks else "final"
    found = set()
    for seed in seeds:
        fingerprint = fingerprint_of(facts["arch_hash"], recipe, seed, config.train.epochs, phase, facts["content"])
        there = index.find(fingerprint, needs_test=not looks, below=study_dir.name)
        if there is None and reuse == "all":
            there = index.find(fingerprint, needs_test=not looks)
            kept = looks or config.keeps_weights("final")
            if there is not None and kept and not there.with_name(CHECKPOINT_FILE).is_file():
                there = None  # as a trial that is to keep weights would say
        if there is not None:
            found.add(seed)
    return found


@functools.lru_cache(maxsize=2)
def _index(root: Path) -> Index:
    return Index(root, writes=False)


def aligned(table: Sequence[Sequence[str]], numeric: Collection[int]) -> str:
    """Put the rows of a table below each other; the columns of these numbers stand to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if column in numeric else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def _levels(space: Space) -> list[Cell]:
    """The first point of a search space, and each other level (of an interval: its ends) of one parameter at a time."""
    first, *others = (tuple(p.override(point[p.name]) for p in space.parameters) for point in space.variations())
    changed = [next(line for line, old in zip(lines, first, strict=True) if line != old) for lines in others]
    return [Cell("first point", first), *map(Cell, changed, others)]


def earlier_runs(runs_root: Path, recipe: str, on_cpu: bool) -> list[TrialResult]:
    """Finished trials below `runs_root` of that recipe hash, trained (not reused) on a CPU, or not on a CPU."""
    found = []
    for path in sorted(runs_root.glob(f"*/*/*/{RESULT_FILE}")):
        if NO_TRIALS_INSIDE.intersection(path.relative_to(runs_root).parts):
            continue
        result = sound_result(path)
        if (
            result is not None
            and result.status == "ok"
            and result.recipe_hash == recipe
            and result.reused_from is None
            and result.epochs == result.epochs_planned
            and (result.provenance.get("device") == "cpu") == on_cpu
        ):
            found.append(result)
    return found


def seconds_of(runs: Iterable[TrialResult]) -> dict[str, float]:
    """Median seconds of a trial by architecture hash, from the first line of its record to the last."""
    taken: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        seconds = _wall(run)
        if seconds is not None and run.arch_hash is not None:
            taken[run.arch_hash].append(seconds)
    return {arch: statistics.median(values) for arch, values in taken.items()}


class Noise(NamedTuple):
    """How much a paired difference to the baseline varies over seeds, pooled over arms: sd in points of `metric`."""

    sd: float
    degrees: int  # of freedom
    metric: str


def noise_of(runs: Sequence[TrialResult], baseline: str | None) -> Noise | None:
    """The pooled sd of paired differences in earlier runs of one recipe; None where no arm shares two seeds with the baseline."""
    judged_by = metrics_of(runs[0].task)[0].columns if runs else ()
    for metric in (column.column for column in judged_by):  # of test data first
        values: dict[str | None, dict[int, float]] = defaultdict(dict)
        for run in runs:
            value = run.value(metric)
            if value is not None:
                values[run.arch_hash].setdefault(run.seed, value)
        base = values.get(baseline, {})
        squares, degrees = 0.0, 0
        for arch, by_seed in values.items():
            shared = sorted(set(by_seed) & set(base))
            if arch != baseline and len(shared) > 1:
                squares += (len(shared) - 1) * statistics.variance(by_seed[seed] - base[seed] for seed in shared)
                degrees += len(shared) - 1
        if degrees and squares > 0:
            return Noise((squares / degrees) ** 0.5, degrees, metric)
    return None


def _wall(run: TrialResult) -> float | None:
    if run.attempt == 1 and run.started_at and run.finished_at:
        try:
            return (datetime.fromisoformat(run.finished_at) - datetime.fromisoformat(run.started_at)).total_seconds()
        except ValueError:
            return run.train_seconds
    return run.train_seconds
