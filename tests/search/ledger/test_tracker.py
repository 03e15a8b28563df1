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
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from hypothesis import given
from hypothesis import strategies as st

import search.ledger.tracker as module
from search.ledger.result import TrialResult
from search.ledger.tracker import (
    MODES,
    Rows,
    Sent,
    StudyTable,
    Tracker,
    TrackerConfig,
    artifact_name,
    check_tracker,
    run_id_of,
    send_table,
)

from .wandb_server import serving

SECRET = "hunter2horse"
CONFIG = {"train": {"lr": 0.3}, "db": {"password": SECRET}, "storage": f"postgresql://me:{SECRET}@host/x"}
RESULT = TrialResult(
    study="demo",
    trial=3,
    phase="search",
    status="ok",
    seed=1,
    arm="stage3: conv+pssa",
    arch_hash="0123456789",
    metrics={"val_top1": 80.0},
    params=1234,
    sites=["layer3.0.conv2"],
    provenance={"commit": "abc"},
    overrides=["seed=1"],
)
Read = Callable[[Path], Any]


class Broken:
    """A run of W&B whose methods fail where they are asked to."""

    id = "abc123"

    def __init__(self, *broken: str) -> None:
        self.broken, self.calls, self.summary = broken, [], self

    def _call(self, name: str) -> None:
        self.calls.append(name)  # type: ignore[attr-defined]
        if name in self.broken:
            raise RuntimeError(f"W&B said no to WANDB_API_KEY={SECRET}")

    def log(self, *_: Any, **__: Any) -> None:
        self._call("log")

    def define_metric(self, *_: Any, **__: Any) -> None:
        self._call("define_metric")

    def update(self, *_: Any) -> None:
        self._call("update")

    def finish(self, exit_code: int = 0) -> None:
        self._call(f"finish {exit_code}" if "finish" not in self.broken else "finish")


@pytest.fixture(autouse=True)
def reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test remembers another one's dead server."""
    monkeypatch.setattr(module, "_away_until", 0.0)


def tracked(folder: Path, config: TrackerConfig) -> Tracker:
    tracker = Tracker(config, folder, "demo", "search 3 [stage3]", CONFIG)
    for epoch in (1, 2):
        tracker.log({"epoch": epoch, "val_top1": 40.0 * epoch}, step=epoch)
    return tracker


@pytest.mark.slow
def test_an_offline_run_holds_what_the_ledger_holds(tmp_path: Path, read_wandb: Read) -> None:
    tracker = tracked(tmp_path, TrackerConfig(project="mine", tags=["a", "b"]))
    run_id = tracker.run_id
    tracker.finish(RESULT)
    run = read_wandb(tmp_path)
    assert run.facts == {
        "id": run_id,
        "name": "search 3 [stage3]",
        "project": "mine",
        "group": "demo",
        "tags": ["a", "b"],
    }
    assert run.config["train"] == {"lr": 0.3}
    assert [(row["epoch"], row["val_top1"], row["_step"]) for row in run.history] == [(1, 40.0, 1), (2, 80.0, 2)]
    assert run.summary["arch_hash"] == "0123456789"
    assert (run.summary["val_top1"], run.summary["params"]) == (80.0, 1234)
    assert run.summary["sites"] == ["layer3.0.conv2"]
    assert not {"provenance", "overrides", "test_top1"} & run.summary.keys()
    assert run.exit_code == 0
    assert SECRET not in json.dumps([run.config, run.summary])
    assert not list(tmp_path.rglob("requirements.txt"))
    written = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert written == []
    assert tracker.run_id is None
    tracker.finish(RESULT)  # a second time does no harm
    assert wandb.run is None


@pytest.mark.slow
@pytest.mark.parametrize(("status", "exit_code"), [("failed", 1), ("pruned", 0)])
def test_a_run_is_finished_in_every_path(tmp_path: Path, read_wandb: Read, status: Any, exit_code: int) -> None:
    tracker = tracked(tmp_path, TrackerConfig())
    tracker.finish(replace(RESULT, status=status, reason=f"cannot open postgresql://me:{SECRET}@host"))
    run = read_wandb(tmp_path)
    assert run.exit_code == exit_code
    assert run.summary["status"] == status
    assert run.summary["reason"] == "cannot open postgresql://me:***@host"
    assert len(run.history) == 2


def test_disabled_writes_nothing_and_does_not_ask_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("W&B was started"))
    tracker = tracked(tmp_path, TrackerConfig(mode="disabled"))
    assert tracker.run_id is None
    tracker.finish(RESULT)
    assert list(tmp_path.iterdir()) == []


def test_wandb_that_cannot_start_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: Any) -> None:
        raise wandb.errors.CommError(f"no route to host; api_key={SECRET}")

    monkeypatch.setattr(wandb, "init", refuse)
    with caplog.at_level(logging.WARNING):
        tracker = tracked(tmp_path, TrackerConfig(mode="online"))
        tracker.finish(RESULT)
    assert tracker.run_id is None
    assert len(caplog.records) == 2  # online, then offline
    assert "no route to host" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("broken", ["log", "update", "finish"])
def test_wandb_that_fails_later_is_told_once_and_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    run = Broken(broken)
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    with caplog.at_level(logging.WARNING):
        tracked(tmp_path, TrackerConfig()).finish(RESULT)
    assert len(caplog.records) == 1
    assert SECRET not in caplog.text
    assert any(str(call).startswith("finish") for call in run.calls)  # finished in every path


def test_wandb_is_told_to_stay_out_of_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    defined: list[str] = []

    def init(**arguments: Any) -> Any:
        given.update(arguments)
        return SimpleNamespace(id="abc", define_metric=lambda name, **_: defined.append(name))

    monkeypatch.setattr(wandb, "init", init)
    Tracker(TrackerConfig(mode="online", entity="team"), tmp_path, "demo", "name", CONFIG)
    assert (given["mode"], given["entity"], given["dir"]) == ("online", "team", str(tmp_path))
    assert given["settings"].console == "off"
    assert given["settings"].disable_git
    assert not given["settings"].save_code
    assert not given["settings"].x_save_requirements
    assert SECRET not in repr(given["config"])
    assert defined == ["val_top1", "val_loss"]


@pytest.mark.parametrize("mode", MODES)
def test_the_modes(mode: str) -> None:
    check_tracker(TrackerConfig(mode=mode))


def test_an_unknown_mode_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tracker\.mode=on.*offline, online, disabled"):
        Tracker(TrackerConfig(mode="on"), tmp_path, "demo", "name", {})


def test_a_server_that_cannot_be_reached_leaves_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_wandb: Any, caplog: pytest.LogCaptureFixture
) -> None:
    real = module.start_run

    def unreachable(config: TrackerConfig, *facts: Any) -> Any:
        if config.mode == "online":
            raise TimeoutError("no answer")
        return real(config, *facts)

    monkeypatch.setattr(module, "start_run", unreachable)
    tracker = Tracker(TrackerConfig(mode="online"), tmp_path, "demo", "trial", {})
    tracker.finish(TrialResult(study="demo", trial=0, phase="search", status="ok", seed=0))
    assert read_wandb(tmp_path).summary["status"] == "ok"
    assert "no answer" in caplog.text
    assert "wandb sync" in caplog.text


def test_a_dead_server_is_waited_for_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def start(config: TrackerConfig, folder: Path, *facts: Any) -> Any:
        asked.append(config.mode)
        if config.mode == "online":
            raise TimeoutError("no answer")
        return Broken()

    monkeypatch.setattr(module, "start_run", start)
    for _ in range(3):
        assert Tracker(TrackerConfig(mode="online"), tmp_path, "demo", "trial", {}).run_id == "abc123"
    assert asked == ["online", *["offline"] * 3]  # the first trial alone has waited
    monkeypatch.setattr(module, "_away_until", module.time.monotonic() - 1)
    Tracker(TrackerConfig(mode="online"), tmp_path, "demo", "trial", {})
    assert asked[4:] == ["online", "offline"]


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
