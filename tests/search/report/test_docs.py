"""docs/tables.md says of every column and every field what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest

import search
from search.ledger.metric import SAMPLE_METRICS
from search.report.ablation import DATA_COLUMNS
from search.report.budget import BUDGET_COLUMNS
from search.report.detections import CLASS_COLUMNS, PICTURES
from search.report.diff import DIFF_COLUMNS
from search.report.effects import EFFECT_COLUMNS
from search.report.judging import ROOTS
from search.report.pivot import PIVOT_COLUMNS
from search.report.placing import PLACEMENT_COLUMNS
from search.report.placing_check import CHECK_COLUMNS
from search.report.reading.load import load_study
from search.report.reading.rows import COLUMNS
from search.report.spec import CHOICES, TableSpec
from search.report.trust import TRUST_COLUMNS
from search.report.values import COLUMN_FACTORS
from search.report.write import save_tidy

from .conftest import Add

DOCS = (Path(search.__file__).parents[1] / "docs" / "tables.md").read_text(encoding="utf-8")


def table_below(title: str) -> list[list[str]]:
    """The rows of the first table under a heading, cell by cell."""
    section = DOCS.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("title", "columns"),
    [
        ("The tidy frame", COLUMNS),
        ("Columns of a table's CSV", PIVOT_COLUMNS),
        ("Columns of the ablation table's CSV", DATA_COLUMNS),
        ("Columns over roots", ROOTS),
        ("Columns over pictures", PICTURES),
        ("Columns of the effects' CSV", EFFECT_COLUMNS),
        ("Columns of the budget's CSV", BUDGET_COLUMNS),
        ("Columns of the classes' CSV", CLASS_COLUMNS),
        ("Columns of a placement's CSV", PLACEMENT_COLUMNS),
        ("Columns of a placement's check", CHECK_COLUMNS),
        ("Columns of a diff's CSV", DIFF_COLUMNS),
        ("Proxy trust", TRUST_COLUMNS),
    ],
)
def test_columns(title: str, columns: dict[str, str]) -> None:
    rows = table_below(title)
    assert [(row[0], row[1]) for row in rows] == list(columns.items())
    assert all(row[-1] for row in rows)


def test_spec_fields() -> None:
    rows = table_below("A table spec")
    assert [row[0] for row in rows] == [field.name for field in fields(TableSpec)]
    for name, words in ((row[0], " ".join(row[1:])) for row in rows):
        assert all(re.search(rf"\b{choice}\b", words) for choice in CHOICES.get(name, ()))
    assert all(f"`{name}`" in DOCS for name in COLUMN_FACTORS)


def test_tidy_files_read_back(study: Path, add: Add, tmp_path: Path) -> None:
    add('naïve, "x"', 0, test_top1=100 / 3, params=2**62, zero_cost={"zen": 1.5})
    add("stage3", 1, status="failed", reason="a\nb")
    frame = search.load_study(study)
    assert frame.columns.tolist()[: len(COLUMNS)] == list(COLUMNS)
    back = pd.read_parquet(save_tidy(frame, tmp_path / "x.parquet"), dtype_backend="numpy_nullable")
    pd.testing.assert_frame_equal(back.astype(frame.dtypes.to_dict()), frame)
    types = COLUMNS | {"zero_cost.zen": "Float64"}
    back = pd.read_csv(save_tidy(frame, tmp_path / "x.csv"), dtype=types)
    pd.testing.assert_frame_equal(back, frame)
    assert load_study is search.load_study
    assert re.search(r"pip|import", DOCS)


def test_scores_from_samples() -> None:
    rows = table_below("Scores from samples")
    assert [row[0] for row in rows] == [metric.name for metric in SAMPLE_METRICS]
    for row, metric in zip(rows, SAMPLE_METRICS, strict=True):
        assert row[1].startswith(metric.unit)
        assert row[2] == ("higher" if metric.higher_is_better else "lower")
