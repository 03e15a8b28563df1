"""What the marks of a grid rest on: comparisons with the baseline, comparisons with the best, and the stars."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.arms import Arm, comparable
from search.stats.corrections import adjusted_p_values
from search.stats.paired import ALPHA, ArmValues, PairedDifference

if TYPE_CHECKING:
    from search.report.grid.grid import Cell

__all__ = ["Compare", "best_of", "compared", "stars_of"]

Compare = Callable[[Sequence[ArmValues], ArmValues], list[PairedDifference]]
STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


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
    cells: Sequence[Cell],
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
