"""Two studies side by side: the arms both have, what they differ by, and the settings that differ."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from search.ledger.metric import MetricColumn
from search.report.arms import Arm, list_arms
from search.report.chosen import metric_to_read, phase_to_read
from search.report.escape import markdown
from search.report.layout import Column, markdown_table
from search.report.reading.load import load_study
from search.report.reading.pool import recipe_folders
from search.report.reading.settings import differing, flat, recipe_settings
from search.report.words import counted, interval_decimals, joined, signed
from search.stats.paired import CONFIDENCE, difference

__all__ = ["DIFF_COLUMNS", "StudyDiff", "diff_studies", "diff_to_markdown"]

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


@dataclass(frozen=True, kw_only=True)
class StudyDiff:
    """What `diff_studies` found.

    Attributes:
        names: the two folders.
        metric: what the means are of.
        data: one row for each arm that both have, with the columns `DIFF_COLUMNS`.
        only: labels of the arms that only A, only B has.
        settings: settings that differ, each with the value of A and of B.
        notes: sentences that belong under the table.
    """

    names: tuple[str, str]
    metric: MetricColumn
    data: pd.DataFrame
    only: tuple[list[str], list[str]]
    settings: dict[str, list[Any]]
    notes: list[str]


def diff_studies(
    a: str | os.PathLike[str], b: str | os.PathLike[str], metric: str | None = None, phase: str | None = None
) -> StudyDiff:
    """Compare two studies.

    Args:
        a, b: folders of the studies; differences are B minus A.
        metric: as for `ablation_table`.
        phase: as for `ablation_table`, and the same for both.

    Raises:
        ValueError: a study cannot be loaded, the default phases differ, or the metric is in neither.
    """
    frames = (load_study(a), load_study(b))
    phases = [phase_to_read(frame, phase) for frame in frames]
    if phases[0] != phases[1]:
        raise ValueError(
            f"{a} would be read in phase '{phases[0]}' and {b} in phase '{phases[1]}', whose numbers are not alike; "
            "choose one that both have with --phase"
        )
    trials = [frame[frame["phase"] == phases[0]] for frame in frames]
    chosen = metric_to_read(pd.concat(trials), phases[0], metric)
    arms = [list_arms(frame) for frame in trials]
    pairs, only = matched(arms[0], arms[1])
    rows = [diff_row(one, other, chosen.column) for one, other in pairs]
    data = pd.DataFrame(
        {name: pd.array([row[name] for row in rows], dtype=dtype) for name, dtype in DIFF_COLUMNS.items()}  # type: ignore[call-overload]
    )
    settings, unread = settings_that_differ((a, b), trials)
    notes = [
        f"Phase {phases[0]}, {chosen.title}: {chosen.meaning}. Differences are B minus A.",
        "95% intervals and p-values are not corrected for the number of rows: paired t over the seeds both studies "
        "finished, Welch's t where they share fewer than two.",
    ]
    if len(data) and not data["same_recipe"].all():
        notes.append("Some arms were trained by different recipes: such a difference is that of the recipes too.")
    notes += unread
    return StudyDiff(names=(str(a), str(b)), metric=chosen, data=data, only=only, settings=settings, notes=notes)


def matched(a: Sequence[Arm], b: Sequence[Arm]) -> tuple[list[tuple[Arm, Arm]], tuple[list[str], list[str]]]:
    """Pair the arms that built the same network; of one network under several recipes, those of equal recipe first."""
    left = list(b)
    pairs: list[tuple[Arm, Arm]] = []
    for same_recipe in (True, False):
        for arm in a:
            if any(arm is one for one, _ in pairs):
                continue
            for other in left:
                same_network = arm.arch_hash == other.arch_hash if arm.arch_hash else arm.label == other.label
                if same_network and (not same_recipe or arm.recipe_hash == other.recipe_hash):
                    pairs.append((arm, other))
                    left = [each for each in left if each is not other]
                    break
    order = {id(arm): position for position, arm in enumerate(a)}
    pairs.sort(key=lambda pair: order[id(pair[0])])
    paired = {id(arm) for arm, _ in pairs}
    return pairs, ([arm.label for arm in a if id(arm) not in paired], [arm.label for arm in left])


def diff_row(one: Arm, other: Arm, metric: str) -> dict[str, Any]:
    """Compute one row: arm `other` of study B minus arm `one` of study A."""
    a, b = one.values(metric), other.values(metric)
    result = difference(b, a)
    mean, low, high, p_value, paired = result.mean, result.low, result.high, result.p_value, result.n
    if paired < 2:
        low = high = p_value = None
        paired = 0
        mean = float(b.mean() - a.mean()) if len(a) and len(b) else None
        if len(a) > 1 and len(b) > 1 and np.ptp(a.to_numpy()) + np.ptp(b.to_numpy()) > 0:
            test = stats.ttest_ind(b.to_numpy(), a.to_numpy(), equal_var=False)
            interval = test.confidence_interval(CONFIDENCE)
            low, high, p_value = float(interval.low), float(interval.high), float(test.pvalue)
    return {
        "arm": one.label,
        "arch_hash": one.arch_hash,
        "same_recipe": one.recipe_hash == other.recipe_hash,
        "n_a": len(a),
        "mean_a": float(a.mean()) if len(a) else None,
        "n_b": len(b),
        "mean_b": float(b.mean()) if len(b) else None,
        "n_paired": paired,
        "diff": mean,
        "ci_low": low,
        "ci_high": high,
        "p_value": p_value,
    }


def settings_that_differ(
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


def diff_to_markdown(diff: StudyDiff) -> str:
    """Format as Markdown: the arms both have, the arms one has, the settings that differ, the notes."""
    rows: list[Any] = list(diff.data.itertuples(index=False))
    digits = interval_decimals(
        [(row.ci_low, row.ci_high) for row in rows if pd.notna(row.ci_low)], diff.metric.decimals
    )
    title = diff.metric.title
    shown = []
    for row in rows:
        interval = (
            "-" if pd.isna(row.ci_low) else f"[{signed(row.ci_low, digits)}, {signed(row.ci_high, digits)}]"
        ) + (" Welch" if pd.notna(row.ci_low) and row.n_paired == 0 else "")
        shown.append(
            [
                row.arm,
                *(
                    "-" if pd.isna(mean) else f"{mean:.{digits}f} ({n})"
                    for mean, n in ((row.mean_a, row.n_a), (row.mean_b, row.n_b))
                ),
                "-" if pd.isna(row.diff) else signed(row.diff, digits),
                interval,
                "-" if pd.isna(row.p_value) else f"{row.p_value:.2g}",
            ]
        )
    titles = ("arm", f"A {title} (n)", f"B {title} (n)", "B - A", "95% interval", "p")
    columns = [
        Column(name, name, [row[number] for row in shown], right=number > 0) for number, name in enumerate(titles)
    ]
    lines = [f"**A {markdown(diff.names[0])} against B {markdown(diff.names[1])}**", "", *markdown_table(columns)]
    for name, labels in zip("AB", diff.only, strict=True):
        if labels:
            lines += ["", f"{counted(len(labels), 'arm')} only in {name}: {markdown(joined(labels))}."]
    lines += ["", "Settings that differ:" if diff.settings else "No setting on record differs."]
    lines += [
        f"- {markdown(name)}: {markdown(str(values[0]))} in A, {markdown(str(values[1]))} in B"
        for name, values in diff.settings.items()
    ]
    return "\n".join([*lines, "", *(f"- {markdown(note)}" for note in diff.notes), ""])
