"""The ablation table as a page: whole, escaped, and with its provenance."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from search.report.export import columns_of
from search.report.reading.load import load_study
from search.report.sources import all_sources
from search.report.table import AblationTable, ablation_table
from search.report.table_html import table_to_html

from .conftest import Add

NASTY = "<script>alert(\"x\")</script> & 'y'"
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
    sources = dict(zip((arm.label for arm in table.arms), all_sources(table.arms, table.metric.column), strict=True))
    return Page(table_to_html(table, sources))


@pytest.fixture
def table(study: Path, add: Add) -> AblationTable:
    for seed in range(3):
        add("plain", seed, test_top1=60.0 + seed, wandb_id=f"w{seed}")
        add(NASTY, seed, test_top1=61.0 + seed * 1.1, run_dir=f"final/{NASTY}")
    return ablation_table(load_study(study))


def test_it_shows_what_the_other_forms_show(table: AblationTable) -> None:
    columns = columns_of(table)
    shown = page(table).cells
    assert shown[0] == [column.title for column in columns]
    assert shown[1:] == [list(row) for row in zip(*(column.cells for column in columns), strict=True)]


def test_nothing_of_a_study_is_taken_for_markup(table: AblationTable) -> None:
    shown = page(table)
    assert "script" not in shown.tags
    assert shown.cells[2][0] == NASTY


def test_each_row_says_where_it_comes_from(table: AblationTable) -> None:
    _, baseline, other = page(table).titles
    assert "trials: 3 ok\nseeds: 0-2\n" in baseline
    assert "W&B: w0, w1, w2" in baseline
    assert "commit 0123456789ab" in baseline
    assert NASTY in other


@pytest.mark.parametrize("width", [1400, 400])
def test_no_page_is_wider_than_the_screen(study: Path, add: Add, tmp_path: Path, width: int) -> None:
    """A wide table scrolls in its own box; on a desk's screen the verdict can be seen at once."""
    browser = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no headless browser: apt-get install chromium")
    for seed in range(5):
        for shift, arm in enumerate(
            ("plain", "stage3: conv+softmax_global(embed_ratio=0.25)", "stage1+stage2+stage3: pssa")
        ):
            costs = {"dose": 2.9, "params": 78_002, "macs": 1_038_976, "latency_ms": 1.72, "latency_fused_ms": 1.4}
            add(arm, seed, test_top1=60.0 + seed + shift * (1 + 0.1 * seed % 2), **costs)
    text = table_to_html(ablation_table(load_study(study)), {})
    measure = (
        "const page = frame.contentDocument, head = [...page.querySelectorAll('th')].find(th => th.textContent.includes('against'));"
        "document.title = page.documentElement.scrollWidth + ' ' + Math.ceil(head.getBoundingClientRect().right)"
    )
    frame = f'<iframe id="frame" style="width:{width}px;height:900px;border:0" srcdoc="{escape(text)}" onload="{measure}"></iframe>'
    (tmp_path / "frame.html").write_text(f"<!DOCTYPE html><title></title>{frame}", encoding="utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
    ]
    done = subprocess.run(
        [*command, f"file://{tmp_path / 'frame.html'}"], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert found is not None, done.stdout[:500]
    assert int(found[1]) <= width
    assert width < 1400 or int(found[2]) <= width
