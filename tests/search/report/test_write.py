"""The files that end a study: all of them, and all of one mind."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from search.cli.table import main
from search.report.ablation import DATA_COLUMNS, ablation_table
from search.report.reading.load import load_study
from search.report.write import FORMATS, paper_grid, save_table, with_trust, write_tables

from .conftest import Add
from .test_trust import history


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    for seed, luck in enumerate((0.0, 0.7, 1.9)):
        for arm, value in (("plain", 60.0), ("stage3", 61.0), ("stage4", 60.2)):
            add(arm, seed, test_top1=value + luck * (1 + value / 50), params=77858, macs=251008, latency_ms=1.5 + seed)
    return study


@pytest.mark.slow
def test_every_form(filled: Path) -> None:
    table = write_tables(filled)
    folder = filled / "tables"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ablation.csv",
        "ablation.html",
        "ablation.md",
        "ablation.notes.txt",
        "ablation.parquet",
        "ablation.provenance.json",
        "ablation.tex",
        "ablation_paper.tex",
        "trials.csv",
    ]
    back = pd.read_parquet(folder / "ablation.parquet", dtype_backend="numpy_nullable")
    assert back.columns.tolist() == list(DATA_COLUMNS)
    pd.testing.assert_frame_equal(back.astype(DATA_COLUMNS), table.data)
    csv = pd.read_csv(folder / "ablation.csv", dtype=DATA_COLUMNS)
    pd.testing.assert_frame_equal(csv, table.data, check_exact=False, rtol=1e-12)


@pytest.mark.slow
def test_the_two_latex_tables_show_the_same_figures(filled: Path) -> None:
    write_tables(filled)
    wide, paper = ((filled / "tables" / name).read_text() for name in ("ablation.tex", "ablation_paper.tex"))
    shown = re.findall(r"\$(\d+\.\d+) \\pm (\d+\.\d+)\$", wide)
    assert len(shown) == 3
    for mean, sd in shown:
        assert re.search(rf"{re.escape(mean)}\S* & \$\\pm {re.escape(sd)}\$", paper), (mean, paper)
    assert r"S[table-format=" in paper
    assert "latency" not in paper.split(r"\begin{tabular")[1]
    assert paper.isascii()


def test_another_baseline_correction_and_metric_are_those_of_both(study: Path, add: Add) -> None:
    for seed in range(4):
        for position, arm in enumerate(("plain", "stage3", "stage4")):
            add(arm, seed, phase="search", val_loss=1.0 + position / 7 + seed / 10)
    frame = load_study(study)
    table = with_trust(ablation_table(frame, "val_loss", "stage3", "search"), frame)
    grid = paper_grid(frame, table)
    assert grid is not None
    assert [column.name for column in grid.columns] == ["arm", "val_loss"]  # parameters are not on record
    assert grid.rows[0].cells[0].text == "stage3 (baseline)"
    assert grid.conclusion == table.conclusion


def test_a_study_in_which_nothing_finished(study: Path, add: Add) -> None:
    add("plain", 0, status="failed", reason="no memory")
    add("stage3", 0, status="failed")
    table = write_tables(study)
    assert len(table.data) == 2
    assert "1 failed" in (study / "tables" / "ablation.html").read_text()


@pytest.mark.slow
def test_some_forms_alone(filled: Path, tmp_path: Path) -> None:
    frame = load_study(filled)
    table = with_trust(ablation_table(frame), frame)
    written = save_table(table, tmp_path / "out", paper_grid(frame, table), ("tex",))
    assert {path.name for path in written} == {"ablation.tex", "ablation_paper.tex", "ablation.provenance.json"}
    assert set(written) == set((tmp_path / "out").iterdir())
    assert FORMATS == ("md", "tex", "csv", "html", "parquet")


@pytest.mark.slow
def test_trust_stands_among_the_notes_of_each_form(filled: Path, add: Add) -> None:
    for position, arm in enumerate(("plain", "stage3", "stage4")):
        history(add(arm, 0, phase="search", val_top1=50.0 + position), *range(4))
    table = write_tables(filled)
    assert any(note.startswith("Proxy trust: the search phase") for note in table.notes)
    for name in ("ablation.md", "ablation.html", "ablation.notes.txt", "ablation_paper.tex"):
        assert "Proxy trust: the search phase" in (filled / "tables" / name).read_text()


def test_the_command_line_of_trust(filled: Path, add: Add, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for position, arm in enumerate(("plain", "stage3", "stage4")):
        history(add(arm, 0, phase="search", val_top1=50.0 + position), 1, 2, 3, 50 + position)
    assert main([str(filled), "--trust", "--out", str(tmp_path / "trust")]) == 0
    text = capsys.readouterr().out
    assert "the search phase after half of the epochs" in text
    assert (tmp_path / "trust" / "trust.txt").read_text() == text
    lines = (tmp_path / "trust" / "trust.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["kind", "phases", "epochs", "epochs"]
    assert not (filled / "tables").exists()
    assert main([str(filled), "--trust", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines() == lines
    for wrong in (["--baseline", "plain"], ["--rows", "where"], ["--format", "tex"], ["--diff"]):
        assert main([str(filled), "--trust", *wrong]) == 2
        assert wrong[-1].removeprefix("where").removeprefix("plain") in capsys.readouterr().err
