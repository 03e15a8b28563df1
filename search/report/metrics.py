"""The metrics a table can be made of: what each is called, its unit, and which direction is better."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

__all__ = ["COSTS", "LATENCIES", "METRICS", "NOT_ALONE", "NOT_ALONE_MEANS", "Metric", "column_named", "metric_named"]

LATENCIES = ("latency_ms", "latency_fused_ms")
NOT_ALONE = "?"
"""Stands behind a latency that was not measured in an exclusive slot."""
NOT_ALONE_MEANS = "?: a latency that was not measured in an exclusive slot."


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How one column of the ledger is read.

    Attributes:
        column: name of the column in the ledger.
        title: heading of the column in a table, with its unit.
        unit: unit of a difference, as said in a sentence.
        higher_is_better: which direction is an improvement.
        decimals: digits after the point where no spread says how many are worth showing.
        meaning: one sentence for the notes under a table.
        worst: the worst value there is, which a failed training counts as in a worst case; None where there is none.
    """

    column: str
    title: str
    unit: str
    higher_is_better: bool
    decimals: int
    meaning: str
    worst: float | None = None


METRICS: dict[str, Metric] = {
    metric.column: metric
    for metric in (
        Metric(
            column="test_top1",
            title="test top-1 %",
            unit="points",
            higher_is_better=True,
            decimals=2,
            meaning="percent of test images classified right after the last epoch; test images are read once, "
            "by the final phase",
            worst=0.0,
        ),
        Metric(
            column="val_top1",
            title="val top-1 %",
            unit="points",
            higher_is_better=True,
            decimals=2,
            meaning="percent of validation images classified right after the last epoch",
            worst=0.0,
        ),
        Metric(
            column="test_loss",
            title="test loss",
            unit="nats",
            higher_is_better=False,
            decimals=4,
            meaning="cross-entropy in nats on the test images; test images are read once, by the final phase",
        ),
        Metric(
            column="val_loss",
            title="val loss",
            unit="nats",
            higher_is_better=False,
            decimals=4,
            meaning="cross-entropy in nats on the validation images",
        ),
        Metric(
            column="train_seconds",
            title="training s",
            unit="seconds",
            higher_is_better=False,
            decimals=1,
            meaning="wall time of the training loop in seconds, evaluation included",
        ),
    )
}


def metric_named(name: str) -> Metric:
    """Return the metric of a ledger column.

    Raises:
        ValueError: no table can be made of `name`; the message lists the metrics and the near matches.
    """
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f"metric '{name}' is not one of {', '.join(METRICS)}.{hint}")


COSTS: dict[str, Metric] = {
    column: Metric(column=column, title=title, unit=unit, higher_is_better=False, decimals=decimals, meaning=meaning)
    for column, title, unit, decimals, meaning in (
        ("params", "params", "parameters", 0, "number of parameters as trained"),
        ("params_fused", "params fused", "parameters", 0, "number of parameters after fuse()"),
        ("macs", "MACs", "MACs", 0, "multiply-accumulates of one image as trained"),
        ("macs_fused", "MACs fused", "MACs", 0, "multiply-accumulates of one image after fuse()"),
        ("latency_ms", "latency ms", "ms", 2, "milliseconds of one batch as trained, the median of a trial"),
        ("latency_fused_ms", "fused ms", "ms", 2, "milliseconds of one batch after fuse(), the median of a trial"),
        ("peak_memory_mb", "peak MiB", "MiB", 1, "largest memory torch held on the accelerator, MiB"),
    )
}
"""Costs that a table spec may show beside the metrics; a table is not judged by them."""


def column_named(name: str) -> Metric:
    """Return the metric or cost of a ledger column; ValueError as `metric_named`."""
    known = METRICS | COSTS
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f"metric '{name}' is not one of {', '.join(known)}.{hint}")
