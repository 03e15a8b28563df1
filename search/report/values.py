"""What is read of a study: which phase and metric, the numbers behind each arm, and what an arm varies.

The numbers are arrays: thousands of arms are read at once where a data frame each would be slow. What an arm varies are factors, so
that a table can have the stages as rows and the branches as columns:

| factor | of "stage3+4: conv+pssa(rank=4)" |
|---|---|
| arm | the whole name |
| where | stage3+4 (before the first colon) |
| what | conv+pssa(rank=4) (after it) |
| a column of `load_study` | its value, e.g. backbone, branches, data_source, study |
| a factor of the study's design | its level, in the words of the design |
| a key of the overrides | its value, e.g. placement.policy, branch.options.pssa.rank |

An arm without the factor (the plain network has no branches) has None: it gets a row of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import LATENCIES, MetricColumn, metric_columns, metric_named, metrics_of
from search.ledger.study_files import LOOKS_FILE
from search.report.arms import (
    Arm,
    Declared,
    comparable,
    compared_trials,
    declared_by,
    find_arm,
    list_arms,
    marked_baseline,
)
from search.report.reading.scored import is_from_samples, kept_nothing, with_scores
from search.stats.nested import differences
from search.stats.paired import ArmValues, PairedDifference

GIVEN = "given"  # phase of runs that are not ours; the frame's `attrs` have their metric
COLUMN_FACTORS = ("study", "backbone", "branches", "sites", "data_source", "arch_hash", "recipe_hash", "epochs_planned")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a table is made of: all trials of the study, those of one `phase` in arms (see `compared_trials`), what they are judged by,
    and the arm to compare with; None where none, or more than one, is marked and none was named.
    """

    frame: pd.DataFrame
    phase: str
    trials: pd.DataFrame
    metric: MetricColumn
    declared: Declared
    arms: list[Arm]
    reference: Arm | None

    @property
    def studies(self) -> str:
        """Names of the studies that the trials are of; "" where none is on record."""
        return " + ".join(self.trials["study"].dropna().unique())


def read_arms(
    frame: pd.DataFrame, phase: str | None = None, metric: str | None = None, baseline: str | None = None
) -> Reading:
    """Read the arms of one phase.

    Args:
        frame: rows of `load_study`.
        phase: by default "final" where there are any trials of it, else "search", else "single".
        metric: a name in `metric_columns`; by default what its task is judged by, on test in phase "final".
        baseline: name or architecture hash of the arm to compare with; by default the one the study marked.

    Raises:
        ValueError: unknown metric, arm or phase, or a metric that no finished trial of the phase has.
    """
    phase, frame = phase_to_read(frame, phase), with_scores(frame, [metric])
    trials = compared_trials(frame[frame["phase"] == phase])
    chosen = metric_to_read(trials, phase, metric)
    declared = declared_by(frame)
    arms = list_arms(trials, declared)
    return Reading(
        frame=frame,
        phase=phase,
        trials=trials,
        metric=chosen,
        declared=declared,
        arms=arms,
        reference=find_arm(arms, baseline) if baseline is not None else marked_baseline(arms),
    )


def arm_values(arms: Sequence[Arm], metric: str) -> list[ArmValues]:
    """Read the numbers of each arm; `metric` is a numeric column of the frame the arms were made of."""
    if not arms:
        return []
    trials = arms[0].all_trials
    status = trials["status"].to_numpy(dtype=object)
    ok = status == "ok"
    seeds = trials["seed"].to_numpy(dtype="int64")
    numbers = {name: floats(trials[name]) for name in (metric, "dose", *LATENCIES)}
    counts = {name: trials[name].tolist() for name in ("params", "macs")}

    def first(name: str, here: slice) -> int | None:
        return next((int(value) for value in counts[name][here] if pd.notna(value)), None)

    measured = ok & np.isfinite(numbers[metric])
    roots = roots_of(trials)
    lost = ok & ~measured & (not is_from_samples(metric))  # who kept no samples did not diverge
    failed = (status == "failed") | (status == "pruned") | lost
    timed = ok & (np.isfinite(numbers["latency_ms"]) | np.isfinite(numbers["latency_fused_ms"]))
    alone = timed & trials["latency_exclusive"].to_numpy(dtype=bool, na_value=False)
    found = []
    for arm in arms:
        here = slice(arm.start, arm.stop)
        exclusive = bool(alone[here].any())
        counted = alone[here] if exclusive else ok[here]
        keep = measured[here] & counted if metric in LATENCIES else measured[here]
        found.append(
            ArmValues(
                values=numbers[metric][here][keep],
                seeds=seeds[here][keep],
                failed=seeds[here][failed[here]],
                all_seeds=seeds[here],
                statuses=status[here].tolist(),
                params=first("params", here),
                macs=first("macs", here),
                dose=geometric_mean(numbers["dose"][here][ok[here]]),
                latency_ms=median(numbers["latency_ms"][here][counted]),
                latency_fused_ms=median(numbers["latency_fused_ms"][here][counted]),
                latency_exclusive=exclusive if timed[here].any() else None,
                roots=None if roots is None else roots[here][keep],
            )
        )
    return found


def roots_of(trials: pd.DataFrame) -> np.ndarray | None:
    """Number the trained network that each trial went on from, int64, -1 for none; None where all went on from one, or from none."""
    if "root" not in trials:
        return None
    numbers, known = pd.factorize(names_of_roots(trials))
    return numbers if len(known) > 1 else None


def names_of_roots(trials: pd.DataFrame) -> pd.Series[str]:
    """Name the trained network that each trial went on from: by its seed, which it keeps wherever it lies, else by its place."""
    return trials["root_seed"].astype("string").fillna(trials["root"])


def values_by_root(arm: Arm, metric: str) -> pd.Series[float]:
    """Return `Arm.values`, or, where an arm went on from several roots, the mean over the orders of each, by the root's name."""
    found, roots = arm.values(metric), roots_of(arm.trials)
    if roots is None:
        return found
    names = names_of_roots(arm.trials).set_axis(arm.trials["seed"].to_numpy(dtype="int64"))
    return found.groupby(names.reindex(found.index).to_numpy()).mean()


def paired_difference(frame: pd.DataFrame, arm: str, baseline: str, metric: str) -> PairedDifference:
    """Compare an arm with the baseline, by names or hashes, on the seeds that both finished (status ok), each seed once.

    Args:
        frame: rows of `load_study`, all of one phase.
        metric: a numeric column, e.g. "test_top1".

    Raises:
        ValueError: unknown arm, baseline or column; a frame of several phases; arms trained by different recipes.
    """
    frame = with_scores(frame, [metric])
    if metric not in frame.columns:
        raise ValueError(f"metric '{metric}' is no column of the frame; columns: {', '.join(frame.columns)}")
    arms = list_arms(compared_trials(frame), declared_by(frame))
    one, other = find_arm(arms, arm), find_arm(arms, baseline)
    if not comparable(one, other):
        raise ValueError(
            f"'{one.label}' was trained by recipe {one.recipe_hash} and '{other.label}' by {other.recipe_hash}: a "
            "difference would mix the two causes; compare arms of one recipe"
        )
    return differences(arm_values([one], metric), arm_values([other], metric)[0])[0]


def floats(column: pd.Series[float]) -> np.ndarray:
    """Return a column as float64, NaN where it is NA."""
    return column.to_numpy(dtype="float64", na_value=np.nan)


def geometric_mean(values: np.ndarray) -> float | None:
    """Return the geometric mean of the values that are there, none of them negative, or None."""
    there = values[~np.isnan(values)]
    if len(there) == 0:
        return None
    return float(np.exp(np.log(there).mean())) if there.min() > 0 else 0.0


def median(values: np.ndarray) -> float | None:
    """Return the median of the values that are there, or None."""
    there = values[~np.isnan(values)].tolist()
    return statistics.median(there) if there else None  # np.median costs ten times as much on a handful of values


def phase_to_read(frame: pd.DataFrame, phase: str | None) -> str:
    """Return the phase asked for, or the one whose numbers are worth the most."""
    present = [name for name in ("final", "search", "single", GIVEN) if (frame["phase"] == name).any()]
    if not present:
        lost = "; ".join(frame.attrs.get("unreadable", []))
        raise ValueError(f"{frame.attrs.get('path', 'the study')} holds no trial that could be read. {lost}".strip())
    if phase is None:
        return present[0]
    if phase not in present:
        raise ValueError(f"there is no trial of phase '{phase}'; phases with trials: {', '.join(present)}")
    return phase


def metric_to_read(trials: pd.DataFrame, phase: str, name: str | None) -> MetricColumn:
    """Return the metric asked for, or the one the phase is judged by."""
    if phase == GIVEN:
        given = MetricColumn(**trials.attrs["metric"])
        if name not in (None, given.column):
            raise ValueError(f"the runs were read for {given.column}, not {name}: read them again with that metric")
        return given
    ok = trials[trials["status"] == "ok"]
    measured = [column for column in metric_columns() if column in ok and ok[column].notna().any()]
    if name is not None:
        metric = metric_named(name)
        if name not in measured and (len(ok) or name not in ok):
            raise ValueError(
                f"no finished trial of phase '{phase}' has {name}; metrics with values: {', '.join(measured) or 'none'}"
                f"{kept_nothing(metric)}"
            )
        return metric
    known = metrics_of(None)
    judged_by = next((metric for metric in known if {each.column for each in metric.columns} & {*measured}), known[0])
    wanted, val = judged_by.on("test" if phase == "final" else "val"), judged_by.on("val")
    return val if wanted.column not in measured and val.column in measured else wanted


def has_looks(frame: pd.DataFrame) -> bool:
    """Tell whether a frame of `load_study` is that of a design with looks."""
    path = frame.attrs.get("path")
    return path is not None and (Path(str(path)) / LOOKS_FILE).exists()


def levels(arms: Sequence[Arm], factor: str) -> list[str | None]:
    """Return the level that each arm has of a factor; ValueError where none has one, or one has two."""
    found = [level(arm, factor) for arm in arms]
    if all(value is None for value in found):
        keys = sorted({key for arm in arms for key in (*overrides(arm), *arm.levels)} - {"seed"})
        raise ValueError(
            f"no arm has a level of '{factor}'; factors: arm, where, what, {', '.join((*COLUMN_FACTORS, *keys))}"
        )
    return found


def level(arm: Arm, factor: str) -> str | None:
    """Return the level of one arm; None where it has none."""
    if factor == "arm":
        return arm.label
    if factor in ("where", "what"):
        # A hash stands in brackets behind names that two arms share; it belongs to both halves of the name.
        where, colon, what = arm.label.partition(": ")
        return (where if factor == "where" else what) if colon else None
    if factor in arm.levels:
        return arm.levels[factor]
    if factor in COLUMN_FACTORS:
        values = arm.trials[factor].dropna().unique().tolist()
    else:
        values = overrides(arm).get(factor, [])
    if len(values) > 1:
        raise ValueError(
            f"'{arm.label}' has {len(values)} levels of '{factor}' ({', '.join(map(str, values))}), so it has no one "
            "place in the table; choose another factor"
        )
    return str(values[0]) if values else None


def overrides(arm: Arm) -> dict[str, list[Any]]:
    """Return the values that an arm's trials set, by key."""
    found: dict[str, list[Any]] = {}
    for text in arm.trials["overrides"].dropna().unique():
        for each in str(text).split("; "):
            key, equals, value = each.partition("=")
            key = key.lstrip("+~")
            if equals and value not in found.setdefault(key, []):
                found[key].append(value)
    return found
