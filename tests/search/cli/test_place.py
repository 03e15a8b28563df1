"""`xvol-place`: what it is asked, what it writes, and a library that is trained, chosen from, and chosen from again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import search
from search.cli.place import main, read_budgets
from search.ledger.record import read_history
from search.report.reading.load import load_study

ROOT = Path(search.__file__).parents[1]
LIGHT = """
import sys
from search.cli.place import main
code = main(["nowhere", "--budget", "macs=1e6"])
heavy = {"torch", "timm", "pandas", "scipy", "hydra"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy or code != 2 else 0)
"""
LIBRARY = (
    *("data=digits", "data.train_size=128", "data.val_size=100", "data.test_size=50", "data.probe_size=60"),
    *("train.epochs=2", "train.ema_decay=null", "train.amp=false", "tracker=disabled", "measure.latency_repeats=1"),
    *("design=one_at_a_time", "placement.at.stage1=none,pssa", "placement.at.stage3=none,conv+pssa"),
    *("hydra.sweeper.study_name=library", "hydra.launcher.workers=1", "device=cpu"),
    *(
        f"hydra.sweeper.design.{each}"
        for each in (
            "start=shared",
            "roots=2",
            "orders=1",
            "graft_epochs=1",
            "gamma=[0.3]",
            "trains=blocks",
            "first_seed=26000",
        )
    ),
)


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path.rstrip(os.pathsep)}


def test_a_reader_that_closes_early() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    study = ROOT / "docs" / "results" / "paper_stage_placement" / "trials.csv"
    done = subprocess.run(
        [sys.executable, "-m", "search.cli.place", str(study)],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=120,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_budgets() -> None:
    assert read_budgets(["macs=1.05e6", " params = 80000"]) == {"macs": 1.05e6, "params": 80_000.0}
    assert read_budgets([]) == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["macs"], "NAME=VALUE"),
        (["mcas=3"], "did you mean macs"),
        (["macs=1", "macs=2"], "given twice"),
        (["macs=x"], "no number above 0"),
        (["macs=0"], "no number above 0"),
        (["macs=inf"], "no number above 0"),
        (["macs="], "nothing is no number"),
    ],
)
def test_what_is_no_budget_is_told(given: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_budgets(given)


def test_mistakes_are_told_before_anything_heavy_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nowhere does not exist" in done.stderr


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two places, trained by the command that a user gives."""
    folder = tmp_path_factory.mktemp("place")
    done = subprocess.run(
        [sys.executable, "-m", "search", "-m", *LIBRARY], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "library"


@pytest.mark.slow
def test_a_library_is_trained_once_and_chosen_from_twice(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = load_study(library)
    assert (trials["status"] == "ok").all()
    plain = trials[(trials["arm"] == "plain") & (trials["start"] == "shared")]
    roots = trials[(trials["arm"] == "plain") & (trials["start"] == "scratch")].set_index("seed")
    assert plain["epochs"].tolist() == [0] * 4  # the baseline and its null control, on each root
    assert all(read_history(library / each) == [] for each in plain["run_dir"])
    assert plain["val_loss"].tolist() == roots.loc[plain["root_seed"], "val_loss"].tolist()
    before = {path: path.stat().st_mtime_ns for path in library.rglob("*") if path.is_file()}

    cost = int(roots["macs"].iloc[0])
    said = []
    for budget in (2 * cost, cost):
        assert main([str(library), "--budget", f"macs={budget}", "--metric", "val_p_true"]) == 0
        said.append(capsys.readouterr().out)
        chosen = re.search(r"'placement\.(?:at=\{(.*)\}|policy=none)'", said[-1])
        assert chosen is not None
        assert set((chosen[1] or "").split(",")) <= {"", "stage1:pssa", "stage3:conv+pssa"}
    assert "MACs <= " in said[0]
    assert "that stays as it is around it" in said[0]
    assert {path: path.stat().st_mtime_ns for path in library.rglob("*") if path.is_file()} == before

    assert main([str(library), "--budget", "macs=10"]) == 2
    assert f"the plain network has {cost:,} MACs" in capsys.readouterr().err


@pytest.mark.slow
def test_files_are_written_where_they_are_asked_for(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(library), "--format", "md", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "out" / "placement.md").read_text() == out
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".md", ".tex", ".csv", ".html"}
    assert main([str(library), "--out", str(tmp_path / "out" / "placement.md")]) == 2
    assert "give a folder you can write to with --out" in capsys.readouterr().err
    assert main([str(library), "--check", str(library)]) == 2
    assert "no finished arm is a combination of the library's places" in capsys.readouterr().err
