"""What a table shows: its rows, columns, metrics, baseline, order, digits and marks; from a YAML file or the command line.

Published figures (X-volution, arXiv 2106.02253) can stand beside ours. Only what the paper's abstract and public summaries state is
here: they do not give the numbers of its tables, and a figure that was not published is not here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from search.ledger.metric import column_named
from search.report.words import did_you_mean

# Options of xvol-table that are fields of a spec, and of the statistics in it.
SPEC_OPTIONS = ("rows", "columns", "metrics", "show", "sort", "digits", "bold", "published", "caption", "name")
STATISTICS = ("correction", "margin", "test", "interval")
CHOICES: dict[str, tuple[str, ...]] = {
    "show": ("mean_sd", "mean", "diff", "diff_interval"),
    "sort": ("mean", "name", "order"),
    "bold": ("best", "none"),
    "correction": ("holm", "bonferroni", "bh", "none"),
    "phase": ("search", "final", "single"),
    "test": ("t", "wilcoxon"),
    "interval": ("t", "bootstrap"),
}
"""Values that a field of `TableSpec`, or of `Judging`, may take, where they can be listed."""


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """What a table shows.

    Attributes:
        name: stem of the files, e.g. "stages" for tables/stages.tex; letters, digits, `.`, `_` and `-`.
        caption: title; by default the study, the phase and the metrics.
        rows: what a row is: "arm", or a factor; see `search/report/values.py`.
        columns: a factor whose levels become columns (a pivot with a two-row header); None for one column a metric.
        metrics: columns of the ledger, those of `metric_columns` or `COSTS`; by default the one the phase is judged by.
        show: "mean_sd", "mean", "diff" (to the baseline), or "diff_interval".
        baseline: name or hash of the arm that differences and marks are taken against; default: the study's own.
        phase: which trials to read; default as `ablation_table`.
        sort: rows by the "mean" of the first metric (best first), by "name", or in the "order" they were run; the
            baseline comes first in each.
        digits: digits after the point; None lets the intervals decide.
        bold: "best" sets the best of a metric, and all that cannot be told from it, in bold.
        marks: whether significance is marked.
        correction: of p-values over the rows of a metric: "holm", "bonferroni", "bh" (Benjamini-Hochberg) or "none".
        margin: smallest difference that matters, in the unit of the metrics; rows that are equivalent to the baseline within
            it are marked. None tests none.
        published: name of a published table whose figures stand beside ours.
    """

    name: str = "table"
    caption: str | None = None
    rows: str = "arm"
    columns: str | None = None
    metrics: tuple[str, ...] = ()
    show: str = "mean_sd"
    baseline: str | None = None
    phase: str | None = None
    sort: str = "mean"
    digits: int | None = None
    bold: str = "best"
    marks: bool = True
    correction: str = "holm"
    margin: float | None = None
    published: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metrics, tuple) or not all(isinstance(name, str) for name in self.metrics):
            raise ValueError(f"metrics: {self.metrics!r} is no list of names, e.g. [test_top1, params]")
        for name in self.metrics:
            column_named(name)
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics: {', '.join(self.metrics)} names one twice")
        for field in ("show", "sort", "bold", "correction", "phase"):
            if field != "phase" or self.phase is not None:
                check_choice(field, getattr(self, field))
        if self.digits is not None and (type(self.digits) is not int or not 0 <= self.digits <= 8):
            raise ValueError(
                f"digits: {self.digits!r} is no whole number from 0 to 8; leave it out to let them be chosen"
            )
        check_margin(self.margin)
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", str(self.name)):
            raise ValueError(f"name: {self.name!r} is no stem of a file: use letters, digits, '.', '_' and '-'")
        if not isinstance(self.marks, bool):
            raise ValueError(f"marks: {self.marks!r} is neither true nor false")
        for field in ("caption", "rows", "columns", "baseline", "published"):
            value = getattr(self, field)
            if not isinstance(value, str) and (value is not None or field == "rows"):
                raise ValueError(f"{field}: {value!r} is no text")
        if self.columns == self.rows:
            raise ValueError(f"columns: '{self.columns}' is what the rows are already; choose another factor")
        if self.published is not None:
            paper_table(self.published)


def check_choice(field: str, value: Any) -> None:
    """Raise ValueError for a value that is none of `CHOICES`."""
    allowed = CHOICES[field]
    if value not in allowed:
        raise ValueError(f"{field}: {value!r} is not one of {', '.join(allowed)}{did_you_mean(value, allowed, '. ')}")


def check_margin(margin: Any) -> None:
    """Raise ValueError for a margin that is no number above zero; None is none."""
    if margin is not None and not (type(margin) in (int, float) and 0 < margin < math.inf):
        raise ValueError(
            f"margin: {margin!r} is no number above zero; give the smallest difference that matters, in the unit of the metric, e.g. "
            "0.5 for half a point of top-1"
        )


def spec_of(values: Mapping[str, Any]) -> TableSpec:
    """Make a spec of plain values; ValueError names an unknown field and the near match."""
    known = [field.name for field in fields(TableSpec)]
    for name in values:
        if name not in known:
            raise ValueError(
                f"'{name}' is no field of a table spec; fields: {', '.join(known)}.{did_you_mean(name, known)}"
            )
    metrics = values.get("metrics", ())
    listed = (
        (metrics,) if isinstance(metrics, str) else tuple(metrics) if isinstance(metrics, list | tuple) else metrics
    )
    return TableSpec(**{**values, "metrics": listed})


def read_spec(path: str | Path, changes: Mapping[str, Any] | None = None) -> TableSpec:
    """Read a table spec from a YAML file, whose stem is its `name` by default; `changes` are set over its fields.

    ValueError names the file where it is not there, is no YAML mapping, or a field is unknown or wrong.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"the table spec {path} cannot be read: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ValueError(f"the table spec {path} holds {type(values).__name__}, expected fields such as 'rows: arm'")
    try:
        return spec_of({"name": path.stem, **values, **(changes or {})})
    except ValueError as error:
        raise ValueError(f"the table spec {path}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """Published figures of one table: what was measured, and a text under each heading; "-" where nothing was published.

    `rows` are by the level of what was varied (as in the place of an arm's name, or as its branches); `note` is what to know before the
    figures are compared with others.
    """

    title: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    note: str = ""

    @property
    def source(self) -> str:
        """Say where the figures come from."""
        return f"Chen, Wang and Ni 2021, arXiv 2106.02253, table number not known here: {self.title}"


PAPER: dict[str, PaperTable] = {
    "stage_placement": PaperTable(
        title="ImageNet top-1 points over the plain ResNet, by the stage whose 3x3 convolutions became X-volution",
        columns=("paper ResNet-34", "paper ResNet-50"),
        rows={"stage3": ("+1.2 (best)", "+0.9 (best)"), "stage4": ("-", "worse")},
    ),
    "branch_ablation": PaperTable(
        title="branches of X-volution; no figure is on record, only the order: either branch alone is worse than both",
        columns=("paper",),
        rows={"conv": ("worse than both",), "pssa": ("worse than both",), "conv+pssa": ("best",)},
    ),
    "detection": PaperTable(
        title="COCO detection, Faster R-CNN + FPN, ResNet-50",
        columns=("paper box AP", "AP50", "AP75", "APs", "APm", "APl"),
        rows={
            "conv+softmax_global": ("+1.7 over R50", *("-",) * 5),
            "conv+pssa": ("comparable", *("-",) * 5),
            "X-volution, form not stated": ("42.8", "64.0", "46.4", "26.9", "46.0", "55.0"),
        },
        note="The gain of 1.7 box AP is that of X-volution(SA), global self-attention beside the convolution; the form with "
        "PSSA is called comparable. The training schedule is not stated.",
    ),
    "instance_segmentation": PaperTable(
        title="COCO instance segmentation, Mask R-CNN + FPN, ResNet-50, X-volution(SA)",
        columns=("paper box AP", "mask AP", "APs", "APm", "APl"),
        rows={"conv+softmax_global": ("41.1", "37.2", "19.2", "40.0", "53.1")},
        note="The training schedule is not stated, and a plain Mask R-CNN R50-FPN comes to 38.6 box and 35.2 mask AP at the 1x "
        "schedule, to 41.0 and 37.2 at 3x: these figures alone do not tell the block from a longer training.",
    ),
}
"""The published tables by name."""


def paper_table(name: str) -> PaperTable:
    """Return a published table; ValueError lists the names and the near match."""
    if name not in PAPER:
        raise ValueError(f"paper table '{name}' is not one of {', '.join(PAPER)}.{did_you_mean(name, PAPER)}")
    return PAPER[name]
