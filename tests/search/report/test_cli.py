"""`xvol-table` through a real process: output, files, faults as one message, and no torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import search
from search.report.write import write_tables

from .conftest import Add

ROOT = Path(search.__file__).parents[1]
NO_TORCH = """
import importlib, pkgutil, sys
import search.report
for module in pkgutil.walk_packages(search.report.__path__, "search.report."):
    importlib.import_module(module.name)
for name in search.report.__all__:  # a module of the same name would hide the function
    assert callable(getattr(search.report, name)), name
heavy = {"torch", "timm", "torchvision", "optuna", "hydra", "omegaconf", "wandb"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
LIGHT_HELP = """
import sys
from search.cli.table import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"pandas", "numpy", "scipy"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


def run(*arguments: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        timeout=60,
    )


def table(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("-m", "search.cli.table", *arguments, **environment)


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    for seed in range(3):
        add("plain", seed, test_top1=60.0 + seed)
        add("stage3", seed, test_top1=60.5 + seed * 1.1)
    return study


def test_prints_and_writes_everything(filled: Path) -> None:
    done = table(filled)
    assert done.returncode == 0, done.stderr
    assert "plain (baseline)" in done.stdout
    assert "stage3" in done.stdout
    folder = filled / "tables"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("ablation.csv", "ablation.html", "ablation.md", "ablation.notes.txt", "ablation.parquet"),
        *("ablation.provenance.json", "ablation.tex", "ablation_paper.tex", "trials.csv"),
    ]
    assert done.stderr.startswith(f"written: {folder / 'ablation.md'}")
    again = table(filled)
    assert again.stdout == done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("form", "start"), [("md", "**demo"), ("tex", "% demo"), ("csv", "arm,arch_hash")])
def test_one_format(filled: Path, tmp_path: Path, form: str, start: str) -> None:
    done = table(filled, "--format", form, "--out", tmp_path / "paper")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(start)
    assert (tmp_path / "paper" / f"ablation.{form}").read_text(encoding="utf-8") == done.stdout
    assert not (filled / "tables").exists()


@pytest.mark.slow
def test_no_write(filled: Path) -> None:
    done = table(filled, "--no-write", "--metric", "test_top1", "--phase", "final", "--baseline", "stage3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "stage3 (baseline)" in done.stdout
    assert not (filled / "tables").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "acc"], "metric 'acc' is not one of"),
        (["--baseline", "plane"], "Did you mean 'plain'?"),
        (["--phase", "search"], "no trial of phase 'search'"),
        (["--metric", "val_loss"], "no finished trial of phase 'final' has val_loss"),
    ],
)
def test_a_fault_is_one_message(filled: Path, arguments: list[str], message: str) -> None:
    done = table(filled, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("xvol-table: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (filled / "tables").exists()


def test_no_such_study(filled: Path) -> None:
    done = table(filled.parent / "dmeo")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"Did you mean {filled}?" in done.stderr


@pytest.mark.slow
def test_only_unreadable_results(filled: Path) -> None:
    for path in filled.rglob("result.json"):
        path.write_bytes(b"\x00\xff{")
    done = table(filled)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "0000-s0" in done.stderr


@pytest.mark.slow
def test_some_unreadable_results_are_named_below_the_table(filled: Path) -> None:
    lost = next(iter(sorted(filled.rglob("result.json"))))
    lost.write_text('{"schema": 1}')
    done = table(filled)
    assert done.returncode == 0, done.stderr
    assert "Unreadable, left out:" in done.stdout
    assert "absent" in done.stdout


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = table(filled, "--out", tmp_path / "file")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "--out" in done.stderr


@pytest.mark.slow
def test_a_terminal_without_the_signs(filled: Path) -> None:
    done = table(filled, "--no-write", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "61.0 ? 1.0" in done.stdout


@pytest.mark.slow
def test_a_reader_that_closes_early(filled: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "search.cli.table", str(filled), "--no-write"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_nothing_heavy_is_imported() -> None:
    assert run("-c", NO_TORCH).stderr == ""
    assert run("-c", LIGHT_HELP).stderr == ""


@pytest.mark.slow
def test_write_tables_is_what_a_study_calls(filled: Path, tmp_path: Path) -> None:
    made = write_tables(filled)
    assert made.baseline == "plain"
    assert (filled / "tables" / "ablation.tex").exists()
    assert made.conclusion in (filled / "tables" / "ablation.notes.txt").read_text(encoding="utf-8")
    write_tables(filled, out=tmp_path / "deep" / "er")
    assert (tmp_path / "deep" / "er" / "ablation.csv").exists()
    assert not list((filled / "tables").glob(".*"))
