"""`xvol-plan --difference 0.3`: which start, how many roots and orders find it for the least work, by what earlier runs measured.

A difference found from scratch, by a graft of 3 epochs and by one of 10 are not of one question: docs/designs.md says when each is asked.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from search import stats
from search.cli.planned import aligned, seconds_of
from search.design.start import STARTS
from search.ledger.metric import CLASSIFY, metrics_of
from search.ledger.record import flat, recipe_settings
from search.ledger.result import RESULT_FILE, TrialResult, sound_result
from search.ledger.study_files import CONTROL, KNOWN, phase_folder, read_design

SAME = ("task", "backbone.name", "data.name", "data.path", "data.image_size", "data.channels")
MOST_ORDERS = 8
HEADINGS = [
    *(
        "start",
        "epochs",
        "train images",
        "test images",
        "sd between",
        "sd within",
        "df",
        "roots x orders",
        "trainings",
        "s of work",
    )
]
CONTROLS = 2  # the null and the known one, trained as every arm; the known one from scratch beside


class Asked(NamedTuple):
    """What is to be found: a true difference, in the metric's unit, at this error of a row, with this power, in as many cells."""

    difference: float
    alpha: float
    power: float
    cells: int


@dataclass(frozen=True, kw_only=True)
class Way:
    """One kind of training that earlier runs measured, and how paired differences vary in it.

    Attributes:
        start, epochs: what trainings start from, and how long they go on. images: of training and of test; None where not on record.
        total: variance of a root's mean difference, as measured with one order in `orders`' stead; its degrees of freedom are `degrees`.
        between, within: the parts of it that roots and orders bring, in squared units of the metric; None where not known.
        seconds, root_seconds: of one training, and of one root; None where not on record.
    """

    start: str
    epochs: int
    images: tuple[Any, int | None]
    total: float
    degrees: int
    between: float | None
    within: float | None
    seconds: float | None
    root_seconds: float | None

    def variance(self, orders: int) -> float | None:
        """Variance of a root's mean difference over so many orders; None where it is not known."""
        if self.between is None or self.within is None:
            return self.total if orders == 1 else None
        return self.between + self.within / orders

    def cost(self, cells: int, roots: int, orders: int) -> tuple[int, float | None]:
        """Trainings, and their seconds: roots, every cell and control on each root and order, the known control from scratch."""
        if self.start == "scratch":
            return cells * roots, None if self.seconds is None else cells * roots * self.seconds
        on_roots, beside = (cells + CONTROLS) * roots * orders, 2 * roots
        if self.seconds is None or self.root_seconds is None:
            return on_roots + beside, None
        return on_roots + beside, on_roots * self.seconds + beside * self.root_seconds


class Found(NamedTuple):
    """The cheapest numbers of one way; `roots` is None where no number that can be trained finds the difference."""

    way: Way
    roots: int | None
    orders: int
    trainings: int
    seconds: float | None


def cheapest(way: Way, asked: Asked) -> Found:
    """The roots and orders that find a difference for the fewest seconds; for the fewest trainings where seconds are not known."""
    found = []
    for orders in (1,) if way.start == "scratch" else range(1, MOST_ORDERS + 1):
        variance = way.variance(orders)
        if variance is None:
            continue
        effect = np.array([asked.difference / variance**0.5 if variance else np.inf])
        roots = 2 if not variance else stats.seeds_needed(effect, alpha=asked.alpha, target=asked.power)[0]
        if roots is not None:
            found.append(Found(way, roots, orders, *way.cost(asked.cells, roots, orders)))
    return min(found, key=_price, default=Found(way, None, 1, 0, None))


def _price(found: Found) -> tuple[bool, float, int]:
    return found.roots is None or found.seconds is None, found.seconds or 0.0, found.trainings


def alike(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs that tell something of a trial's config must have in common with it, as `recipe_settings` names it."""
    settings = flat(config)
    task = None if settings["task"] == CLASSIFY else settings["task"]
    return {**{key: settings.get(key) for key in SAME}, "task": task}


def ways_below(runs_root: Path, wanted: Mapping[str, Any], on_cpu: bool) -> list[Way]:
    """What the final trials below a folder of studies measured on the data and backbone that `alike` returned."""
    by_recipe: dict[str, list[tuple[Path, TrialResult]]] = defaultdict(list)
    roots: dict[str, TrialResult] = {}  # by folder
    for path in sorted(runs_root.glob(f"*/{phase_folder('final')}/*/{RESULT_FILE}")):
        result = sound_result(path)
        if result is None or result.status != "ok" or result.recipe_hash is None:
            continue
        # of one that was taken over the clock says nothing, and its own record does
        roots[str(path.parent)] = result if result.reused_from is None else replace(result, started_at=None)
        if result.reused_from is None and (result.provenance.get("device") == "cpu") == on_cpu:
            by_recipe[result.recipe_hash].append((path, result))
    found = []
    for trials in by_recipe.values():
        settings = recipe_settings(trials[0][0].parent)
        if settings is not None and all(settings.get(key) == value for key, value in wanted.items()):
            way = _measured(trials, settings, roots)
            found += [way] if way is not None else []
    return found


def _measured(
    trials: Sequence[tuple[Path, TrialResult]], settings: Mapping[str, Any], roots: Mapping[str, TrialResult]
) -> Way | None:
    """Pool the spread of paired differences over the arms and studies of one recipe; None where no two roots, or seeds, can be told."""
    pooled = _Pooled()
    by_study: dict[Path, list[TrialResult]] = defaultdict(list)
    for path, result in trials:
        by_study[path.parents[2]].append(result)
    for study, every in by_study.items():
        results = _without_known(study, every)
        for metric in (column.column for column in metrics_of(results[0].task)[0].columns):  # of test data first
            if pooled.add(results, metric):
                break
    if not pooled.degrees:
        return None
    results = [result for _, result in trials]
    one = results[0]
    seconds = list(seconds_of(results).values())
    at = {str(path.parents[2] / result.root) for path, result in trials if result.root is not None}
    of_roots = list(seconds_of(roots[place] for place in at if place in roots).values())
    between, within = pooled.parts()
    return Way(
        start=one.start,
        epochs=one.epochs,
        images=(settings.get("data.train_size") or "all", one.test_images),
        total=pooled.squares / pooled.degrees if between is None else between + (within or 0.0),
        degrees=pooled.degrees,
        between=between,
        within=within,
        seconds=statistics.mean(seconds) if seconds else None,
        root_seconds=statistics.mean(of_roots) if of_roots else None,
    )


def _without_known(study: Path, results: Sequence[TrialResult]) -> list[TrialResult]:
    """Leave out the known control, whose differences are large and vary as no arm's of interest do."""
    design = read_design(study)
    cells = [] if design is None else [cell for cell in design.cells if cell.factors.get(CONTROL) == KNOWN]
    known = {cell.overrides for cell in cells}
    return [result for result in results if tuple(result.overrides[:-1]) not in known]  # the last one is the seed


class _Pooled:
    """Sums of squares of paired differences over arms: of roots' means and within roots, each with its degrees of freedom."""

    def __init__(self) -> None:
        self.squares, self.degrees, self.inside, self.inside_degrees, self.share = 0.0, 0, 0.0, 0, 0.0

    def add(self, results: Sequence[TrialResult], metric: str) -> bool:
        """Add the arms of one study that share two roots, or seeds, with its baseline; return whether there was one."""
        values: dict[tuple[bool, str | None], dict[int, float]] = defaultdict(dict)
        root: dict[int, Any] = {}
        for result in results:
            value = result.value(metric)
            if value is not None:
                values[result.is_baseline, result.arch_hash].setdefault(result.seed, value)
                scratch = result.start == "scratch"
                root[result.seed] = result.seed if scratch else (result.root_seed or result.root)
        base = next((by_seed for (is_baseline, _), by_seed in values.items() if is_baseline), {})
        before = self.degrees
        for (is_baseline, _), by_seed in values.items():
            seeds = sorted(set(by_seed) & set(base))
            if is_baseline or not seeds:
                continue
            first, second = (np.array([[side[seed] for seed in seeds]]) for side in (by_seed, base))
            names = np.unique([str(root[seed]) for seed in seeds], return_inverse=True, return_counts=True)
            result_of = stats.over_roots(first, second, names[1])[0]
            if result_of.n < 2 or result_of.sd is None:
                continue
            self.squares += (result_of.n - 1) * result_of.sd**2
            self.degrees += result_of.n - 1
            self.share += (result_of.n - 1) * float(np.mean(1 / names[2]))
            if result_of.spreads.within is not None:
                self.inside += (len(seeds) - result_of.n) * result_of.spreads.within**2
                self.inside_degrees += len(seeds) - result_of.n
        return self.degrees > before

    def parts(self) -> tuple[float | None, float | None]:
        """Variances between roots and within them; None where no root has two orders."""
        if not self.inside_degrees:
            return None, None
        within = self.inside / self.inside_degrees
        return max(self.squares / self.degrees - within * self.share / self.degrees, 0.0), within


def _row(found: Found) -> list[str]:
    way = found.way
    spreads = [f"{way.total**0.5:.2f}", "-" if way.start == "scratch" else "unknown"]
    if way.start != "scratch" and way.between is not None and way.within is not None:
        spreads = [f"{way.between**0.5:.2f}", f"{way.within**0.5:.2f}"]
    images = [str(way.images[0]), "unknown" if way.images[1] is None else f"{way.images[1]:,}"]
    if found.roots is None:
        numbers = ["more than 10,000 roots", "-", "-"]
    else:
        seconds = "unknown" if found.seconds is None else f"{found.seconds:,.0f}"
        numbers = [f"{found.roots:,} x {found.orders}", f"{found.trainings:,}", seconds]
    return [way.start, str(way.epochs), *images, *spreads, str(way.degrees), *numbers]


def said(ways: Sequence[Way], asked: Asked) -> list[str]:
    """Say which way is the cheapest, all of them, and what is not known."""
    head = (
        f"Work to find {asked.difference:g} points with power {asked.power:g} at alpha {asked.alpha:.3g} a row, in {asked.cells} "
        "cells, by earlier runs below runs/:"
    )
    found = sorted((cheapest(way, asked) for way in ways), key=_price)
    table = [HEADINGS, *map(_row, found)]
    lines = [head, *(f"  {line}" for line in aligned(table, range(1, 10)).splitlines())] if found else []
    if found and found[0].seconds is not None:
        best = found[0]
        lines.append(
            f"Cheapest: {best.way.start}, {best.way.epochs} epochs, {best.roots:,} roots x {best.orders}: {best.seconds:,.0f} s."
        )
    missing = [start for start in STARTS if start not in {way.start for way in ways}]
    if missing:
        lines.append(
            f"Unknown for start {', '.join(missing)}: no earlier final runs of this data and backbone share two roots, or seeds, with a "
            "baseline."
        )
    return lines
