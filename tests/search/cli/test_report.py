"""`xvol-report`: a page and plots where the options say, a clear answer where none can be made, and a study that runs is followed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.cli.report import main
from search.ledger.result import TrialResult, write_result
from search.report.reading.load import load_study
from search.study.check import study as checks

HEAVY = """
import sys, search.cli.report
search.cli.report.parser()
print(*sorted({"pandas", "matplotlib", "jinja2", "torch", "optuna"} & sys.modules.keys()))
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two arms on three seeds."""
    folder = tmp_path / "runs" / "demo"
    for number, (arm, seed) in enumerate((arm, seed) for seed in range(3) for arm in ("plain", "stage3: pssa")):
        place = f"final/{number:04d}-s{seed}"
        facts = {
            "is_baseline": arm == "plain",
            "arch_hash": f"{arm:a<10}"[:10],
            "recipe_hash": "9f8e7d6c5b",
            "run_dir": place,
        }
        scores = {"test_top1": 60.0 + seed + (2 + seed / 9) * (arm != "plain")}
        result = TrialResult(
            study="demo", phase="final", trial=number, status="ok", arm=arm, seed=seed, metrics=scores, **facts
        )  # type: ignore[arg-type]
        (folder / place).mkdir(parents=True)
        write_result(folder / place, result)
    return folder


def test_the_page_and_plots_go_where_they_are_asked(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(study)]) == 0
    assert capsys.readouterr().out == f"{study / 'tables' / 'report.html'}\n"
    page, figures = tmp_path / "deep" / "page.html", tmp_path / "figures"
    assert main([str(study), "--out", str(page), "--plots", str(figures), "--format", "pdf", "--margin", "0.5"]) == 0
    assert capsys.readouterr().out.split() == [str(page), str(figures / "forest.pdf")]
    assert "±0.5 points" in page.read_text()


def test_help_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{tmp}/nowhere"], "nowhere does not exist"),
        (["{tmp}/empty"], "holds no trial"),
        (["{study}", "--out", "{tmp}/page.pdf"], "ends in .html"),
        (["{study}", "--live", "0"], "1 or more"),
        (["{trials}", "--live"], "is a file of trials"),
        (["{study}", "--margin", "-1"], "margin"),
        (["{study}", "--out", "{trials}/page.html"], "trials.csv"),
    ],
)
def test_what_cannot_be_made_is_said(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "empty").mkdir()
    trials = tmp_path / "trials.csv"
    load_study(study).to_csv(trials, index=False)
    assert main([text.format(tmp=tmp_path, study=study, trials=trials) for text in arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.startswith("xvol-report: ")
    assert shown.out == ""


def workers(*looks: int) -> Iterator[set[Path]]:
    yield from ({Path(f"{at}.lock") for at in range(count)} for count in looks)


def test_a_study_that_runs_is_followed_to_its_end(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, looks, seen = study / "tables" / "report.html", workers(2, 0, 2, 0, 0), []

    def look(_: Path) -> set[Path]:
        seen.append(page.exists() and 'http-equiv="refresh"' in page.read_text())
        return next(looks)

    monkeypatch.setattr(checks, "living_workers", look)
    monkeypatch.setattr("search.cli.report.time.sleep", lambda _: None)
    assert main([str(study), "--live", "3"]) == 0
    assert seen == [False, True, True, True, True]
    assert 'http-equiv="refresh"' not in page.read_text()
    assert capsys.readouterr().err.count("the study runs") == 1


def test_ctrl_c_leaves_a_whole_page(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "living_workers", lambda _: {Path("one.lock")})
    monkeypatch.setattr("search.cli.report.time.sleep", interrupted)
    assert main([str(study), "--live"]) == 0
    assert (study / "tables" / "report.html").read_text().endswith("</html>\n")


def test_a_study_that_does_not_run_is_not_followed(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "living_workers", lambda _: set())
    assert main([str(study), "--live"]) == 0
    assert "no worker of this study is running" in capsys.readouterr().err
