"""The small trials of `tests/search/trial`."""

from __future__ import annotations

from ..trial.conftest import Small, _one_thread, _own_slots, small

__all__ = ["Small", "_one_thread", "_own_slots", "small"]
