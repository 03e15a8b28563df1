"""A trial in W&B: what an offline run holds, and what a dead server costs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

import search.ledger.wandb_run as module
from search.ledger.result import TrialResult
from search.ledger.tracker import TrackerConfig
from search.ledger.wandb_run import Tracker

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
