"""What a paper says of a study follows the ledger, compiles, and marks what nobody knows."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from search.cli.paper import main
from search.ledger.result import read_result, write_result
from search.report.ablation import ablation_table
from search.report.manuscript import manuscript
from search.report.reading.load import load_study
from search.report.references import DATA, OPTIMISERS, PACKAGES, XVOLUTION, bibtex

from .conftest import Add
from .test_render import NASTY, needs_latex

CONFIG = {
    "data": {"name": "cifar10", "train_size": 10_000, "batch_size": 128, "flip": True, "crop_padding": 4},
    "train": {
        "opt": "adamw",
        "lr": 0.01,
        "schedule": "onecycle",
        "weight_decay": 0.05,
        "loss": "ce",
        "label_smoothing": 0.1,
    },
}


@pytest.fixture
def told(study: Path, add: Add) -> Path:
    for seed in range(4):
        for at, arm in enumerate(("plain", "stage3: conv+pssa", *NASTY[:3])):
            folder = add(
                arm,
                seed,
                test_top1=60.0 + seed + at * (1 + seed / 10),
                val_images=5000,
                test_images=10_000,
                params=78_002 + at,
            )
            (folder / ".hydra").mkdir()
            (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return study


def numbers(files: dict[str, str]) -> dict[str, str]:
    return dict(re.findall(r"^\\newcommand\{\\xvol(\w+)\}\{(.*)\}$", files["numbers.tex"], re.MULTILINE))


def test_figures_are_those_of_the_table_and_follow_the_ledger(told: Path) -> None:
    row = ablation_table(load_study(told)).data.set_index("arm").loc["stage3: conv+pssa"]
    before = numbers(manuscript(told))
    assert before["XVolutionStageThreeMean"] == f"{row['mean']:.1f}"
    assert before["XVolutionStageThreeDiff"] == rf"\ensuremath{{{row['diff']:+.2f}}}"
    assert before["XVolutionStageThreeN"] == "4"
    assert before["SeedList"] == "0-3"
    for folder in (told / "final").iterdir():
        result = read_result(folder / "result.json")
        if result.arm == "stage3: conv+pssa":
            result.metrics["test_top1"] += 7.0
            write_result(folder, result)
    after = numbers(manuscript(told))
    assert float(after["XVolutionStageThreeMean"]) == pytest.approx(
        float(before["XVolutionStageThreeMean"]) + 7, abs=0.11
    )
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert all(
        name.startswith("XVolutionStageThree") for name in changed if name.endswith(("Mean", "Diff", "Low", "High"))
    )


def test_what_the_config_says_is_said_and_cited(told: Path) -> None:
    files = manuscript(told)
    said = files["methods.tex"]
    assert r"CIFAR-10~\cite{krizhevsky2009cifar}" in said
    assert r"adamw~\cite{loshchilov2019adamw}" in said
    assert "label smoothing 0.1" in said
    assert "mixup" not in said
    assert "horizontal flips and crops after padding by 4." in said
    assert "each is trained from scratch" in said
    assert r"torch 2.13.0~\cite{paszke2019pytorch}" in said
    assert "xvolunknown" not in said.replace(r"\xvolunknown{device}", "").replace(
        r"\xvolunknown{processor}", ""
    ).replace(r"\xvolunknown{cores}", "")
    entries = set(re.findall(r"^@\w+\{(\w+),", files["references.bib"], re.MULTILINE))
    assert set(re.findall(r"\\cite\{(\w+)\}", said)) == entries
    assert "note = {Version 2.13.0}" in files["references.bib"]


def test_what_nobody_knows_is_marked(study: Path, add: Add) -> None:
    for seed in range(3):
        for at, arm in enumerate(("plain", "stage3")):
            add(arm, seed, test_top1=60.0 + seed + at * seed, provenance={})
    files = manuscript(study)
    for what in ("train.lr", "data.name", "train.opt", "commit", "packages", "number of training images"):
        assert rf"\xvolunknown{{{what}}}" in files["methods.tex"]
    assert r"\xvolunknown{settings}" in files["checklists.tex"]
    assert r"\xvolunknown{licenses" in files["checklists.tex"]


def test_seeds_of_search_and_re_evaluation(told: Path, add: Add) -> None:
    assert "of their own] \\xvolunknown" in manuscript(told)["checklists.tex"]
    add("plain", 77, phase="search", val_top1=50.0)
    assert "of their own] Yes" in manuscript(told)["checklists.tex"]
    add("plain", 0, phase="search", val_top1=50.0)
    assert "of their own] No" in manuscript(told)["checklists.tex"]


def test_every_work_is_in_the_file() -> None:
    keys = [XVOLUTION, *DATA.values(), *OPTIMISERS.values(), *PACKAGES.values()]
    text = bibtex(keys, {})
    assert text.isascii()
    assert set(re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE)) == set(keys)
    assert text.count("@") == len(set(keys))


@pytest.mark.slow
def test_it_compiles_without_a_warning_of_a_reference(told: Path) -> None:
    needs_latex("booktabs.sty", "siunitx.sty", "tabularx.sty")
    assert main([str(told)]) == 0
    folder = told / "tables" / "paper"
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    steps = [command, ["bibtex", "paper"], command, command] if shutil.which("bibtex") else [command]
    for step in steps:
        run = subprocess.run(step, cwd=folder, capture_output=True, check=False)
        assert run.returncode == 0, run.stdout.decode(errors="replace")[-2000:]
    log = (folder / "paper.log").read_text(errors="replace")
    assert "Missing character" not in log
    if len(steps) > 1:
        assert "undefined" not in log


def test_a_study_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no trial" in capsys.readouterr().err
