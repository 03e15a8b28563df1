"""What a search did: its best so far, which parameters mattered, and where it looked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from search.ledger.metric import metric_columns
from search.ledger.study_files import read_objectives
from search.report.arms import values
from search.report.plots.data import NothingToShow, PlotData, label, left_out, made
from search.report.plots.drawing import GAIN, INK, MUTED, PAPER, SERIES, canvas, drawn, names, whole_numbers
from search.report.values import has_looks, metric_to_read
from search.report.words import counted

FEWEST_FOR_IMPORTANCE = 10  # trials: of fewer the best tenth is one
MOST_PATHS, MOST_AXES, MOST_LEVELS = 200, 6, 12
_ORDER = re.compile(r"(\d+)")


def history_data(frame: pd.DataFrame) -> PlotData:
    """The finished trials of the search in their order: trial, value, best (so far), on_best (whether it set that)."""
    trials, objective, higher = searched(frame)
    sense = 1 if higher else -1
    best = sense * (sense * trials["value"]).cummax()
    data = pd.DataFrame({"trial": trials.index, "value": trials["value"].to_numpy(), "best": best.to_numpy()})
    data["on_best"] = data["best"].ne(data["best"].shift())
    last = data[data["on_best"]].iloc[-1]
    every = frame.loc[frame["phase"] == "search", "trial"].nunique()
    return PlotData(
        name="history",
        title="Search history",
        frame=data,
        said=f"{objective} of the {len(data):,} finished trials of the search ({every:,} in all), and the best so far: "
        f"{last['best']:.4g}, first reached by trial {int(last['trial'])}.",
        facts={"objective": objective},
    )


@drawn
def history(frame: pd.DataFrame | PlotData) -> Figure:
    """Draw the values of a search in the order of its trials; `NothingToShow` where nothing was searched."""
    data = made(history_data, frame)
    figure, (axes,) = canvas(2.8)
    axes.plot(data.frame["trial"], data.frame["value"], "o", ms=4, mfc="none", mec=MUTED, label="a trial")
    axes.step(data.frame["trial"], data.frame["best"], where="post", color=SERIES[0], lw=1.6, label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(data.facts["objective"])
    whole_numbers(axes.xaxis)
    axes.grid()
    figure.legend(loc="outside lower left", ncols=2)
    return figure


def searched(frame: pd.DataFrame) -> tuple[pd.DataFrame, str, bool]:
    """The finished trials of a search by number: `value`, the mean over a trial's seeds, and a column of text for each parameter that
    varied, NA where a trial lacks it; then the objective (the first of several), and whether more of it is better.
    """
    trials = frame[(frame["phase"] == "search")]
    if not len(trials) or has_looks(frame):
        raise NothingToShow(
            "nothing was searched: the cells of this study were declared beforehand, or trained one by one"
        )
    path = frame.attrs.get("path")
    senses = read_objectives(Path(str(path))) if path is not None else {}
    objective = next((name for name in senses if name in trials), None)
    metric = metric_to_read(trials, "search", None) if objective is None else None
    column = objective or metric.column  # type: ignore[union-attr]
    higher = senses[objective] == "maximize" if objective is not None else metric.higher_is_better  # type: ignore[union-attr]
    ok = trials[(trials["status"] == "ok") & trials[column].notna()]
    if len(ok) < 2:
        raise NothingToShow("fewer than two trials of the search have finished")
    by_trial = ok.groupby("trial")
    set_by: Mapping[Any, Mapping[str, str]] = {
        number: values(str(text).split("; "))
        for number, text in by_trial["overrides"].first().items()
        if pd.notna(text)
    }
    keys = sorted({key for each in set_by.values() for key in each} - {"seed"})
    settings = pd.DataFrame(
        {key: [set_by.get(n, {}).get(key) for n in by_trial.groups] for key in keys}, index=list(by_trial.groups)
    )
    varied = [key for key in keys if settings[key].nunique(dropna=False) > 1]
    found = settings[varied].assign(value=by_trial[column].mean().astype(float))
    known = metric_columns().get(column)
    return found.sort_index(), column if known is None else known.title, higher


def numbers(texts: pd.Series[Any]) -> pd.Series[float] | None:
    """The values of a parameter as numbers; None where one of them is none, so that it is a choice."""
    found = pd.to_numeric(texts, errors="coerce")
    return None if found[texts.notna()].isna().any() or not np.isfinite(found.dropna()).all() else found.astype(float)


def is_log(known: pd.Series[float]) -> bool:
    """Whether values span so much that they are told apart by their logarithm."""
    return bool(known.min() > 0 and known.max() / known.min() >= 100)


def importance_data(frame: pd.DataFrame) -> PlotData:
    """Share of each parameter in what made the best tenth of the trials so, by Optuna's PED-ANOVA: parameter, importance."""
    trials, objective, higher = searched(frame)
    parameters = [str(name) for name in trials if name != "value"]
    if len(trials) < FEWEST_FOR_IMPORTANCE or len(parameters) < 2:
        raise NothingToShow(
            f"{counted(len(trials), 'finished trial')} and {counted(len(parameters), 'parameter')}: importance takes "
            f"{FEWEST_FOR_IMPORTANCE} and two"
        )
    if trials["value"].nunique() == 1:
        raise NothingToShow("all trials of the search came to one value")
    shares = sorted(_ped_anova(trials, parameters, higher).items(), key=lambda pair: -pair[1])
    return PlotData(
        name="importance",
        title="Parameter importance",
        frame=pd.DataFrame(shares, columns=["parameter", "importance"]),
        said=f"Share of each parameter in what sets the best tenth of {len(trials):,} trials apart by {objective} (PED-ANOVA): "
        f"{shares[0][0]} {shares[0][1]:.0%}, {shares[1][0]} {shares[1][1]:.0%}. A search tries good places more often, which this takes "
        "into account, and few trials make it uncertain.",
    )


def _ped_anova(trials: pd.DataFrame, parameters: list[str], higher: bool) -> dict[str, float]:
    # here: a report is read without Optuna
    import optuna

    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    columns: dict[str, pd.Series[Any]] = {}
    for name in parameters:
        known = numbers(trials[name])
        columns[name] = trials[name] if known is None else known
        if known is None:
            distributions[name] = optuna.distributions.CategoricalDistribution(sorted(trials[name].dropna().unique()))
        else:
            distributions[name] = optuna.distributions.FloatDistribution(
                float(known.min()), float(known.max()), log=is_log(known)
            )
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize" if higher else "minimize")
        for row in range(len(trials)):
            params = {name: column.iloc[row] for name, column in columns.items() if pd.notna(column.iloc[row])}
            value = float(trials["value"].iloc[row])
            own = {name: distributions[name] for name in params}
            study.add_trial(optuna.trial.create_trial(params=params, distributions=own, value=value))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    finally:
        optuna.logging.set_verbosity(before)


@drawn
def importance(frame: pd.DataFrame | PlotData) -> Figure:
    """Draw the importance of each parameter; `NothingToShow` for few trials, or fewer than two parameters."""
    data = made(importance_data, frame)
    texts = [label(name) for name in data.frame["parameter"]]
    figure, (axes,) = canvas(0.8 + sum(0.22 + 0.14 * (text.count("\n") + 1) for text in texts))
    axes.barh(range(len(texts)), data.frame["importance"], color=SERIES[0], height=0.6)
    for at, share in enumerate(data.frame["importance"]):
        axes.text(share, at, f" {share:.0%}", va="center", color=INK)
    names(axes.yaxis, texts)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * float(data.frame["importance"].max()))
    axes.set_xlabel("share of the importance")
    axes.tick_params(axis="y", length=0)
    return figure


def parallel_data(frame: pd.DataFrame) -> PlotData:
    """The settings of the finished trials: trial, a column for each parameter that varied, value; the best first."""
    trials, objective, higher = searched(frame)
    trials = trials.sort_values("value", ascending=not higher, kind="stable")
    parameters = [str(name) for name in trials if name != "value"]
    parameters.sort(key=lambda name: -trials[name].nunique())
    parameters = parameters[:MOST_AXES]
    if not parameters:
        raise NothingToShow("no parameter of the search varied")
    kept = trials[[*parameters, "value"]].head(MOST_PATHS)
    best = max(1, len(trials) // 10)
    return PlotData(
        name="parallel",
        title="Where the search looked",
        frame=kept.rename_axis("trial").reset_index(),
        said=f"Each line is a trial of the search, through its setting of each parameter to its {objective}; the best "
        f"{'tenth' if best > 1 else 'one'} in colour.{left_out(len(kept), len(trials), 'trials, the best')}",
        facts={"objective": objective, "best": best, "parameters": parameters},
    )


@drawn
def parallel(frame: pd.DataFrame | PlotData) -> Figure:
    """Draw each trial as a line through its settings to its value; `NothingToShow` where nothing was searched, or varied."""
    data = made(parallel_data, frame)
    figure, (axes,) = canvas(3.4)
    heights, axis_names = [], [*data.facts["parameters"], "value"]
    for at, name in enumerate(axis_names):
        height, ticks = _axis(data.frame[name])
        heights.append(height)
        axes.axvline(at, color=MUTED, lw=0.8)
        for place, text in ticks:
            behind = {"facecolor": PAPER, "alpha": 0.8, "lw": 0, "pad": 0.8}
            axes.text(at + 0.03, place, label(text, 16), fontsize=8, va="center", bbox=behind, zorder=3)
    paths = np.array(heights).T
    rng = np.random.default_rng(0)  # trials of one setting side by side
    paths[:, :-1] += rng.uniform(-0.012, 0.012, (len(paths), len(axis_names) - 1))
    for at in range(len(paths) - 1, -1, -1):
        is_best = at < data.facts["best"]
        axes.plot(
            paths[at], color=GAIN if is_best else MUTED, lw=1.6 if is_best else 0.8, alpha=0.9 if is_best else 0.3
        )
    axes.set_xlim(-0.05, len(axis_names) - 0.45)
    axes.set_ylim(-0.06, 1.06)
    names(
        axes.xaxis,
        [label(name, max(12, 60 // len(axis_names))) for name in [*axis_names[:-1], data.facts["objective"]]],
    )
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return figure


def _axis(column: pd.Series[Any]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Heights from 0 to 1 of the values of a parameter, NaN where a trial lacks it, and the ticks: (height, text)."""
    known = numbers(column) if column.notna().any() else None
    if known is None:
        every = sorted(
            column.dropna().unique(), key=lambda text: [int(p) if p.isdigit() else p for p in _ORDER.split(str(text))]
        )
        at = {text: (place + 0.5) / len(every) for place, text in enumerate(every)}
        step = math.ceil(len(every) / MOST_LEVELS)
        return column.map(at).to_numpy(dtype=float), [(at[text], str(text)) for text in every[::step]]
    plain = known.to_numpy(dtype=float)
    by = np.log(plain) if is_log(known) else plain
    low, high = float(np.nanmin(by)), float(np.nanmax(by))
    heights = (by - low) / (high - low) if high > low else by * 0 + 0.5
    ends = dict.fromkeys([float(known.min()), float(known.max())])
    return heights, [((0.5 if high == low else float(at)), f"{end:.4g}") for at, end in enumerate(ends)]
