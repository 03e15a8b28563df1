"""How a running trial and its study talk: the study says who the trial is, the trial reports how it fares.

`study/` and `trial/` do not import each other. The worker opens a channel around the task function; the task finds it
with `current()`. Outside of a study `current()` is a channel that keeps nothing and never prunes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from search.ledger.result import Phase

__all__ = ["Channel", "Pruned", "current", "opened"]


class Pruned(Exception):
    """The study's pruner has stopped this trial. Its message says at which epoch and with which value."""


@dataclass
class Channel:
    """One trial's line to its study; this base class is the line of a trial outside of any study.

    Attributes:
        study: name of the study, "single" outside of one.
        number: number of the trial inside its study and phase.
        phase: only "final" may read test data; no config key can set it.
        is_baseline: True for the arm that differences are taken against.
        study_dir: folder of the study; None outside of one.
        notes: facts the trial has stated about itself, e.g. its architecture hash.
    """

    study: str = "single"
    number: int = 0
    phase: Phase = "single"
    is_baseline: bool = False
    study_dir: str | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def report(self, step: int, value: float) -> None:
        """Tell the pruner the objective's value after epoch `step` (from 1)."""

    def should_prune(self) -> bool:
        """Whether the pruner wants this trial stopped now."""
        return False

    def note(self, name: str, value: Any) -> None:
        """State a JSON-able fact about this trial; a study stores it with the trial."""
        self.notes[name] = value

    def standing(self) -> str:
        """How the study stands, in words, for the progress line; empty outside of a study."""
        return ""


_current: ContextVar[Channel | None] = ContextVar("search_channel", default=None)


def current() -> Channel:
    """The channel of the trial that runs in this context."""
    return _current.get() or Channel()


@contextlib.contextmanager
def opened(channel: Channel) -> Iterator[Channel]:
    """Make `channel` the current one for the length of a `with` block."""
    token = _current.set(channel)
    try:
        yield channel
    finally:
        _current.reset(token)
