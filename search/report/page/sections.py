"""The sections of a study's page, in the order in which they are read; each holds what it found, or says why there is nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from search.report import plots
from search.report.ablation import AblationTable
from search.report.page.figures import Shown, shown
from search.report.plots.comparing import told
from search.report.plots.data import NothingToShow, PlotData
from search.report.rankings import TrustCase
from search.report.render.html import parts
from search.report.trust import cases_of, table_of_cases
from search.report.values import arm_values
from search.report.words import counted, joined, one_line, signed
from search.report.write import provenance_of_rows, with_provenance

ROWS_AT_ONCE = 40  # of a table; the rest can be opened
MOST_CASES = 3  # of rankings that are drawn
Draw = Callable[[PlotData], Figure]
TITLES = {
    "effects": "Effects",
    "places": "Where and what",
    "curves": "Learning curves",
    "front": "Accuracy against costs",
    "search": "What the search did",
    "trust": "Trust and reliability",
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section: paragraphs, tables as HTML whose contents are escaped, the rest of a table as (title, HTML) that can be opened, plots,
    and what is not there and why.
    """

    name: str
    title: str
    lines: Sequence[str] = ()
    html: Sequence[str] = ()
    folded: Sequence[tuple[str, str]] = ()
    figures: Sequence[Shown] = ()
    absent: Sequence[str] = ()


def verdict(table: AblationTable) -> str:
    """What the table allows to be said of its arms, in one sentence; the conclusion under the table says it in full."""
    data = table.data[table.data["diff"].notna()]
    if not len(data):
        return table.conclusion.partition(". ")[0].rstrip(".") + "."
    words = data["verdict"].map(told).tolist()
    rows = list(zip(words, data["arm"].tolist(), data["diff"].tolist(), strict=True))
    said = []
    for word in ("better", "worse", "equivalent"):
        found = [
            f"{one_line(arm, 70)}, {signed(diff, table.metric.decimals)} {table.metric.unit}"
            for own, arm, diff in rows
            if own == word
        ]
        if found or word == "better":
            named = f" ({'; '.join(found)})" if 0 < len(found) <= 2 else ""
            said.append(f"{len(found) or 'none'} {'are' if len(found) > 1 else 'is'} {word}{named}")
    if undecided := words.count("undecided"):
        said.append(f"{undecided} cannot be told from it")
    return f"Of {counted(len(rows), 'arm')} held against {table.baseline} in {table.metric.title}, {joined(said)}."


def pictures(
    table: AblationTable, frame: pd.DataFrame, cases: Sequence[TrustCase]
) -> Iterator[tuple[str, Callable[[], PlotData], Draw]]:
    """Every plot of a study, in its order: the section it is of, what makes its data, and what draws them."""
    yield "effects", partial(plots.forest_data, table), plots.forest
    yield "places", partial(plots.heatmap_data, table), plots.heatmap
    yield "curves", partial(plots.curves_data, table, frame), plots.curves
    yield "front", partial(plots.front_data, table), plots.front
    yield "search", partial(plots.history_data, frame), plots.history
    yield "search", partial(plots.importance_data, frame), plots.importance
    yield "search", partial(plots.parallel_data, frame), plots.parallel
    yield "search", partial(plots.timeline_data, frame), plots.timeline
    known = [case for case in cases if case.trust.tau is not None][:MOST_CASES]
    for number, case in enumerate(known, start=1):
        yield "trust", partial(plots.trust_data, case, number), plots.trust


def sections(table: AblationTable, frame: pd.DataFrame) -> list[Section]:
    """Make every section but those that say where the numbers come from and how to make them again."""
    cases = cases_of(frame) if table.arms else []
    figures: dict[str, list[Shown]] = {name: [] for name in TITLES}
    absent: dict[str, list[str]] = {name: [] for name in TITLES}
    for name, data_of, draw in pictures(table, frame, cases):
        try:
            data = data_of()
            figures[name].append(shown(data, draw(data)))
        except NothingToShow as reason:
            absent[name] = list(dict.fromkeys([*absent[name], str(reason)]))
    found = [
        Section(name=name, title=title, figures=figures[name], absent=absent[name])
        for name, title in TITLES.items()
        if name != "trust"
    ]
    html = parts(table_of_cases(cases, "Proxy trust")) if cases else []
    absent["trust"] += (
        [] if cases else ["no three arms were ranked twice, so there is no cheap ranking to trust or not"]
    )
    lines = [*reliability(table), how_trials_ended(frame)]
    trust = Section(
        name="trust", title=TITLES["trust"], lines=lines, html=html, figures=figures["trust"], absent=absent["trust"]
    )
    return [_table_section(table), *found, trust]


def _table_section(table: AblationTable) -> Section:
    sourced = with_provenance(table, provenance_of_rows(table))
    html, folded = parts(replace(sourced, rows=sourced.rows[:ROWS_AT_ONCE])), []
    if rest := sourced.rows[ROWS_AT_ONCE:]:
        more = replace(sourced, rows=rest, conclusion="", notes=[], below=(), title=f"{table.title}, the other rows")
        folded = [(f"The other {len(rest):,} rows", "\n".join(parts(more)))]
    return Section(name="table", title="The table", html=html, folded=folded)


def reliability(table: AblationTable) -> list[str]:
    """Say what share of the spread of the arms' means is not seed noise: 1 - 1/F of a one-way analysis of variance over seeds.

    Nothing where fewer than three arms have two seeds, or one has other seeds than the rest, or the arms differ by less than seeds do.
    """
    groups = [each.values for each in arm_values(table.arms, table.metric.column) if len(each.values) > 1]
    sizes = {len(values) for values in groups}
    if len(groups) < 3 or len(sizes) != 1:
        return []
    n = sizes.pop()
    between = n * float(np.var([values.mean() for values in groups], ddof=1))
    within = float(np.mean([values.var(ddof=1) for values in groups]))
    if between <= 0 or within <= 0:
        return []
    share = max(0.0, 1 - within / between)
    return [
        f"Reliability of the means of {len(groups)} arms over {n} seeds: {share:.2f} of their spread is not seed noise "
        f"(F = {between / within:.2f}); pairing by seed, which the differences use, is not in it."
    ]


def how_trials_ended(frame: pd.DataFrame) -> str:
    """Count the trials by how they ended, and name the commonest reason of those that failed."""
    counts = Counter(frame["status"].dropna())
    said = f"Of {counted(len(frame), 'trial')}, {joined([f'{number:,} ended {status}' for status, number in counts.most_common()])}."
    reasons = Counter(one_line(str(reason)) for reason in frame.loc[frame["status"] == "failed", "reason"].dropna())
    if reasons:
        reason, number = reasons.most_common(1)[0]
        said += f" Most often a failed one says ({number:,}): {reason}."
    return said
