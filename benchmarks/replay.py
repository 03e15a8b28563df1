"""Replays search strategies on a space that was trained exhaustively: how many trainings until one is as good as the best?

    python benchmarks/replay.py docs/results/space_table.csv --json docs/results/replay.json     # a space of arms that hardly differ
    python benchmarks/replay.py docs/results/truth/trials.parquet --json docs/results/truth_replay.json --repeats 50
    python benchmarks/replay.py --synthetic /tmp/table.csv                                       # an invented table

The table (benchmarks/space_table.py or truth.py trains it) has the columns of the point's parameters, then `arch_hash`, `seed`
and `val_top1`, then whatever else. An empty parameter cell means that the parameter makes no difference at that point. Of a
truth table the trainings of the truth alone are read, and the arms that the space can build.

A search trains every arm on one seed, so what that seed does to all arms alike is no noise to it: each value is taken less
the mean of its seed over the arms (plus the mean of all). What is left over, beyond the arms' means, is noise; its standard
deviation is pooled over arms, with (arms - 1)(seeds - 1) degrees of freedom. A strategy is *there* with its first training
of an arm whose mean over all seeds is at most one standard error (noise over the root of the number of seeds) below the
best arm's. In one repeat every arm has one value, that of a seed drawn for it: what a search that trains each arm once sees,
and sees again where it trains the arm again. Strategies are paired: a repeat draws the same values for all of them. Successive
halving trains random arms on one seed each, the better half of them on as many seeds more as each has, the same for all, and so on.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState
from replay_page import HORIZONS, render, synthetic

from search.ledger.provenance import provenance
from search.study.sampling.evolution import EvolutionSampler

IN_FLIGHT = 2  # workers: as many trials are asked for before the first is told
MAX_SKIPS = 200  # free duplicates in a row, after which a search has seen all that it will propose
RESAMPLES = 10_000
FIRST_RUNG = 16  # arms of successive halving

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A trained space: its parameters with their choices, and each arm's values, one a seed, less what the seed does to all."""

    space: Mapping[str, tuple[str, ...]]
    points: tuple[tuple[tuple[str, ...], str], ...]
    values: Mapping[str, tuple[float, ...]]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read the CSV.

        Raises:
            ValueError: a column is missing, a point of the space has no row, or the arms do not share two seeds or more.
        """
        rows = _rows(path)
        columns = list(rows[0]) if rows else []
        if not {"arch_hash", "seed", "val_top1"} <= set(columns) or columns.index("arch_hash") == 0:
            raise ValueError(
                f"{path}: expected parameters, then arch_hash, seed and val_top1; found {', '.join(columns)}"
            )
        names = columns[: columns.index("arch_hash")]
        space = {name: tuple(sorted({row[name] for row in rows} - {""})) for name in names}
        points = {tuple(row[name] for name in names): row["arch_hash"] for row in rows}
        by_seed: dict[str, dict[str, float]] = {}
        for row in rows:
            by_seed.setdefault(row["arch_hash"], {})[row["seed"]] = float(row["val_top1"])
        seeds = sorted(set().union(*by_seed.values()))
        uneven = sorted(arm for arm, values in by_seed.items() if set(values) != set(seeds))
        if uneven or len(seeds) < 2:
            raise ValueError(
                f"{path}: noise needs two seeds at least, the same for each arm; seeds are {', '.join(seeds)}"
                + (f", and not all are there of {', '.join(uneven[:5])}" if uneven else "")
            )
        grand = statistics.fmean(values[seed] for values in by_seed.values() for seed in seeds)
        effect = {seed: statistics.fmean(values[seed] for values in by_seed.values()) - grand for seed in seeds}
        centred = {arm: tuple(values[seed] - effect[seed] for seed in seeds) for arm, values in by_seed.items()}
        table = cls(space, tuple(points.items()), centred)
        for point in _product(space):
            table.arm(point)
        return table

    def arm(self, point: Mapping[str, str]) -> str:
        """The architecture that a point builds; ValueError where the table lacks it."""
        for cells, arm in self.points:
            if all(cell in ("", point[name]) for name, cell in zip(self.space, cells, strict=True)):
                return arm
        raise ValueError(f"the table has no row for {dict(point)}: train it, or take the choice out of the table")

    def means(self) -> dict[str, float]:
        """The mean of each arm over its seeds."""
        return {arm: statistics.fmean(values) for arm, values in self.values.items()}

    def noise(self) -> float:
        """The standard deviation of one value around its arm's mean, pooled over arms; seeds are taken out already."""
        means, seeds = self.means(), len(next(iter(self.values.values())))
        squares = sum((value - means[arm]) ** 2 for arm, values in self.values.items() for value in values)
        return float((squares / ((len(means) - 1) * (seeds - 1))) ** 0.5)

    def good(self) -> tuple[set[str], str, float]:
        """The arms within noise of the best, the best arm, and the standard error of a mean."""
        means = self.means()
        best = max(means, key=means.__getitem__)
        error = self.noise() / len(self.values[best]) ** 0.5
        return {arm for arm, mean in means.items() if mean >= means[best] - error}, best, error


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table, as text; of a truth table the trainings of the arms in its space, on seeds that all of them finished."""
    if path.suffix != ".parquet":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    table = pd.read_parquet(path)
    of_space = table[(table["ranking"] == "") & table["branch"].notna()]
    arms = of_space["arch_hash"].nunique()
    of_space = of_space[of_space.groupby("seed")["arch_hash"].transform("nunique") == arms]
    parameters = [name for name in map(str, table.columns) if name.startswith("placement.")]
    columns = [*parameters, "branch", "arch_hash", "seed", "val_top1"]
    return [dict(zip(columns, map(str, row), strict=True)) for row in of_space[columns].itertuples(index=False)]


@dataclass(frozen=True)
class Strategy:
    """A way to search.

    Attributes:
        sampler: makes it from a seed.
        free_duplicates: whether an arm that is trained already takes its result and costs nothing, as in our sweeper.
        batches: whether all workers wait for the slowest before anything is told, as in the official sweeper.
    """

    name: str
    sampler: Callable[[int], BaseSampler]
    free_duplicates: bool
    batches: bool


@dataclass(frozen=True)
class Outcome:
    """What one search came to: trainings until it was there (None: never), and the arm it would report at each horizon."""

    trials: int | None
    trained: int
    proposals: int
    reported: dict[int, str]


def strategies() -> list[Strategy]:
    """The contestants but for successive halving, which asks no sampler."""

    def official(seed: int) -> BaseSampler:  # the official sweeper's `sampler: tpe`, key for key
        return TPESampler(seed=seed, multivariate=False, group=False, constant_liar=False)

    return [
        Strategy("random", lambda seed: RandomSampler(seed=seed), False, False),
        Strategy("random + dedup", lambda seed: RandomSampler(seed=seed), True, False),
        Strategy("official TPE", official, False, True),
        Strategy("TPE + dedup", lambda seed: TPESampler(seed=seed), True, False),
        Strategy("GP", lambda seed: GPSampler(seed=seed), False, False),  # a proposal costs too much to be skipped
        Strategy("evolution", lambda seed: EvolutionSampler(seed=seed), True, False),
    ]


def halving(table: Table, draw: random.Random, most: int) -> Outcome:
    """Successive halving over seeds: `FIRST_RUNG` random arms, or all, and half as many in each rung on twice as many seeds."""
    good, _, _ = table.good()
    seeds_there = len(next(iter(table.values.values())))
    order = draw.sample(range(seeds_there), seeds_there)
    arms = draw.sample(sorted(table.values), min(FIRST_RUNG, len(table.values)))
    seen: dict[str, list[float]] = {arm: [] for arm in arms}
    there: int | None = None
    reported: dict[int, str] = {}
    trained, seeds = 0, 1

    def best() -> str:
        deepest = max(map(len, seen.values()))
        return max((arm for arm in seen if len(seen[arm]) == deepest), key=lambda arm: statistics.fmean(seen[arm]))

    while True:
        for arm in arms:
            for seed in order[len(seen[arm]) : seeds]:
                trained += 1
                seen[arm].append(table.values[arm][seed])
                if there is None and arm in good:
                    there = trained
                if trained in HORIZONS:
                    reported[trained] = best()
                if trained == most:
                    return Outcome(there, trained, trained, {h: reported.get(h, best()) for h in HORIZONS})
        if len(arms) == 1 or seeds == len(order):
            return Outcome(there, trained, trained, {h: reported.get(h, best()) for h in HORIZONS})
        arms = sorted(arms, key=lambda arm: -statistics.fmean(seen[arm]))[: len(arms) // 2]
        seeds = min(2 * seeds, len(order))


def search(strategy: Strategy, table: Table, values: Mapping[str, float], seed: int, most: int) -> Outcome:
    """Run one search until it has trained `most` times, or proposes nothing new any more."""
    good, _, _ = table.good()
    study = optuna.create_study(direction="maximize", sampler=strategy.sampler(seed))
    space: dict[str, BaseDistribution] = {name: CategoricalDistribution(cells) for name, cells in table.space.items()}
    seen: dict[str, float] = {}
    running: list[tuple[Trial, str]] = []
    trained = proposals = skips = 0
    there: int | None = None
    reported: dict[int, str] = {}
    while trained < most and skips < MAX_SKIPS:
        trial = study.ask(space)
        arm = table.arm(trial.params)
        proposals += 1
        if strategy.free_duplicates and arm in seen:
            study.tell(trial, values[arm])
            skips += 1
            continue
        if strategy.free_duplicates and arm in {other for _, other in running}:
            study.tell(trial, state=TrialState.FAIL)  # refused while the same network is in training elsewhere
            skips += 1
            continue
        trained, skips = trained + 1, 0
        running.append((trial, arm))
        if there is None and arm in good:
            there = trained
        if len(running) == IN_FLIGHT or trained == most:
            done = running[:] if strategy.batches else running[:1]
            for other, known in done:
                study.tell(other, values[known])
                seen[known] = values[known]
            running = running[len(done) :]
        if trained in HORIZONS:
            known_now = {**seen, **{arm: values[arm] for _, arm in running}}
            reported[trained] = max(known_now, key=known_now.__getitem__)
    last = {**seen, **{arm: values[arm] for _, arm in running}}
    return Outcome(there, trained, proposals, {h: reported.get(h, max(last, key=last.__getitem__)) for h in HORIZONS})


def replay(table: Table, repeats: int, most: int) -> Row:
    """Every strategy, `repeats` times, paired by repeat."""
    good, best, error = table.good()
    means = table.means()
    runs: dict[str, list[Outcome]] = {strategy.name: [] for strategy in strategies()}
    for repeat in range(repeats):
        draw = random.Random(repeat)
        values = {arm: draw.choice(table.values[arm]) for arm in sorted(table.values)}
        for strategy in strategies():
            runs[strategy.name].append(search(strategy, table, values, 1000 + repeat, most))
        runs.setdefault("successive halving", []).append(halving(table, random.Random(repeat), most))
    trials = {name: np.array([most if o.trials is None else o.trials for o in found]) for name, found in runs.items()}
    rows = []
    for name, found in runs.items():
        row: Row = {
            "strategy": name,
            "trials": float(trials[name].mean()),
            "interval": _interval(trials[name]),
            "median": float(np.median(trials[name])),
            "never": sum(outcome.trials is None for outcome in found),
            "proposals_a_training": sum(o.proposals for o in found) / sum(o.trained for o in found),
            "trials_of_repeats": trials[name].tolist(),
        }
        for horizon in HORIZONS:
            gaps = np.array([means[best] - means[outcome.reported[horizon]] for outcome in found])
            row[f"gap_{horizon}"], row[f"gap_{horizon}_interval"] = float(gaps.mean()), _interval(gaps)
        for against in ("random", "official TPE"):
            if name != against:
                difference = trials[name] - trials[against]
                row[f"minus {against}"], row[f"minus {against} interval"] = (
                    float(difference.mean()),
                    _interval(difference),
                )
        rows.append(row)
    return {
        "arms": len(table.values),
        "points": len(list(_product(table.space))),
        "seeds": sorted({len(values) for values in table.values.values()}),
        "best": {"arm": best, "point": _point_of(table, best), "mean": means[best], "standard_error": error},
        "good_arms": len(good),
        "spread_of_means": statistics.stdev(means.values()),
        "noise": table.noise(),
        "repeats": repeats,
        "most": most,
        "rows": rows,
    }


def _product(space: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    points: list[dict[str, str]] = [{}]
    for name, cells in space.items():
        points = [{**point, name: cell} for point in points for cell in cells]
    return points


def _point_of(table: Table, arm: str) -> str:
    cells = next(cells for cells, known in table.points if known == arm)
    return ", ".join(f"{name}={cell}" for name, cell in zip(table.space, cells, strict=True) if cell)


def _interval(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean."""
    drawn = np.random.default_rng(0).choice(values, size=(RESAMPLES, len(values))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Replay, print the table, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", help="the trained space, as CSV, or a truth table")
    parser.add_argument("--synthetic", type=Path, help="write an invented table there, and replay that")
    parser.add_argument("--seeds", type=int, default=6, help="of the invented table")
    parser.add_argument("--noise", type=float, default=1.0, help="sd between seeds of the invented table, in points")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--most", type=int, default=150, help="trainings after which a search is given up")
    parser.add_argument("--json", type=Path, help="results; the Markdown goes beside it")
    args = parser.parse_args()
    if (args.table is None) == (args.synthetic is None):
        parser.error("give either a table or --synthetic PATH")
    if args.synthetic:
        synthetic(args.synthetic, args.seeds, args.noise)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    try:
        table = Table.read(args.table or args.synthetic)
    except (OSError, ValueError) as error:
        raise SystemExit(f"replay.py: {error}") from None
    start = time.monotonic()
    found = replay(table, args.repeats, args.most)
    found["seconds"] = round(time.monotonic() - start, 1)
    found["table"] = str(args.table or "invented")
    found["commit"], found["versions"] = provenance()["commit"], provenance()["versions"]
    print(render(found))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        args.json.with_suffix(".md").write_text(render(found), encoding="utf-8")


if __name__ == "__main__":
    main()
