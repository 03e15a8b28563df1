"""The cells of a command line, looked at from outside: composed as Hydra would, built, timed, and compared."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from search import trial
from search.app import application
from search.config import fingerprint_of, recipe_hash, typed
from search.design.kinds import Cell
from search.design.options import Design, design_of, first_seed_of, first_seeds
from search.ledger.index import Index
from search.ledger.paths import CHECKPOINT_FILE
from search.ledger.record import seeds_below
from search.ledger.result import Phase
from search.recipe import COSTS
from search.space.parameters import Space
from search.study.command import read_command
from search.study.options import SweeperOptions, parse_constraints


@dataclass
class Row:
    """A cell of the plan: the facts of its network, or the reason why it is infeasible.

    Attributes:
        finished: seeds of the design on which its result is there already.
        unjudged: costs that a constraint limits and that cannot be known before running.
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
    """The study of one command line; Hydra must stand on our config folder.

    Raises:
        ValueError, HydraException, OmegaConfBaseException: the command line describes no study.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.config, self.arguments = _composed(given)
        self.sweeper: Mapping[str, Any] = self.config.hydra.sweeper
        options, self.space = self._asked()
        self.design = options.design
        self._facts: dict[tuple[str, ...], dict[str, Any]] = {}
        self._configs: dict[tuple[str, ...], Any] = {}
        self._costs: dict[tuple[str, str], dict[str, Any]] = {}

    def _asked(self) -> tuple[SweeperOptions, Space]:
        lines = [line for line in self.arguments if not line.lstrip("+~").startswith(("hydra.", "hydra/"))]
        return read_command(self.config, lines, self.sweeper, GlobalHydra.instance().config_loader(), application)

    def made(self) -> Design:
        """The design's cells; of a search its baseline, first point and levels. ValueError where nothing varies."""
        if self.design.kind is not None:
            return design_of(self.design, self.space, self._facts_of)
        final = self.sweeper["final"]
        baseline = Cell("baseline", (*final["baseline"], *final["overrides"]), is_baseline=True)
        return Design([baseline, *_levels(self.space)], [])

    def compose(self, overrides: Sequence[str]) -> Any:
        """The trial's config with these overrides behind those that all cells share; not to be changed."""
        key = tuple(overrides)
        if key not in self._configs:
            self._configs[key] = compose("config", [*_searchpath(self.given), *self.space.fixed, *key])
        return self._configs[key]

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
        facts: `network_facts` of the config.
        recipe: its hash, wherever the images lie.
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


def _composed(given: argparse.Namespace) -> tuple[Any, list[str]]:
    """The master config, and the command line's overrides."""
    arguments = list(given.overrides)
    parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(arguments)
    plain = [line for line, override in zip(arguments, parsed, strict=True) if not override.is_sweep_override()]
    config = compose("config", [*_searchpath(given), *plain], return_hydra_config=True)
    return config, arguments


def _searchpath(given: argparse.Namespace) -> list[str]:
    return [f"hydra.searchpath=['file://{Path(given.config_dir).absolute()}']"] if given.config_dir else []


def _levels(space: Space) -> list[Cell]:
    """The first point of a search space, and each other level (of an interval: its ends) of one parameter at a time."""
    first, *others = (tuple(p.override(point[p.name]) for p in space.parameters) for point in space.variations())
    changed = [next(line for line, old in zip(lines, first, strict=True) if line != old) for lines in others]
    return [Cell("first point", first), *map(Cell, changed, others)]
