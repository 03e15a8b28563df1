"""A trial in W&B: what an offline run holds, and what a dead server costs."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wandb
from wandb.sdk.data_types._private import MEDIA_TMP

from search.ledger import wandb_start
from search.ledger.result import TrialResult
from search.ledger.tracker import Picture, TrackedTrial, TrackerConfig
from search.ledger.wandb_run import WandbRun, run_id_in

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
KEY = "0123456789" * 4
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


def trial_in(folder: Path, **changes: Any) -> TrackedTrial:
    facts: dict[str, Any] = {
        "folder": folder,
        "study_dir": folder,
        "study": "demo",
        "name": "search 3 [stage3]",
        "kind": "search",
        "config": CONFIG | {"arm": "stage3: conv+pssa", "is_baseline": True},
        "command": ["placement=stage3", f"+db.password={SECRET}"],
        "commit": "e40e8ef3fb53",
        "curves": {"val_top1": True, "val_loss": False},
        "data": ("digits", "0123456789"),
    }
    return TrackedTrial(**facts | changes)


def tracked(folder: Path, config: TrackerConfig, **changes: Any) -> WandbRun:
    tracker = WandbRun(config, trial_in(folder, **changes))
    for epoch in (1, 2):
        tracker.log({"epoch": epoch, "val_top1": 40.0 * epoch, "val_loss": 1.0 / epoch}, step=epoch)
    return tracker


@pytest.mark.slow
def test_a_run_shows_its_command_without_secrets(tmp_path: Path, read_wandb: Read) -> None:
    for attempt in range(6):  # W&B looks at the machine beside the run: one that ends at once may have nothing of it
        tracker = tracked(tmp_path / str(attempt), TrackerConfig())
        time.sleep(attempt)
        tracker.finish(RESULT)
        if command := read_wandb(tmp_path / str(attempt)).command:
            break
    assert command == ["-m search", "placement=stage3", "+db.password=***"]


@pytest.mark.slow
def test_an_offline_run_holds_what_the_ledger_holds(tmp_path: Path, read_wandb: Read) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"weights")
    tracker = tracked(tmp_path, TrackerConfig(project="mine", tags=["a", "b"]), keeps_weights=True)
    run_id = tracker.run_id
    tracker.show([Picture(np.zeros((8, 8, 1), np.uint8), "3: taken for 8 (60%)")], step=2)
    tracker.finish(RESULT)
    run = read_wandb(tmp_path)
    assert run.facts == {
        "id": run_id,
        "name": "search 3 [stage3]",
        "project": "mine",
        "group": "demo",
        "tags": ["a", "b", "search", "digits", "baseline"],
    }
    assert (run.job_type, run.commit) == ("search", "e40e8ef3fb53")
    assert run.config["train"] == {"lr": 0.3}
    assert run.config["arm"] == "stage3: conv+pssa"
    assert run.curves == {"val_top1": ("epoch", {"max", "last"}), "val_loss": ("epoch", {"min", "last"})}
    assert [(row["epoch"], row["val_top1"], row["_step"]) for row in run.history] == [
        (1, 40.0, 1),
        (2, 80.0, 2),
    ]
    assert run.history[-1]["predictions/captions"] == ["3: taken for 8 (60%)"]
    assert run.summary["arch_hash"] == "0123456789"
    assert (run.summary["val_top1"], run.summary["params"]) == ({"max": 80.0, "last": 80.0}, 1234)
    assert run.summary["val_loss"] == {"min": 0.5, "last": 0.5}
    assert run.summary["sites"] == ["layer3.0.conv2"]
    assert not {"provenance", "overrides", "test_top1"} & run.summary.keys()
    assert run.artifacts == {f"checkpoint-{run_id}": ("model", {"checkpoint.pt"})}
    assert run.exit_code == 0
    assert not list(tmp_path.rglob("requirements.txt"))
    written = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert written == []
    assert tracker.run_id is None
    tracker.finish(RESULT)  # a second time does no harm
    assert wandb.run is None


@pytest.mark.slow
def test_pictures_are_logged_after_another_forked_worker_has_ended(tmp_path: Path, read_wandb: Read) -> None:
    tracker = tracked(tmp_path, TrackerConfig())
    shutil.rmtree(MEDIA_TMP.name)  # as each of them does, for all
    tracker.show([Picture(np.zeros((8, 8, 3), np.uint8), "a"), Picture(np.zeros((8, 8, 1), np.uint8), "b")], step=2)
    tracker.finish(RESULT)
    Path(MEDIA_TMP.name).mkdir()
    assert read_wandb(tmp_path).history[-1]["predictions/captions"] == ["a", "b"]
    assert len(list(tmp_path.rglob("media/images/*.png"))) == 2


@pytest.mark.slow
def test_a_trial_that_goes_on_goes_on_with_its_run(tmp_path: Path, read_wandb: Read) -> None:
    first, second = (tmp_path / name for name in ("0003-s0", "0007-s0"))
    interrupted = tracked(first, TrackerConfig())
    uploaded = first / "wandb" / f"offline-run-20200101_000000-{interrupted.run_id}"
    uploaded.mkdir()
    (uploaded / f"run-{interrupted.run_id}.wandb.synced").touch()
    expected = interrupted.run_id
    interrupted.finish(replace(RESULT, status="interrupted"))
    again = tracked(second, TrackerConfig(artifacts=False), came_from=first)
    assert again.run_id == expected == run_id_in(second)
    again.log({"epoch": 3, "val_top1": 60.0}, step=3)
    again.finish(RESULT)
    run = read_wandb(second)
    assert [row["epoch"] for row in run.history] == [1, 2, 3]  # all of it: what a killed process wrote lacks its end
    assert run.summary["val_top1"] == {"max": 80.0, "last": 60.0}
    assert [path.name for path in first.glob("wandb/offline-run-*")] == [uploaded.name]
    third = tracked(tmp_path / "0009-s0", TrackerConfig(mode="offline"), came_from=tmp_path / "nothing here")
    assert third.run_id not in (None, expected)
    third.finish(RESULT)


@pytest.mark.slow
def test_a_server_goes_on_with_the_run_and_is_told_what_it_was_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "first" / "wandb" / "run-20261130_100000-abc123").mkdir(parents=True)
    weights = tmp_path / "root" / "checkpoint.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    with serving() as seen:
        seen.steps["abc123"] = 1
        monkeypatch.setenv("WANDB_BASE_URL", seen.address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()  # of runs before, which asked another server
        tracker = tracked(
            tmp_path,
            TrackerConfig(mode="online"),
            kind="graft",
            came_from=tmp_path / "first",
            root=(weights, "root77"),
            study_dir=tmp_path / "study",
        )
        assert tracker.run_id == "abc123"
        tracker.finish(RESULT)
    made = seen.variables("UpsertBucket")[0]
    assert (made["name"], made["groupName"], made["jobType"]) == ("abc123", "demo", "graft")
    streamed = "".join(data.decode() for path, data in seen.uploads.items() if path.endswith("file_stream"))
    assert ("80" in streamed, '\\"val_top1\\":40' in streamed) == (
        True,
        False,
    )  # the server has the first epoch already
    used = [each["input"] for each in seen.variables("CreateArtifact")]
    names = {(each["artifactTypeName"], each["artifactCollectionName"]) for each in used}
    assert names == {("dataset", "data-digits"), ("model", "checkpoint-root77")}
    assert len(seen.variables("UseArtifact")) == 2
    assert seen.uploads["/artifact/checkpoint.pt"] == b"weights"
    assert [path for path in seen.uploads if path.startswith("/artifact/")] == ["/artifact/checkpoint.pt"]
    sent = json.dumps(seen.operations) + repr(seen.uploads)
    assert "xvol://digits/0123456789" in sent  # what the images are, and none of them
    assert SECRET not in sent
    assert KEY not in sent


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
    WandbRun(TrackerConfig(mode="online", entity="team"), trial_in(tmp_path))
    assert (given["mode"], given["entity"], given["dir"]) == ("online", "team", str(tmp_path))
    assert given["settings"].console == "off"
    assert given["settings"].disable_git
    assert not given["settings"].save_code
    assert not given["settings"].x_save_requirements
    assert SECRET not in repr(given["config"])
    assert defined == ["val_top1", "val_loss"]


def test_a_server_that_cannot_be_reached_leaves_offline_runs_and_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def start(config: TrackerConfig, *_: Any, **__: Any) -> Any:
        asked.append(config.mode)
        if config.mode == "online":
            raise TimeoutError("no answer")
        return Broken()

    monkeypatch.setattr(wandb_start, "start_run", start)
    with caplog.at_level(logging.WARNING):
        for worker in ("a", "b", "c"):
            trial = trial_in(tmp_path / worker, study_dir=tmp_path)
            assert WandbRun(TrackerConfig(mode="online"), trial).run_id == "abc123"
    assert asked == ["online", *["offline"] * 3]  # whoever is the first of the study has waited for all
    assert len(caplog.records) == 1
    assert "no answer" in caplog.text
    assert "wandb sync" in caplog.text
