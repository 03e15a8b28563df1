"""Arms held against each other: effects with intervals, where against what, scores against costs, one ranking against another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter

from search.report.ablation import AblationTable
from search.report.plots.data import MANY, SHOWN, NothingToShow, PlotData, label, left_out, made
from search.report.plots.drawing import GAIN, INK, LOSS, MUTED, SERIES, canvas, drawn, names
from search.report.rankings import FEWEST_TO_RANK, TrustCase
from search.report.values import floats, level
from search.report.words import counted, signed
from search.stats import paired
from search.stats.ranking import on_front, than_chance

TOLD = {"better": (paired.BETTER, paired.AHEAD), "worse": (paired.WORSE, paired.BEHIND), "equivalent": ("equivalent",)}
COLOURS = {"better": GAIN, "worse": LOSS, "equivalent": SERIES[2], "undecided": MUTED}
MOST_CELLS = (24, 8)  # rows and columns of a heatmap


def told(verdict: object) -> str:
    """A verdict of a table in one word: better, worse, equivalent or undecided."""
    text = "" if pd.isna(verdict) else str(verdict)  # type: ignore[call-overload]
    return next((word for word, starts in TOLD.items() if text.startswith(starts)), "undecided")


def forest_data(table: AblationTable) -> PlotData:
    """Differences to the baseline with their 95% intervals, the best first: arm, n, diff, low, high, told (see `told`)."""
    data = table.data[table.data["diff"].notna()]
    if not len(data):
        raise NothingToShow("no arm has a difference to a baseline")
    kept = data.head(SHOWN) if len(data) > MANY else data
    frame = pd.DataFrame(
        {
            "arm": kept["arm"],
            "n": kept["n_paired"],
            **{
                name: floats(kept[column])
                for name, column in (("diff", "diff"), ("low", "ci_low"), ("high", "ci_high"))
            },
            "told": [told(verdict) for verdict in kept["verdict"]],
        }
    ).reset_index(drop=True)
    counts = frame["told"].value_counts()
    words = [f"{counts[word]} {word}" for word in COLOURS if counts.get(word)]
    unit, margin = table.metric.unit, table.judging.margin
    said = (
        f"Difference of each arm to the baseline ({table.baseline}) in {table.metric.title}, in {unit}, with its 95% interval: "
        f"{', '.join(words)}. Filled marks are told from seed noise after correction."
    )
    if margin is not None:
        said += f" The shaded band is the margin of equivalence, ±{margin:g} {unit}."
    return PlotData(
        name="forest",
        title="Effects against the baseline",
        frame=frame,
        said=said + left_out(len(kept), len(data)),
        facts={"unit": unit, "margin": margin, "higher": table.metric.higher_is_better, "baseline": table.baseline},
    )


@drawn
def forest(table: AblationTable | PlotData) -> Figure:
    """Draw the differences to the baseline; `NothingToShow` where there are none."""
    data = made(forest_data, table)
    texts = [label(arm, 28) for arm in data.frame["arm"]]
    figure, (axes,) = canvas(0.9 + sum(0.13 + 0.135 * (text.count("\n") + 1) for text in texts))
    widths = (data.frame["high"] - data.frame["low"]).dropna()
    reach = float(data.frame["diff"].abs().max() + 4 * widths.median()) if len(widths) else np.inf
    if data.facts["margin"] is not None:
        axes.axvspan(-data.facts["margin"], data.facts["margin"], color=SERIES[2], alpha=0.15, lw=0)
    axes.axvline(0, color=INK, lw=0.8)
    rows: list[Any] = list(data.frame.itertuples(index=False))
    for at, row in enumerate(rows):
        colour, sure = COLOURS[row.told], row.told != "undecided"
        if np.isfinite(row.low):
            # one arm of two seeds, whose interval has no end in sight, must not make points of all the others
            ends = max(row.low, -reach), min(row.high, reach)
            axes.plot(ends, (at, at), color=colour, lw=1.8, solid_capstyle="butt")
            for end, own, mark in zip(ends, (row.low, row.high), "<>", strict=True):
                if end != own:
                    axes.plot(end, at, mark, color=colour, ms=5)
        axes.plot(row.diff, at, "o", ms=6, color=colour, mfc=colour if sure else "none", mew=1.5)
    names(axes.yaxis, texts)
    axes.set_ylim(len(texts) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.grid(axis="x")
    side = "right" if data.facts["higher"] else "left"
    axes.set_xlabel(f"difference to {label(data.facts['baseline'], 40)}, {data.facts['unit']} (better: {side})")
    return figure


def heatmap_data(table: AblationTable) -> PlotData:
    """Where blocks stand against what they sum: where, what, arm, n, value (the difference to the baseline, else the mean), told.

    Of several arms in one cell, such as two recipes, the one that the table has first is kept.
    """
    arms = {arm.label: arm for arm in table.arms}
    against = bool(table.data["diff"].notna().any())
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    lines: list[Any] = list(table.data.itertuples(index=False))
    for row in lines:
        arm = arms[str(row.arm)]
        behind = "".join(f", {name}={arm.levels[name]}" for name in arm.recipe_factors if name in arm.levels)
        where, what = level(arm, "where"), (level(arm, "what") or "").removesuffix(behind) or None
        value = row.diff if against else row.mean
        if where is not None and what is not None and not pd.isna(value):
            own = {
                "where": where,
                "what": what,
                "arm": row.arm,
                "n": row.n,
                "value": float(value),
                "told": told(row.verdict),
            }
            rows.setdefault((where, what), own)
    if len(rows) < 2:
        raise NothingToShow("fewer than two arms have a place and branches")
    frame = pd.DataFrame(list(rows.values()))
    tall, wide = ("where", "what") if frame["where"].nunique() >= frame["what"].nunique() else ("what", "where")
    kept = frame[
        frame[tall].isin(frame[tall].unique()[: MOST_CELLS[0]])
        & frame[wide].isin(frame[wide].unique()[: MOST_CELLS[1]])
    ]
    what = f"difference to {table.baseline}, {table.metric.unit}" if against else table.metric.title
    return PlotData(
        name="heatmap",
        title="Effects by place and branches",
        frame=kept.sort_values([tall, wide]).reset_index(drop=True),
        said=f"Places of the blocks against the branches they sum: {what}. * is told from seed noise after correction; empty cells "
        f"were not tried.{left_out(len(kept), len(frame), 'cells')}",
        facts={"tall": tall, "wide": wide, "against": against, "what": what, "higher": table.metric.higher_is_better},
    )


@drawn
def heatmap(table: AblationTable | PlotData) -> Figure:
    """Draw a cell for each place and branches; `NothingToShow` where fewer than two arms have any."""
    data = made(heatmap_data, table)
    facts = data.facts
    rows, columns = (list(dict.fromkeys(data.frame[facts[side]])) for side in ("tall", "wide"))
    texts = [label(text, 22) for text in rows]
    figure, (axes,) = canvas(1.1 + sum(0.24 + 0.14 * text.count("\n") for text in texts) + 0.12 * (len(columns) > 3))
    values = data.frame["value"]
    middle = 0.0 if facts["against"] else float(values.mean())
    most = float((values - middle).abs().max()) or 1.0
    digits = max(1, min(3, 1 - int(np.floor(np.log10(most)))))
    for row in data.frame.to_dict("records"):
        x, y, off = columns.index(row[facts["wide"]]), rows.index(row[facts["tall"]]), row["value"] - middle
        colour = MUTED if off == 0 else GAIN if (off > 0) == facts["higher"] else LOSS
        axes.add_patch(
            Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, color=colour, alpha=0.08 + 0.47 * abs(off) / most, lw=0)
        )
        text = signed(row["value"], digits) if facts["against"] else f"{row['value']:.{digits}f}"
        axes.text(x, y, text + "*" * (row["told"] in ("better", "worse")), ha="center", va="center")
    names(axes.yaxis, texts)
    names(axes.xaxis, [label(text, max(12, 60 // len(columns))) for text in columns])
    axes.tick_params(axis="x", labelsize=8.5 if len(columns) < 5 else 7)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(label(facts["what"], 80), loc="left")
    return figure


COSTS = {"macs": "MACs of one image", "latency_ms": "latency, ms"}


def front_data(table: AblationTable) -> PlotData:
    """Mean against costs: arm, mean, macs, latency_ms, alone (measured in an exclusive slot), and front_<cost>: on that front.

    Latencies that were not measured alone are left out where others were.
    """
    data = table.data[table.data["mean"].notna()]
    frame = pd.DataFrame(
        {
            "arm": data["arm"],
            "mean": floats(data["mean"]),
            "macs": floats(data["macs"]),
            "latency_ms": floats(data["latency_ms"]),
            "alone": data["latency_exclusive"].fillna(False).astype(bool),
        }
    ).reset_index(drop=True)
    if frame["alone"].any():
        frame.loc[~frame["alone"], "latency_ms"] = np.nan
    costs = [cost for cost in COSTS if frame[cost].nunique() > 1]
    if not costs or table.metric.is_cost:
        raise NothingToShow("no two arms with a score differ in MACs or latency")
    members = {}
    for cost in costs:
        points = frame[["mean", cost]].to_numpy(dtype=float)
        frame[f"front_{cost}"] = on_front(points, [table.metric.higher_is_better, False])
        members[cost] = frame.loc[frame[f"front_{cost}"] == True, "arm"].tolist()  # noqa: E712  (None where a value is missing)
    said = "; ".join(
        f"{len(found)} of {int(frame[cost].notna().sum())} arms are on the front of {COSTS[cost]}"
        for cost, found in members.items()
    )
    if "latency_ms" in costs and not frame["alone"].any():
        said += "; no latency was measured alone, so that other work is in them"
    return PlotData(
        name="front",
        title=f"{table.metric.title} against costs",
        frame=frame,
        said=f"Mean {table.metric.title} against what it costs: {said}. By means: seed noise is not reckoned with.",
        facts={"costs": costs, "metric": table.metric.title},
    )


@drawn
def front(table: AblationTable | PlotData) -> Figure:
    """Draw the arms' means against MACs, and latency where it was measured; `NothingToShow` where arms differ in neither."""
    data = made(front_data, table)
    costs = data.facts["costs"]
    on = [f"front_{cost}" for cost in costs]
    members = data.frame[(data.frame[on] == True).any(axis=1)].sort_values(costs[0])  # noqa: E712
    letters = dict(zip(members.index[:12], "abcdefghijkl", strict=False))
    figure, every = canvas(3.0 + 0.17 * len(letters), len(costs), sharey=True)
    for axes, cost in zip(every, costs, strict=True):
        _front_panel(axes, data.frame, cost, letters)
    every[0].set_ylabel(data.facts["metric"])
    key = [f"{letter}  {label(data.frame['arm'][at], 80)}" for at, letter in letters.items()]
    figure.supxlabel("\n".join(key), fontsize=8.5, x=0.02, ha="left", color=INK)
    return figure


def _front_panel(axes: Axes, frame: pd.DataFrame, cost: str, letters: dict[Any, str]) -> None:
    known = frame[frame[cost].notna()]
    members = known[known[f"front_{cost}"] == True].sort_values(cost)  # noqa: E712
    axes.plot(known[cost], known["mean"], "o", ms=5, mfc="none", mec=MUTED, mew=1.1, ls="none")
    axes.step(members[cost], members["mean"], where="post", color=SERIES[0], lw=1.2)
    axes.plot(members[cost], members["mean"], "o", ms=6, color=SERIES[0])
    for at, row in members.iterrows():
        if at in letters:
            axes.annotate(letters[at], (row[cost], row["mean"]), (4, 4), textcoords="offset points", color=INK)
    axes.set_xlabel(COSTS[cost])
    axes.locator_params(axis="x", nbins=4)
    if cost == "macs":
        axes.xaxis.set_major_formatter(EngFormatter())
    axes.margins(0.12)
    axes.grid()


def trust_data(case: TrustCase, number: int = 1) -> PlotData:
    """Arms by two rankings: arm, cheap, expensive (means, in each metric's unit); `number` tells a study's plots of this kind apart."""
    trust, frame = case.trust, case.means.rename_axis("arm").reset_index()
    if len(frame) < FEWEST_TO_RANK or trust.tau is None:
        raise NothingToShow(trust.note or f"{counted(len(frame), 'arm')} in both rankings, too few to rank")
    interval = (
        ""
        if trust.low is None
        else f" (95% interval {trust.low:.2f} to {trust.high:.2f}: {than_chance(trust.low, trust.high)})"
    )
    return PlotData(
        name=f"trust_{number}",
        title="Does the cheap ranking hold?",
        frame=frame,
        said=f"Each point is an arm: {case.cheap.name} against {case.expensive.name}. Kendall's tau {trust.tau:.2f}{interval} over "
        f"{trust.n} arms.",
        facts={"axes": [f"{side.metric.title},\n{label(side.name, 32)}" for side in (case.cheap, case.expensive)]},
    )


@drawn
def trust(case: TrustCase | PlotData) -> Figure:
    """Draw one ranking of arms against another; `NothingToShow` where they share fewer than three."""
    data = made(trust_data, case)
    figure, (axes,) = canvas(3.4)
    axes.plot(data.frame["cheap"], data.frame["expensive"], "o", color=SERIES[0], ms=5, alpha=0.8)
    axes.set_xlabel(data.facts["axes"][0])
    axes.set_ylabel(data.facts["axes"][1])
    axes.margins(0.08)
    axes.grid()
    return figure
