"""The process that holds a study's run: started where it is asked for, and done without where it fails."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import search.ledger.wandb_study as module
from search.ledger.tracker import TrackerConfig
from search.ledger.wandb_study import StudyProcess, study_run_id
from search.ledger.wandb_table import Sent, StudyTable


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyTable:
    """A table, and a `send_table` that says with how much patience it was called."""
    monkeypatch.setattr(
        module, "send_table", lambda config, _, limit: Sent(run_id="table-x", mode=config.mode, where=str(limit))
    )
    return StudyTable(study="demo", name="ablation", identity="i", folder=tmp_path, tables={}, files=())


@pytest.mark.parametrize("mode", ["disabled", "tensorboard"])
def test_no_process_is_started_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(module, "started", lambda *_: pytest.fail("it was started"))
    process = StudyProcess(tmp_path)
    process.start(TrackerConfig(mode=mode), "demo")
    process.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "code", ["raise SystemExit(3)", 'import sys; sys.stdin.read(); print(\'{"error": "no luck"}\')']
)
def test_a_process_that_fails_leaves_the_table_to_another(
    table: StudyTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    monkeypatch.setattr(module, "_START", code)
    process = StudyProcess(table.folder)
    process.start(TrackerConfig(mode="online", patience=20), "demo")
    with caplog.at_level(logging.WARNING):
        assert process.send(TrackerConfig(mode="online", patience=20), table) == Sent(
            run_id="table-x", mode="online", where="20"
        )
    process.close()
    assert "got no table" in caplog.text


def test_a_process_that_hangs_costs_the_patience(table: StudyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_START", "import time; time.sleep(1000)")
    process = StudyProcess(table.folder)
    process.start(TrackerConfig(mode="online", patience=0.5), "demo")
    sent = process.send(TrackerConfig(), table)
    assert sent is not None
    assert sent.run_id == "table-x"


def test_a_study_keeps_its_id(tmp_path: Path) -> None:
    one, other = (tmp_path / name for name in "ab")
    assert study_run_id(one) == study_run_id(one) != study_run_id(other)
    (one / "wandb" / "study.json").write_text("{torn")
    assert study_run_id(one).startswith("study-")
