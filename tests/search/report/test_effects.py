"""Effects are printed and written, from Python and from the command line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from search.cli.table import main
from search.report.effects import EFFECT_COLUMNS, effects_table
from search.report.reading.load import load_study
from search.report.render import render_text, to_latex, to_markdown
from search.report.table import Table
from search.report.write import TEXT_FORMATS, save_files

from .conftest import Add

ARMS = {"stage3: conv": 0.0, "stage3: pssa": 1.0, "stage4: conv": 3.0, "stage4: pssa": 8.0}
NOISE = [0.3, -0.2, 0.1, -0.4, 0.25]


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    for seed, base in enumerate([60.0, 61.0, 62.0, 59.0, 60.5]):
        for number, (arm, shift) in enumerate(ARMS.items()):
            row = {"test_top1": base + shift + NOISE[(seed + 2 * number) % 5], "is_baseline": number == 0}
            add(arm, seed, **row, overrides=[f"where={arm[:6]}", f"branch={arm[8:]}", f"seed={seed}"])
    return study


@pytest.fixture
def table(filled: Path) -> Table:
    return effects_table(load_study(filled), ["where", "what"])


def test_numbers(table: Table) -> None:
    assert {name: str(dtype) for name, dtype in table.data.dtypes.items()} == EFFECT_COLUMNS
    data = table.data.set_index("term")
    assert data.loc["where", "estimate"] == pytest.approx(5.0, abs=0.3)
    assert data.loc["where x what", "estimate"] == pytest.approx(4.0, abs=0.5)
    assert (data["p_corrected"] >= data["p_value"]).all()
    assert "What one factor changes depends on the other in where x what" in table.conclusion


def test_text_and_markdown(table: Table) -> None:
    text = render_text(table)
    assert "stage4 against stage3" in text
    assert "stage4 x pssa" in text
    assert "corrected by Holm's method over 3 terms" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 120
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.slow
def test_latex_compiles(table: Table, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-base texlive-latex-recommended")
    text = to_latex(table)
    source = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{chr(10)}{text}\end{{document}}"
    (tmp_path / "table.tex").write_text(source, encoding="ascii")
    run = subprocess.run(["pdflatex", "-halt-on-error", "table.tex"], cwd=tmp_path, capture_output=True)
    assert run.returncode == 0, run.stdout.decode(errors="replace")[-2000:]


def test_files_read_back(table: Table, tmp_path: Path) -> None:
    paths = save_files(table, tmp_path / "out", TEXT_FORMATS)
    assert [path.name for path in paths] == ["effects.md", "effects.tex", "effects.csv"]
    back = pd.read_csv(paths[-1], dtype=EFFECT_COLUMNS)
    pd.testing.assert_frame_equal(back, table.data)


def test_factors_that_the_overrides_show(filled: Path) -> None:
    terms = effects_table(load_study(filled)).data["term"].tolist()
    assert terms[:3] == ["where", "branch", "where x branch"]


def test_a_study_without_factors_says_how_to_name_them(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    add("stage3: conv", 0, test_top1=61.0)
    with pytest.raises(ValueError, match=r"name them, e\.g\. --effects where what"):
        effects_table(load_study(study))
    with pytest.raises(ValueError, match="no arm has a level of 'wher'"):
        effects_table(load_study(study), ["wher"])
    with pytest.raises(ValueError, match="name each factor once"):
        effects_table(load_study(study), ["what", "what"])


def test_command_line(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(filled), "--effects", "where", "what"]) == 0
    assert "where x what" in capsys.readouterr().out
    assert (filled / "tables" / "effects.tex").exists()
    assert main([str(filled), "--effects", "--format", "csv", "--no-write", "--correction", "bh"]) == 0
    assert capsys.readouterr().out.startswith("term,kind,level")
    for wrong in (["--margin", "1"], ["--rows", "where"], ["--baseline", "x"], ["--format", "html"]):
        assert main([str(filled), "--effects", "where", *wrong]) == 2
        assert "--effects" in capsys.readouterr().err


@pytest.mark.slow
def test_statistics_on_the_command_line(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(filled), "--correction", "bh", "--margin", "9", "--test", "wilcoxon", "--no-write"]) == 0
    out = capsys.readouterr().out
    assert "Against the baseline" in out
    assert "Benjamini and Hochberg" in " ".join(out.split())
    assert "equivalent within ±9 points" in out
    assert main([str(filled), "--rows", "where", "--columns", "what", "--margin", "9", "--no-write"]) == 0
    assert "=: equivalent to the baseline within ±9 (points)" in capsys.readouterr().out
    for wrong, message in (
        (["--margin", "-1"], "margin: -1.0 is no number above zero"),
        (
            ["--rows", "arm", "--test", "wilcoxon"],
            "--test is of the table of arms, and --rows asks for a table by its spec",
        ),
        (["--rows", "arm", "--margin", "0"], "margin: 0.0 is no number above zero"),
    ):
        assert main([str(filled), *wrong]) == 2
        assert message in capsys.readouterr().err


def test_shapley_values_stand_behind_the_effects(table: Table) -> None:
    parts = table.data[table.data["kind"] == "shapley"].set_index("term")
    assert parts.loc["where (Shapley)", "estimate"] == pytest.approx(5.0, abs=0.3)
    assert parts.loc["what (Shapley)", "estimate"] == pytest.approx(3.0, abs=0.3)
    assert (parts["ci_low"] < parts["estimate"]).all()
    assert any("sum to +8.00 points" in note for note in table.notes)
    assert "where (Shapley)" in to_latex(table)


def test_shapley_values_need_every_cell(filled: Path, add: Add) -> None:
    frame = load_study(filled)
    lost = effects_table(frame[frame["arm"] != "stage4: pssa"], ["where", "what"])
    assert "shapley" not in set(lost.data["kind"])
    assert any("1 of 4 cells are missing, stage4 x pssa" in note for note in lost.notes)
    for seed in range(5):
        add("stage2: conv", seed, test_top1=60.0 + seed, is_baseline=False)
    three = effects_table(load_study(filled), ["where", "what"])
    assert not any("Shapley" in note for note in three.notes)
