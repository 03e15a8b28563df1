"""A table for a paper fits its column whatever it holds, names arms in words, and shows the figures of the table it was made of."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from search.cli.table import main
from search.report.ablation import ablation_table
from search.report.given import given_trials, metric_of
from search.report.naming import block, in_words, place
from search.report.paper import labels_of, paper_form
from search.report.pivot import PivotTable, pivot_table
from search.report.reading.load import load_study
from search.report.render.latex_float import to_float
from search.report.spec import TableSpec
from search.report.table import Table
from search.report.write import paper_grid

from .conftest import Add
from .test_render import LONG, NASTY, needs_latex

RESULTS = Path(__file__).parents[3] / "docs" / "results"
STUDIES = (  # stages, branches that a design names, shared starts, a library of blocks, recipes as levels, a single site
    *("cifar10_stages", "paper_branch_ablation", "paper_branch_ablation_shared"),
    *("proxy_library", "proxy_optimisers", "proxy_second_conv_20s"),
)
# width of a column, of the text, and between the columns, of classes that are not installed
CLASSES = {
    "icml": ("[twocolumn]{article}", "6.75in", "0.25in"),
    "cvpr": ("[10pt,twocolumn]{article}", "6.875in", "0.3125in"),
    "neurips": ("{article}", "5.5in", "0in"),
}


def compiled(folder: Path, floats: list[str]) -> None:
    """Set tables in the columns of each class: each compiles, no box is too wide, and each character has its glyph."""
    needs_latex("booktabs.sty", "siunitx.sty", "tabularx.sty")
    packages = r"\usepackage{booktabs,siunitx,tabularx}"
    for name, (kind, text, gap) in CLASSES.items():
        sizes = rf"\setlength{{\textwidth}}{{{text}}}\setlength{{\columnsep}}{{{gap}}}"
        pages = "\n\\clearpage\n".join([rf"\documentclass{kind}{sizes}{packages}\begin{{document}}Text.", *floats])
        (folder / f"{name}.tex").write_text(pages + r"\end{document}", encoding="ascii")
        command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", f"{name}.tex"]
        run = subprocess.run(command, cwd=folder, capture_output=True, check=False)
        assert run.returncode == 0, run.stdout.decode(errors="replace")[-2000:]
        log = (folder / f"{name}.log").read_text(errors="replace")
        assert "Overfull" not in log, re.findall(r"Overfull.*", log)
        assert "Missing character" not in log


def named_frame(names: list[str], seeds: int = 4) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"model": name, "seed": seed, "acc": 70 + at + rng.normal(0, 0.8)}
        for at, name in enumerate(names)
        for seed in range(seeds)
    ]
    return given_trials(pd.DataFrame(rows), arm="model", seed="seed", metric=metric_of("acc"), baseline=names[0])


def grid_of(frame: pd.DataFrame, **fields: Any) -> PivotTable:
    return pivot_table(frame, TableSpec(**fields))


@pytest.mark.slow
def test_committed_studies_fit_a_column_and_a_page(tmp_path: Path) -> None:
    floats = []
    for name in STUDIES:
        frame = load_study(RESULTS / name / "trials.csv")
        single = paper_grid(frame, ablation_table(frame))
        assert single is not None
        wide = paper_form(grid_of(frame, metrics=("test_top1", "params", "macs")), frame, wide=True)
        floats += [to_float(single, label=f"tab:{name}"), to_float(wide, wide=True)]
        floats.append(to_float(paper_form(grid_of(frame, show="diff_interval"), frame, wide=False)))
    compiled(tmp_path, floats)


@pytest.mark.slow
def test_hostile_and_many_names_fit_a_column(tmp_path: Path) -> None:
    every = "".join(map(chr, range(33, 127)))
    names = ["plain", *NASTY, *LONG, every, "W" * 120, "a_b-c/d." * 12, "中" * 40, "x"]
    truth = pd.read_parquet(RESULTS / "truth" / "trials.parquet")
    truth = truth[truth["arm"] != "(root)"]
    rows = truth.groupby(["arm", "seed"], observed=True)["test_top1"].mean().reset_index()
    asked: dict[str, Any] = {"arm": "arm", "seed": "seed", "metric": metric_of("test_top1"), "baseline": "plain"}
    floats = []
    for frame in (named_frame(names), given_trials(rows, **asked)):
        labels = dict.fromkeys(NASTY[:1], r"50% \of {it} & #more") if frame["arm"].eq(NASTY[0]).any() else {}
        for wide in (False, True):
            form = paper_form(grid_of(frame), frame, wide=wide, labels=labels, caption=every)
            floats.append(to_float(form, wide=wide, label="tab:x", comments=[every]))
    assert len(frame["arm"].unique()) == 37
    compiled(tmp_path, floats)


def test_arms_in_words() -> None:
    frame = load_study(RESULTS / "proxy_library" / "trials.csv")
    words, shared = in_words(ablation_table(frame).arms)
    assert words["stage3: conv+pssa(embed_ratio=0.25) gamma=0.3"] == "X-volution, stage 3"
    assert words["stage2: pssa(embed_ratio=0.25)"] == "PSSA alone, stage 2"
    assert words["plain"] == "Plain network"
    assert shared == "embed_ratio=0.25 and gamma=0.3"


def test_levels_that_a_design_names_stay_as_they_are() -> None:
    frame = load_study(RESULTS / "paper_branch_ablation" / "trials.csv")
    words, _ = in_words(ablation_table(frame).arms)
    assert set(words.values()) == {"conv", "X-volution", "X-volution(SA)", "PSSA alone", "SA alone"}


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("stage3", "stage 3"),
        ("stage1+stage2", "stages 1 and 2"),
        ("stage1+stage2+stage4", "stages 1, 2 and 4"),
        ("all", "all stages"),
        ("stage3.0", "stage 3 block 0"),
        ("layer3.0.conv2", "layer3.0.conv2"),
    ],
)
def test_places(where: str, said: str) -> None:
    assert place(where) == said


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("conv+pssa", "X-volution"),
        ("conv+softmax_global(heads=4)", "X-volution(SA) (heads=4)"),
        ("pssa(rank=4, embed_ratio=0.25)", "PSSA alone (rank=4, embed_ratio=0.25)"),
        ("conv+pssa gamma=0", "X-volution (gamma=0)"),
        ("conv+pssa keeps_norm=True gamma=0", "X-volution (keeps_norm=True, gamma=0)"),
        ("conv+acmix", "Convolution + ACmix"),
        ("mine", "mine alone"),
        ("none|conv+pssa", "none|conv+pssa"),
    ],
)
def test_blocks(what: str, said: str) -> None:
    assert block(what, {}) == said


def test_options_that_differ_are_named_and_names_stay_apart(study: Path, add: Add) -> None:
    for seed in range(3):
        add("plain", seed, test_top1=60.0 + seed)
        for at, arm in enumerate(("stage3: pssa(rank=1)", "stage3: pssa(rank=4)", "stage3: pssa(rank=4) [0123456789]")):
            add(arm, seed, test_top1=61.0 + seed * 1.1 + at)
    words, shared = in_words(ablation_table(load_study(study)).arms)
    assert words["stage3: pssa(rank=1)"] == "PSSA alone (rank=1), stage 3"
    assert len(set(words.values())) == len(words)
    assert shared == ""


def test_figures_are_those_of_the_table() -> None:
    frame = load_study(RESULTS / "paper_branch_ablation" / "trials.csv")
    table, form = ablation_table(frame), paper_form(grid_of(frame), frame, wide=True)
    text = to_float(form, wide=True, label="tab:b")
    for row in table.data.itertuples(index=False):
        line = next(line for line in text.splitlines() if f"{row.mean:.1f}" in line)
        assert rf"\pm {row.sd:.1f}" in line
        if not row.is_baseline:
            assert f"{row.diff:+.1f}" in line
            assert f"[{row.ci_low:+.1f}, {row.ci_high:+.1f}]" in line
        marked = "textsuperscript" in line.split("&")[1]
        assert marked == (not row.is_baseline and row.p_corrected < 0.05)
    legend = text.split(r"\smallskip")[1]
    assert "against the baseline (conv)" in legend
    assert r"\begin{table*}" in text
    assert r"\label{tab:b}" in text


def test_stages_by_branches_has_a_column_of_each_branch(study: Path, add: Add) -> None:
    for seed in range(3):
        add("plain", seed, test_top1=60.0 + seed)
        for at, arm in enumerate(("stage3: pssa", "stage3: conv+pssa", "stage4: pssa", "stage4: conv+pssa")):
            add(arm, seed, test_top1=61.0 + seed * 1.1 + at * (seed + 1))
    frame = load_study(study)
    text = to_float(paper_form(grid_of(frame, rows="where", columns="what"), frame, wide=False))
    assert r"{X-volution}" in text
    assert r"{PSSA alone}" in text
    assert re.search(r"^    stage 3 &", text, re.MULTILINE)


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    frame = load_study(RESULTS / "paper_branch_ablation" / "trials.csv")
    many = ("test_top1", "test_loss", "val_top1", "val_loss", "params", "macs", "latency_ms")
    with pytest.raises(ValueError, match="use --paper double"):
        to_float(paper_form(grid_of(frame, metrics=many), frame, wide=False))


def test_labels_end_where_a_name_ends() -> None:
    grid = grid_of(load_study(RESULTS / "paper_branch_ablation" / "trials.csv"))
    name = "stage3: pssa(embed_ratio=0.25)"
    assert labels_of(grid, [f"{name}=r=4"]) == {name: "r=4"}
    with pytest.raises(ValueError, match="no row has the name"):
        labels_of(grid, ["nobody=x"])


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(RESULTS / "paper_branch_ablation" / "trials.csv")
    asked = ["--paper", "single", "--caption", "Branches", "--tex-label", "tab:branches", "--label", "plain=ResNet"]
    assert main([source, *asked, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "table_single.tex").read_text().strip() == printed.strip()
    assert r"\caption{Branches}" in printed
    assert r"\label{tab:branches}" in printed
    assert "ResNet (baseline) &" in printed
    shutil.rmtree(tmp_path)
    for wrong in (
        ["--label", "a=b"],
        ["--paper", "single", "--format", "md"],
        ["--paper", "single", "--tex-label", "a}"],
    ):
        assert main([source, *wrong, "--no-write"]) == 2


def test_a_grid_without_a_baseline_has_no_differences(study: Path, add: Add) -> None:
    for seed in range(3):
        add("stage3", seed, test_top1=60.0 + seed, is_baseline=False)
    frame = load_study(study)
    form: Table = paper_form(grid_of(frame), frame, wide=True)
    assert [column.title for column in form.columns] == ["", "Test top-1 %"]
