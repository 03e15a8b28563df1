"""What a config may say of a tracker."""

from __future__ import annotations

import pytest

from search.ledger.tracker import MODES, TrackerConfig, check_tracker


@pytest.mark.parametrize("mode", MODES)
def test_the_modes(mode: str) -> None:
    check_tracker(TrackerConfig(mode=mode))
