"""A study's page: sections in their order, a text beside each picture, links that lead somewhere, nothing taken for markup."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from search.report import ablation_table, load_study
from search.report.page import page_at_the_end, write
from search.report.page.sections import verdict
from search.report.page.write import PAGE, again, write_page, write_plots

from ..browser import measured
from ..conftest import HOSTILE, Add, adder

VOID = {"meta", "link"}
ORDER = ["table", "effects", "places", "curves", "front", "search", "trust", "provenance", "again"]
PLOTS = ["forest", "heatmap", "curves", "front", "history", "importance", "parallel", "timeline"]


class Page(HTMLParser):
    """Tags with their attributes, ids, the text of each, and whether each tag is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, str] = {}
        self.whole = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.whole += data
        own = self.tags[-1][1].get("id") if self.tags else None
        if own is not None:
            self.text[own] = self.text.get(own, "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def page(whole: Path) -> Page:
    return Page(write_page(whole).read_text(encoding="utf-8"))


def test_sections_stand_in_their_order(page: Page) -> None:
    assert [attributes["id"] for attributes in page.all("section")] == ORDER
    assert [attributes["href"] for attributes in page.all("a")][1 : len(ORDER) + 1] == [f"#{name}" for name in ORDER]
    for attributes in page.all("section"):
        assert page.text[attributes["aria-labelledby"]].strip()
    assert {tag for tag, _ in page.tags} >= {"header", "nav", "main", "footer", "h1", "h2"}


def test_each_picture_has_a_text_and_its_numbers(page: Page) -> None:
    shown = [attributes["id"].removeprefix("plot-") for attributes in page.all("figure")]
    assert [name for name in shown if not name.startswith("trust")] == PLOTS
    assert any(name.startswith("trust") for name in shown)
    for attributes in page.all("svg"):
        title, said = attributes["aria-labelledby"].split()
        assert attributes["role"] == "img"
        assert page.text[title]
        assert len(page.text[said]) > 40
    assert len(page.all("svg")) == len(page.all("figcaption")) == len(shown)
    assert page.whole.count("The numbers of this plot") == len(shown)


def test_ids_and_references_do_not_collide(page: Page) -> None:
    ids = page.ids()
    assert len(ids) == len(set(ids))
    references = [attributes["href"] for _, attributes in page.tags if attributes.get("href", "").startswith("#")]
    assert {reference[1:] for reference in references} <= set(ids)


def test_nothing_is_loaded_and_links_lead_somewhere(page: Page, whole: Path) -> None:
    assert not page.all("script") + page.all("img") + page.all("iframe") + page.all("object")
    assert not [attributes for _, attributes in page.tags if "src" in attributes]
    assert [attributes["href"] for attributes in page.all("link")] == ["data:,"]
    links = [attributes["href"] for attributes in page.all("a") if not attributes["href"].startswith("#")]
    outside = [link for link in links if link.startswith("https://")]
    assert set(links) - set(outside)
    for link in set(links) - set(outside):
        assert (whole / "tables" / unquote(link)).exists(), link
    assert outside
    assert all(link.startswith("https://wandb.ai/me/xvol/runs/run") for link in outside)
    policy = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_nothing_of_a_study_is_taken_for_markup(page: Page) -> None:
    assert HOSTILE in page.whole
    assert '49 "' not in page.whole
    assert "{{7*7}}" in page.whole


def test_no_secret_reaches_the_page(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "correct-horse")
    add = adder(own.parent / "more")
    run = add("stage3: correct-horse", 100, status="failed", reason="could not log in with correct-horse")
    run.rename(own / "final" / "0099-s100")
    text = write_page(own).read_text(encoding="utf-8")
    assert "correct-horse" not in text
    assert "hunter22" not in text
    assert "could not log in with ***" in text


def test_the_command_stands_as_it_was_given(own: Path) -> None:
    command = again(own)
    assert command is not None
    assert command.startswith("python -m search -m experiment=demo 'placement.policy=choice(stage1,stage2)'")
    assert command.endswith("hydra.sweeper.n_trials=16")
    assert "MULTIRUN" not in command
    (own / "multirun.yaml").write_text(": not yaml [")
    assert again(own) is None


def test_a_page_that_is_written_again_says_so_and_the_last_one_does_not(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    live = Page(write_page(study, refresh=7).read_text())
    assert [each["content"] for each in live.all("meta") if each.get("http-equiv") == "refresh"] == ["7"]
    assert "The study is running" in live.whole
    assert not [each for each in Page(write_page(study).read_text()).all("meta") if each.get("http-equiv") == "refresh"]


def test_the_verdict_is_one_sentence(whole: Path) -> None:
    said = verdict(ablation_table(load_study(whole)))
    assert said.startswith("Of 3 arms held against plain in test top-1 %, 1 is better (stage3: conv+pssa(rank=8), +")
    assert said.count(". ") == 0
    assert said.endswith(".")


@pytest.mark.parametrize("status", ["failed", "ok"])
def test_a_study_with_next_to_nothing_has_a_page(study: Path, add: Add, status: str) -> None:
    """Failed trials alone, or one arm that finished: no picture is empty, and the reason stands in its place."""
    add("plain", 0, status=status, reason="out of memory" if status == "failed" else None, test_top1=60.0)
    page = Page(write_page(study).read_text())
    assert page.all("figure") == []
    assert page.whole.count("Not shown:") >= 5
    assert ("out of memory" in page.whole) == (status == "failed")


def test_trials_alone_have_a_page_without_links(whole: Path, tmp_path: Path) -> None:
    trials = tmp_path / "elsewhere" / "trials.csv"
    trials.parent.mkdir()
    load_study(whole).to_csv(trials, index=False)
    page = Page(write_page(trials).read_text())
    assert (trials.parent / PAGE).exists()
    assert not [attributes for attributes in page.all("a") if not attributes["href"].startswith("#")]
    assert "The command is not on record here" in page.whole


def test_a_page_that_cannot_be_drawn_fails_no_study(
    whole: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert page_at_the_end(whole) == whole / "tables" / PAGE

    def broken(*_: object) -> str:
        raise RuntimeError("no font")

    monkeypatch.setattr(write, "page", broken)
    with caplog.at_level(logging.WARNING):
        assert page_at_the_end(whole) is None
    assert "no page was written: RuntimeError: no font" in caplog.text


def test_a_matplotlib_that_cannot_be_loaded_fails_no_study(whole: Path) -> None:
    code = f"import pathlib, search.report as r; print(r.page_at_the_end(pathlib.Path({str(whole)!r})))"
    broken = {**os.environ, "MPLBACKEND": "no such thing"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=broken, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "None"), done.stderr
    assert "no page was written" in done.stderr


def test_plots_become_files(whole: Path, tmp_path: Path) -> None:
    written = write_plots(whole, tmp_path, "svg")
    assert {path.stem for path in written} >= set(PLOTS)
    assert all(path.stat().st_size for path in written)


BOXES = ".box, .table, .numbers, pre, .skip"
LOOK = f"""
page.querySelectorAll('details').forEach(each => each.open = true);
const wide = frame.clientWidth, style = each => page.defaultView.getComputedStyle(each);
const out = [...page.querySelectorAll('body *')].filter(
  each => !each.closest('{BOXES}') && each.getBoundingClientRect().right > wide + 1);
const small = [...page.querySelectorAll('svg text')].filter(each => each.getBoundingClientRect().height < 7);
const ink = [...new Set([...page.querySelectorAll('svg text')].map(each => style(each).fill))];
document.title = JSON.stringify({{
  whole: page.documentElement.scrollWidth, out: out.map(each => each.outerHTML.slice(0, 80)), small: small.length,
  paper: style(page.body).backgroundColor, ink, color: style(page.body).color, svgs: page.querySelectorAll('svg').length,
}});
"""


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(400, True), (1400, False)])
def test_a_browser_shows_it_within_the_screen_in_light_and_dark(
    whole: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    text = (
        (whole / "tables" / PAGE).read_text() if (whole / "tables" / PAGE).exists() else write_page(whole).read_text()
    )
    found = json.loads(measured(text, width, LOOK, tmp_path, dark))
    assert found["whole"] <= width
    assert found["out"] == []
    assert found["small"] == 0
    assert found["svgs"] >= len(PLOTS)
    assert found["paper"] == ("rgb(22, 22, 26)" if dark else "rgb(255, 255, 255)")
    assert found["ink"] == [found["color"]]  # what is drawn takes the colours of the page
