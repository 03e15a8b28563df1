"""Two studies side by side: the arms both have, what they differ by, and the settings that differ."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from search.ledger.metric import MetricColumn
from search.ledger.record import flat, recipe_settings
from search.report.arms import Arm, compared_trials, list_arms
from search.report.judging import Compared
from search.report.reading.load import load_study
from search.report.reading.rows import differing, recipe_folders
from search.report.reading.scored import with_scores
from search.report.table import Column, Table, interval_of, rows_of, value_of, with_dtypes
from search.report.values import metric_to_read, phase_to_read, values_by_root
from search.report.words import counted, interval_decimals, joined, one_line, signed
from search.stats.paired import CONFIDENCE, difference

DIFF_COLUMNS: dict[str, str] = {
    "arm": "string",
    "arch_hash": "string",
    "same_recipe": "boolean",
    "n_a": "Int64",  # seeds that finished
    "mean_a": "Float64",
    "n_b": "Int64",
    "mean_b": "Float64",
    "n_paired": "Int64",  # seeds both studies finished; 0 where the interval is Welch's
    "diff": "Float64",  # B minus A: over the paired seeds where there are two or more, else of the two means
    "ci_low": "Float64",  # 95% interval: paired t, or Welch's for two independent samples
    "ci_high": "Float64",
    "p_value": "Float64",
}


def diff_studies(
    a: str | os.PathLike[str], b: str | os.PathLike[str], metric: str | None = None, phase: str | None = None
) -> Table:
    """Compare two studies by their folders: differences are B minus A, by one metric and phase (see `read_arms`).

    `data` has one row for each arm that both have, with the columns `DIFF_COLUMNS`. ValueError where a study cannot be loaded, the
    default phases differ, or the metric is in neither.
    """
    frames = [with_scores(load_study(path), [metric]) for path in (a, b)]
    phases = [phase_to_read(frame, phase) for frame in frames]
    if phases[0] != phases[1]:
        raise ValueError(
            f"{a} would be read in phase '{phases[0]}' and {b} in phase '{phases[1]}', whose numbers are not alike; "
            "choose one that both have with --phase"
        )
    trials = [compared_trials(frame[frame["phase"] == phases[0]]) for frame in frames]
    chosen = metric_to_read(pd.concat(trials), phases[0], metric)
    arms = [list_arms(frame) for frame in trials]
    pairs, only = _matched(arms[0], arms[1])
    rows = [_diff_row(one, other, chosen.column) for one, other in pairs]
    data = with_dtypes(rows, DIFF_COLUMNS)
    settings, unread = _settings_that_differ((a, b), trials)
    notes = [
        f"Phase {phases[0]}, {chosen.title}: {chosen.meaning}. Differences are B minus A.",
        "95% intervals and p-values are not corrected for the number of rows: paired t over the seeds both studies "
        "finished, Welch's t where they share fewer than two.",
    ]
    if len(data) and not data["same_recipe"].all():
        notes.append("Some arms were trained by different recipes: such a difference is that of the recipes too.")
    notes += unread
    columns = _columns_of(data, chosen)
    return Table(
        name="diff",
        title=f"A {a} against B {b}",
        columns=columns,
        rows=rows_of(columns, data.itertuples(index=False)),
        data=data,
        conclusion=_said_of(only, settings),
        notes=[*(f"{name}: {values[0]} in A, {values[1]} in B" for name, values in settings.items()), *notes],
    )


def _matched(a: Sequence[Arm], b: Sequence[Arm]) -> tuple[list[tuple[Arm, Arm]], tuple[list[str], list[str]]]:
    """Pair the arms that built the same network; of one network under several recipes, those of equal recipe first."""
    left = list(b)
    found: dict[int, Arm] = {}
    for same_recipe in (True, False):
        for at, arm in enumerate(a):
            alike = (
                other
                for other in left
                if (arm.arch_hash == other.arch_hash if arm.arch_hash else arm.label == other.label)
                and (not same_recipe or arm.recipe_hash == other.recipe_hash)
            )
            if at not in found and (match := next(alike, None)) is not None:
                found[at] = match
                left = [other for other in left if other is not match]
    only = ([arm.label for at, arm in enumerate(a) if at not in found], [arm.label for arm in left])
    return [(a[at], found[at]) for at in sorted(found)], only


def _diff_row(one: Arm, other: Arm, metric: str) -> dict[str, Any]:
    a, b = values_by_root(one, metric), values_by_root(other, metric)
    row = Compared(result=difference(b, a)).columns()
    if row["n_paired"] < 2:
        row |= {"n_paired": 0, "diff": float(b.mean() - a.mean()), "ci_low": None, "ci_high": None, "p_value": None}
        if len(a) > 1 and len(b) > 1 and np.ptp(a.to_numpy()) + np.ptp(b.to_numpy()) > 0:
            test = stats.ttest_ind(b.to_numpy(), a.to_numpy(), equal_var=False)
            interval = test.confidence_interval(CONFIDENCE)
            row |= {"ci_low": float(interval.low), "ci_high": float(interval.high), "p_value": float(test.pvalue)}
    return row | {
        "arm": one.label,
        "arch_hash": one.arch_hash,
        "same_recipe": one.recipe_hash == other.recipe_hash,
        "n_a": len(a),
        "mean_a": a.mean(),
        "n_b": len(b),
        "mean_b": b.mean(),
    }


def _settings_that_differ(
    paths: tuple[str | os.PathLike[str], str | os.PathLike[str]], trials: Sequence[pd.DataFrame]
) -> tuple[dict[str, list[Any]], list[str]]:
    """Compare the recipes, commits and versions of two studies; say what could not be read."""
    found, notes = [], []
    for path, frame in zip(paths, trials, strict=True):
        folders = recipe_folders(path, frame)
        if len(folders) > 1:
            notes.append(f"{path} holds {len(folders)} recipes ({', '.join(folders)}): the first is compared.")
        settings = recipe_settings(next(iter(folders.values()))) if folders else None
        if settings is None:
            notes.append(f"{path}: no trial with a readable .hydra/config.yaml, so the settings cannot be compared.")
        found.append(settings)
    known = [settings for settings in found if settings is not None]
    differ = differing(known) if len(known) == 2 else {}
    made = [[flat(json.loads(text)) for text in frame["provenance"].dropna().unique()] for frame in trials]
    for name in ("commit", "python", "processor", *sorted({k for m in made for e in m for k in e if "versions." in k})):
        values = [sorted({str(entry.get(name)) for entry in each}) for each in made]
        if values[0] != values[1] and all(values):
            differ[name] = [", ".join(value) for value in values]
    return differ, notes


def _said_of(only: tuple[list[str], list[str]], settings: Mapping[str, list[Any]]) -> str:
    said = [
        f"{counted(len(labels), 'arm')} only in {name}: {joined(labels)}."
        for name, labels in zip("AB", only, strict=True)
        if labels
    ]
    differ = "differs" if len(settings) == 1 else "differ"
    said.append(f"{counted(len(settings), 'setting')} {differ}:" if settings else "No setting on record differs.")
    return " ".join(said)


def _columns_of(data: pd.DataFrame, metric: MetricColumn) -> list[Column]:
    ends = data[["ci_low", "ci_high"]].dropna().itertuples(index=False, name=None)
    digits = interval_decimals(ends, metric.decimals)

    def mean(study: str) -> Callable[[Any], str]:
        def show(line: Any) -> str:
            value, n = getattr(line, f"mean_{study}"), getattr(line, f"n_{study}")
            return "-" if pd.isna(value) else f"{value:.{digits}f} ({n})"

        return show

    def interval(line: Any) -> str:
        is_welch = pd.notna(line.ci_low) and line.n_paired == 0
        return interval_of("ci_low", "ci_high", digits)(line) + (" Welch" if is_welch else "")

    return [
        Column("arm", "arm", "words", show=lambda line: one_line(line.arm, 400)),
        Column("a", f"A {metric.title} (n)", show=mean("a")),
        Column("b", f"B {metric.title} (n)", show=mean("b")),
        Column("diff", "B - A", "math", show=value_of("diff", partial(signed, decimals=digits))),
        Column("interval", "95% interval", show=interval),
        Column("p", "p", show=value_of("p_value", "{:.2g}".format)),
    ]
