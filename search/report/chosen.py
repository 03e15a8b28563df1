"""Which phase, metric and baseline a table is made of, where the reader leaves them open."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from search.ledger.metric import MetricColumn, metric_columns, metric_named, metrics_of
from search.report.arms import Arm

__all__ = ["marked_baseline", "metric_to_read", "phase_to_read"]


def phase_to_read(frame: pd.DataFrame, phase: str | None) -> str:
    """Return the phase asked for, or the one whose numbers are worth the most."""
    present = [name for name in ("final", "search", "single") if (frame["phase"] == name).any()]
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
    ok = trials[trials["status"] == "ok"]
    measured = [column for column in metric_columns() if column in ok and ok[column].notna().any()]
    if name is not None:
        metric = metric_named(name)
        if name not in measured and (len(ok) or name not in ok):
            raise ValueError(
                f"no finished trial of phase '{phase}' has {name}; metrics with values: {', '.join(measured) or 'none'}"
            )
        return metric
    known = metrics_of(None)
    judged_by = next((metric for metric in known if {each.column for each in metric.columns} & {*measured}), known[0])
    wanted, val = judged_by.on("test" if phase == "final" else "val"), judged_by.on("val")
    return val if wanted.column not in measured and val.column in measured else wanted


def marked_baseline(arms: Sequence[Arm]) -> Arm | None:
    """Return the arm the study marked as its baseline; None where none, or more than one, is marked."""
    marked = [arm for arm in arms if arm.is_baseline]
    return marked[0] if len(marked) == 1 else None
