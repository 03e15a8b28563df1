"""What a study's table hands to W&B, and that nothing which goes wrong there reaches the study."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

import search.report.mirror as module
from search.cli.table import main
from search.ledger.tracker import TrackerConfig
from search.ledger.wandb_table import Sent, StudyTable
from search.report.ablation import DATA_COLUMNS, ablation_table
from search.report.mirror import mirror_study, mirror_table, study_tracker
from search.report.pivot import PIVOT_COLUMNS, pivot_table
from search.report.reading.load import load_study
from search.report.spec import spec_of
from search.report.write import write_tables

from .conftest import Add

Caught = list[tuple[TrackerConfig, StudyTable]]
TRACKER = {"mode": "online", "project": "mine", "entity": "team", "tags": ["a"]}


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    for seed in range(3):
        for arm, value in (("plain", 60.0), ("stage3", 60.5)):
            folder = add(arm, seed, test_top1=value + seed, finished_at=f"2026-11-22T10:0{seed}:00+00:00")
            (folder / ".hydra").mkdir()
            (folder / ".hydra" / "config.yaml").write_text(
                yaml.safe_dump({"tracker": {**TRACKER, "tags": [str(seed)]}})
            )
    add("stage4", 0, status="failed", started_at="2026-11-22T09:00:00+00:00")
    return study


@pytest.fixture
def caught(monkeypatch: pytest.MonkeyPatch) -> Caught:
    """What would have been sent."""
    found: Caught = []

    def catch(config: TrackerConfig, table: StudyTable) -> Sent:
        found.append((config, table))
        return Sent(run_id="table-x", mode=config.mode, where="there")

    monkeypatch.setattr(module, "send_table", catch)
    return found


def test_the_end_of_a_study(filled: Path, caught: Caught, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        mirror_study(filled, write_tables(filled))
    ((config, table),) = caught
    assert config == TrackerConfig(**{**TRACKER, "tags": ["2"]})  # as the last finished trial was logged
    assert (table.study, table.name, table.identity) == ("demo", "ablation", "2026-11-22T09:00:00+00:00")
    assert table.folder == filled
    rows = table.tables["ablation"]
    assert dict(rows.columns) == DATA_COLUMNS
    by_arm = {row[0]: dict(zip(rows.columns, row, strict=True)) for row in rows.rows}
    assert by_arm["stage3"]["diff"] == 0.5
    assert (by_arm["plain"]["is_baseline"], by_arm["plain"]["diff"], by_arm["stage4"]["mean"]) == (True, None, None)
    trials = table.tables["trials"]
    assert len(trials.rows) == 7
    assert "provenance" not in trials.columns
    json.dumps([rows.rows, trials.rows], allow_nan=False)
    names = [path.name for path in table.files]
    assert names == sorted(path.name for path in (filled / "tables").iterdir())
    assert {"ablation.html", "ablation_paper.tex", "ablation.provenance.json", "trials.parquet"} <= set(names)
    assert table.config["phase"] == "final"
    assert "W&B: the table is online: there" in caplog.text


def test_many_trials_are_in_the_artifact_alone(filled: Path, caught: Caught, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TRIALS", 6)
    mirror_study(filled, write_tables(filled))
    (_, table), *_ = caught
    assert list(table.tables) == ["ablation"]
    assert "The 7 trials are in the artifact alone, as trials.parquet." in str(table.summary["notes"])


def test_a_table_by_its_spec(filled: Path, caught: Caught, tmp_path: Path) -> None:
    frame = load_study(filled)
    grid = pivot_table(frame, spec_of({"name": "stages", "metrics": ["test_top1"]}))
    (tmp_path / "out").mkdir()
    for name in ("stages.md", "other.md", ".stages.md.tmp", "stages.bin"):
        (tmp_path / "out" / name).write_text("x")
    mirror_table(TrackerConfig(), filled, tmp_path / "out", frame, grid)
    ((_, table),) = caught
    assert table.name == "stages"
    assert dict(table.tables["stages"].columns) == PIVOT_COLUMNS
    assert [path.name for path in table.files] == ["stages.md", "trials.parquet"]
    with pytest.raises(ValueError, match="'trials' is what the tidy frame is called"):
        mirror_table(TrackerConfig(), filled, tmp_path / "out", frame, pivot_table(frame, spec_of({"name": "trials"})))


def test_a_disabled_tracker_sends_nothing(study: Path, add: Add, caught: Caught) -> None:
    add("plain", 0, test_top1=60.0)
    assert (
        mirror_study(study, ablation_table(load_study(study))) is None
    )  # no config at all: another application's task
    (study / "multirun.yaml").write_text("tracker: {mode: disabled}\n")
    assert mirror_study(study, ablation_table(load_study(study))) is None
    assert caught == []
    (study / "multirun.yaml").write_text("tracker: {mode: offline}\n")
    assert study_tracker(study, load_study(study)) == TrackerConfig()


@pytest.mark.parametrize(
    ("tracker", "said"),
    [
        ({"mode": "on"}, "tracker.mode=on"),
        ({"tags": "a"}, "tags a list"),
        ({"entity": "${oc.env:NO_SUCH_VARIABLE}"}, "NO_SUCH_VARIABLE"),
    ],
)
def test_a_fault_is_logged_and_the_study_ends_well(
    filled: Path, caught: Caught, caplog: pytest.LogCaptureFixture, tracker: dict[str, Any], said: str
) -> None:
    for path in filled.rglob("config.yaml"):
        path.write_text(yaml.safe_dump({"tracker": tracker}))
    with caplog.at_level(logging.WARNING):
        assert mirror_study(filled, write_tables(filled)) is None
    assert (len(caplog.records), caught) == (1, [])
    assert said in caplog.text


def test_an_interpolation_is_resolved(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TEAM", "us")
    for path in filled.rglob("config.yaml"):
        path.write_text("name: p\ntracker: {entity: '${oc.env:MY_TEAM}', project: '${name}'}\n")
    assert study_tracker(filled, load_study(filled)) == TrackerConfig(project="p", entity="us")


def test_what_the_command_line_says_wins(filled: Path, caught: Caught, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(filled), "--wandb"]) == 0
    options = [
        "--wandb-mode",
        "offline",
        "--wandb-project",
        "p",
        "--wandb-entity",
        "e",
        "--rows",
        "arm",
        "--name",
        "rows",
    ]
    assert main([str(filled), "--wandb", *options]) == 0
    (first, table), (second, by_spec) = caught
    assert (first.mode, first.project, table.name) == ("online", "mine", "ablation")
    assert (second.mode, second.project, second.entity, second.tags) == ("offline", "p", "e", ["2"])
    assert (by_spec.name, {path.suffix for path in by_spec.files}) == (
        "rows",
        {".md", ".tex", ".html", ".csv", ".parquet", ".json"},
    )
    errors = capsys.readouterr().err
    assert "W&B: the table is online: there\n" in errors
    assert "W&B: the table is offline: there; upload it: wandb sync there\n" in errors


def test_a_table_that_was_not_sent_has_a_status_of_its_own(
    filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "send_table", lambda *_: None)
    assert main([str(filled), "--wandb"]) == 1
    assert "plain (baseline)" in capsys.readouterr().out
    for path in filled.rglob("config.yaml"):
        path.write_text("tracker: {mode: on}")
    assert main([str(filled), "--wandb"]) == 1
    assert "W&B: the table was not sent: " in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--no-write"], ["--diff"], ["--trust"], ["--effects"], ["--tidy", "x.csv"]])
def test_there_must_be_a_table_to_send(filled: Path, capsys: pytest.CaptureFixture[str], more: list[str]) -> None:
    assert main([str(filled), "--wandb", *more]) == 2
    assert f"it does not go with {more[0]}" in capsys.readouterr().err
    assert main([str(filled), "--wandb-mode", "online"]) == 2
    assert "add --wandb to send it" in capsys.readouterr().err
