"""`xvol-plan experiment=paper/stage_placement`: what a study would train, how long it takes, what it can resolve."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from search import stats, trial
from search.cli.cheapest import Asked, Way, alike, said, ways_below
from search.cli.planned import PlannedStudy, Row, aligned, earlier_runs, noise_of, seconds_of
from search.command_line import explain, refuse_wrong_words
from search.config import config_folder, register, typed
from search.design.options import Design
from search.design.start import number_of_roots
from search.ledger.study_files import CONTROL, NULL, OF_ROOTS
from search.report.words import duration
from search.study.launching.launcher import worker_count
from xvol.allowed import check_number

EXAMPLES = """\
examples:
  xvol-plan experiment=paper/branch_ablation
  xvol-plan experiment=paper/stage_placement hydra.sweeper.design.control=params --sd 0.5
  xvol-plan design=factorial data=cifar10 placement=none,stage3 train.lr=0.1,0.3 --workers 8 --seconds 40

Overrides are those of `python -m search -m`. No accelerator is taken and nothing is written to runs/.
Exit status: 0; 1 where a cell is infeasible; 2 where the command is wrong.
"""
LEAST_ALPHA = 1e-9  # a look with less finds nothing that a study would show


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-plan", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("overrides", nargs="*", help="as for `python -m search -m`")
    command.add_argument("-m", "--multirun", action="store_true", help="of no effect: a plan is always of a study")
    command.add_argument(
        "--config-dir", metavar="DIR", help="a further folder of config groups, as for `python -m search`"
    )
    command.add_argument("--sd", type=float, help="sd of a paired difference, in points; default: of earlier runs")
    command.add_argument(
        "--difference",
        type=float,
        help="smallest one to be found, in points: which start, roots and orders take least work",
    )
    command.add_argument("--alpha", type=float, default=0.05, help="error of the test (default 0.05)")
    command.add_argument("--power", type=float, default=0.8, help="chance to find a true difference (default 0.8)")
    command.add_argument(
        "--seconds", type=float, help="of one trial; default: earlier runs, else a few steps are trained"
    )
    command.add_argument("--workers", type=int, help="default: as many as the launcher would start")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan and return the exit status."""
    given = parser().parse_intermixed_args(arguments)
    try:
        for name in ("sd", "seconds", "workers", "difference"):
            if getattr(given, name) is not None:
                check_number(f"--{name}", getattr(given, name), above=0)
        for name in ("alpha", "power"):
            check_number(f"--{name}", getattr(given, name), above=0, below=1)
        if given.config_dir and not Path(given.config_dir).is_dir():
            raise ValueError(f"--config-dir {given.config_dir}: there is no such folder")
        refuse_wrong_words(given.overrides, config_folder())
        with _hydra():
            return Plan(PlannedStudy(given)).print()
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        print(f"xvol-plan: {explain(error)}", file=sys.stderr)
        return 2


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra on our config folder; whatever it stood on before comes back."""
    register()
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            yield
    finally:
        GlobalHydra.instance().hydra = held


class Plan:
    """Prints a planned study: sites, cells, hours, and the smallest differences that can be told."""

    def __init__(self, study: PlannedStudy) -> None:
        self.study, self.given, self.design, self.sweeper = study, study.given, study.design, study.sweeper

    def print(self) -> int:
        """Print it; return 1 where a cell is infeasible, else 0."""
        made = self.study.made()
        rows = [self.study.row(cell) for cell in made.cells]
        self.study.mark_twins(rows)
        feasible = [row for row in rows if row.reason is None]
        if self.design.kind is not None and made.starts is None:
            self.study.find_finished(rows)
        beside = [] if made.starts is None else [self.study.row(cell) for cell in made.starts.beside]
        runs = self._find_seconds([*rows, *beside])
        self._print_sites(rows)
        self._print_cells(rows, made)
        if made.starts is None:
            self._print_hours(rows)
        else:
            self._print_hours_from_roots(rows, beside)
        ways = self._ways(feasible) if feasible and (made.starts or self.given.difference) else []
        if made.starts is not None:
            self._print_resolution_of_roots(feasible, ways)
        elif self.design.kind is not None:
            self._print_resolution(feasible, runs)
        if self.given.difference is not None and feasible:
            cells = _networks(feasible)
            asked = Asked(self.given.difference, self.given.alpha / max(cells - 1, 1), self.given.power, cells)
            print("\n".join(said(ways, asked)))
        return 1 if len(feasible) < len(rows) else 0

    def _print_sites(self, rows: list[Row]) -> None:
        backbones: dict[tuple[str, str], Any] = {}
        for row in rows:
            if row.reason is None:
                config = typed(self.study.compose(row.cell.overrides))
                backbones.setdefault((config.backbone.name, str(config.backbone.kwargs)), config)
        for (name, _), config in backbones.items():
            sites = trial.sites_of(config)
            print(f"Sites of {name}: {len(sites)}")
            for stage in sorted({site.stage for site in sites}):
                inside = [site for site in sites if site.stage == stage]
                print(f"  stage{stage}: {', '.join(site.fqn for site in inside)}")
            print()

    def _print_cells(self, rows: list[Row], made: Design) -> None:
        what = f"design {self.design.kind}" if self.design.kind else "a search; its baseline and levels, one at a time"
        print(f"Cells: {len(rows)} ({what}); the first is the baseline")
        table = [["", "cell", "network", "params", "M MACs", "s/trial", "seconds from"]]
        for number, row in enumerate(rows):
            if row.reason is not None:
                table.append([str(number), row.cell.name, f"infeasible: {row.reason}", "", "", "", ""])
                continue
            facts = row.facts
            source = f"same network as {row.twin}" if row.twin else row.source
            seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
            figures = (f"{facts['params']:,}", f"{facts['macs'] / 1e6:.2f}", seconds)
            table.append([str(number), row.cell.name, facts["arm"], *figures, source])
        print(aligned(table, (0, 3, 4, 5)))
        once = "" if self.sweeper["reuse"] == "none" else ", trained once, since results are reused"
        infeasible, twins = sum(row.reason is not None for row in rows), sum(row.twin is not None for row in rows)
        print(f"infeasible: {infeasible}; duplicates (same network and recipe): {twins}{once}")
        unjudged = sorted({name for row in rows for name in row.unjudged})
        if unjudged:
            print(f"constraints on {', '.join(unjudged)}: not judged before running, since a plan takes no accelerator")
        # the null control differs by the stream of draws alone
        recipes = Counter(row.recipe for row in rows if row.reason is None and row.cell.factors.get(CONTROL) != NULL)
        if len(recipes) > 1:
            print(f"note: the cells have {len(recipes)} different recipes (data, training or backbone); tables say so")
        if made.fraction is not None:
            print(made.fraction.describe())
        for control in made.controls:
            print(f"control: {control}")
        print()

    def _print_hours(self, rows: list[Row]) -> None:
        trained = [row for row in rows if self.study.is_trained(row)]
        if self.design.kind is None:
            final = self.sweeper["final"]
            again = (final["top_k"] + 1) * final["seeds"] if final["top_k"] else 0
            search = self.sweeper["n_trials"] * self.sweeper["seeds_per_trial"]
            each = (search + again) / max(1, len(trained))
            runs = f"{search} trials of the search and at most {again} of the re-evaluation"
            self._print_time("Time", runs, [(row, each) for row in trained])
        else:
            self._print_design_time(
                "Time to the first look" if self.design.looks else "Time", trained, self.study.seeds()
            )
        if len(self.design.looks) > 1:
            self._print_design_time(
                "Time at most, if every row goes to the last look",
                trained,
                self.study.seeds(self.design.looks[-1]),
            )
        if any(row.source == "a few steps, here" for row in trained):
            self._print_measured()

    def _print_measured(self) -> None:
        print(
            "      measured on one CPU worker alone; reading data and test images come on top, and workers share a machine"
        )

    def _print_hours_from_roots(self, rows: list[Row], beside: list[Row]) -> None:
        """Print what roots, arms and controls take; results that are there already are not reckoned with."""
        trained, roots = [row for row in rows if self.study.is_trained(row)], number_of_roots(self.design)
        counted = [*((row, roots * self.design.orders) for row in trained), *((row, roots) for row in beside)]
        named = [f"{row.cell.name} x {roots}" for row in beside]
        runs = " + ".join(
            [*named, f"{len(trained)} networks, controls among them, x {roots} roots x {self.design.orders} orders"]
        )
        self._print_time("Time", runs, counted)
        if any(row.source == "a few steps, here" for row, _ in counted):
            self._print_measured()

    def _print_resolution_of_roots(self, feasible: list[Row], ways: list[Way]) -> None:
        """Print the smallest difference that the roots find, by the spreads that earlier runs of this start measured."""
        roots, orders = number_of_roots(self.design), self.design.orders
        against = _networks(feasible) - 1
        what = f"Smallest difference that {roots} root(s) x {orders} order(s) find"
        like = [way for way in ways if way.start == self.design.start and way.variance(orders)]
        if self.given.sd is not None:
            sd, source = self.given.sd, "as given"
        elif like:
            way = max(like, key=lambda way: way.degrees)
            sd = float(way.variance(orders) or 0.0) ** 0.5
            source = f"earlier runs with start={way.start}, {way.epochs} epochs, {way.degrees} degrees of freedom"
        if roots < 2 or not (like or self.given.sd):
            why = (
                "two roots at least tell of others"
                if roots < 2
                else f"no earlier runs with start={self.design.start} tell; give --sd"
            )
            print(f"{what}: unknown ({why})")
            return
        alone, every = (
            _smallest(sd, roots, self.given.alpha / rows, self.given.power) for rows in (1, max(against, 1))
        )
        corrected = f", {every:.2f} where all {against} are corrected for (Bonferroni)" if against > 1 else ""
        print(
            f"{what} with power {self.given.power:g}: {alone:.2f} points for one comparison at alpha {self.given.alpha:g}{corrected} "
            f"(sd of a root's mean difference {sd:.2f} points, {source})"
        )

    def _print_design_time(self, what: str, trained: list[Row], seeds: range) -> None:
        counted = [(row, len(seeds) - len(row.finished.intersection(seeds))) for row in trained]
        there = len(seeds) * len(trained) - sum(left for _, left in counted)
        runs = f"{len(trained)} networks x {len(seeds)} seeds"
        if there:
            runs += f" = {len(seeds) * len(trained)} results, of which {there} are there and need no training; left"
        self._print_time(what, runs, counted)

    def _print_time(self, what: str, runs: str, counted: Sequence[tuple[Row, float]]) -> None:
        workers = self.given.workers or worker_count(
            self.study.config.hydra.launcher, int(self.study.config.hydra.sweeper.n_jobs)
        )
        count = round(sum(times for _, times in counted))
        needed = [(row, times) for row, times in counted if times]
        if any(row.seconds is None for row, _ in needed):
            print(f"{what}: {runs} = {count} trials on {workers} worker(s); seconds of a trial are not known")
            return
        total = sum(times * (row.seconds or 0.0) for row, times in needed)
        longest = max((row.seconds or 0.0 for row, _ in needed), default=0.0)
        wall = max(total / min(workers, max(count, 1)), longest)
        print(
            f"{what}: {runs} = {count} trials, {duration(total)} of work, about {duration(wall)} on {workers} worker(s)"
        )

    def _print_resolution(self, feasible: list[Row], runs: list[Any]) -> None:
        seeds = len(self.study.seeds())
        against = _networks(feasible) - 1
        base = feasible[0].facts["arch_hash"] if feasible and feasible[0].cell.is_baseline else None
        sd, source = self._noise(runs, base)
        if sd is None or seeds < 2:
            why = "at least 2 seeds are needed" if seeds < 2 else source
            print(f"Smallest difference that {seeds} seed(s) can resolve: unknown ({why})")
            return
        if self.design.looks:
            self._print_looks(sd, source, against)
            return
        alone = _smallest(sd, seeds, self.given.alpha, self.given.power)
        print(
            f"Smallest difference that {seeds} paired seeds find with power {self.given.power:g}: {alone:.2f} points for one "
            f"comparison at alpha {self.given.alpha:g} (sd of a paired difference {sd:.2f} points, {source})"
        )
        if against > 1:
            every = _smallest(sd, seeds, self.given.alpha / against, self.given.power)
            print(
                f"  {every:.2f} points where all {against} differences to the baseline are corrected for (Bonferroni)"
            )

    def _ways(self, feasible: list[Row]) -> list[Way]:
        """What earlier runs on this data and backbone measured."""
        config = self.study.compose(feasible[0].cell.overrides)
        plain: Any = OmegaConf.to_container(config, resolve=True)
        return ways_below(self.study.study_dir.parent, alike(plain), trial.device_kind(typed(config)) == "cpu")

    def _print_looks(self, sd: float, source: str, against: int) -> None:
        design = self.design
        plan = stats.plan_looks(design.looks, alpha=design.alpha, spending=design.spending, margin=design.margin)  # type: ignore[arg-type]
        print(
            f"Smallest difference that a look finds by itself with power {self.given.power:g} (alpha {plan.alpha:g} over all looks, "
            f"{plan.spending}; sd of a paired difference {sd:.2f} points, {source}):"
        )
        for number, (seeds, alpha) in enumerate(zip(plan.looks, plan.alphas, strict=True), start=1):
            each = [
                _smallest(sd, seeds, alpha / rows, self.given.power) if alpha > LEAST_ALPHA else None
                for rows in (1, against)
            ]
            one, every = ("none" if value is None else f"{value:.2f} points" for value in each)
            corrected = f"; {every} where all {against} rows are undecided" if against > 1 else ""
            print(f"  look {number}, at {seeds} seeds: {one} for one row{corrected}")
        if plan.margin is not None:
            print(
                f"  A row that would hardly be found even if it differed by {plan.margin:g} points gets no more seeds."
            )

    def _noise(self, runs: list[Any], baseline: str | None) -> tuple[float | None, str]:
        if self.given.sd is not None:
            return self.given.sd, "as given"
        noise = noise_of(runs, baseline)
        if noise is None:
            return None, "no earlier runs of this recipe share two seeds with the baseline; give --sd"
        return noise.sd, f"{noise.metric} of earlier runs of this recipe, {noise.degrees} degrees of freedom"

    def _find_seconds(self, rows: list[Row]) -> list[Any]:
        """Fill in seconds; return earlier runs of the baseline's recipe."""
        root = self.study.study_dir.parent
        by_recipe: dict[str, list[Any]] = {}
        for row in rows:
            if not self.study.is_trained(row):
                continue
            config = typed(self.study.compose(row.cell.overrides))
            kind = trial.device_kind(config)
            if row.recipe not in by_recipe:
                by_recipe[row.recipe] = earlier_runs(root, row.recipe, on_cpu=kind == "cpu")
            known = seconds_of(by_recipe[row.recipe])
            if self.given.seconds is not None:
                row.seconds, row.source = self.given.seconds, "as given"
            elif row.facts["arch_hash"] in known:
                row.seconds, row.source = known[row.facts["arch_hash"]], "earlier runs"
            elif kind == "cpu":
                left = 1 - self.design.fork_at if config.start.kind == "fork" else 1.0
                row.seconds, row.source = left * trial.measured_seconds(config), "a few steps, here"
            else:
                row.source = f"unknown: it would run on {kind}, which a plan does not take; give --seconds"
        return by_recipe.get(rows[0].recipe, [])


def _networks(rows: list[Row]) -> int:
    """How many different ones there are, without the controls of roots."""
    return len({(row.facts["arch_hash"], row.recipe) for row in rows if row.cell.factors.get(CONTROL) not in OF_ROOTS})


def _smallest(sd: float, seeds: int, alpha: float, power: float) -> float:
    return stats.minimum_detectable_difference(sd, seeds, alpha=alpha, target=power)


if __name__ == "__main__":
    sys.exit(main())
