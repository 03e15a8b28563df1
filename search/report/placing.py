"""Which block to put where under a budget, from a library of blocks that were tried one at a time; and whether sums of them hold.

Gains are how much better than the plain network an arm is, in the unit of the metric: positive is better, whichever way the metric goes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import NOT_ALONE, NOT_ALONE_MEANS, MetricColumn
from search.report.library import COSTS, PER_UNIT, Library, Option, read_library
from search.report.placing_check import check_table
from search.report.starts import estimand, is_continued, roots_line
from search.report.table import Column, Table, interval_of, rows_of, value_of, with_dtypes
from search.report.words import counted, interval_decimals, joined, scaled, signed
from search.stats.paired import compared
from search.stats.placing import Chosen, costs_of, ranked, shares

PLACEMENT_COLUMNS: dict[str, str] = {
    "rank": "Int64",  # 1 is chosen
    "placement": "string",
    "override": "string",  # that trains it
    "gain": "Float64",  # predicted: the sum of its places' gains, positive is better
    "gain_low": "Float64",  # 95% t interval over roots, or seeds
    "gain_high": "Float64",
    "params": "Int64",  # of the whole network
    "macs": "Int64",
    "latency_ms": "Float64",  # of the plain network and what each place adds: an approximation
    "share": "Float64",  # of resamplings of roots, or seeds, in which it is the best
}
"""Name and dtype of each column of the `data` of `placing_table`."""
SHOWN = 5  # placements: the best, and the next best
NOISE = 0.5  # share of resamplings below which a choice is called noise
TITLES = {"params": "params", "macs": "MACs", "latency_ms": "latency ms"}


def placing_table(
    frame: pd.DataFrame, metric: str, budgets: Mapping[str, float], check: pd.DataFrame | None = None
) -> Table:
    """Choose a placement from a study that trained places one at a time.

    Args:
        frame: rows of `load_study`, of a design one_at_a_time over places; its baseline is the plain network.
        metric: a name in `metric_columns`, e.g. "val_loss".
        budgets: largest cost of the whole network by name, of `COSTS`.
        check: rows of a study that trained combinations of these places, to hold the sums against.

    Raises:
        ValueError: the frame is no such study, a cost was not measured, or no placement is within the budgets.
    """
    library = read_library(frame, metric)
    problem = library.problem(budgets)
    found = ranked(problem, library.gains.mean(axis=0), SHOWN)
    if not found:
        raise ValueError(_impossible(library, budgets))
    stable = shares(problem, library.gains) if len(library.gains) > 1 else {}
    data = with_dtypes([_row(library, at, each, stable) for at, each in enumerate(found, 1)], PLACEMENT_COLUMNS)
    digits = _digits(data, library.read.metric)
    columns = _columns(library, digits, bool(stable))
    below = [_options_table(library), *([] if check is None else [check_table(check, library)])]
    return Table(
        name="placement",
        title=f"{library.read.studies}: placements by the sum of what each place brings alone, in {library.read.metric.title}",
        columns=columns,
        rows=rows_of(columns, data.itertuples(index=False)),
        data=data,
        conclusion=_conclusion(library, budgets, data.iloc[0], digits),
        notes=[*_notes(library), *library.notes],
        below=tuple(below),
    )


def override_of(library: Library, chosen: Chosen) -> str:
    """What trains a placement, behind the other settings of the study."""
    if not chosen:
        return "placement.policy=none"
    at = (f"{_key(option.place)}:{without_options(option.use)}" for option in _taken(library, chosen))
    return f"placement.at={{{','.join(at)}}}"


def without_options(use: str) -> str:
    """Names of branches: "conv+pssa" of "conv+pssa(rank=2)"."""
    return re.sub(r"\([^()]*\)", "", use)


def _taken(library: Library, chosen: Chosen) -> list[Option]:
    """The options of a placement, by their places' names."""
    return sorted((library.options[each] for each in chosen), key=lambda option: option.place)


def _key(place: str) -> str:
    return place if re.fullmatch(r"[\w.+]+", place) else f"'{place}'"


def _row(library: Library, rank: int, chosen: Chosen, stable: Mapping[Chosen, float]) -> dict[str, Any]:
    predicted = library.gains[:, [*chosen]].sum(axis=1)[None]
    over = compared(predicted, np.zeros_like(predicted))[0]
    taken = _taken(library, chosen)
    costs = {
        name: library.plain[name] + sum(option.costs.get(name, np.nan) for option in taken) for name in library.plain
    }
    known = {name: None if math.isnan(value) else value for name, value in costs.items()}
    return {
        "rank": rank,
        "placement": "; ".join(option.words for option in taken) or "plain",
        "override": override_of(library, chosen),
        "gain": over.mean,
        "gain_low": over.low,
        "gain_high": over.high,
        **{name: known.get(name) for name in COSTS},
        "share": stable.get(chosen, 0.0) if stable else None,
    }


def _digits(data: pd.DataFrame, metric: MetricColumn) -> int:
    ends = data[["gain_low", "gain_high"]].dropna().itertuples(index=False, name=None)
    return max(interval_decimals(ends, metric.decimals), 2)  # fewer would not tell one rank from the next


def _columns(library: Library, digits: int, has_shares: bool) -> list[Column]:
    unit = library.read.metric.unit
    mark = NOT_ALONE if library.alone is False else ""
    columns = [
        Column("rank", "rank"),
        Column("placement", "placement", "words"),
        Column("gain", f"predicted gain, {unit}", "math", width=16, show=lambda line: signed(line.gain, digits)),
        Column("interval", "95% interval", "math", show=interval_of("gain_low", "gain_high", digits)),
        Column("params", "params", show=value_of("params", scaled)),
        Column("macs", "MACs", show=value_of("macs", scaled)),
    ]
    if "latency_ms" in library.plain:
        columns.append(Column("latency_ms", "latency ms", show=value_of("latency_ms", lambda ms: f"{ms:.3f}{mark}")))
    if has_shares:
        title = f"best in resamplings of {library.unit}s"
        columns.append(Column("share", title, width=22, show=value_of("share", "{:.0%}".format)))
    return columns


def _options_table(library: Library) -> Table:
    """What each place brings alone, and what it adds to the costs of the plain network."""
    zeros = np.zeros_like(library.gains.T)
    rows = []
    for option, over in zip(library.options, compared(library.gains.T, zeros), strict=True):
        added = {name: option.costs.get(name) for name in COSTS}
        own: dict[str, Any] = {"place": option.place, "use": option.use, "gain": over.mean}
        rows.append(own | {"gain_low": over.low, "gain_high": over.high} | added)
    kinds = {"place": "string", "use": "string", "gain": "Float64", "gain_low": "Float64", "gain_high": "Float64"}
    data = with_dtypes(rows, kinds | {name: PLACEMENT_COLUMNS[name] for name in COSTS})
    digits = _digits(data, library.read.metric)

    def added_of(name: str) -> Column:
        def more(value: float) -> str:
            return signed(value, 3) if name == "latency_ms" else f"{'-' if value < 0 else '+'}{scaled(abs(value))}"

        return Column(name, f"{TITLES[name]} added", show=value_of(name, more))

    columns = [
        Column("place", "place", "words"),
        Column("use", "use", "words"),
        Column("gain", f"gain, {library.read.metric.unit}", "math", show=lambda line: signed(line.gain, digits)),
        Column("interval", "95% interval", "math", show=interval_of("gain_low", "gain_high", digits)),
        *(added_of(name) for name in COSTS if name in library.plain),
    ]
    return Table(
        name="library",
        title=f"What each place brings alone, over {counted(len(library.gains), library.unit)}",
        columns=columns,
        rows=rows_of(columns, data.itertuples(index=False)),
        data=data,
    )


def _conclusion(library: Library, budgets: Mapping[str, float], first: Any, digits: int) -> str:
    metric = library.read.metric
    within = f" within {joined([_limit(name, limit) for name, limit in budgets.items()])}" if budgets else ""
    held = (
        ""
        if pd.isna(first.gain_low)
        else f", 95% interval {signed(first.gain_low, digits)} to {signed(first.gain_high, digits)}"
    )
    costs = {name: float(first[name]) for name in library.plain if not pd.isna(first[name])}
    said = [
        f"Chosen{within}: {first.placement}, predicted gain {signed(first.gain, digits)} {metric.unit} in {metric.title} "
        f"({counted(len(library.gains), library.unit)}{held}).",
        f"It has {_costs_in_words(costs)}; the plain network has {_costs_in_words(library.plain)}.",
        f"To train it, beside the other settings of the study: '{first.override}'.",
    ]
    if pd.isna(first.share):
        said.append(f"From one {library.unit} nobody can tell how stable the choice is.")
    else:
        noise = f", fewer than half: the choice is noise between {library.unit}s" * bool(first.share < NOISE)
        said.append(
            f"The same placement is the best in {first.share:.0%} of resamplings of the {library.unit}s{noise}."
        )
    return " ".join(said)


def _notes(library: Library) -> list[str]:
    read = library.read
    what = f" Each gain is of {estimand(read)}." if is_continued(read) else ""
    notes = [
        f"A gain is how much better than the plain network an arm is in {read.metric.title}; positive is better.{what}",
        "Gains are taken to add up, which --check holds against a study of combinations. What was chosen for being large is larger than "
        f"it will turn out; the interval is that of its {library.unit}s alone.",
        *roots_line(read),
    ]
    if "latency_ms" in library.plain:
        notes.append("Parameters and MACs add up exactly, latency only approximately: measure what was chosen.")
        notes += [NOT_ALONE_MEANS] if library.alone is False else []
    return notes


def _limit(name: str, limit: float) -> str:
    return f"{TITLES[name]} <= {limit:,.15g}"


def _costs_in_words(costs: Mapping[str, float]) -> str:
    return joined(
        [f"{value:.3f} {TITLES[n]}" if n == "latency_ms" else f"{value:,.0f} {TITLES[n]}" for n, value in costs.items()]
    )


def _impossible(library: Library, budgets: Mapping[str, float]) -> str:
    """Say what the budgets leave out: the plain network, and the cheapest placement by each of them."""
    problem = library.problem(dict.fromkeys(budgets, math.inf))
    least = []
    for at, name in enumerate(budgets):
        cheapest = problem.smallest(problem.costs[at])
        assert cheapest is not None
        cost = library.plain[name] + costs_of(problem, cheapest)[at] / PER_UNIT.get(name, 1)
        least.append(_costs_in_words({name: cost}))
    return (
        f"no placement is within {joined([f'--budget {name}={limit:.15g}' for name, limit in budgets.items()])}: the plain network has "
        f"{_costs_in_words({name: library.plain[name] for name in budgets})}, and the least that a placement comes to, by each alone, is "
        f"{joined(least)}"
    )
