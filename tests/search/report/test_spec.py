"""A table spec is read strictly: what is wrong in it is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from search.report.spec import PAPER, TableSpec, paper_table, read_spec, spec_of


def test_a_file_and_changes_over_it(tmp_path: Path) -> None:
    path = tmp_path / "stages.yaml"
    path.write_text("rows: where\ncolumns: what\nmetrics: [test_top1, params]\ndigits: 2\n")
    spec = read_spec(path, {"digits": 1})
    assert spec == TableSpec(name="stages", rows="where", columns="what", metrics=("test_top1", "params"), digits=1)
    path.write_text("")
    assert read_spec(path) == TableSpec(name="stages")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colums": "what"}, "Did you mean columns?"),
        ({"metrics": ["acc"]}, "metric 'acc' is not one of"),
        ({"metrics": ["params", "params"]}, "names one twice"),
        ({"metrics": 3}, "no list of names"),
        ({"show": "median"}, "show: 'median' is not one of mean_sd"),
        ({"phase": "test"}, "phase: 'test' is not one of"),
        ({"digits": True}, "no whole number"),
        ({"digits": 9}, "no whole number"),
        ({"name": "../x"}, "no stem of a file"),
        ({"marks": "yes"}, "neither true nor false"),
        ({"rows": None}, "rows: None is no text"),
        ({"columns": "arm"}, "is what the rows are already"),
        ({"published": "stage_placment"}, "Did you mean stage_placement?"),
    ],
)
def test_faults_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        spec_of(values)


@pytest.mark.parametrize(("text", "message"), [("- a", "holds list"), ("a: [", "cannot be read"), ("x: 1", "no field")])
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as fault:
        read_spec(path)
    assert str(path) in str(fault.value)
    with pytest.raises(ValueError, match="cannot be read"):
        read_spec(tmp_path / "none.yaml")


def test_published_tables_are_whole() -> None:
    for name, table in PAPER.items():
        assert paper_table(name) is table
        assert all(len(texts) == len(table.columns) for texts in table.rows.values())
        assert "arXiv 2106.02253" in table.source


def test_the_gain_in_box_ap_is_that_of_global_attention() -> None:
    rows = PAPER["detection"].rows
    assert [name for name, texts in rows.items() if any("1.7" in text for text in texts)] == ["conv+softmax_global"]
    assert "38.6" in PAPER["instance_segmentation"].note
