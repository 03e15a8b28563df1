"""What a trial tells its tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import search.trial.tracking as module
from search.channel import Channel, Stopped, opened
from search.ledger.result import read_result
from search.ledger.tracker import TrackedTrial, Tracker, TrackerConfig
from search.trial import run_trial

from .conftest import Small

PLACED = ("placement.policy=stage3", "data.train_size=128")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[TrackedTrial]:
    """What a tracker would have been told."""
    trials: list[TrackedTrial] = []

    def catch(_: TrackerConfig, trial: TrackedTrial) -> Tracker:
        trials.append(trial)
        return Tracker()

    monkeypatch.setattr(module, "WandbRun", catch)
    return trials


def channel_of(folder: Path, **facts: Any) -> Channel:
    return Channel(**{"study": "demo", "phase": "final", "number": 4, "study_dir": str(folder), **facts})


def test_a_root_and_a_graft_of_it(small: Small, tmp_path: Path, told: list[TrackedTrial]) -> None:
    root, graft = (tmp_path / "final" / name for name in ("0000-s0", "0001-s0"))
    with opened(channel_of(tmp_path, is_root=True, keeps_weights=True)):
        run_trial(small("tracker.mode=offline", "data.train_size=128", "checkpoint=never"), root, ["seed=0"])
    with opened(channel_of(tmp_path, is_baseline=True, root=str(root))):
        run_trial(
            small("tracker.mode=offline", *PLACED, "start.kind=shared", "start.root=study", "checkpoint=never"), graft
        )
    first, second = told
    assert [each.kind for each in told] == ["root", "graft"]
    assert [each.keeps_weights for each in told] == [True, False]
    assert (first.study_dir, first.command, first.curves) == (
        tmp_path,
        ["seed=0"],
        {"val_top1": True, "val_loss": False},
    )
    assert second.config["root"] == {"place": "final/0000-s0", "seed": 0, "run": None}
    assert (second.config["is_baseline"], second.config["branches"]) == (True, ["conv", "pssa"])
    assert (second.config["params"], second.config["macs"]) > (first.config["params"], first.config["macs"])
    assert first.data == second.data == ("digits", read_result(root / "result.json").data_digest)
    assert second.root is None  # nobody logged it: it has no run


def test_a_trial_that_goes_on_says_from_where(
    small: Small, tmp_path: Path, told: list[TrackedTrial], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (tmp_path / "trials" / name for name in ("0003-s0", "0007-s0"))
    words = ("tracker.mode=offline", *PLACED, "train.epochs=2", "train.state_every_seconds=0")
    stopping = channel_of(tmp_path, phase="search")
    monkeypatch.setattr(type(stopping), "stop_requested", lambda self: self is stopping)
    with opened(stopping), pytest.raises(Stopped):
        run_trial(small(*words), first)
    with opened(channel_of(tmp_path, phase="search", resume_from=str(first))):
        run_trial(small(*words), second)
    assert [(each.kind, each.came_from) for each in told] == [("search", None), ("search", first)]


def test_tensorboard_shows_curves_pictures_and_what_was_compared(small: Small, tmp_path: Path) -> None:
    with opened(channel_of(tmp_path)):
        run_trial(small("tracker.mode=tensorboard", *PLACED, "train.epochs=2"), tmp_path / "0000-s0", ["seed=0"])
    result = read_result(tmp_path / "0000-s0" / "result.json")
    seen = EventAccumulator(str(tmp_path / "0000-s0" / "tensorboard"))
    seen.Reload()
    curve = seen.Scalars("val_top1")
    assert [event.step for event in curve][:2] == [1, 2]
    assert curve[1].value == pytest.approx(result.metrics["val_top1"])
    assert len([tag for tag in seen.Tags()["images"] if tag.startswith("predictions/")]) == 8
    (told,) = (seen.summary_metadata["_hparams_/session_start_info"].plugin_data.content,)
    assert b"stage3: conv+pssa" in told
    assert result.wandb_id is None


def test_tensorboard_that_fails_is_told_once(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", broken)
    run_trial(small("tracker.mode=tensorboard", *PLACED), tmp_path)
    assert read_result(tmp_path / "result.json").status == "ok"
    assert caplog.text.count("TensorBoard failed") == 1
