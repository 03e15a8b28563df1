"""A study's folder says what its design declared to vary, also after it has grown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.design.kinds import factorial
from search.ledger.design_file import DESIGN_FILE, read_design, write_design
from search.ledger.versions import NewerVersion

FACTORS = {"where": ["placement=none", "placement=stage3"], "lr": ["train.lr=0.1", "train.lr=0.3"]}


def test_what_is_declared_is_read_back(tmp_path: Path) -> None:
    write_design(tmp_path, "factorial", factorial(FACTORS), ["data=digits"], "seed")
    design = read_design(tmp_path)
    assert design is not None
    assert (design.kind, design.seed_key) == ("factorial", "seed")
    assert design.factors == {"where": ["none", "stage3"], "lr": ["0.1", "0.3"]}
    assert [cell.name for cell in design.cells] == ["baseline", "lr=0.3", "where=stage3", "where=stage3, lr=0.3"]
    assert design.cells[1].overrides == ("data=digits", "placement=none", "train.lr=0.3")
    assert [cell.is_baseline for cell in design.cells] == [True, False, False, False]


def test_a_design_that_grows_keeps_its_cells(tmp_path: Path) -> None:
    write_design(tmp_path, "factorial", factorial(FACTORS))
    write_design(tmp_path, "factorial", factorial(FACTORS | {"lr": ["train.lr=0.1", "train.lr=0.5"]}))
    design = read_design(tmp_path)
    assert design is not None
    assert design.factors == {"where": ["none", "stage3"], "lr": ["0.3", "0.1", "0.5"]}
    assert len(design.cells) == 6


def test_secrets_are_masked_as_in_results(tmp_path: Path) -> None:
    write_design(tmp_path, "factorial", factorial(FACTORS), ["data.url=postgresql://me:hunter2@host/db"])
    assert "hunter2" not in (tmp_path / DESIGN_FILE).read_text()


def test_no_design(tmp_path: Path) -> None:
    assert read_design(tmp_path) is None
    assert read_design(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"schema": 0}', '{"schema": 1, "kind": "x", "seed_key": "s", "cells": [3]}']
)
def test_what_cannot_be_read_is_named_and_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / DESIGN_FILE).write_text(text)
    with pytest.raises(ValueError, match=f"{DESIGN_FILE}: not a readable design"):
        read_design(tmp_path)
    write_design(tmp_path, "factorial", factorial(FACTORS))
    assert json.loads((tmp_path / DESIGN_FILE).read_text())["kind"] == "factorial"


def test_one_of_a_later_version_is_refused_and_kept(tmp_path: Path) -> None:
    text = '{"schema": 2}'
    (tmp_path / DESIGN_FILE).write_text(text)
    for act in (lambda: read_design(tmp_path), lambda: write_design(tmp_path, "factorial", [])):
        with pytest.raises(NewerVersion, match="schema 2; this version reads schema 1"):
            act()
    assert (tmp_path / DESIGN_FILE).read_text() == text
