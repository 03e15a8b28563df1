"""A study's own run in W&B: what it says follows from the ledger, while the study runs and when it goes on."""

from __future__ import annotations

import json
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import search.report.live as module
from search.ledger.tracker import TrackerConfig
from search.ledger.wandb_study import StudyProcess, study_run_id
from search.report.live import Live, progress, table_so_far
from search.report.mirror import mirror_study
from search.report.reading.load import load_study
from search.report.write import write_tables

from ..ledger.wandb_server import serving
from .conftest import Add

Read = Callable[[Path], Any]
KEY = "0123456789" * 4


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    for seed, (arm, value) in enumerate((("plain", 60.0), ("stage3", 61.0), ("plain", 59.0))):
        folder = add(arm, seed, test_top1=value, val_top1=value + 1, finished_at=f"2026-11-22T10:0{seed}:00+00:00")
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "config.yaml").write_text("tracker: {mode: offline, project: mine, tags: [a]}\n")
    add("stage4", 3, status="failed", finished_at="2026-11-22T09:59:00+00:00")
    add("stage4", 4, status="interrupted", finished_at="2026-11-22T09:58:00+00:00")
    return study


def test_a_row_for_each_trial_that_has_ended(filled: Path) -> None:
    rows = list(progress(load_study(filled), {}))
    assert [(row["done"], row["ok"], row["failed"]) for row in rows] == [(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 3, 1)]
    assert [row.get("val_top1") for row in rows] == [None, 61.0, 62.0, 60.0]
    assert [row.get("best_val_top1") for row in rows] == [None, 61.0, 62.0, 62.0]
    assert "front" not in rows[-1]
    table = table_so_far(load_study(filled))
    assert table[["arm", "n", "mean"]].values.tolist() == [["stage3", 1, 62.0], ["plain", 2, 60.5]]
    assert not {"diff", "p", "verdict"} & set(table)  # a look before the end decides nothing


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_grows_as_all_points_say(points: list[tuple[int, int]]) -> None:
    frame = pd.DataFrame(
        {
            "status": "ok",
            "finished_at": [f"2026-11-22T10:{minute:02d}" for minute in range(len(points))],
            "reused_from": pd.NA,
            "val_top1": [float(up) for up, _ in points],
            "params": [down for _, down in points],
        }
    )
    rows = list(progress(frame, {"val_top1": "maximize", "params": "minimize"}))
    for number, row in enumerate(rows, 1):
        seen = np.array(points[:number])
        beaten = [
            any((o[0] >= p[0] and o[1] <= p[1]) and (o[0] > p[0] or o[1] < p[1]) for o in seen) for p in seen.tolist()
        ]
        assert row["front"] == beaten.count(False)
        assert row["best_val_top1"] == max(up for up, _ in points[:number])


@pytest.mark.slow
def test_the_run_goes_on_when_the_study_does(filled: Path, add: Add, read_wandb: Read) -> None:
    first = StudyProcess(filled)
    first.start(TrackerConfig(), "demo")
    first.close()  # the study was interrupted
    run = read_wandb(filled)
    assert (run.exit_code, run.job_type, run.artifacts) == (1, "study", {})
    add("stage3", 9, test_top1=62.0, val_top1=70.0, finished_at="2026-11-22T11:00:00+00:00")
    second = StudyProcess(filled)
    second.start(TrackerConfig(), "demo")
    sent = mirror_study(filled, write_tables(filled), second.send)
    second.close()
    again = read_wandb(filled)  # which finds one run alone
    assert sent is not None
    assert sent.run_id == again.facts["id"] == run.facts["id"] == study_run_id(filled)
    assert [row["done"] for row in again.history if "done" in row] == [1, 2, 3, 4, 5]
    assert (again.exit_code, again.summary["best_val_top1"], again.summary["ablation/nrows"]) == (0, 70.0, 3)
    kind, files = again.artifacts["demo-ablation"]
    assert kind == "ablation-table"
    assert {"ablation.md", "trials.parquet"} <= files
    assert again.config["phase"] == "final"
    assert not list(filled.glob("wandb/offline-run-*-table-*"))  # there is no second run for the table


@pytest.mark.slow
def test_a_server_sees_the_study_and_its_page(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_tables(filled)
    (filled / "tables" / "report.html").write_text("<p>the page</p>")
    with serving() as seen:
        monkeypatch.setenv("WANDB_BASE_URL", seen.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        process = StudyProcess(filled)
        process.start(TrackerConfig(mode="online"), "demo")
        sent = mirror_study(filled, table, process.send)
        process.close()
    assert sent is not None
    assert (sent.mode, sent.where) == ("online", f"{seen.address}/me/xvol/runs/{study_run_id(filled)}")
    assert seen.variables("UpsertBucket")[0]["jobType"] == "study"
    assert b"the page" in seen.uploads["/artifact/report.html"]
    assert any(path.startswith("/run/media/html/report") for path in seen.uploads)
    streamed = b"".join(data for path, data in seen.uploads.items() if path.endswith("file_stream"))
    assert b"best_val_top1" in streamed
    assert KEY not in json.dumps(seen.operations) + repr(seen.uploads)


def test_a_study_without_a_trial_has_no_run(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "start_anywhere", lambda *_, **__: pytest.fail("W&B was started"))
    job = {"study_dir": str(study), "study": "demo", "run_id": "x", "tracker": {"mode": "offline"}}
    lines: queue.Queue[str] = queue.Queue()
    lines.put("")
    assert Live(job).watch(lines) == {"folder": "", "url": ""}
