"""A table in W&B: what an offline run holds, what a server is told, and what a dead one costs."""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import search.ledger.wandb_table as module
from search.ledger.tracker import TrackerConfig
from search.ledger.wandb_table import Rows, Sent, StudyTable, artifact_name, run_id_of, send_table

from .wandb_server import serving

SECRET = "hunter2horse"
KEY = "0123456789" * 4
COLUMNS = {"arm": "string", "n": "Int64", "mean": "Float64", "is_baseline": "boolean"}
ROWS = [["plain", 3, 60.5, True], ["stage3", None, None, None]]


@pytest.fixture
def table(tmp_path: Path) -> StudyTable:
    (tmp_path / "tables").mkdir()
    files = [tmp_path / "tables" / name for name in ("ablation.md", "ablation.tex")]
    for file in files:
        file.write_text(f"a table in {file.suffix}")
    return StudyTable(
        study="my study",
        name="ablation",
        identity="2026-11-22T10:00:00+00:00",
        folder=tmp_path,
        tables={"ablation": Rows(columns=COLUMNS, rows=ROWS)},
        files=files,
        config={"table": "ablation", "storage": f"postgresql://me:{SECRET}@host/x"},
        summary={"title": "my study: final", "notes": f"password={SECRET}"},
    )


def test_an_offline_run_holds_the_table(table: StudyTable, read_wandb: Callable[[Path], Any]) -> None:
    run_id = run_id_of(table)
    old = table.folder / "wandb" / f"offline-run-20200101_000000-{run_id}"
    others = table.folder / "wandb" / "offline-run-20200101_000000-another"
    for folder in (old, others):
        folder.mkdir(parents=True)
    sent = send_table(TrackerConfig(project="mine", tags=["a"]), table)
    assert sent is not None
    assert (sent.run_id, sent.mode) == (run_id, "offline")
    assert not old.exists()  # it was never uploaded, and this one says all that it said
    assert others.exists()
    run = read_wandb(table.folder)
    facts = {"id": run_id, "name": "my study-table", "project": "mine", "group": "my study", "tags": ["a"]}
    assert (run.facts, run.job_type, run.exit_code) == (facts, "table", 0)
    assert run.artifacts["my-study-ablation-" + module.digest("my study-ablation")[:6]] == (
        "ablation-table",
        {"ablation.md", "ablation.tex"},
    )
    (file,) = Path(sent.where).glob("files/media/table/*.json")
    assert json.loads(file.read_text()) == {"columns": list(COLUMNS), "data": ROWS}
    assert run.summary["ablation/nrows"] == 2
    assert run.summary["title"] == "my study: final"
    written = [path for path in (table.folder / "wandb").rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    staged = [path for path in written if "staging-" in str(path)]  # what `wandb sync` will upload lies with the study
    assert b"a table in .tex" in [path.read_bytes() for path in staged]


@pytest.mark.slow
def test_a_server_gets_the_run_the_rows_and_the_files(table: StudyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as seen:
        monkeypatch.setenv("WANDB_BASE_URL", seen.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        sent = send_table(TrackerConfig(mode="online", project="mine"), table)
    run_id = run_id_of(table)
    assert sent == Sent(run_id=run_id, mode="online", where=f"{seen.address}/me/mine/runs/{run_id}")
    assert seen.variables("RunResumeStatus")[0]["name"] == run_id  # a run of that id would be gone on with
    made = seen.variables("UpsertBucket")[0]
    assert (made["groupName"], made["jobType"], made["project"]) == ("my study", "table", "mine")
    artifacts = {each["input"]["artifactTypeName"] for each in seen.variables("CreateArtifact")}
    assert artifacts == {"ablation-table", "run_table"}
    assert len(seen.variables("CommitArtifact")) == 2
    assert seen.uploads["/artifact/ablation.tex"] == b"a table in .tex"
    types = json.loads(seen.uploads["/artifact/ablation.table.json"])["column_types"]["params"]["type_map"]
    kinds = {name: {each["wb_type"] for each in of["params"]["allowed_types"]} for name, of in types.items()}
    assert kinds == {
        "arm": {"none", "string"},
        "n": {"none", "number"},
        "mean": {"none", "number"},
        "is_baseline": {"none", "boolean"},
    }
    sent_text = json.dumps(seen.operations) + repr(seen.uploads)
    assert SECRET not in sent_text
    assert KEY not in sent_text
    assert not list(table.folder.glob("wandb/staging-*"))


@pytest.mark.slow
def test_a_server_that_never_answers_costs_the_limit(table: StudyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{hole.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        begun = time.monotonic()
        with pytest.raises(RuntimeError, match="no end after 1 s"):
            module.attempt(TrackerConfig(mode="online"), table, limit=1.0)
        assert time.monotonic() - begun < 60


def failing(*modes: str) -> Callable[..., Sent]:
    def attempt(config: TrackerConfig, table: StudyTable, limit: float) -> Sent:
        if config.mode in modes:
            raise RuntimeError(f"no answer for WANDB_API_KEY={SECRET}")
        return Sent(run_id="table-x", mode=config.mode, where="wandb/offline-run-1-x")

    return attempt


@pytest.mark.parametrize(
    ("mode", "broken", "ends", "said"),
    [
        ("online", ("online",), "offline", "it is logged offline, upload it later: wandb sync wandb/offline-run-1-x"),
        ("online", ("online", "offline"), None, "neither online"),
        ("offline", ("offline",), None, "the table was not logged"),
    ],
)
def test_a_failure_is_told_once_and_raises_nothing(
    table: StudyTable,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    broken: tuple[str, ...],
    ends: str | None,
    said: str,
) -> None:
    monkeypatch.setattr(module, "attempt", failing(*broken))
    with caplog.at_level(logging.WARNING):
        sent = send_table(TrackerConfig(mode=mode), table)
    assert (sent and sent.mode) == ends
    assert len(caplog.records) == 1
    assert said in caplog.text
    assert SECRET not in caplog.text


def test_disabled_starts_no_process(table: StudyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "attempt", lambda *_: pytest.fail("W&B was started"))
    assert send_table(TrackerConfig(mode="disabled"), table) is None
    with pytest.raises(ValueError, match=r"tracker\.mode=on"):
        send_table(TrackerConfig(mode="on"), table)


def test_a_process_that_cannot_start_is_a_failure_like_any_other(
    table: StudyTable, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module.sys, "executable", "/no/such/python")
    assert send_table(TrackerConfig(), table) is None
    assert "No such file" in caplog.text


def test_the_process_says_why_it_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(job: Any) -> None:
        raise OSError(f"disk full; api_key={SECRET}")

    monkeypatch.setattr(module, "write_run", refuse)
    module.child({})
    assert module.answer_of(capsys.readouterr().out.encode()) == {"error": "OSError: disk full; api_key=***"}
    assert module.answer_of(b"noise\n") is None
    assert module.answer_of(b"") is None
    assert module.answer_of(b"[1]") is None


@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200))
def test_names_that_wandb_takes(one: str, other: str) -> None:
    tables = [
        StudyTable(study=study, name="t", identity="i", folder=Path(), tables={}, files=()) for study in (one, other)
    ]
    names = [artifact_name(table) for table in tables]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name) for name in names)
    assert all(re.fullmatch(r"table-[0-9a-f]{10}", run_id_of(table)) for table in tables)
    assert (names[0] == names[1]) == (one == other)


def test_the_same_table_of_the_same_study_is_the_same_run(table: StudyTable) -> None:
    assert run_id_of(replace(table, files=(), summary={})) == run_id_of(table)
    others = [replace(table, study="b"), replace(table, identity="later"), replace(table, name="stages")]
    assert len({run_id_of(each) for each in (table, *others)}) == 4
