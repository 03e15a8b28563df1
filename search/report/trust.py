"""Proxy trust: how far a cheap ranking of arms may stand for an expensive one, as a table and in a note under a table of arms."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from search.ledger.metric import metric_columns, metric_named
from search.report.ablation import AblationTable
from search.report.rankings import (
    FEWEST_TO_RANK,
    Ranking,
    TrustCase,
    budget_cases,
    epoch_cases,
    phase_case,
    scored,
    study_case,
)
from search.report.reading.load import load_study
from search.report.table import Column, Table, rows_of, with_dtypes
from search.report.values import metric_to_read, phase_to_read
from search.report.words import counted, counted_range, one_line
from search.stats.ranking import BY_CHANCE, than_chance

TRUST_COLUMNS: dict[str, str] = {
    "kind": "string",  # phases | budgets | epochs | studies
    "cheap": "string",
    "expensive": "string",
    "metric_cheap": "string",
    "metric_expensive": "string",
    "epochs_cheap": "Int64",  # the most, where the arms have several
    "epochs_expensive": "Int64",
    "seeds_cheap": "Int64",  # behind the mean of the arm that has the fewest
    "seeds_expensive": "Int64",
    "n": "Int64",  # arms that both rankings have
    "tau": "Float64",
    "tau_low": "Float64",  # 95%
    "tau_high": "Float64",
    "p_value": "Float64",
    "k": "Int64",
    "overlap": "Float64",  # share of the best k
    "overlap_by_chance": "Float64",
    "overlap_p": "Float64",
    "regret": "Float64",  # in the unit of metric_expensive
    "top_k": "string",
    "note": "string",
}
"""Name and dtype of each column of the `data` of `trust_table`; docs/tables.md says what they mean."""
CAUTION = (
    "Seed noise lowers tau, and so does a re-evaluation of the best arms alone: a low tau does not show that the cheap "
    "ranking is wrong."
)
HOLDS_ZERO = f"it holds 0, so this ranking is {BY_CHANCE} as far as these arms tell"
SETTINGS_SHOWN = 6


def figure(show: Callable[[TrustCase], str]) -> Callable[[TrustCase], str]:
    """Show a figure of a comparison, or a dash where the rankings give no tau."""
    return lambda case: "-" if _not_compared(case) or case.trust.tau is None else show(case)


COLUMNS = [
    Column("cheap", "cheap ranking", "words", show=lambda case: _side_words(case.cheap, case.seeds[0])),
    Column("expensive", "against", "words", show=lambda case: _side_words(case.expensive, case.seeds[1])),
    Column("n", "arms", show=lambda case: str(case.trust.n)),
    Column("tau", "tau", "math", show=figure(lambda case: f"{case.trust.tau:.2f}")),
    Column(
        "interval",
        "95% interval",
        "math",
        show=figure(lambda case: "-" if case.trust.low is None else f"{case.trust.low:.2f} to {case.trust.high:.2f}"),
    ),
    Column("overlap", "best in both", show=figure(lambda case: f"{len(case.trust.top_k)} of {case.trust.k}")),
    Column(
        "chance", "by chance", show=figure(lambda case: f"{(case.trust.overlap_by_chance or 0.0) * case.trust.k:.1f}")
    ),
    Column(
        "regret",
        "winner behind",
        show=figure(
            lambda case: f"{case.trust.regret:.{case.expensive.metric.decimals}f} {case.expensive.metric.unit}"
        ),
    ),
]


def trust_notes(frame: pd.DataFrame, table: AblationTable) -> list[str]:
    """Write what stands under a table: the search against the re-evaluation, and smaller budgets against the largest.

    A sentence for each pair of rankings that share three arms or more, and what to be careful about. No file but the settings of the
    recipes is read for it.
    """
    cases = [phase_case(frame, table.metric)] if table.phase == "final" else []
    if table.metric.column != "train_seconds":
        cases += budget_cases(frame, table.phase, table.metric)
    known = [case for case in cases if case is not None and case.arms >= FEWEST_TO_RANK]
    return [f"Proxy trust: {_sentence(case)}" for case in known] + [CAUTION] * bool(known)


def trust_table(paths: Sequence[str | os.PathLike[str]], metric: str | None = None, phase: str | None = None) -> Table:
    """Say how far a cheap ranking may stand for an expensive one; `data` has the columns `TRUST_COLUMNS`.

    Args:
        paths: one study: its search against its re-evaluation, its smaller budgets against the largest, and the ranking
            after half and three quarters of the epochs against the last; the latter reads every `history.csv`. Two
            studies: the first, the cheap one, against the second.
        metric: a name in `metric_columns`; by default the one the expensive ranking is judged by.
        phase: whose trials to read; by default each phase of one study, the best of each of two.

    Raises:
        ValueError: no study or more than two, a metric that is a cost, or no two rankings that share an arm.
    """
    if metric is not None and metric_named(metric).split is None:
        worth = ", ".join(name for name, column in metric_columns().items() if column.split is not None)
        raise ValueError(f"{metric} ranks no arm by its worth; choose one of {worth}")
    if len(paths) == 2:
        cases = [study_case(paths[0], paths[1], metric, phase)]
        if not cases[0].arms:
            raise ValueError(
                f"{paths[0]} and {paths[1]} have no network in common whose trials finished, so there is nothing to rank twice"
            )
    elif len(paths) == 1:
        cases = cases_of(scored(load_study(paths[0]), metric), metric, phase)
        if not cases:
            raise ValueError(
                f"{paths[0]} has no {FEWEST_TO_RANK} arms that are ranked twice: that needs a search with a re-evaluation of as many "
                "arms, arms trained for several numbers of epochs, or finished trials of two epochs or more with their "
                "history.csv; or compare two studies: --trust CHEAP EXPENSIVE"
            )
    else:
        raise ValueError(f"--trust takes one study, or a cheap and an expensive one: {len(paths)} given")
    return table_of_cases(cases, f"Proxy trust: {' against '.join(map(str, paths))}")


def table_of_cases(cases: Sequence[TrustCase], title: str) -> Table:
    """Make the table of comparisons that were made already."""
    return Table(
        name="trust",
        title=title,
        columns=COLUMNS,
        rows=rows_of(COLUMNS, cases),
        data=with_dtypes([_data_row(case) for case in cases], TRUST_COLUMNS),
        notes=[*(note for case in cases for note in _case_notes(case)), CAUTION],
    )


def cases_of(frame: pd.DataFrame, metric: str | None = None, phase: str | None = None) -> list[TrustCase]:
    """Find every pair of rankings in one study that share three arms or more; `frame` is scored by `metric`."""
    phases = [name for name in ("final", "search", "single") if (frame["phase"] == name).any()]
    chosen = [phase_to_read(frame, phase)] if phase is not None else phases
    cases: list[TrustCase | None] = []
    if phase is None and {"search", "final"} <= set(phases):
        cases.append(phase_case(frame, metric_to_read(frame[frame["phase"] == "final"], "final", metric)))
    read = {name: frame[frame["phase"] == name] for name in chosen}
    for name, trials in read.items():
        has = trials[trials["status"] == "ok"].notna().any()
        if metric is None or has.get(metric, False):
            cases += budget_cases(frame, name, metric_to_read(trials, name, metric))
    for name in chosen:
        cases += epoch_cases(frame, name, metric_named(metric) if metric else metric_to_read(read[name], name, None))
    return [case for case in cases if case is not None and case.arms >= FEWEST_TO_RANK]


def _sentence(case: TrustCase) -> str:
    trust = case.trust
    cheap, expensive = (_side_words(*each) for each in zip((case.cheap, case.expensive), case.seeds, strict=True))
    said = f"{cheap} against {expensive}: "
    if why := _not_compared(case):
        return f"{said}not compared, {why}."
    _, _, n, tau, interval, same, chance, regret = (cell.text for cell in rows_of(COLUMNS, [case])[0].cells)
    spread = f" (95% interval {interval}{f': {HOLDS_ZERO}' if _is_by_chance(case) else ''})" if interval != "-" else ""
    best = f"{same} best the same (by chance {chance})"
    behind = "is the best there" if trust.regret == 0 else f"is {regret} behind"
    return f"{said}Kendall's tau {tau}{spread} over {n} arms, {best}, its winner {behind}."


def _is_by_chance(case: TrustCase) -> bool:
    return than_chance(case.trust.low, case.trust.high) == BY_CHANCE


def _not_compared(case: TrustCase) -> str:
    """Say why two rankings give no tau; empty where they do."""
    if case.trust.n >= FEWEST_TO_RANK:
        return case.trust.note if case.trust.tau is None else ""
    if case.arms >= FEWEST_TO_RANK:
        seeds = ", ".join(map(str, case.divided))
        return f"both rest on seed {seeds}, and luck that they share would look like agreement; add seeds"
    return f"{counted(case.arms, 'arm')} in both, {FEWEST_TO_RANK} are the fewest whose order says anything"


def _side_words(ranking: Ranking, seeds: tuple[int, int]) -> str:
    parts = [ranking.metric.title, *([counted_range(*ranking.epochs, "epoch")] if ranking.epochs else [])]
    return f"{ranking.name} ({', '.join([*parts, counted_range(*seeds, 'seed')])} an arm)"


def _case_notes(case: TrustCase) -> list[str]:
    """Say which arms are among the best of both, and what to be careful about."""
    why = _not_compared(case)
    notes = [f"not compared, {why}"] if why else []
    if not why and case.trust.top_k:
        notes.append(
            f"among the best {case.trust.k} of both: {', '.join(one_line(name, 100) for name in case.trust.top_k)}"
        )
    notes += [f"the interval of tau: {HOLDS_ZERO}"] if _is_by_chance(case) and not why else []
    notes += [case.trust.note] if case.trust.note and not why else []
    if case.divided:
        notes.append(f"{counted(len(case.divided), 'seed')} of both divided between them, so that they share no luck")
    if case.left_out:
        notes.append(f"{counted(case.left_out, 'trial')} without a whole history.csv left out")
    if case.kind == "studies":
        shown = [f"{name} {values[0]} against {values[1]}" for name, values in case.settings.items()]
        more = f" and {len(shown) - SETTINGS_SHOWN} more" if len(shown) > SETTINGS_SHOWN else ""
        differ = f"settings that differ: {one_line(', '.join(shown[:SETTINGS_SHOWN]), 400)}{more}"
        notes.append(differ if shown else "no setting of the recipe on record differs")
        for side, what in ((case.cheap, "first"), (case.expensive, "second")):
            if only := len(side.values) - case.arms:
                notes.append(f"{counted(only, 'arm')} only in the {what}")
    return [f"{case.cheap.name}: {'; '.join(notes)}."] if notes else []


def _data_row(case: TrustCase) -> dict[str, Any]:
    return vars(case.trust) | {
        "kind": case.kind,
        "cheap": case.cheap.name,
        "expensive": case.expensive.name,
        "metric_cheap": case.cheap.metric.column,
        "metric_expensive": case.expensive.metric.column,
        "epochs_cheap": case.cheap.epochs and case.cheap.epochs[1],
        "epochs_expensive": case.expensive.epochs and case.expensive.epochs[1],
        "seeds_cheap": case.seeds[0][0],
        "seeds_expensive": case.seeds[1][0],
        "tau_low": case.trust.low,
        "tau_high": case.trust.high,
        "top_k": "; ".join(case.trust.top_k) or None,
        "note": _not_compared(case) or case.trust.note or None,
    }
