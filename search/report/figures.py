"""The figures of a table by its spec: mean, difference and what their marks rest on, for each arm and metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from search.ledger.metric import LATENCIES, NOT_ALONE, MetricColumn
from search.report.arms import Arm, comparable
from search.report.judging import JUDGED, Judging, judged
from search.report.provenance import provenance_of_arms, provenance_title
from search.report.spec import TableSpec
from search.report.table import Cell
from search.report.values import arm_values
from search.report.words import decimals_for, scaled, signed
from search.stats.corrections import adjusted_p_values
from search.stats.paired import ALPHA, CONFIDENCE, ArmValues, PairedDifference, survivors

Compare = Callable[[Sequence[ArmValues], ArmValues], list[PairedDifference]]
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One arm and metric, at full precision.

    Attributes:
        n: seeds that finished. missing: what the others came to, e.g. "1 failed"; "" where none is missing.
        mean, sd: over those seeds; NaN where not defined.
        result: the paired difference to the baseline; None for the baseline, and where none may be taken.
        p_corrected: its p-value, corrected over the table; NaN where there is none.
        facts: effect size, power and equivalence, by the names of `JUDGED`; None where not asked for, or not defined.
        stars: significance, e.g. "**", and "=" where it is equivalent to the baseline within the margin.
        doubt: "?" behind a latency that was not measured in an exclusive slot, or "".
        note: letter of a footnote, or "".
        failed: whether a training failed on a seed that it or the baseline has, so that it is not marked.
        best: the best of its metric, or not to be told from it.
        provenance: see `provenance_of_arms`.
    """

    arm: Arm
    metric: MetricColumn
    n: int
    missing: str
    mean: float
    sd: float
    result: PairedDifference | None = None
    p_corrected: float = float("nan")
    facts: Mapping[str, Any] = field(default_factory=lambda: dict.fromkeys(JUDGED))
    stars: str = ""
    doubt: str = ""
    note: str = ""
    failed: bool = False
    best: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row: its name, a figure (or None) for each column, and the texts of the published columns.

    A line that `spans` has one figure for each metric, for an arm that has no level of the columns' factor.
    """

    name: str
    is_baseline: bool
    spans: bool
    figures: list[Figure | None]
    paper: tuple[str, ...] = ()


def figures_of(
    arms: Sequence[Arm], metric: MetricColumn, reference: Arm | None, spec: TableSpec, compare: Compare
) -> list[Figure]:
    """Make the cells of one metric: means, differences, marks, and which are the best."""
    measured = arm_values(arms, metric.column)
    is_metric = not metric.is_cost
    cells = []
    for arm, values, provenance in zip(arms, measured, provenance_of_arms(arms, metric.column), strict=True):
        n = len(values.values)
        lost = [status for status in values.statuses if status != "ok"]
        without = "not measured in an exclusive slot" if metric.column in LATENCIES else "without a value"
        lost += [without] * (values.statuses.count("ok") - n)
        cells.append(
            Figure(
                arm=arm,
                metric=metric,
                n=n,
                missing=", ".join(f"{lost.count(what)} {what}" for what in dict.fromkeys(lost)),
                mean=float(values.values.mean()) if n else float("nan"),
                sd=float(values.values.std(ddof=1)) if n > 1 else float("nan"),
                doubt=NOT_ALONE if metric.column in LATENCIES and values.latency_exclusive is False else "",
                provenance=provenance,
            )
        )
    if reference is not None and is_metric:
        at = next(position for position, arm in enumerate(arms) if arm is reference)
        results = compared(arms, measured, at, compare)
        judging = Judging(correction=spec.correction, margin=spec.margin)  # type: ignore[arg-type]
        facts = judged(measured, measured[at], results, judging)
        survived = [survivors(values, measured[at], metric.worst) for values in measured]
        cells = [
            replace(
                cell,
                result=result,
                p_corrected=float("nan") if fact["p_corrected"] is None else fact["p_corrected"],
                facts=fact,
                stars=stars_of(fact) if spec.marks and not came.lost else "",
                failed=result is not None and came.lost > 0,
            )
            for cell, result, fact, came in zip(cells, results, facts, survived, strict=True)
        ]
    if spec.bold == "best":
        for position in best_of(arms, measured, cells, metric, spec.correction if is_metric else None, compare):
            cells[position] = replace(cells[position], best=True)
    return cells


def digits_of(cells: Sequence[Figure], metric: MetricColumn, digits: int | None) -> tuple[int, int]:
    """Digits after the point for the means and the differences of a metric, as their 95% intervals allow."""
    if digits is not None:
        return digits, digits
    if metric.is_cost:
        return metric.decimals, metric.decimals
    half = [
        float(stats.t.ppf((1 + CONFIDENCE) / 2, cell.n - 1)) * cell.sd / cell.n**0.5 for cell in cells if cell.n > 1
    ]
    results = [cell.result for cell in cells if cell.result is not None]
    widths = [(each.high - each.low) / 2 for each in results if each.low is not None and each.high is not None]
    return decimals_for(half, metric.decimals), decimals_for(widths, decimals_for(half, metric.decimals))


def stars_of(fact: Mapping[str, Any]) -> str:
    """Mark significance and equivalence."""
    p, same = fact["p_corrected"], fact["equivalence_p_corrected"]
    stars = "" if p is None else next((mark for limit, mark in STARS if p < limit), "")
    return ",".join(mark for mark in (stars, "=" if same is not None and same <= ALPHA else "") if mark)


def compared(
    arms: Sequence[Arm], measured: Sequence[ArmValues], at: int, compare: Compare
) -> list[PairedDifference | None]:
    """Compare each arm that may be with the arm at position `at`."""
    return [
        None if position == at or not comparable(arm, arms[at]) else result
        for position, (arm, result) in enumerate(zip(arms, compare(measured, measured[at]), strict=True))
    ]


def tested(
    arms: Sequence[Arm], measured: Sequence[ArmValues], at: int, correction: str, compare: Compare
) -> tuple[list[PairedDifference | None], list[float]]:
    """Compare each arm that may be with the arm at position `at`, and correct the p-values over the rows."""
    results = compared(arms, measured, at, compare)
    raw = [np.nan if result is None or result.p_value is None else result.p_value for result in results]
    corrected = adjusted_p_values(pd.Series(raw, dtype="float64"), correction)  # type: ignore[arg-type]
    return results, [float(p) for p in corrected]


def best_of(
    arms: Sequence[Arm],
    measured: Sequence[ArmValues],
    cells: Sequence[Figure],
    metric: MetricColumn,
    correction: str | None,
    compare: Compare,
) -> list[int]:
    """Return the positions of the best mean and of all that cannot be told from it.

    An arm on whose seeds a training failed is none of them: the mean of its survivors flatters it. An arm that shares fewer
    than two seeds with the best, or was trained by another recipe, cannot be compared and is not among them. A cost
    (`correction` None) is compared as it is.
    """
    means = [cell.mean if metric.higher_is_better else -cell.mean for cell in cells]
    if correction is not None:
        means = [float("nan") if len(arm.failed) else mean for arm, mean in zip(measured, means, strict=True)]
    if np.isnan(means).all():
        return []
    best = int(np.nanargmax(means))
    if correction is None:
        return [position for position, mean in enumerate(means) if mean == means[best]]
    results, corrected = tested(arms, measured, best, correction, compare)
    alike = [best]
    for position, (result, p) in enumerate(zip(results, corrected, strict=True)):
        if (
            result is not None
            and not len(measured[position].failed)
            and (p >= ALPHA or (result.n > 1 and result.mean == 0))
        ):
            alike.append(position)
    return alike


def cell_of(each: Figure, spec: TableSpec, digits: int, finer: int) -> Cell:
    """Round the numbers of a figure; `finer` are the digits of a difference. Marks: stars, a latency in doubt, a footnote."""
    text, behind = rounded(each, spec, digits, finer)
    return Cell(
        text,
        behind,
        marks=",".join(part for part in (each.stars, each.doubt, each.note) if part),
        bold=each.best and each.n > 0,
        title=provenance_title(each.provenance),
        label=each.metric.title,
    )


def rounded(each: Figure, spec: TableSpec, digits: int, finer: int) -> tuple[str, str]:
    """Return the main figure as text, and what stands behind it ("" where nothing does)."""
    if not each.n:
        return "-", ""
    if each.metric.is_cost:
        return (f"{each.mean:.{digits}f}" if each.metric.decimals else scaled(each.mean)), ""
    if spec.show.startswith("diff") and each.result is not None:
        if each.result.mean is None:
            return "-", ""
        text = signed(each.result.mean, finer)
        if spec.show == "diff" or each.result.low is None or each.result.high is None:
            return text, ""
        return text, f"[{signed(each.result.low, finer)}, {signed(each.result.high, finer)}]"
    if spec.show == "mean_sd" and not math.isnan(each.sd):
        return f"{each.mean:.{digits}f}", f"± {each.sd:.{digits}f}"
    return f"{each.mean:.{digits}f}", ""
