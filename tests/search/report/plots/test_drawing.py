"""Pictures: each form is written, settings of matplotlib stay as they were, and no name is taken for a formula or a command."""

from __future__ import annotations

import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.report import ablation_table, load_study, plots
from search.report.plots.data import LONGEST_LABEL, label, left_out
from search.report.plots.drawing import INK, SERIES

MAGIC = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}


def test_each_plot_is_written_in_each_form(whole: Path, tmp_path: Path) -> None:
    frame = load_study(whole)
    table = ablation_table(frame)
    before = dict(matplotlib.rcParams)
    for figure in (plots.heatmap(table), plots.curves(table, frame)):
        for form, magic in MAGIC.items():
            path = plots.save(figure, tmp_path / "deep" / f"plot.{form}")
            assert path.read_bytes().startswith(magic)
    assert dict(matplotlib.rcParams) == before


def test_the_same_data_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    table = ablation_table(load_study(whole))
    one, two = (plots.save(plots.forest(table), tmp_path / f"{name}.svg").read_bytes() for name in "ab")
    assert one == two


def test_a_name_is_no_formula(whole: Path, tmp_path: Path) -> None:
    table = ablation_table(load_study(whole))
    root = ElementTree.parse(plots.save(plots.forest(table), tmp_path / "plot.svg")).getroot()
    said = " ".join(" ".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text"))
    assert "$\\frac{1}$" in said
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))


def test_another_ending_is_refused(whole: Path, tmp_path: Path) -> None:
    figure = plots.heatmap(ablation_table(load_study(whole)))
    with pytest.raises(ValueError, match=r"\.pdf, \.svg, \.pgf, \.png"):
        plots.save(figure, tmp_path / "plot.gif")


@pytest.mark.slow
def test_latex_takes_a_hostile_name(whole: Path, tmp_path: Path) -> None:
    if not (shutil.which("kpsewhich") and subprocess.run(["kpsewhich", "pgf.sty"], capture_output=True).stdout):
        pytest.skip("no pgf.sty: apt-get install texlive-latex-base texlive-pictures")
    figure = plots.forest(ablation_table(load_study(whole)))
    plots.save(figure, tmp_path / "plot.pgf")
    assert "$\\frac{1}$" in "".join(text.get_text() for text in figure.axes[0].get_yticklabels())  # as it was
    source = r"\documentclass{article}\usepackage{pgf}\begin{document}\input{plot.pgf}\end{document}"
    (tmp_path / "page.tex").write_text(source)
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-1500:]


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", [INK, *SERIES])
def test_a_colour_stands_out_from_paper(colour: str) -> None:
    assert 1.05 / (luminance(colour) + 0.05) >= 3


@given(st.text(max_size=200), st.integers(8, 60))
def test_a_label_is_short_and_narrow(text: str, width: int) -> None:
    lines = label(text, width).split("\n")
    assert max(map(len, lines)) <= width
    assert sum(map(len, lines)) <= LONGEST_LABEL + 3


def test_both_ends_of_a_long_name_are_kept() -> None:
    name = "stage1+stage2+stage3: conv+pssa(embed_ratio=0.25, rank=4), arm=X-volution 123"
    shown = label(name, 60).replace("\n", " ")
    assert shown.startswith("stage1+stage2")
    assert shown.endswith("X-volution 123")
    assert left_out(3, 3) == ""
