"""Metrics as data: what a trial is scored by, what it costs, and what each column of the ledger means. No torch in here.

A task's metrics are declared in `TASK_METRICS`, what every trial costs in `COSTS`. An installed package adds a metric with one
line, an entry point of the group `xvol.metrics` that names a `Metric` or a tuple of them:

    [project.entry-points."xvol.metrics"]
    top5 = "my_package.top5:TOP5"

Tables read those modules too, so they import no torch at their top; what computes the values is named by `Metric.evaluator`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points

from search.ledger.measured import CLASSIFY, SAMPLE_SPLITS, Metric, MetricColumn
from xvol.allowed import meant

ENTRY_POINTS = "xvol.metrics"
DETECTION, INSTANCES = "detection", "instance_segmentation"
DETECTORS = (DETECTION, INSTANCES)
SCORE_PREFIX = "zero_cost."  # `zero_cost.synflow` names a score of the untrained network where metrics are named
LATENCIES = ("latency_ms", "latency_fused_ms", "latency_body_ms", "latency_body_fused_ms")
NOT_ALONE = "?"
"""Stands behind a latency that was not measured in an exclusive slot."""
NOT_ALONE_MEANS = "?: a latency that was not measured in an exclusive slot."


def _coco(task: str, *kinds: str) -> tuple[Metric, ...]:
    return tuple(
        Metric(
            name=f"{kind}_{name}",
            title=f"{kind} {title}",
            unit="points",
            higher_is_better=True,
            meaning=f"COCO's {kind} average {what}, in percent on the {{images}}",
            worst=0.0,
            task=task,
        )
        for kind in kinds
        for name, title, what in (
            ("ap", "AP", "precision over IoU 0.50 to 0.95 and classes"),
            ("ap50", "AP50", "precision at IoU 0.50"),
            ("ap75", "AP75", "precision at IoU 0.75"),
            ("ap_small", "AP small", "precision on objects below 32 x 32 pixels"),
            ("ap_medium", "AP medium", "precision on objects of 32 x 32 to 96 x 96 pixels"),
            ("ap_large", "AP large", "precision on objects above 96 x 96 pixels"),
            ("ar100", "AR100", "recall at 100 detections of a class in a picture"),
        )
    )


TASK_METRICS: dict[str, tuple[Metric, ...]] = {
    CLASSIFY: (
        Metric(
            name="top1",
            title="top-1 %",
            unit="points",
            higher_is_better=True,
            meaning="percent of {images} classified right after the last epoch",
            worst=0.0,
            has_chance=True,
        ),
        Metric(
            name="loss",
            title="loss",
            unit="nats",
            higher_is_better=False,
            decimals=4,
            meaning="cross-entropy in nats on the {images}",
        ),
    ),
    INSTANCES: _coco(INSTANCES, "mask", "box"),  # before detection: a study that has both kinds is judged by masks
    DETECTION: _coco(DETECTION, "box"),
}
"""The metrics of the tasks that come with the package; the first one of a task is what it is judged by."""

SAMPLE_METRICS = tuple(
    Metric(
        name=name,
        title=title,
        unit=unit,
        higher_is_better=unit == "points",
        decimals=2 if unit == "points" else 4,
        meaning=f"{meaning}, from the float16 logits that the trials kept",
        worst=worst,
        splits=tuple(SAMPLE_SPLITS),
        from_samples=True,
    )
    for name, title, unit, worst, meaning in (
        ("p_true", "p(true) %", "points", 0.0, "mean probability of the true class in percent on the {images}"),
        (
            "margin",
            "margin %",
            "points",
            -100.0,
            "probability of the true class less the largest of another, -100 to 100, mean over the {images}",
        ),
        ("nll", "NLL", "nats", None, "negative log-likelihood of the true class in nats on the {images}"),
        (
            "brier",
            "Brier",
            "Brier",
            2.0,
            "squared distance of the probabilities from the truth, 0 to 2 (Brier 1950), mean over the {images}",
        ),
        (
            "calibrated_nll",
            "calibrated NLL",
            "nats",
            None,
            "NLL in nats at a temperature (Guo and others 2017) fitted to the other half of the {images}",
        ),
    )
)
"""What tables compute from the samples of trials of classification; no trial is judged by them while it runs."""

TRAIN_SECONDS = MetricColumn(
    name="train_seconds",
    title="training s",
    unit="seconds",
    higher_is_better=False,
    decimals=1,
    meaning="wall time of the training loop in seconds, evaluation included",
)

COSTS: dict[str, MetricColumn] = {
    name: MetricColumn(
        name=name, title=title, unit=unit, higher_is_better=False, decimals=decimals, meaning=meaning, is_cost=True
    )
    for name, title, unit, decimals, meaning in (
        ("params", "params", "parameters", 0, "number of parameters as trained"),
        ("params_fused", "params fused", "parameters", 0, "number of parameters after fuse()"),
        ("macs", "MACs", "MACs", 0, "multiply-accumulates of one image as trained"),
        ("macs_fused", "MACs fused", "MACs", 0, "multiply-accumulates of one image after fuse()"),
        ("latency_ms", "latency ms", "ms", 2, "milliseconds of one batch as trained, the median of a trial"),
        ("latency_fused_ms", "fused ms", "ms", 2, "milliseconds of one batch after fuse(), the median of a trial"),
        (
            "latency_body_ms",
            "body ms",
            "ms",
            2,
            "milliseconds of one batch in a detector's body and pyramid as trained",
        ),
        (
            "latency_body_fused_ms",
            "body fused ms",
            "ms",
            2,
            "milliseconds of one batch in a detector's body and pyramid after fuse()",
        ),
        ("peak_memory_mb", "peak MiB", "MiB", 1, "largest memory torch held on the accelerator, MiB"),
    )
}
"""What a table may show beside the metrics, of every task; a table is not judged by them."""


@cache
def installed_metrics() -> tuple[Metric, ...]:
    """The metrics that installed packages declare, in the order of their entry points' names; ValueError names a broken one."""
    found: list[Metric] = []
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            named = point.load()
        except Exception as error:
            raise ValueError(
                f"entry point {point.name!r} of {ENTRY_POINTS} ({point.value}) cannot be loaded: {error}"
            ) from error
        metrics = (named,) if isinstance(named, Metric) else tuple(named) if isinstance(named, Iterable) else ()
        if not metrics or not all(isinstance(metric, Metric) for metric in metrics):
            raise ValueError(
                f"entry point {point.name!r} of {ENTRY_POINTS} ({point.value}) names no Metric, but {named!r}"
            )
        found += metrics
    return tuple(found)


@cache
def metrics_of(task: str | None = CLASSIFY) -> tuple[Metric, ...]:
    """The metrics of a task, its own first and what it is judged by before all; with None one of each name, of all tasks.

    ValueError where a task has two of one name, or two tasks mean different things by one.
    """
    known = [*(metric for metrics in TASK_METRICS.values() for metric in metrics), *installed_metrics()]
    first: dict[str, Metric] = {}
    for position, metric in enumerate(known):
        taken = {other.name for other in known[:position] if other.task == metric.task}
        taken |= {"images", *(other.name for other in SAMPLE_METRICS)}  # `val_images` is a column of its own
        if metric.name in taken:
            raise ValueError(f"metric {metric.name!r} is declared already: choose another name")
        other = first.setdefault(metric.name, metric)
        if metric.told != other.told:  # a column means one thing, whatever study a table is made of
            raise ValueError(
                f"metric {metric.name!r} of task {metric.task} is {metric.told}, that of task {other.task} is "
                f"{other.told} (title, unit, higher is better, worst value): let them agree, or choose another name"
            )
    return tuple(metric for metric in known if metric.task == task) if task is not None else tuple(first.values())


def columns_on(split: str, task: str = CLASSIFY) -> tuple[str, ...]:
    """The columns of a task's metrics on one split."""
    return tuple(metric.on(split).column for metric in metrics_of(task) if split in metric.splits)


def chosen_by(task: str = CLASSIFY) -> str:
    """The column that studies of a task choose by where nobody names another: its first metric, on validation data."""
    return columns_on("val", task)[0]


@cache
def metric_columns() -> dict[str, MetricColumn]:
    """The columns that a table can be judged by: those of all metrics, those from samples last, and the seconds of the training."""
    own, from_samples = (
        [column for each in some for column in each.columns] for some in (metrics_of(None), SAMPLE_METRICS)
    )
    return {column.column: column for column in (*own, TRAIN_SECONDS, *from_samples)}


def metric_named(name: str) -> MetricColumn:
    """Return a column that a table can be judged by; ValueError lists the metrics and the near matches."""
    return _named(name, metric_columns())


def column_named(name: str) -> MetricColumn:
    """Return the metric or cost of a ledger column; ValueError as `metric_named`."""
    return _named(name, metric_columns() | COSTS)


def _named(name: str, known: dict[str, MetricColumn]) -> MetricColumn:
    if name in known:
        return known[name]
    splits = [each for each, column in known.items() if column.split is not None and column.name == name]
    hint = f"; say on which images: {' or '.join(splits)}" if splits else meant(name, known)
    raise ValueError(f"metric '{name}' is not one of {', '.join(known)}{hint}")
