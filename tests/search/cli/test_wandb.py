"""`xvol-wandb`: what it saves, against a server on the loopback interface, and what it answers where it cannot."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from search.cli.wandb import main

from ..ledger.wandb_server import Seen, serving
from ..report.conftest import Add, add, study  # noqa: F401  # fixtures

KEY = "0123456789" * 4


@pytest.fixture
def filled(study: Path, add: Add) -> Path:  # noqa: F811
    for phase, split in (("search", "val"), ("final", "test")):
        for seed in range(3):
            for arm, value in (("plain", 60.0), ("stage3", 61.0)):
                scores = {"val_top1": value + seed, f"{split}_top1": value + seed}
                words = [f"branch.options.pssa.rank={seed}", f"placement={arm}", "train.lr=0.1"]
                folder = add(
                    arm,
                    seed,
                    phase,
                    params=1000,
                    macs=2000,
                    overrides=words,
                    finished_at=f"2026-11-22T10:0{seed}",
                    **scores,
                )
                (folder / ".hydra").mkdir()
                (folder / ".hydra" / "config.yaml").write_text("tracker: {mode: offline, project: mine}\n")
    return study


@pytest.fixture
def seen() -> Iterator[Seen]:
    with serving() as found:
        found.runs = {"a1": "final", "study-1": "study"}
        yield found


def run(seen: Seen, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: W&B keeps a server's address as long as a process lives."""
    environment = {**os.environ, "WANDB_BASE_URL": seen.address, "WANDB_API_KEY": KEY, **more}
    command = [sys.executable, "-m", "search.cli.wandb", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def panels(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "viewType" in tree:
            yield tree
        for value in tree.values():
            yield from panels(value)
    if isinstance(tree, list):
        for value in tree:
            yield from panels(value)


def test_a_workspace_and_a_report_are_saved(filled: Path, seen: Seen) -> None:
    done = run(seen, str(filled))
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert lines.keys() == {"Workspace", "Report"}
    assert all(address.startswith(f"{seen.address}/me/mine") for address in lines.values()), lines
    (view,), (report,) = seen.variables("UpsertView2"), seen.variables("upsertView")
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "mine", "demo")
    space, page = json.loads(view["spec"]), json.loads(report["spec"])
    shown = {panel["viewType"] for panel in panels(space)}
    curve, front, media = "Run History Line Plot", "Scatter Plot", "Media Browser"
    assert shown == {curve, front, media, "Parallel Coordinates Plot", "Parameter Importance"}
    assert [panel["config"]["metrics"] for panel in panels(space) if panel["viewType"] == curve][:2] == [
        ["val_top1"],
        ["train_loss"],
    ]
    (scatter, *_) = (panel["config"] for panel in panels(space) if panel["viewType"] == front)
    assert (scatter["xAxis"], scatter["yAxis"]) == ("config:macs.value", "summary:test_top1")
    (parallel,) = (panel["config"]["columns"] for panel in panels(space) if panel["viewType"].startswith("Parallel"))
    assert parallel[0]["accessor"] == "config:branch.value.options.pssa.rank"  # which varies, and is no group's choice
    assert "train.lr" not in json.dumps(parallel)
    assert [key["name"] for key in space["section"]["runSets"][0]["grouping"]] == ["phase.value", "arm.value"]
    names = [runs["name"] for grid in page["blocks"] for runs in grid.get("metadata", {}).get("runSets", [])]
    assert names == ["search", "final", "the study's own run"]
    assert "| plain" in report["spec"]
    assert KEY not in json.dumps([view, report])


def test_runs_that_are_not_there_are_asked_for(
    filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    api = SimpleNamespace(default_entity="me", runs=lambda *_, **__: [])
    monkeypatch.setattr(wandb, "Api", lambda **_: api)
    assert main([str(filled), "--project", "other", "--entity", "team"]) == 2
    said = capsys.readouterr().err
    assert f"team/other has no run of the study demo; upload those that are offline: wandb sync {filled}" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (wandb.errors.UsageError("No API key configured"), "`wandb login`, or set WANDB_API_KEY"),
        (
            wandb.errors.CommError(f"no route to host; api_key={KEY}"),
            "(no route to host; api_key=***); is the server there",
        ),
    ],
)
def test_what_is_missing_is_named(
    filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def refuse(**_: Any) -> None:
        raise error

    monkeypatch.setattr(wandb, "Api", refuse)
    assert main([str(filled)]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert len(told.splitlines()) == 1


def test_the_extra_and_the_study_are_needed(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([str(filled)]) == 2
    assert "pip install 'xvol[dashboards]'" in capsys.readouterr().err
