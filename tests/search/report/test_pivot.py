"""A table shows what its spec asks for, marks what the test allows, and every form of it says the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.ledger.metric import NOT_ALONE_MEANS
from search.report.pivot import PIVOT_COLUMNS, PivotTable, pivot_table
from search.report.reading.load import load_study
from search.report.render import to_html, to_latex, to_markdown
from search.report.spec import PAPER, spec_of
from search.report.write import save_pivot

from .conftest import Add

NOISE = [0.3, -0.2, 0.1, -0.4, 0.25]
SHIFT = {
    "plain": 0.0,
    "stage3: conv+pssa": 2.0,
    "stage3: pssa": 0.1,
    "stage4: conv+pssa": 1.98,
    "stage4: pssa": -2.0,
}
NASTY = r"stage9 \input{x}: <script>alert('1')</script> $a_b$ 50% & \"q\" 中 [*]"


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    for seed, base in enumerate([60.0, 61.0, 62.0, 59.0, 60.5]):
        for number, (arm, shift) in enumerate(SHIFT.items()):
            wobble = NOISE[(seed + number) % 5] * 0.3
            row: dict[str, Any] = {
                "test_top1": base + shift + wobble,
                "params": 1000 + 10 * number,
                "wandb_id": f"w{seed}",
            }
            if arm == "stage3: pssa" and seed == 4:
                row = {"status": "failed", "reason": "boom"}
            add(arm, seed, **row)
    return study


def grid_of(study: Path, **fields: Any) -> PivotTable:
    return pivot_table(load_study(study), spec_of(fields))


def by_arm(grid: PivotTable, metric: str = "test_top1") -> dict[str, Any]:
    return {cell.arm.label: cell for _, _, cell in grid.figures if cell.metric.column == metric}


def test_marks_and_bold(filled: Path) -> None:
    grid = grid_of(filled, metrics=["test_top1", "params"])
    cells = by_arm(grid)
    assert grid.lines[0].name == "plain"
    assert cells["stage3: conv+pssa"].stars == "***"
    assert cells["stage4: pssa"].stars == "***"
    assert cells["stage3: pssa"].stars == ""
    assert cells["plain"].result is None
    assert {name for name, cell in cells.items() if cell.best} == {"stage3: conv+pssa", "stage4: conv+pssa"}
    assert {name for name, cell in by_arm(grid, "params").items() if cell.best} == {"plain"}
    assert (cells["stage3: pssa"].n, cells["stage3: pssa"].missing) == (4, "1 failed")
    assert cells["stage3: pssa"].note == "a"
    legend = "\n".join(grid.notes)
    assert "paired t tests, corrected over 4 comparisons by Holm's method" in legend
    assert "a: not averaged: 1 failed." in legend


def test_what_failed_on_a_seed_is_not_marked(filled: Path, add: Add) -> None:
    """However far ahead its survivors are."""
    for seed in range(5):
        value = (
            {"status": "failed"}
            if seed == 2
            else {"test_top1": 95.0 + 0.1 * seed + [60.0, 61, 62, 59, 60.5][seed] / 100}
        )
        add("stage9: conv", seed, **value)
    grid = grid_of(filled)
    cell = by_arm(grid)["stage9: conv"]
    assert cell.result.p_value < 0.001
    assert (cell.stars, cell.best, cell.failed, cell.missing) == ("", False, True, "1 failed")
    assert "Not marked, since a training failed on some seeds: stage9: conv and stage3: pssa." in grid.notes


@pytest.mark.slow
def test_corrections_differ_and_are_named(filled: Path) -> None:
    p = {}
    for name, words in (("none", "not corrected"), ("holm", "Holm"), ("bh", "Benjamini"), ("bonferroni", "Bonferroni")):
        grid = grid_of(filled, correction=name)
        p[name] = by_arm(grid)["stage3: pssa"].facts["p_corrected"]
        assert words in "\n".join(grid.notes)
    raw = by_arm(grid_of(filled))["stage3: pssa"].result.p_value
    assert p["none"] == pytest.approx(raw)
    assert p["none"] <= p["bh"] <= p["holm"] <= p["bonferroni"]


def test_a_pivot_has_two_header_rows(filled: Path) -> None:
    grid = grid_of(filled, rows="where", columns="what", metrics=["test_top1", "params"])
    assert grid.groups == ["conv+pssa", "pssa"]
    assert [(row.name, row.spans) for row in grid.lines] == [("plain", True), ("stage3", False), ("stage4", False)]
    text = to_latex(grid)
    assert r"\multicolumn{3}{c}{conv+pssa} & \multicolumn{3}{c}{pssa}" in text
    assert r"\cmidrule(lr){2-4} \cmidrule(lr){5-7}" in text
    page = to_html(grid)
    assert page.count('colspan="2"') == 2
    assert 'colspan="4"' in page
    assert "conv+pssa test top-1 %" in to_markdown(grid)


def test_show_sort_digits(filled: Path) -> None:
    grid = grid_of(filled, show="diff", sort="name", digits=3, marks=False, bold="none")
    names = [row.name for row in grid.lines]
    assert names == ["plain", *sorted(names[1:])]
    cells = by_arm(grid)
    assert f"{cells['stage4: pssa'].result.mean:+.3f}" in to_markdown(grid)
    assert "**" not in to_markdown(grid).split("\n", 1)[1]
    order = [row.name for row in grid_of(filled, sort="order", baseline="stage4: pssa").lines]
    assert order == ["stage4: pssa", *(name for name in SHIFT if name != "stage4: pssa")]


@pytest.mark.slow
def test_digits_follow_the_intervals(filled: Path, add: Add) -> None:
    assert grid_of(filled).digits["test_top1"][0] == 1  # half widths near 1.4 points
    assert grid_of(filled, show="diff").digits["test_top1"][1] == 2  # those of the differences are near 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": "stage"}, "no arm has a level of 'stage'; factors: arm, where, what"),
        ({"rows": "where"}, "fall into one cell"),
        ({"metrics": ["val_loss"]}, "no finished trial of phase 'final' has val_loss"),
        ({"baseline": "plane"}, "Did you mean 'plain'"),
    ],
)
def test_what_cannot_be_shown_is_refused(filled: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        grid_of(filled, **fields)


def test_overrides_and_columns_are_factors(study: Path, add: Add) -> None:
    for seed in range(2):
        for rank in (1, 4):
            add(
                f"stage3: pssa(rank={rank})",
                seed,
                test_top1=60.0 + seed,
                overrides=[f"branch.rank={rank}", f"seed={seed}"],
            )
    grid = grid_of(study, rows="backbone", columns="branch.rank")
    assert (grid.groups, [row.name for row in grid.lines]) == (["1", "4"], ["xvol_proxy_resnet"])
    assert "No arm is marked as the baseline" in "\n".join(grid.notes)
    with pytest.raises(ValueError, match="has 2 levels of 'seed'"):
        grid_of(study, rows="seed", columns="branch.rank")


@pytest.mark.slow
def test_the_paper_stands_beside_ours(filled: Path) -> None:
    grid = grid_of(filled, rows="where", columns="what", published="stage_placement")
    assert {row.name: row.paper for row in grid.lines} == {
        "plain": ("-", "-"),
        "stage3": ("+1.2 (best)", "+0.9 (best)"),
        "stage4": ("-", "worse"),
    }
    assert "arXiv 2106.02253" in "\n".join(grid.notes)
    for text in (to_markdown(grid), to_latex(grid), to_html(grid)):
        assert "+1.2 (best)" in text
    note = PAPER["instance_segmentation"].note
    assert any(note in line for line in grid_of(filled, published="instance_segmentation").notes)


def test_a_latency_that_was_not_measured_alone_is_marked_and_left_out_beside_others(study: Path, add: Add) -> None:
    for seed in range(2):
        add("plain", seed, test_top1=60.0 + seed, latency_ms=5.0)
        add("stage3: pssa", seed, test_top1=61.0 + seed, latency_ms=1.0 + seed, latency_exclusive=seed == 1)
    grid = grid_of(study, metrics=["test_top1", "latency_ms"])
    cells = by_arm(grid, "latency_ms")
    assert [cells[arm].doubt for arm in ("plain", "stage3: pssa")] == ["?", ""]
    assert [cells[arm].mean for arm in ("plain", "stage3: pssa")] == [5.0, 2.0]
    assert cells["stage3: pssa"].missing == "1 not measured in an exclusive slot"
    for text in (to_markdown(grid), to_latex(grid), to_html(grid)):
        assert "?" in text.split("5.00", 1)[1][:40]
        assert NOT_ALONE_MEANS in text
    assert not any(cell.doubt for cell in by_arm(grid).values())


def test_another_recipe_is_not_compared(filled: Path, add: Add) -> None:
    for seed in range(3):
        add("stage9: conv", seed, test_top1=90.0 + seed, recipe_hash="other")
    cells = by_arm(grid_of(filled))
    assert cells["stage9: conv"].result is None
    assert "Trained by another recipe than the baseline, not compared: stage9: conv." in grid_of(filled).notes


def test_data_and_side_file(filled: Path, tmp_path: Path) -> None:
    grid = grid_of(filled, metrics=["test_top1", "params"], name="stages")
    data = grid.data
    assert {name: str(dtype) for name, dtype in data.dtypes.items()} == PIVOT_COLUMNS
    assert len(data) == 10
    paths = save_pivot(grid, tmp_path / "t")
    assert [path.name for path in paths] == [
        *("stages.md", "stages.tex", "stages.csv", "stages.html", "stages.parquet", "stages.provenance.json")
    ]
    back = pd.read_parquet(tmp_path / "t" / "stages.parquet", dtype_backend="numpy_nullable")
    assert back["mean"].tolist() == data["mean"].tolist()
    side = json.loads((tmp_path / "t" / "stages.provenance.json").read_text())
    assert len(side["cells"]) == 10
    (cell,) = [c for c in grid.provenance if c["arm"] == "stage3: pssa" and c["metric"] == "test_top1"]
    others = ("pruned", "infeasible", "interrupted", "reused")
    assert cell["counts"] == {"ok": 4, "failed": 1} | dict.fromkeys(others, 0)
    assert cell["run_dirs"][0] == "final/0002-s0"
    assert (cell["run_ids"], cell["seeds"]) == (["w0", "w1", "w2", "w3"], [0, 1, 2, 3])
    assert (cell["commits"], cell["versions"]["torch"]) == (["0123456789ab"], ["2.13.0"])
    assert cell in side["cells"]


class Cells(HTMLParser):
    """Collects tags, texts and titles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.titles: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.titles += [value or "" for name, value in attrs if name == "title"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_is_escaped_and_names_the_runs(filled: Path, add: Add) -> None:
    for seed in range(2):
        add(NASTY, seed, test_top1=60.0 + seed, wandb_id='"><script>', run_dir="<b>")
    page = Cells()
    page.feed(to_html(grid_of(filled, caption="<i>")))
    assert not {"script", "b", "i", "link", "img"} & set(page.tags)
    assert any(NASTY in text for text in page.texts)
    assert any("runs: final/0000-s0" in title and "commit 0123456789ab" in title for title in page.titles)
    assert any("runs: <b>" in title and '"><script>' in title for title in page.titles)


def test_latex_aligns_and_escapes(filled: Path, add: Add) -> None:
    add(NASTY, 0, test_top1=1.0)
    text = to_latex(grid_of(filled, metrics=["test_top1", "params"], digits=1))
    assert text.isascii()
    assert (
        r"S[table-format=2.1,table-space-text-post={\textsuperscript{{*}{*}{*}}},detect-weight=true,mode=text]@{\,}l"
        in text
    )
    assert re.search(r"\\bfseries 62\.\d\{\\textsuperscript\{\{\*\}\{\*\}\{\*\}\}\} & \$\\pm 1\.\d\$", text)
    rows = [line for line in text.splitlines() if line.startswith("    ") and line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows[1:]}) == 1


@pytest.mark.slow
def test_latex_compiles(filled: Path, add: Add, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: apt-get install texlive-latex-base texlive-latex-recommended")
    if not subprocess.run(["kpsewhich", "siunitx.sty"], capture_output=True).stdout.strip():
        pytest.skip("siunitx is not installed: apt-get install texlive-science")
    add(NASTY, 0, test_top1=160.0)
    wishes: list[dict[str, Any]] = [
        {"metrics": ["test_top1", "params"], "published": "stage_placement"},
        {"show": "diff_interval"},
        {"show": "diff", "digits": 0},
    ]
    pivots: list[dict[str, Any]] = [
        {"rows": "where", "columns": "what", **wish} for wish in ({}, {"metrics": ["test_top1", "params"]})
    ]
    tables = [to_latex(grid_of(filled, **wish)) for wish in (*wishes, *pivots)]
    head = r"\documentclass{article}\usepackage{booktabs,siunitx,tabularx}\begin{document}"
    (tmp_path / "table.tex").write_text("\n\n".join([head, *tables, r"\end{document}"]), encoding="ascii")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, env=dict(os.environ))
    assert run.returncode == 0, run.stdout.decode(errors="replace")[-2000:]
    assert b"Missing character" not in (tmp_path / "table.log").read_bytes()
