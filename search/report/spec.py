"""What a table shows: its rows, columns, metrics, baseline, order, digits and marks; from a YAML file or the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from search.ledger.metric import column_named
from search.report.paper import paper_table
from xvol.suggest import nearest

__all__ = ["CHOICES", "TableSpec", "check_margin", "read_spec", "spec_of"]

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
        rows: what a row is: "arm", or a factor; see `search/report/effects/factors.py`.
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
        paper: name of a published table whose figures stand beside ours.
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
    paper: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.metrics, tuple) or not all(isinstance(name, str) for name in self.metrics):
            raise ValueError(f"metrics: {self.metrics!r} is no list of names, e.g. [test_top1, params]")
        for name in self.metrics:
            column_named(name)
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics: {', '.join(self.metrics)} names one twice")
        for field in ("show", "sort", "bold", "correction", "phase"):
            value, allowed = getattr(self, field), CHOICES[field]
            if value not in allowed and not (field == "phase" and value is None):
                raise ValueError(f"{field}: {value!r} is not one of {', '.join(allowed)}")
        if self.digits is not None and (type(self.digits) is not int or not 0 <= self.digits <= 8):
            raise ValueError(
                f"digits: {self.digits!r} is no whole number from 0 to 8; leave it out to let them be chosen"
            )
        check_margin(self.margin)
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", str(self.name)):
            raise ValueError(f"name: {self.name!r} is no stem of a file: use letters, digits, '.', '_' and '-'")
        if not isinstance(self.marks, bool):
            raise ValueError(f"marks: {self.marks!r} is neither true nor false")
        for field in ("caption", "rows", "columns", "baseline", "paper"):
            value = getattr(self, field)
            if not isinstance(value, str) and (value is not None or field == "rows"):
                raise ValueError(f"{field}: {value!r} is no text")
        if self.columns == self.rows:
            raise ValueError(f"columns: '{self.columns}' is what the rows are already; choose another factor")
        if self.paper is not None:
            paper_table(self.paper)


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
            near = nearest(str(name), known)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"'{name}' is no field of a table spec; fields: {', '.join(known)}.{hint}")
    metrics = values.get("metrics", ())
    listed = (
        (metrics,) if isinstance(metrics, str) else tuple(metrics) if isinstance(metrics, list | tuple) else metrics
    )
    return TableSpec(**{**values, "metrics": listed})


def read_spec(path: str | Path, changes: Mapping[str, Any] | None = None) -> TableSpec:
    """Read a table spec from a YAML file.

    Args:
        path: a file with fields of `TableSpec`; `name` is by default the file's stem.
        changes: fields that are set over those of the file.

    Raises:
        ValueError: the file is not there, is no YAML mapping, or a field is unknown or wrong; the message names it.
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
