"""The notes under a table: what changes its reading. How a table is made and read at all stands in docs/tables.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from search.ledger.metric import NOT_ALONE_MEANS
from search.ledger.study_files import Change, read_changes
from search.report.arms import Arm
from search.report.judging import Judging, corrected_over
from search.report.provenance import odd_trials, parsed, versions_of
from search.report.values import GIVEN, Reading, has_looks
from search.report.words import counted, int_ranges, joined, one_line
from search.stats.paired import ArmValues

STATUS_ORDER = ("ok", "pruned", "failed", "infeasible", "duplicate", "interrupted", "unfinished")
REASONS_SHOWN = 5
HOW_TO_READ = "How to read this table: docs/tables.md."
CHOOSE = "choose one with --baseline (baseline= in Python)"


def table_notes(read: Reading, data: pd.DataFrame, judging: Judging) -> list[str]:
    """Write the notes of an ablation table; `data` are its rows."""
    frame, trials, phase = read.frame, read.trials, read.phase
    notes = trial_counts(frame, phase)
    if phase == "final" and read.metric.column.startswith(("val_", "probe_")) and not has_looks(frame):
        notes.append("The seeds are fresh, but the validation images are the ones that chose the arms.")
    notes += phase_notes(frame, phase)
    notes += _baseline_notes(read.arms, data, judging)
    notes += _second_notes(data, judging)
    notes += change_notes(frame)
    notes += recipe_note(read.arms)
    notes += latency_note(trials)
    notes += gaps(trials, read.arms, data)
    notes += odd_trials(read.arms)
    notes += disagreement(trials)
    notes += unreadable(frame)
    return [*notes, f"{_made_of(trials, read.arms)} {HOW_TO_READ}"]


def unreadable(frame: pd.DataFrame) -> list[str]:
    """Name the results that could not be read."""
    return [f"Unreadable, left out: {message}" for message in frame.attrs.get("unreadable", [])]


def phase_notes(frame: pd.DataFrame, phase: str) -> list[str]:
    """Say of the numbers that chose the arms that they did."""
    if phase in ("final", GIVEN):
        return []
    if phase == "search" and has_looks(frame):
        return ["These are validation images, which the looks read. Test images are read once, after the last look."]
    which = "This table does not read the final re-evaluation" if (frame["phase"] == "final").any() else ""
    return [
        f"{which or 'There is no final re-evaluation'}: these are the trials of phase '{phase}', validated on the data that "
        "chose the arms (selection bias)."
    ]


def _made_of(trials: pd.DataFrame, arms: Sequence[Arm]) -> str:
    seeds = arms[0].all_trials["seed"].unique().tolist() if arms else []
    ranges = int_ranges(map(int, seeds)) or "none"
    if trials["phase"].eq(GIVEN).all():
        return f"Seeds {ranges}."
    said = []
    for title, column in (("Data", "data_source"), ("backbone", "backbone"), ("recipe", "recipe_hash")):
        values = [str(value) for value in trials[column].dropna().unique()]
        said.append(f"{title} {', '.join(values) or 'not on record'}")
    said.append(f"seeds {ranges}")
    commits = _facts_of(trials).get("commit", set())
    said.append(f"commit {', '.join(sorted(commits)) or 'not on record'}")
    return f"{'; '.join(said)}."


def trial_counts(frame: pd.DataFrame, phase: str) -> list[str]:
    """Count the trials of each phase by how they ended; of the table's own `phase` only where one did not end ok anew."""
    said = []
    for name in ("search", "final", "single", GIVEN):
        trials = frame[frame["phase"] == name]
        counts = Counter(trials["status"].tolist())
        reused = int((trials["status"].eq("ok") & trials["reused_from"].notna()).sum())
        if counts and (name != phase or reused or counts["ok"] < counts.total()):
            ends = ", ".join(f"{counts[status]} {status}" for status in STATUS_ORDER if counts[status])
            if reused and name == "final" and has_looks(frame):
                ends += f"; {reused} networks trained at the looks"
            elif reused:
                ends += f"; {reused} taken from earlier runs of the same network, recipe and seed"
            said.append(f"Phase {name}: {counted(counts.total(), 'trial')} ({ends}).")
    return [" ".join(said)] if said else []


def _baseline_notes(arms: Sequence[Arm], data: pd.DataFrame, judging: Judging) -> list[str]:
    if not data["is_baseline"].any():
        return no_baseline(arms)
    tested = int(data["p_value"].notna().sum())
    if not tested:
        return []
    tests = "Differences are paired by seed; p: two-sided paired t tests"
    if "roots" in data:
        tests = (
            "Differences are paired by root and order, and judged by the means of roots; p: two-sided t tests of these"
        )
    notes = [f"{tests}, {corrected_over(judging.correction, tested)}."]
    unequal = data[data["n_paired"].notna() & (data["n_paired"] + data["n_lost"] < data["n"].max())]
    pairs = ", ".join(f"{row.arm} {row.n_paired}" for row in unequal.itertuples(index=False))
    if pairs:
        notes.append(
            f"Seeds shared with the baseline, where not all {data['n'].max()}: {pairs}; such a difference is not that of "
            "the two means."
        )
    return notes


def no_baseline(arms: Sequence[Arm]) -> list[str]:
    """Say why there are no differences, where no arm or more than one is marked."""
    marked = list(dict.fromkeys(arm.label for arm in arms if arm.is_baseline))
    several = f"{len(marked)} arms are marked as baseline ({joined(marked)})"
    return [f"{several if marked else 'No arm is marked as the baseline'}, so no differences: {CHOOSE}."]


def _second_notes(data: pd.DataFrame, judging: Judging) -> list[str]:
    """Say what must be known of the tests and intervals that were asked for beside the t test."""
    notes = []
    units, unit = (data["roots"], "root") if "roots" in data else (data["n_paired"], "seed")
    pairs = sorted({int(n) for n in units.dropna() if n > 1})
    if judging.margin is not None:
        notes.append("Equivalence holds only within a margin that was chosen before the numbers were seen.")
    if judging.test == "wilcoxon" and pairs:
        least = joined([f"{2.0 ** (1 - n):.4g} with {counted(n, unit)}" for n in pairs])
        notes.append(f"The smallest p that Wilcoxon's test can give, uncorrected, is {least}.")
    if judging.interval == "bootstrap" and any(n < 20 for n in pairs):
        notes.append(f"Below 20 {unit}s a bootstrap interval covers the truth less often than 95%.")
    return notes


def changes_of(frame: pd.DataFrame) -> list[Change]:
    """Return what was changed between the commands of a frame's study."""
    path = frame.attrs.get("path")
    return read_changes(Path(str(path))) if path is not None else []


def change_notes(frame: pd.DataFrame) -> list[str]:
    """Say what was changed between the commands of the study, a line each."""
    said = []
    for change in changes_of(frame):
        each = [f"{name} from {old} to {new}" for name, (old, new) in change.changed.items()]
        there = f", when {counted(change.results, 'final result')} stood" if change.results else ""
        said.append(one_line(f"Changed on {change.at[:10]}{there}: {', '.join(each)}.", 300))
    return said


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
    said = [f"Latency: milliseconds of {of}."]
    if not measured["latency_exclusive"].fillna(False).all():
        said.append(NOT_ALONE_MEANS)
    facts = [parsed(text) for text in measured["provenance"].dropna().unique()]
    machines = sorted({f"{fact.get('device', 'cpu')} ({fact.get('processor', 'unknown')})" for fact in facts})
    return said + [f"Latencies of different machines are not to be compared: {joined(machines)}."] * (len(machines) > 1)


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


def absent_seeds(trials: pd.DataFrame, arms: Sequence[ArmValues]) -> list[Counter[str]]:
    """Count, for each arm, the seeds other arms have and it has not: "unfinished" where a started folder was found."""
    started = set(trials.loc[trials["status"] == "unfinished", "seed"].dropna().tolist())
    has = [set(arm.all_seeds.tolist()) for arm in arms]
    seeds = set().union(started, *has)
    return [Counter("unfinished" if seed in started else "absent" for seed in seeds - own) for own in has]


def disagreement(trials: pd.DataFrame) -> list[str]:
    """Name the versions and machines on which the trials do not agree; `odd_trials` tells of commits."""
    facts = _facts_of(trials)
    # the version of a checkout says when it was installed; of an installed wheel it stands for the commit
    told_elsewhere = {"commit"} if facts.get("commit") == {"unknown"} else {"commit", "xvol"}
    differing = [
        f"{name} ({', '.join(sorted(values))})"
        for name, values in facts.items()
        if len(values) > 1 and name not in told_elsewhere
    ]
    if not differing:
        return []
    return [f"Trials do not agree on {joined(differing)}: a difference between arms may come from there."]


def _facts_of(trials: pd.DataFrame) -> dict[str, set[str]]:
    """The commit, Python, processor and package versions that made the numbers: each with all of its values."""
    facts: dict[str, set[str]] = {}
    for text in trials["provenance"].dropna().unique():
        entry = parsed(text)
        flat = {name: entry.get(name) for name in ("commit", "python", "processor")} | versions_of(entry)
        for name, value in flat.items():
            facts.setdefault(name, set()).add("unknown" if value is None else str(value))
    return facts
