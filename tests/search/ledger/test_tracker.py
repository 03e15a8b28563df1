"""What a config may say of a tracker."""

from __future__ import annotations

import importlib.util

import pytest

from search.ledger.result import TrialResult
from search.ledger.tracker import MODES, Tracker, TrackerConfig, check_tracker


@pytest.mark.parametrize("mode", MODES)
def test_the_modes(mode: str) -> None:
    check_tracker(TrackerConfig(mode=mode))


def test_what_is_not_allowed_is_answered_with_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"tracker\.mode=on.*offline, online, disabled"):
        check_tracker(TrackerConfig(mode="on"))
    with pytest.raises(ValueError, match=r"tracker\.patience=1: give at least 4"):
        check_tracker(TrackerConfig(patience=1))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'xvol\[tensorboard\]'"):
        check_tracker(TrackerConfig(mode="tensorboard"))


def test_the_tracker_that_tracks_nothing() -> None:
    tracker = Tracker()
    tracker.log({"epoch": 1}, step=1)
    tracker.show([], step=1)
    tracker.finish(TrialResult(study="demo", trial=0, phase="search", status="ok", seed=0))
    assert (tracker.run_id, tracker.shows_pictures) == (None, False)
