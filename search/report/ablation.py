"""The ablation table: one row for each arm, its mean over seeds, and its paired difference to the baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import NOT_ALONE, MetricColumn
from search.report.arms import Arm
from search.report.conclusion import conclusion, looked, seeds_added, titled
from search.report.detections import picture_columns, pictures_of
from search.report.effects import effects_of_arms, is_factorial, own_factors
from search.report.front import front_of
from search.report.judging import JUDGED, ROOTS, SIZES, Compared, Judging, compared, row_verdict
from search.report.notes import absent_seeds, table_notes
from search.report.provenance import gate
from search.report.starts import control_lines, is_continued, null_fault, paths_lines, root_columns, roots_line
from search.report.table import NOTHING, Cell, Column, Row, Table, interval_of, rows_of, value_of, with_dtypes
from search.report.values import GIVEN, Reading, arm_values, has_looks, read_arms
from search.report.words import (
    P_TITLES,
    decimals_for,
    interval_decimals,
    one_line,
    p_is,
    p_shown,
    scaled,
    signed,
    significant,
)
from search.stats.nested import NestedDifference
from search.stats.paired import ArmValues

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
    **SIZES,
    "correlation": "Float64",  # of arm and baseline over the paired seeds; NA below 3
    "variance_ratio": "Float64",  # variance of an unpaired difference over that of the paired one
    **{name: dtype for name, dtype in JUDGED.items() if name not in SIZES},
    "verdict": "string",
    "dose": "Float64",  # added branches over the convolution; geometric mean over blocks and trials; NA where none has both
    "params": "Int64",
    "macs": "Int64",
    "latency_ms": "Float64",  # median over the arm's trials, where there are any over those in an exclusive slot
    "latency_fused_ms": "Float64",
    "latency_exclusive": "boolean",  # measured in an exclusive slot; NA where none was measured
    "on_front": "boolean",  # of several objectives; NA where the study has one, or a value is missing
}
"""Columns of `AblationTable.data`, as of its CSV; those of `ROOTS` where arms went on from several, of `PICTURES` where any is known."""

OTHER_RECIPE = "trained by another recipe: not compared"
NARROW, PAPER = ("text",), ("latex",)  # forms that have no room for a column: there it stands below, or elsewhere
ALWAYS = ("arm", "n", "mean")  # other columns are left out where no row has anything in them
TITLED = {
    "boot": "bootstrap interval",
    "pictures": "over pictures",
    "g_z": "g_z",
    "pairing": "pairing",
}  # beside a verdict in plain text


@dataclass(frozen=True, kw_only=True)
class AblationTable(Table):
    """A table whose `data` has one row for each arm and the columns `DATA_COLUMNS`, the baseline first, then the best mean first.

    Its figures are of `metric`, averaged over the trials of `phase`; differences are taken against the row called `baseline`, if any.
    The effects of the factors stand below, where the study declared a factorial design of two or more.
    """

    metric: MetricColumn
    phase: str
    baseline: str | None
    arms: tuple[Arm, ...] = field(default=(), repr=False, compare=False)
    judging: Judging = field(default_factory=Judging)


def ablation_table(
    frame: pd.DataFrame,
    metric: str | None = None,
    baseline: str | None = None,
    phase: str | None = None,
    judging: Judging | None = None,
) -> AblationTable:
    """Make the table of one study; arguments, and what is refused, as in `read_arms`.

    `judging` has the correction over the rows (Holm's by default), the margin of equivalence, further test and interval.
    """
    read, judging = read_arms(frame, phase, metric, baseline), judging or Judging()
    measured = arm_values(read.arms, read.metric.column)
    is_final = read.phase in ("final", GIVEN)
    absent = absent_seeds(read.trials, measured) if is_final else [Counter[str]() for _ in read.arms]
    added = " (seeds added)" if is_final and seeds_added(frame) else ""
    against = compared(read.arms, measured, read.reference, read.metric, judging)
    front = front_of(read.arms, frame, read.phase)
    members = front.members if front else [None] * len(read.arms)
    moves, of_pictures, about_pictures = pictures_of(read)
    rows = (
        _row_of(read, arm, values, each, gone, judging, added) | {"on_front": member} | each.over_roots() | move
        for arm, values, each, gone, member, move in zip(
            read.arms, measured, against, absent, members, moves, strict=True
        )
    )
    best_first = -1.0 if read.metric.higher_is_better else 1.0

    def order(row: dict[str, Any]) -> tuple[bool, bool, float, str]:
        return not row["is_baseline"], row["mean"] is None, best_first * (row["mean"] or 0.0), row["arm"]

    several = any(isinstance(each.result, NestedDifference) for each in against)
    data = with_dtypes(sorted(rows, key=order), DATA_COLUMNS | (ROOTS if several else {}) | of_pictures)
    source = f"{read.phase} with looks" if read.phase != "single" and has_looks(frame) else read.phase
    columns, shown = _displayed(data, read.metric, judging)
    effects = _effects_below(read, measured, judging)
    said = conclusion(data, read.metric, source, judging)
    begun, controls = list[str](), list[str]()
    if is_continued(read):
        begun, controls = [*null_fault(read), *roots_line(read)], control_lines(read, against)
    return AblationTable(
        name="ablation",
        title=f"{read.studies or frame.attrs.get('path', 'study')}: {titled(read, source)}, {read.metric.title}",
        columns=columns,
        rows=shown,
        data=data,
        beside=("Against the baseline", _verdict_lines(data, columns, shown, judging)),
        below=(effects,) if effects is not None else (),
        metric=read.metric,
        phase=read.phase,
        baseline=read.reference.label if read.reference else None,
        conclusion=" ".join([*begun, *gate(read.arms, read.metric), said, *looked(frame, read.phase)]),
        notes=[
            *controls,
            *paths_lines(read),
            *about_pictures,
            *table_notes(read, data, judging),
            *([read.declared.fault] if read.declared.fault else []),
            *([f"{front.title}."] if front else []),
        ],
        arms=tuple(read.arms),
        judging=judging,
    )


def _effects_below(read: Reading, measured: Sequence[ArmValues], judging: Judging) -> Table | None:
    """Estimate the effects of a factorial design; None where the study is none, or an arm finished on no two seeds."""
    if not is_factorial(read.arms, read.declared) or any(len(each.values) < 2 for each in measured):
        return None
    return effects_of_arms(read, own_factors(read.arms, read.declared), judging.correction)


def _row_of(
    read: Reading,
    arm: Arm,
    measured: ArmValues,
    against: Compared,
    absent: Counter[str],
    judging: Judging,
    added: str,
) -> dict[str, Any]:
    """Compute one row of the table; `added` stands behind verdicts that a test gave."""
    values, metric, result, survived = measured.values, read.metric, against.result, against.survived
    n = len(values)
    mean = float(values.sum()) / n if n else None
    missing = Counter[str]()
    if absent or n < len(measured.statuses):
        missing = Counter(status for status in measured.statuses if status != "ok") + absent
        missing[f"without {metric.column}"] += measured.statuses.count("ok") - n
    order = ("failed", "pruned", "infeasible", "interrupted", "unfinished", "absent", f"without {metric.column}")
    words = None if read.reference is None or arm is read.reference else OTHER_RECIPE
    if result is not None and survived is not None:
        words = row_verdict(result, against.facts, judging, metric, survived.on_which())
        words += added if result.p_value is not None else ""
    same = ("params", "macs", "dose", "latency_ms", "latency_fused_ms", "latency_exclusive")
    return {
        "arm": arm.label,
        "arch_hash": arm.arch_hash,
        "recipe_hash": arm.recipe_hash,
        "is_baseline": arm is read.reference,
        "n": n,
        "missing": ", ".join(f"{missing[what]} {what}" for what in order if missing[what]) or None,
        "mean": mean,
        "sd": None if mean is None or n < 2 else _sd_about(values, mean),
        "n_lost": survived and survived.lost,
        "worst_diff": survived and survived.worst,
        "correlation": result and result.correlation,
        "variance_ratio": result and result.variance_ratio,
        "verdict": words,
        **against.columns(),
        **{name: getattr(measured, name) for name in same},
    }


def _sd_about(values: np.ndarray, mean: float) -> float:
    """Standard deviation with n - 1 in the denominator; `np.std` costs ten times as much on a handful of values."""
    deviations = values - mean
    return math.sqrt(float(deviations @ deviations) / (len(values) - 1))


def _columns_of(data: pd.DataFrame, metric: MetricColumn, judging: Judging) -> list[Column]:
    decimals, finer = digits_of(data, metric)
    difference, second = partial(signed, decimals=finer), partial(significant, digits=2)

    def mean(row: Any) -> Cell:
        if pd.isna(row.mean):
            return NOTHING
        return Cell(f"{row.mean:.{decimals}f}", "" if pd.isna(row.sd) else f"± {row.sd:.{decimals}f}")

    def pairing(row: Any) -> str:
        if pd.isna(row.correlation):
            return "-"
        return f"x{second(row.variance_ratio)} (r {signed(row.correlation, 2)})"

    def latency(name: str) -> Callable[[Any], str]:
        def show(row: Any) -> str:
            alone = pd.notna(row.latency_exclusive) and row.latency_exclusive
            mark = "" if alone else NOT_ALONE
            return value_of(name, lambda value: significant(value) + mark)(row)

        return show

    def arm(row: Any) -> str:
        return one_line(row.arm, 400) + " (baseline)" * bool(row.is_baseline)

    return [
        Column("arm", "arm", "words", show=arm),
        Column("n", "n"),
        Column("missing", "missing", "words", width=12),
        Column("mean", metric.title, "math", show=mean),
        Column("diff", "diff", "math", show=value_of("diff", difference)),
        Column("interval", "95% interval", "math", show=interval_of("ci_low", "ci_high", finer)),
        *(root_columns(finer) if "roots" in data else ()),
        Column("worst", "worst case", "math", show=value_of("worst_diff", difference)),
        Column("boot", "95% bootstrap", "math", left_out=NARROW, show=interval_of("boot_low", "boot_high", finer)),
        *(picture_columns(finer) if "pictures_low" in data else ()),
        Column("p", P_TITLES[judging.correction], left_out=NARROW, show=value_of("p_corrected", p_shown)),
        Column("wilcoxon", "p Wilcoxon", left_out=NARROW, show=value_of("wilcoxon_p_corrected", p_shown)),
        Column("equivalence", "p equivalence", left_out=NARROW, show=value_of("equivalence_p_corrected", p_shown)),
        Column("verdict", "against the baseline", "words", left_out=NARROW + PAPER),
        Column("g_z", "g_z", left_out=NARROW + PAPER, show=value_of("g_z", partial(signed, decimals=2))),
        Column("pairing", "pairing", left_out=NARROW + PAPER, show=pairing),
        Column("dose", "dose", show=value_of("dose", second)),
        Column("front", "Pareto", show=value_of("on_front", {True: "front", False: "-"}.__getitem__)),
        Column("params", "params", left_out=PAPER, show=value_of("params", scaled)),
        Column("macs", "MACs", left_out=PAPER, show=value_of("macs", scaled)),
        Column("latency", "latency ms", left_out=PAPER, show=latency("latency_ms")),
        Column("fused", "fused ms", left_out=PAPER, show=latency("latency_fused_ms")),
    ]


def _displayed(data: pd.DataFrame, metric: MetricColumn, judging: Judging) -> tuple[list[Column], list[Row]]:
    columns = _columns_of(data, metric, judging)
    cells = [row.cells for row in rows_of(columns, data.itertuples(index=False))]
    kept = [
        at for at, column in enumerate(columns) if column.name in ALWAYS or any(row[at].text != "-" for row in cells)
    ]
    return [columns[at] for at in kept], [Row([row[at] for at in kept]) for row in cells]


def digits_of(data: pd.DataFrame, metric: MetricColumn) -> tuple[int, int]:
    """Digits after the point for the means and for the differences of an `AblationTable`."""
    decimals = decimals_for(data["sd"].dropna().tolist(), metric.decimals)
    intervals = data[["ci_low", "ci_high"]].dropna().itertuples(index=False, name=None)
    return decimals, interval_decimals(intervals, decimals)


def _verdict_lines(data: pd.DataFrame, columns: Sequence[Column], shown: Sequence[Row], judging: Judging) -> list[str]:
    """Say of each row its verdict, and in brackets what that rests on: "stage4: better than the baseline (p = 0.01)"."""
    places = [(at, TITLED[column.name]) for at, column in enumerate(columns) if column.name in TITLED]
    corrected = "" if judging.correction == "none" else "corrected "
    lines = []
    rows: list[Any] = list(data.itertuples(index=False))
    for row, cells in zip(rows, shown, strict=True):
        if pd.isna(row.verdict):
            continue
        facts = [f"{corrected}{p_is(row.p_corrected)}"] if pd.notna(row.p_corrected) else []
        for name, title in (("wilcoxon", "Wilcoxon"), ("equivalence", "equivalence")):
            value = getattr(row, f"{name}_p_corrected")
            facts += [f"{title} {p_is(value)}"] if pd.notna(value) else []
        facts += [f"{title} {cells.cells[at].text}" for at, title in places if cells.cells[at].text != "-"]
        lines.append(f"{one_line(row.arm, 400)}: {row.verdict}" + (f" ({', '.join(facts)})" if facts else ""))
    return lines
