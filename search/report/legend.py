"""The sentences under a table that say what its marks mean and what is not in it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from search.ledger.metric import NOT_ALONE_MEANS, MetricColumn
from search.report.arms import Arm, comparable
from search.report.conclusion import finds, rounded_up
from search.report.figures import Figure, Line
from search.report.judging import corrected_over
from search.report.notes import HOW_TO_READ, change_notes, gate, no_baseline, phase_notes, recipe_note
from search.report.provenance import odd_trials
from search.report.spec import PaperTable, TableSpec
from search.report.words import counted, interval_decimals, joined
from search.stats.paired import ALPHA

SHOWN = {
    "mean_sd": "mean ± standard deviation over seeds",
    "mean": "mean over seeds",
    "diff": "difference to the baseline, paired by seed (the baseline's row: its mean)",
    "diff_interval": "difference to the baseline, paired by seed, with a 95% t interval of its own (not corrected for "
    "the number of rows; the baseline's row: its mean)",
}


def footnotes(cells: Sequence[Figure]) -> dict[str, str]:
    """Give a letter to each way in which seeds of a cell are missing."""
    ways = dict.fromkeys(cell.missing for cell in cells if cell.missing)
    return {way: chr(ord("a") + number) if number < 26 else f"n{number}" for number, way in enumerate(ways)}


def legend_of(
    rows: Sequence[Line],
    metrics: Sequence[MetricColumn],
    reference: Arm | None,
    spec: TableSpec,
    notes: dict[str, str],
    paper: PaperTable | None,
    frame: pd.DataFrame,
    trials: pd.DataFrame,
) -> list[str]:
    """Write the legend of a table; see `pivot_table` for what the arguments are."""
    cells = [cell for row in rows for cell in row.figures if cell is not None]
    judged = [metric for metric in metrics if not metric.is_cost]
    phase = trials["phase"].iloc[0]
    said = [f"Shown: {SHOWN[spec.show]}; n = {seeds_text([cell.n for cell in cells if cell.metric is metrics[0]])}."]
    arms = list({id(cell.arm): cell.arm for cell in cells}.values())
    said += [line for metric in judged[:1] for line in gate(arms, metric)]
    said += phase_notes(frame, phase) + change_notes(frame)
    compared = sum(cell.result is not None for cell in cells if judged and cell.metric is judged[0])
    words = corrected_over(spec.correction, compared)  # type: ignore[arg-type]
    if judged and reference is not None and spec.marks:
        said.append(
            f"* p < 0.05, ** p < 0.01, *** p < 0.001 against the baseline ({reference.label}): paired t tests, {words}."
        )
        failed = list(dict.fromkeys(cell.arm.label for cell in cells if cell.failed))
        if failed:
            said.append(f"Not marked, since a training failed on some seeds: {joined(failed)}.")
    if judged and reference is not None and spec.margin is not None and spec.marks:
        said.append(
            f"=: equivalent to the baseline within ±{spec.margin:g} ({joined([metric.unit for metric in judged])}), p corrected "
            "likewise."
        )
    if judged and reference is not None:
        said += power_of(cells, judged)
    elif judged:
        said += no_baseline([cell.arm for cell in cells])
    if spec.bold == "best":
        said.append("Bold: the best mean, and every arm that cannot be told from it.")
    if any(cell.doubt for cell in cells):
        said.append(NOT_ALONE_MEANS)
    said += [f"{letter}: not averaged: {way}." for way, letter in notes.items()]
    foreign = [
        cell.arm.label
        for cell in cells
        if reference is not None and judged and cell.metric is judged[0] and not comparable(cell.arm, reference)
    ]
    if foreign:
        said.append(f"Trained by another recipe than the baseline, not compared: {joined(foreign)}.")
    said += recipe_note(arms)
    said += odd_trials(arms)
    lost = trials[trials["status"].isin(["unfinished"])]
    if len(lost):
        said.append(f"{counted(len(lost), 'trial')} left no result (killed, or still running).")
    said += paper_notes(paper, rows)
    said += [f"Unreadable, left out: {message}" for message in frame.attrs.get("unreadable", [])]
    return [*said, HOW_TO_READ]


def paper_notes(paper: PaperTable | None, rows: Sequence[Line]) -> list[str]:
    """Say where the published figures come from, and which of them stand beside no row of ours."""
    if paper is None:
        return []
    source = f"Paper: {paper.source}. Its data and networks are not ours: the order is to be compared, not the size."
    shown = {row.paper for row in rows}
    unmatched = [name for name, texts in paper.rows.items() if texts not in shown]
    beside = f"Published rows that no row of ours stands for: {joined(unmatched)}."
    return [f"{source} {paper.note}".rstrip(), *([beside] if unmatched else [])]


def power_of(cells: Sequence[Figure], metrics: Sequence[MetricColumn]) -> list[str]:
    """Say what the seeds of undecided cells can find."""
    said = []
    for metric in metrics:
        of = [cell for cell in cells if cell.metric is metric and cell.result is not None and cell.p_corrected > ALPHA]
        found = [float(cell.facts["mdd"]) for cell in of if cell.facts["mdd"] is not None]
        if found:
            ends = [
                (cell.result.low, cell.result.high)
                for cell in cells
                if cell.metric is metric and cell.result is not None
            ]
            digits = interval_decimals([(a, b) for a, b in ends if a is not None and b is not None], metric.decimals)
            low, high = (rounded_up(value, digits) for value in (min(found), max(found)))
            pairs = [cell.result.n for cell in of if cell.result is not None]
            said.append(f"{metric.title}: " * (len(metrics) > 1) + finds(low, high, pairs, metric))
    return said


def seeds_text(counts: Sequence[int]) -> str:
    """Say how many seeds the cells have."""
    low, high = (min(counts), max(counts)) if counts else (0, 0)
    return counted(high, "seed") if low == high else f"{low} to {high} seeds"
