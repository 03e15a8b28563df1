"""Learning curves: how the arms came to their scores, epoch by epoch, with the spread over seeds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from search.ledger.metric import MetricColumn
from search.ledger.record import read_history
from search.report.ablation import AblationTable
from search.report.arms import Arm
from search.report.plots.data import NothingToShow, PlotData, label, left_out, made
from search.report.plots.drawing import DASHES, INK, SERIES, canvas, drawn, whole_numbers
from search.report.rankings import validation_of
from search.report.reading.rows import folder_of
from search.report.values import metric_to_read

MOST_LINES = 8


def curves_data(table: AblationTable, frame: pd.DataFrame) -> PlotData:
    """Validation scores of the finished trials by epoch: arm, epoch, n, mean, sd (NaN of one seed).

    Reads the `history.csv` of the baseline and of the best arms, `MOST_LINES` in all; `frame` is what the table was made of.
    """
    metric = _by_epoch(table, frame)
    arms = {arm.label: arm for arm in table.arms}
    root = folder_of(frame)
    rows, shown = [], 0
    for name in table.data.loc[table.data["n"] > 0, "arm"].tolist():
        found = _of_arm(arms[str(name)], metric.column, root)
        if len(found):
            rows.append(found)
            shown += 1
        if shown == MOST_LINES:
            break
    if not rows or max(len(found) for found in rows) < 2:
        raise NothingToShow("no finished trial has a history.csv with two scored epochs or more")
    data = pd.concat(rows, ignore_index=True)
    seeds = data["n"].max()
    return PlotData(
        name="curves",
        title="Learning curves",
        frame=data,
        said=f"Mean {metric.title} after each epoch"
        + (", with a band of one standard deviation over seeds." if seeds > 1 else ".")
        + left_out(shown, int((table.data["n"] > 0).sum())),
        facts={"metric": metric.title, "baseline": table.baseline},
    )


def _by_epoch(table: AblationTable, frame: pd.DataFrame) -> MetricColumn:
    """What stands in a history for the metric of the table."""
    twin = validation_of(table.metric)
    if twin is not None and not twin.from_samples:
        return twin
    return metric_to_read(frame[frame["phase"] == table.phase], "search", None)


def _of_arm(arm: Arm, column: str, root: Path) -> pd.DataFrame:
    trials = arm.trials
    places = trials.loc[trials["status"] == "ok", "run_dir"].dropna().tolist()
    scores = [[_number(row.get(column)) for row in read_history(root / str(place))] for place in places]
    scores = [each for each in scores if each]
    longest = max(map(len, scores), default=0)
    values = np.array([each + [math.nan] * (longest - len(each)) for each in scores], dtype=float).reshape(
        len(scores), longest
    )
    rows = []
    for epoch, at in enumerate(values.T, start=1):
        known = at[np.isfinite(at)]
        if len(known):
            sd = float(known.std(ddof=1)) if len(known) > 1 else math.nan
            rows.append({"arm": arm.label, "epoch": epoch, "n": len(known), "mean": float(known.mean()), "sd": sd})
    return pd.DataFrame(rows)


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


@drawn
def curves(table: AblationTable | PlotData, frame: pd.DataFrame | None = None) -> Figure:
    """Draw the learning curves of the best arms; `frame` is what the table was made of. `NothingToShow` without histories."""
    data = made(curves_data, table, frame)
    arms = list(dict.fromkeys(data.frame["arm"]))
    figure, (axes,) = canvas(3.2 + 0.18 * len(arms))
    colours = iter(SERIES)
    for number, arm in enumerate(arms):
        own = data.frame[data.frame["arm"] == arm]
        is_baseline = arm == data.facts["baseline"]
        colour = INK if is_baseline else next(colours)
        text = label(arm, 70) + " (baseline)" * is_baseline
        mark = "o" if len(own) < 12 else ""
        axes.plot(own["epoch"], own["mean"], DASHES[number % 4], marker=mark, ms=3, color=colour, lw=1.5, label=text)
        axes.fill_between(
            own["epoch"], own["mean"] - own["sd"], own["mean"] + own["sd"], color=colour, alpha=0.13, lw=0
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel(data.facts["metric"])
    whole_numbers(axes.xaxis)
    axes.grid()
    figure.legend(loc="outside lower left", ncols=1)
    return figure
