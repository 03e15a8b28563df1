"""The ablation table: one row for each arm, its mean over seeds, and its paired difference to the baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.arms import Arm, comparable, find_arm, list_arms
from search.report.chosen import marked_baseline, metric_to_read, phase_to_read
from search.report.conclusion import conclusion
from search.report.declared import Declared, declared_by
from search.report.effects.table import EffectsTable, effects_of_arms, is_factorial, own_factors
from search.report.front import front_of
from search.report.gate import gate
from search.report.judging import JUDGED, Judging, judged, row_verdict
from search.report.notes import changes_of, table_notes
from search.report.sequential_table import has_looks
from search.report.values import arm_values
from search.report.words import joined
from search.stats.paired import ArmValues, PairedDifference, differences, survivors

__all__ = ["DATA_COLUMNS", "AblationTable", "ablation_table"]

DATA_COLUMNS: dict[str, str] = {
    "arm": "string",
    "arch_hash": "string",
    "recipe_hash": "string",
    "is_baseline": "boolean",
    "n": "Int64",  # seeds that finished and have the metric
    "missing": "string",  # what the other seeds came to, e.g. "1 failed, 1 pruned"; NA where none is missing
    "mean": "Float64",
    "sd": "Float64",  # over seeds, n - 1 in the denominator
    "n_paired": "Int64",  # seeds that both this arm and the baseline finished
    "n_lost": "Int64",  # seeds of the pair on which this arm or the baseline failed
    "diff": "Float64",  # mean of arm minus baseline over the paired seeds
    "ci_low": "Float64",  # 95% paired t interval of diff, of this row alone
    "ci_high": "Float64",
    "worst_diff": "Float64",  # diff where a seed that the arm failed on counts as the worst value of the metric
    "p_value": "Float64",  # two-sided paired t test, of this row alone
    "p_corrected": "Float64",  # the same, corrected over the rows; the verdict follows it
    "g_z": "Float64",  # mean over sd of the paired differences, with Hedges' correction; NA below 3 seeds
    "mdd": "Float64",  # smallest true difference found with 80% power at the error left to the row, by its sd
    "power": "Float64",  # of a finding, to find a true difference of the size measured, or the margin where smaller
    "exaggeration": "Float64",  # of a finding: how many times too large such findings are on average
    "seeds_needed": "Int64",  # in all, for 80% power at the margin, by the sd measured; NA without one, and where decided
    "seeds_low": "Int64",  # the same by the lower end of the 95% interval of that sd
    "seeds_high": "Int64",  # and by the upper end
    "correlation": "Float64",  # of arm and baseline over the paired seeds; NA below 3
    "variance_ratio": "Float64",  # variance of an unpaired difference over that of the paired one
    "wilcoxon_p": "Float64",  # signed-rank test of this row alone; NA where not asked for, as all below
    "wilcoxon_p_corrected": "Float64",
    "boot_low": "Float64",  # 95% BCa bootstrap interval of diff
    "boot_high": "Float64",
    "equivalence_p": "Float64",  # two one-sided t tests against the margin, the larger p, of this row alone
    "equivalence_p_corrected": "Float64",
    "verdict": "string",
    "dose": "Float64",  # added branches over the convolution; geometric mean over blocks and trials; NA where none has both
    "params": "Int64",
    "macs": "Int64",
    "latency_ms": "Float64",  # median over the arm's trials, where there are any over those in an exclusive slot
    "latency_fused_ms": "Float64",
    "latency_exclusive": "boolean",  # measured in an exclusive slot; NA where none was measured
    "on_front": "boolean",  # of several objectives; NA where the study has one, or a value is missing
}
"""Name and dtype of each column of `AblationTable.data`; the CSV has the same."""

SOURCES = {
    "final with looks": "test images, the networks of the looks",
    "search": "search phase",
    "search with looks": "validation images, as the looks read them",
    "single": "single runs",
}
OTHER_RECIPE = "trained by another recipe: not compared"


@dataclass(frozen=True, kw_only=True)
class AblationTable:
    """Numbers at full precision, and the words that belong to them.

    Attributes:
        title: one line: study, phase, metric.
        data: one row for each arm with the columns `DATA_COLUMNS`; the baseline first, then the best mean first.
        metric: what `mean`, `sd` and `diff` measure.
        phase: which trials were averaged: "final", "search" or "single".
        baseline: label of the row that differences are taken against; None where there is none.
        conclusion: what the table allows to be said, in one paragraph.
        notes: where the numbers come from, one sentence or two each.
        arms: what the rows were made of, in no order.
        judging: how the rows were judged.
        effects: of the factors, where the study declared a factorial design of two or more; else None.
    """

    title: str
    data: pd.DataFrame
    metric: MetricColumn
    phase: str
    baseline: str | None
    conclusion: str
    notes: list[str]
    arms: tuple[Arm, ...] = field(default=(), repr=False, compare=False)
    judging: Judging = field(default_factory=Judging)
    effects: EffectsTable | None = None


def ablation_table(
    frame: pd.DataFrame,
    metric: str | None = None,
    baseline: str | None = None,
    phase: str | None = None,
    judging: Judging | None = None,
) -> AblationTable:
    """Make the table of one study.

    Args:
        frame: rows of `load_study`.
        metric: a name in `metric_columns`; by default what its task is judged by, on test in phase "final".
        baseline: name or architecture hash of the arm to compare with; by default the one the study marked.
        phase: which trials to read; by default "final" where there are any, else "search", else "single".
        judging: correction over the rows (Holm's by default), margin of equivalence, further test and interval.

    Raises:
        ValueError: unknown metric, arm or phase, or a metric that no finished trial of the phase has.
    """
    phase = phase_to_read(frame, phase)
    trials = frame[frame["phase"] == phase]
    chosen = metric_to_read(trials, phase, metric)
    judging = judging or Judging()
    declared = declared_by(frame)
    arms = list_arms(trials, declared)
    reference = find_arm(arms, baseline) if baseline is not None else marked_baseline(arms)
    measured = arm_values(arms, chosen.column)
    absent = absent_seeds(trials, measured) if phase == "final" else [Counter[str]() for _ in arms]
    compared_to = compared(arms, measured, reference, chosen, judging)
    if phase == "final" and seeds_added(frame):
        for words in compared_to:
            words["verdict"] = f"{words['verdict']} (seeds added)" if words["p_value"] is not None else words["verdict"]
    front = front_of(arms, frame, phase)
    members = front.members if front else [None] * len(arms)
    facts = zip(arms, measured, absent, compared_to, members, strict=True)
    rows = [
        row_of(arm, values, arm is reference, chosen, gone) | words | {"on_front": member}
        for arm, values, gone, words, member in facts
    ]
    rows.sort(key=lambda row: sort_key(row, chosen))
    data = pd.DataFrame(
        {name: pd.array([row[name] for row in rows], dtype=dtype) for name, dtype in DATA_COLUMNS.items()}  # type: ignore[call-overload]
    )
    studies = trials["study"].dropna().unique().tolist()
    read = f"{phase} with looks" if phase != "single" and has_looks(frame) else phase
    source = _re_evaluation(trials, frame) if read == "final" else SOURCES[read]
    return AblationTable(
        title=f"{' + '.join(studies) or frame.attrs.get('path', 'study')}: {source}, {chosen.title}",
        data=data,
        metric=chosen,
        phase=phase,
        baseline=reference.label if reference else None,
        conclusion=" ".join([*gate(arms, chosen), conclusion(data, chosen, read, judging), *looked(frame, phase)]),
        notes=[
            *table_notes(frame, trials, arms, data, chosen, phase, judging),
            *([declared.fault] if declared.fault else []),
            *([f"{front.title}."] if front else []),
        ],
        arms=tuple(arms),
        judging=judging,
        effects=effects_below(arms, measured, declared, chosen, judging),
    )


def _re_evaluation(trials: pd.DataFrame, frame: pd.DataFrame) -> str:
    """What the final phase is: seeds of which another study has shown the test scores are not fresh."""
    ok = trials[trials["status"] == "ok"]
    own = {*trials["study"].dropna(), Path(str(frame.attrs.get("path", "."))).name}
    sources = [str(folder).rsplit("/", 2)[0] for folder in ok["reused_from"].dropna()]
    others = [source for source in sources if source not in own]
    if not others:
        return "final re-evaluation on fresh seeds"
    return f"final re-evaluation, {len(others)} of {len(ok)} results taken over from {joined(sorted(set(others)))}"


def looked(frame: pd.DataFrame, phase: str) -> list[str]:
    """Say where seeds were added after looking, since the p-values of this table reckon with one look."""
    if phase == "single":
        return []
    if has_looks(frame):
        return [
            "Seeds were added to undecided rows after looking at their results, which the p-values here do not reckon with: "
            "what may be claimed stands in the table of the looks."
        ]
    if phase == "final" and seeds_added(frame):
        return ["Seeds were added when final results stood, which the p-values do not reckon with."]
    return []


def seeds_added(frame: pd.DataFrame) -> bool:
    """Tell whether a command of the study asked for more final seeds when final results stood, without planned looks."""
    if has_looks(frame):
        return False
    return any(change.seeds_added for change in changes_of(frame))


def effects_below(
    arms: Sequence[Arm], measured: Sequence[ArmValues], declared: Declared, metric: MetricColumn, judging: Judging
) -> EffectsTable | None:
    """Estimate the effects of a factorial design; None where the study is none, or an arm finished on no two seeds."""
    if not is_factorial(arms, declared) or any(len(each.values) < 2 for each in measured):
        return None
    return effects_of_arms(arms, declared, own_factors(arms, declared), metric, judging.correction)


def absent_seeds(trials: pd.DataFrame, arms: Sequence[ArmValues]) -> list[Counter[str]]:
    """Count, for each arm, the seeds other arms have and it has not: "unfinished" where a started folder was found."""
    started = set(trials.loc[trials["status"] == "unfinished", "seed"].dropna().tolist())
    has = [set(arm.all_seeds.tolist()) for arm in arms]
    seeds = set().union(started, *has)
    return [Counter("unfinished" if seed in started else "absent" for seed in seeds - own) for own in has]


def row_of(
    arm: Arm, measured: ArmValues, is_baseline: bool, metric: MetricColumn, absent: Counter[str]
) -> dict[str, Any]:
    """Compute one row of the table, but for what compares it with the baseline."""
    values = measured.values
    n = len(values)
    mean = float(values.sum()) / n if n else None
    missing = Counter[str]()
    if absent or n < len(measured.statuses):
        missing = Counter(status for status in measured.statuses if status != "ok") + absent
        missing[f"without {metric.column}"] += measured.statuses.count("ok") - n
    order = ("failed", "pruned", "infeasible", "interrupted", "unfinished", "absent", f"without {metric.column}")
    return {
        "arm": arm.label,
        "arch_hash": arm.arch_hash,
        "recipe_hash": arm.recipe_hash,
        "is_baseline": is_baseline,
        "n": n,
        "missing": ", ".join(f"{missing[what]} {what}" for what in order if missing[what]) or None,
        "mean": mean,
        "sd": None if mean is None or n < 2 else sd_about(values, mean),
        "dose": measured.dose,
        "params": measured.params,
        "macs": measured.macs,
        "latency_ms": measured.latency_ms,
        "latency_fused_ms": measured.latency_fused_ms,
        "latency_exclusive": measured.latency_exclusive,
    }


def sd_about(values: np.ndarray, mean: float) -> float:
    """Standard deviation with n - 1 in the denominator; `np.std` costs ten times as much on a handful of values."""
    deviations = values - mean
    return math.sqrt(float(deviations @ deviations) / (len(values) - 1))


def compared(
    arms: Sequence[Arm], measured: Sequence[ArmValues], reference: Arm | None, metric: MetricColumn, judging: Judging
) -> list[dict[str, Any]]:
    """Compute, for each arm, the columns that compare it with the baseline."""
    at = next((position for position, arm in enumerate(arms) if arm is reference), None)
    results: list[PairedDifference | None] = [None] * len(arms)
    facts: list[dict[str, Any]] = [dict.fromkeys(JUDGED) for _ in arms]
    if at is not None:
        both = zip(arms, differences(measured, measured[at]), strict=True)
        results = [None if arm is arms[at] or not comparable(arm, arms[at]) else result for arm, result in both]
        facts = judged(measured, measured[at], results, judging)
    rows = []
    for arm, values, result, fact in zip(arms, measured, results, facts, strict=True):
        words: str | None = None
        came = None if at is None or result is None else survivors(values, measured[at], metric.worst)
        if result is not None:
            words = row_verdict(
                result,
                fact,
                judging,
                higher_is_better=metric.higher_is_better,
                unit=metric.unit,
                on_which=came.on_which() if came else "",
            )
        elif reference is not None and arm is not reference:
            words = OTHER_RECIPE
        rows.append(
            {
                "n_paired": result.n if result else None,
                "n_lost": came.lost if came else None,
                "diff": result.mean if result else None,
                "ci_low": result.low if result else None,
                "ci_high": result.high if result else None,
                "worst_diff": came.worst if came else None,
                "p_value": result.p_value if result else None,
                "correlation": result.correlation if result else None,
                "variance_ratio": result.variance_ratio if result else None,
                "verdict": words,
            }
            | fact
        )
    return rows


def sort_key(row: dict[str, Any], metric: MetricColumn) -> tuple[bool, bool, float, str]:
    """Order rows: the baseline, then the best mean, then arms without one."""
    mean = row["mean"]
    value = 0.0 if mean is None else -mean if metric.higher_is_better else mean
    return (not row["is_baseline"], mean is None, value, row["arm"])
