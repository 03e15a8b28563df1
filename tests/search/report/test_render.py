"""Exports show exactly the text they were given, at digits that carry information, and LaTeX compiles."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.report.ablation import AblationTable, ablation_table
from search.report.reading.load import load_study
from search.report.render import render_text, to_csv, to_html, to_latex, to_markdown
from search.report.render.latex import latex
from search.report.render.text import markdown, plain
from search.report.table import Cell, Table, headings
from search.report.words import decimals_for, int_ranges, one_line, p_is, p_shown, scaled, signed, significant
from search.report.write import paper_grid, provenance_of_rows, with_provenance

from .browser import measured
from .conftest import Add

NASTY = [
    r"\input{x} $a_b$ 50% #1 ~^& [*] --- ''`",
    "*star",
    "[opt]",
    "a|b|c",
    "naïve Ω → 中 ñ",
    "line\nbreak\ttab",
    "<b>&amp;</b>",
]
LONG = [
    "stage1+stage3: conv+pssa(embed_ratio=0.25)",
    "stage3: softmax_global(embed_ratio=0.25)",
    "stage1+stage2+stage3: conv+pssa(embed_ratio=0.25)",
    "stage3: conv+softmax_global(embed_ratio=0.25)",
]
NAMES = st.one_of(st.sampled_from(NASTY), st.text(min_size=1, max_size=60))


@pytest.fixture
def table(study: Path, add: Add) -> AblationTable:
    for seed in range(4):
        add(
            "plain",
            seed,
            test_top1=61.25 + seed,
            params=77_400,
            macs=1_230_000,
            latency_ms=1.3049,
            latency_fused_ms=0.5,
            latency_exclusive=True,
        )
        add("stage3", seed, test_top1=61.75 + seed * 1.3, params=81_250, macs=1_310_000, latency_ms=12.34)
        add("stage4", seed, status="ok" if seed else "failed", test_top1=61.0 + seed * 0.7)
    return ablation_table(load_study(study))


def renamed(table: AblationTable, name: str) -> AblationTable:
    """The same table with `name` for the second arm."""
    data = table.data.copy()
    data.loc[1, "arm"] = name
    rows = [
        row if at != 1 else row._replace(cells=[Cell(one_line(name, 400)), *row.cells[1:]])
        for at, row in enumerate(table.rows)
    ]
    return replace(table, data=data, rows=rows, notes=[*table.notes, name], conclusion=name)


def needs_latex(*packages: str) -> None:
    """Skip where LaTeX, or one of its packages, is not installed."""
    missing = [] if shutil.which("pdflatex") else ["pdflatex"]
    missing += [
        name for name in packages if missing or not subprocess.run(["kpsewhich", name], capture_output=True).stdout
    ]
    if missing:
        pytest.skip(
            f"no {', '.join(missing)}: apt-get install texlive-latex-base texlive-latex-recommended texlive-science"
        )


def unescaped(text: str, signs: str) -> int:
    """Count signs that no backslash stands before."""
    return len(re.findall(rf"(?<!\\)(?:\\\\)*[{signs}]", text))


def test_markdown(table: AblationTable) -> None:
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split("|")[1].strip() == "arm"
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        *("plain (baseline)", "4", "-", "62.8 ± 1.3", *["-"] * 7, "77.4 k", "1.23 M", "1.30", "0.500")
    ]
    assert "better than the baseline" in lines[3]


@given(name=NAMES)
def test_markdown_rows_keep_their_cells(name: str) -> None:
    text = markdown(name)
    assert "\n" not in text
    assert "\r" not in text
    assert unescaped(text, "|<>`*") == 0


@given(name=NAMES)
def test_latex_is_ascii_and_balanced(name: str) -> None:
    text = latex(name)
    assert text.isascii()
    assert text.isprintable() or not text
    depth = 0
    for sign in re.findall(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0
    assert depth == 0
    assert unescaped(text, "&#%_") == 0
    assert unescaped(text, "$") % 2 == 0
    assert "--" not in text or re.search("[\u2013\u2014]", name)


def test_latex_shape(table: AblationTable) -> None:
    text = renamed(table, NASTY[0])
    lines = to_latex(text).splitlines()
    assert all(line.isascii() for line in lines)
    (begin,) = [line for line in lines if line.startswith(r"\begin{tabularx}")]
    assert begin.endswith("Xrlrrrrr@{}}")  # a long name breaks
    rows = [line for line in lines if line.endswith(r"\\")]
    assert len(rows) == 4
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {8}
    assert [line.strip() for line in lines if "rule" in line and not line.startswith("%")] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    assert r"$62.8 \pm 1.3$" in rows[1]
    assert r"\begin{tabular}{lrlrrrrr}" in to_latex(table)
    assert "tabularx" not in to_latex(table)


@pytest.mark.slow
def test_latex_fits_a_page(study: Path, add: Add, tmp_path: Path) -> None:
    """The names and figures of a committed study, in the text of an article, and the paper's form in a column of two."""
    needs_latex("booktabs.sty", "siunitx.sty", "tabularx.sty")
    shifts = [0.3, -0.2, 0.1, -0.4, 0.25]
    for seed, base in enumerate([48.2, 49.1, 48.7, 48.4, 49.3]):
        for number, arm in enumerate(("plain", *LONG)):
            value = base + 2.31 * (number == 2) - 0.1 * number + shifts[(seed + number) % 5]
            failed = {"status": "failed", "test_top1": None} if (number, seed) == (3, 4) else {}
            facts: dict[str, object] = {
                "dose": 2.9,
                "params": 78_002 + number,
                "macs": 1_038_976,
                "latency_ms": 1.72,
                "latency_fused_ms": 1.4,
            }
            add(arm, seed, **({"test_top1": value} | facts | failed))
    frame = load_study(study)
    table = ablation_table(frame)
    grid = paper_grid(frame, table)
    assert grid is not None
    head = r"\usepackage{booktabs,siunitx,tabularx}\begin{document}\noindent"
    for name, options, texts in (
        ("article", "", [to_latex(table), to_latex(grid)]),
        ("columns", "[twocolumn]", [to_latex(grid)]),
    ):
        source = "\n\n\\noindent\n".join([rf"\documentclass{options}{{article}}{head}", *texts, r"\end{document}"])
        (tmp_path / f"{name}.tex").write_text(source, encoding="ascii")
        run = subprocess.run(
            ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", f"{name}.tex"], cwd=tmp_path, capture_output=True
        )
        assert run.returncode == 0, run.stdout.decode(errors="replace")[-2000:]
        too_wide = re.findall(r"Overfull \\hbox \(([0-9.]+)pt", (tmp_path / f"{name}.log").read_text(errors="replace"))
        assert all(float(points) <= 1 for points in too_wide), too_wide


@pytest.mark.slow
def test_latex_compiles(table: AblationTable, tmp_path: Path) -> None:
    needs_latex("booktabs.sty", "tabularx.sty")
    every = "".join(map(chr, range(32, 127)))
    tables = [to_latex(renamed(table, name)) for name in (*NASTY, every, *every, "".join(map(chr, range(160, 500))))]
    source = "\n\n".join(
        [r"\documentclass{article}\usepackage{booktabs,tabularx}\begin{document}", *tables, r"\end{document}"]
    )
    (tmp_path / "table.tex").write_text(source, encoding="ascii")
    run = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"], cwd=tmp_path, capture_output=True
    )
    assert run.returncode == 0, run.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 0
    assert b"Missing character" not in (tmp_path / "table.log").read_bytes()


@given(
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(lambda t: t.strip())
)
def test_csv_reads_back_exactly(name: str) -> None:
    frame = pd.DataFrame({"arm": pd.array([name], dtype="string"), "mean": pd.array([100 / 3], dtype="Float64")})
    text = to_csv(Table(name="", title="", columns=[], rows=[], data=frame))
    back = pd.read_csv(io.StringIO(text), keep_default_na=False, dtype={"arm": str})
    assert back["arm"].iloc[0] == name
    assert back["mean"].iloc[0] == 100 / 3


def test_text_fits_a_terminal_and_says_everything(table: AblationTable) -> None:
    long = renamed(table, "stage3: conv+pssa(embed_ratio=0.25, rank=4)+softmax_global(heads=8) at every=2")
    text = render_text(long)
    assert max(map(len, text.splitlines())) <= 120
    assert "Against the baseline\n" in text
    assert "1 failed" in text
    for note in table.notes:
        assert note[:30] in text


def test_empty_table_is_shown(study: Path, add: Add) -> None:
    add(None, 0, status="failed", reason="boom")
    empty = ablation_table(load_study(study))
    for show in (render_text, to_markdown, to_latex):
        assert "nothing can be compared" in show(empty)
    assert to_csv(empty).startswith("arm,")


@pytest.mark.parametrize(
    ("spreads", "decimals"),
    [
        ([], 2),
        ([0.0], 2),
        ([1.03], 1),
        ([0.214], 2),
        ([0.0996], 2),
        ([12.3], 1),
        ([0.0123], 3),
        ([1e-7], 4),
        ([0.2, 1.3], 1),
    ],
)
def test_decimals(spreads: list[float], decimals: int) -> None:
    assert decimals_for(spreads, 2) == decimals


def test_an_interval_that_excludes_zero_is_not_rounded_to_it() -> None:
    assert decimals_for([1.3], 2, must_show=[0.02, 2.6]) == 2


def test_numbers_as_text() -> None:
    assert [scaled(n) for n in (0, 850, 999.6, 12_345, 999_949, 999_950, 3.6e9)] == [
        *("0", "850", "1.00 k", "12.3 k", "1.00 M", "1.00 M", "3.60 G")
    ]
    assert [significant(x) for x in (0.0, 0.01234, 1.2345, 99.96, 123.4, 1234.5)] == [
        *("0", "0.0123", "1.23", "100", "123", "1230")
    ]
    assert [signed(x, 1) for x in (-0.04, 0.0, 0.26, -3.0)] == ["0.0", "0.0", "+0.3", "-3.0"]
    assert int_ranges([3, 1, 2, 7, 2]) == "1-3, 7"
    assert int_ranges(range(0, 40, 2)).endswith("22, and 8 more")
    assert one_line("boom\x1b[31m\nat line 3") == "boom [31m"


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.012345, "0.012"),
        (0.05, "0.05"),
        (0.0501, "0.0501"),
        (0.0500001, "0.0500001"),
        (1.0, "1"),
        (3e-9, "< 0.0001"),
        (0.3, "0.3"),
    ],
)
def test_a_p_value_is_not_rounded_over_the_limit(p: float, text: str) -> None:
    assert p_shown(p) == text
    assert p_is(p) in (f"p = {text}", f"p {text}")


MARKUP = "<script>alert(\"x\")</script> & 'y'"
VOID = ("meta",)


class Page(HTMLParser):
    """The cells of a page, the titles of its rows, and whether each tag is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[list[str]] = []
        self.titles: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
            self.titles.append(dict(attrs).get("title") or "")
        elif tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def page(table: AblationTable) -> Page:
    return Page(to_html(with_provenance(table, provenance_of_rows(table))))


@pytest.fixture
def marked_up(study: Path, add: Add) -> AblationTable:
    for seed in range(3):
        add("plain", seed, test_top1=60.0 + seed, wandb_id=f"w{seed}")
        add(MARKUP, seed, test_top1=61.0 + seed * 1.1, run_dir=f"final/{MARKUP}")
    return ablation_table(load_study(study))


def test_it_shows_what_the_other_forms_show(marked_up: AblationTable) -> None:
    shown = page(marked_up).cells
    assert shown[0] == headings(marked_up)
    assert shown[1:] == [[plain(cell) for cell in row.cells] for row in marked_up.rows]


def test_nothing_of_a_study_is_taken_for_markup(marked_up: AblationTable) -> None:
    shown = page(marked_up)
    assert "script" not in shown.tags
    assert shown.cells[2][0] == MARKUP


def test_a_notebook_shows_the_table_of_the_page_and_takes_nothing_for_markup(marked_up: AblationTable) -> None:
    shown = Page(marked_up._repr_html_())
    assert shown.cells == page(marked_up).cells
    assert "script" not in shown.tags


def test_each_row_says_where_it_comes_from(marked_up: AblationTable) -> None:
    _, baseline, other = page(marked_up).titles
    assert "trials: 3 ok\nseeds: 0-2\n" in baseline
    assert "W&B: w0, w1, w2" in baseline
    assert "commit 0123456789ab" in baseline
    assert MARKUP in other


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 400])
def test_no_page_is_wider_than_the_screen(study: Path, add: Add, tmp_path: Path, width: int) -> None:
    """A wide table scrolls in its own box; on a desk's screen the verdict can be seen at once."""
    for seed in range(5):
        for shift, arm in enumerate(
            ("plain", "stage3: conv+softmax_global(embed_ratio=0.25)", "stage1+stage2+stage3: pssa")
        ):
            costs = {"dose": 2.9, "params": 78_002, "macs": 1_038_976, "latency_ms": 1.72, "latency_fused_ms": 1.4}
            add(arm, seed, test_top1=60.0 + seed + shift * (1 + 0.1 * seed % 2), **costs)
    text = to_html(ablation_table(load_study(study)))
    measure = (
        "const head = [...page.querySelectorAll('th')].find(th => th.textContent.includes('against'));"
        "document.title = page.documentElement.scrollWidth + ' ' + Math.ceil(head.getBoundingClientRect().right)"
    )
    whole, right = map(int, measured(text, width, measure, tmp_path).split())
    assert whole <= width
    assert width < 1400 or right <= width
