"""Where the numbers of a table come from: the notes under it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from search.report.arms import Arm
from search.report.judging import CORRECTIONS, POWER, RESAMPLES, Judging
from search.report.metrics import Metric
from search.report.statistics.stats import ALPHA
from search.report.words import counted, int_ranges, joined, one_line

__all__ = ["table_notes"]

STATUS_ORDER = ("ok", "pruned", "failed", "infeasible", "duplicate", "interrupted", "unfinished")
REASONS_SHOWN = 5
CHOOSE = "choose one with --baseline (baseline= in Python)"


def table_notes(
    frame: pd.DataFrame,
    trials: pd.DataFrame,
    arms: Sequence[Arm],
    data: pd.DataFrame,
    metric: Metric,
    phase: str,
    judging: Judging,
) -> list[str]:
    """Write the notes of a table.

    Args:
        frame: every trial of the study, as `load_study` gives them.
        trials: the ones the table was made of.
        arms: `trials` in arms.
        data: the rows of the table.
        metric: what the rows measure.
        phase: phase of `trials`.
        judging: how the rows were judged.
    """
    notes = [origin(trials), trial_counts(frame), f"{metric.title}: {metric.meaning}; mean ± sd over seeds."]
    if phase == "final" and metric.column.startswith("val_"):
        notes.append("The seeds are fresh, but the validation images are the ones that chose the arms.")
    if phase != "final":
        reevaluated = bool((frame["phase"] == "final").any())
        notes.append(
            (
                "This table does not read the final re-evaluation: "
                if reevaluated
                else "There is no final re-evaluation: "
            )
            + f"these are the trials of phase '{phase}', validated on the data that chose the arms (selection bias)."
        )
    notes.append(baseline_note(arms, data))
    notes += method_notes(data, metric, judging)
    notes += recipe_note(arms)
    seeds = arms[0].all_cells["seed"].unique().tolist() if arms else []
    notes.append(f"Seeds: {int_ranges(map(int, seeds)) or 'none'}.")
    notes += latency_note(trials)
    notes += gaps(trials, arms, data)
    notes += provenance_notes(trials)
    notes += [f"Unreadable, left out: {message}" for message in frame.attrs.get("unreadable", [])]
    return notes


def origin(trials: pd.DataFrame) -> str:
    """Name the study, the images and the backbone."""
    said = []
    for title, column in (
        ("Study", "study"),
        ("Data", "data_source"),
        ("Backbone", "backbone"),
        ("Recipe", "recipe_hash"),
    ):
        values = [str(value) for value in trials[column].dropna().unique()]
        said.append(f"{title}: {'; '.join(values) or 'not on record'}.")
    return " ".join(said)


def trial_counts(frame: pd.DataFrame) -> str:
    """Count the trials of each phase by how they ended."""
    said = []
    for phase in ("search", "final", "single"):
        trials = frame[frame["phase"] == phase]
        counts = Counter(trials["status"].tolist())
        if counts:
            ends = ", ".join(f"{counts[status]} {status}" for status in STATUS_ORDER if counts[status])
            reused = int((trials["status"].eq("ok") & trials["reused_from"].notna()).sum())
            ends += f"; {reused} taken from earlier runs of the same network, recipe and seed" if reused else ""
            said.append(f"Phase {phase}: {counted(counts.total(), 'trial')} ({ends}).")
    return " ".join(said)


def baseline_note(arms: Sequence[Arm], data: pd.DataFrame) -> str:
    """Say what the differences are, or why there are none."""
    baseline = data.loc[data["is_baseline"], "arm"].tolist()
    if baseline:
        note = (
            f"Differences: arm minus baseline ({baseline[0]}), paired by seed over the seeds both finished; 95% t "
            "intervals, each of its row alone."
        )
        unequal = data[data["n_paired"].notna() & (data["n_paired"] < data["n"].max())]
        pairs = ", ".join(f"{row.arm} {row.n_paired}" for row in unequal.itertuples(index=False))
        if not pairs:
            return note
        return (
            f"{note} Seeds shared with the baseline, where not all {data['n'].max()}: {pairs}; such a difference is "
            "not that of the two means."
        )
    marked = [arm.label for arm in arms if arm.is_baseline]
    if marked:
        return f"{len(marked)} arms are marked as baseline ({joined(marked)}), so no differences: {CHOOSE}."
    return f"No arm is marked as the baseline, so no differences: {CHOOSE}."


def method_notes(data: pd.DataFrame, metric: Metric, judging: Judging) -> list[str]:
    """Name the tests, the correction, and what the further columns are."""
    tested = int(data["p_value"].notna().sum())
    notes = []
    if tested:
        over = f"over the {counted(tested, 'comparison')} of the table"
        how = {
            "none": f"not corrected for the number of rows ({counted(tested, 'comparison')})",
            "bh": f"corrected by {CORRECTIONS['bh']} {over} (false discovery rate)",
        }.get(judging.correction, f"corrected by {CORRECTIONS.get(judging.correction)} {over} (family-wise error)")
        notes.append(
            f"Verdicts: two-sided paired t test, p {how}; a finding where p is at most {ALPHA:g}. g_z: mean over standard "
            "deviation of the paired differences, with Hedges' correction."
        )
        if data["mdd"].notna().any() and data["p_corrected"].gt(ALPHA).any():
            error = {
                "holm": "divided by the number of comparisons",
                "bonferroni": "divided by the number of comparisons",
            }
            left = error.get(
                judging.correction, "times the share of findings (at least one)" if judging.correction == "bh" else ""
            )
            notes.append(
                f"Power {POWER:.0%} of the paired t test at an error of {ALPHA:g}{' ' * bool(left)}{left}, reckoned with the "
                "spread that the row's own seeds show. At few seeds that is itself uncertain, and so is a difference that "
                "was not told from noise: read both as lower ends."
            )
    notes += second_notes(data, metric, judging)
    return notes


def second_notes(data: pd.DataFrame, metric: Metric, judging: Judging) -> list[str]:
    """Say what the tests and intervals are that were asked for beside the t test."""
    notes = []
    corrected = "" if judging.correction == "none" else ", corrected likewise"
    pairs = sorted({int(n) for n in data["n_paired"].dropna() if n > 1})
    if judging.margin is not None:
        notes.append(
            f"Equivalence within ±{judging.margin:g} {metric.unit}: two one-sided paired t tests{corrected} over the rows (a "
            f"family of its own), p at most {ALPHA:g}. The margin must have been chosen before the numbers were seen."
        )
    if judging.test == "wilcoxon" and pairs:
        least = joined([f"{2.0 ** (1 - n):.4g} with {counted(n, 'seed')}" for n in pairs])
        cannot = [n for n in pairs if 2.0 ** (1 - n) > ALPHA]
        so = (
            f" So it cannot reach {ALPHA:g} with {joined([str(n) for n in cannot])} seeds, whatever they show."
            if cannot
            else ""
        )
        notes.append(
            f"Wilcoxon: signed-rank test, two-sided{corrected}, beside the t test that the verdicts follow. The smallest p it "
            f"can give, uncorrected, is {least}.{so}"
        )
    if judging.interval == "bootstrap":
        notes.append(
            f"Bootstrap: 95% BCa interval of the mean difference, {RESAMPLES:,} resamples, seed 0, of each row alone; none below "
            "3 seeds. Below 20 seeds it covers the truth less often than it says (simulated: 83% at 5 seeds, 89% at 9; "
            "docs/results/statistics_truth.md), so verdicts follow the t test."
        )
    return notes


def recipe_note(arms: Sequence[Arm]) -> list[str]:
    """Say where the rows differ in their recipe, and why they are compared nevertheless."""
    of_design = [arm for arm in arms if arm.design is not None]
    factors = next((arm.recipe_factors for arm in of_design), ())
    if len({arm.recipe_hash for arm in of_design} - {None}) > 1:
        levels = [
            f"{name} ({', '.join(dict.fromkeys(arm.levels[name] for arm in of_design if name in arm.levels))})"
            for name in factors
        ]
        return [
            f"The rows are not of one recipe: the design of the study itself varies {joined(levels)}. They are compared "
            "because that was declared beforehand; a difference between rows is that of all settings in which they differ."
        ]
    mixed = next((arm.mixed for arm in arms if arm.mixed), ())
    if mixed:
        return [
            f"Cells of the design were trained by more than one recipe each ({joined(list(mixed[:3]))}"
            f"{f' and {len(mixed) - 3} more' if len(mixed) > 3 else ''}): something else than its factors changed between "
            "runs, so arms of different recipes are not compared."
        ]
    return []


def latency_note(trials: pd.DataFrame) -> list[str]:
    """Say what one latency is the time of."""
    measured = trials[trials["latency_ms"].notna() | trials["latency_fused_ms"].notna()]
    if not len(measured):
        return []
    batches = sorted({int(size) for size in measured["latency_batch"].dropna()})
    of = f"one batch of {joined([str(size) for size in batches])}" if batches else "one batch"
    note = f"Latency: milliseconds for {of}, as trained and fused; median over the arm's finished trials."
    ok = measured["status"] == "ok"
    reused = int((ok & measured["reused_from"].notna()).sum())
    if 0 < reused < int(ok.sum()):
        note += (
            f" {reused} of {int(ok.sum())} were taken over from earlier runs and measured then: what the machine did "
            "besides may differ, so do not compare these latencies with the others."
        )
    return [note]


def gaps(trials: pd.DataFrame, arms: Sequence[Arm], data: pd.DataFrame) -> list[str]:
    """Say what was not averaged, and why."""
    notes = []
    lost = trials[trials["status"].isin(["failed", "infeasible", "interrupted", "unfinished"])]
    reasons: Counter[str] = Counter()
    rows: list[Any] = list(lost.itertuples(index=False))
    for row in rows:
        who = f" {row.arm}" if pd.notna(row.arm) else ""
        seed = f" seed {row.seed}" if pd.notna(row.seed) else ""
        why = one_line(row.reason) if pd.notna(row.reason) else "no reason on record"
        reasons[f"{row.status}{who}{seed}: {why}"] += 1
    if reasons:
        shown = [f"{text} (x{count})" if count > 1 else text for text, count in reasons.items()]
        more = f"; and {len(shown) - REASONS_SHOWN} more" if len(shown) > REASONS_SHOWN else ""
        notes.append(f"Not averaged: {'; '.join(shown[:REASONS_SHOWN])}{more}.")
    if data["missing"].str.contains("absent").fillna(False).any():
        notes.append("Absent: a seed that other arms have and this arm has no trial of.")
    repeats = sum(arm.repeats for arm in arms)
    if repeats:
        notes.append(
            f"{counted(repeats, 'trial')} repeated an arm and seed: each seed counts once, by the first trial "
            "that finished."
        )
    return notes


def provenance_notes(trials: pd.DataFrame) -> list[str]:
    """Say which commit, versions and machine made the numbers, and where they do not agree."""
    made: list[dict[str, Any]] = [json.loads(text) for text in trials["provenance"].dropna().unique()]
    if not made:
        return ["Commit and versions: not on record."]
    facts: dict[str, set[str]] = {}
    for entry in made:
        versions = entry.get("versions")
        flat = {name: entry.get(name) for name in ("commit", "python", "processor")}
        flat |= versions if isinstance(versions, dict) else {}
        for name, value in flat.items():
            facts.setdefault(name, set()).add(str(value) if value is not None else "unknown")
    agreed = [f"{name} {min(values)}" for name, values in facts.items() if len(values) == 1 and values != {"unknown"}]
    differing = [f"{name} ({', '.join(sorted(values))})" for name, values in facts.items() if len(values) > 1]
    notes = [f"Made with {', '.join(agreed)}."] if agreed else []
    if differing:
        notes.append(f"Trials do not agree on {joined(differing)}: a difference between arms may come from there.")
    return notes
