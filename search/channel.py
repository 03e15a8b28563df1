"""How a running trial and its study talk: the study says who the trial is, the trial reports how it fares.

`study/` and `trial/` do not import each other. The worker opens a channel around the task function; the task finds it
with `current()`. Outside of a study `current()` is a channel that keeps nothing and never prunes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from search.ledger.result import Phase

__all__ = ["Channel", "InFlight", "Infeasible", "Pruned", "Stopped", "current", "opened"]


class Pruned(Exception):
    """The study's pruner has stopped this trial. Its message says at which epoch and with which value."""


class Infeasible(Exception):
    """The study refuses this architecture before it is trained. Its message says which constraint it breaks."""


class InFlight(Exception):
    """The same run is being trained by another worker, of this study or another. Its message says where."""


class Stopped(Exception):
    """The trial has stopped because the study asked it to. Its message says from where it can be continued."""


@dataclass
class Channel:
    """One trial's line to its study; this base class is the line of a trial outside of any study.

    Attributes:
        study: name of the study, "single" outside of one.
        number: number of the trial inside its study and phase.
        phase: only "final" may read test data; no config key can set it.
        is_baseline: True for the arm that differences are taken against.
        study_dir: folder of the study; None outside of one.
        attempt: how often this trial has been begun, this time included.
        resume_from: absolute folder of the interrupted attempt whose saved state may be continued.
        keeps_weights: whether the study needs the trained weights later, whatever the config's `checkpoint` says.
        trained_in: absolute folder of the trial whose network this one only reads on the test data; None to train.
        costs: names of cheap costs that the study wants measured before training: latency_ms, latency_fused_ms,
            train_memory_mb, zero_cost.NAME. Parameters and MACs are always there.
        notes: facts the trial has stated about itself, e.g. its architecture hash.
    """

    study: str = "single"
    number: int = 0
    phase: Phase = "single"
    is_baseline: bool = False
    study_dir: str | None = None
    attempt: int = 1
    resume_from: str | None = None
    keeps_weights: bool = False
    trained_in: str | None = None
    costs: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    def report(self, step: int, value: float) -> None:
        """Tell the pruner the objective's value after epoch `step` (from 1)."""

    def should_prune(self) -> bool:
        """Whether the pruner wants this trial stopped now."""
        return False

    def note(self, name: str, value: Any) -> None:
        """State a JSON-able fact about this trial; a study stores it with the trial."""
        self.notes[name] = value

    def admit(self, fingerprint: str, facts: Mapping[str, Any]) -> str | None:
        """Say whether the network that was built is to be trained; asked once, before anything is trained.

        Args:
            fingerprint: equal for two trials of which one's result would be the other's.
            facts: "arch_hash", "arm", "params", "params_fused", "macs", "macs_fused" and the costs that were asked for.

        Returns:
            None to train, or the absolute path of an earlier `result.json` to take the result from.

        Raises:
            Infeasible: a constraint of the study is broken.
            InFlight: another worker is training the same.
        """
        return None

    def unfit(self, source: str) -> str | None:
        """Say that the result at `source`, from `admit`, cannot stand for this trial's; returns and raises as `admit`."""
        return None

    def outdated(self) -> str | None:
        """An earlier `result.json` of the same settings that cannot stand for this one: something else made it."""
        return None

    def stop_requested(self) -> bool:
        """Whether the study wants running trials to save their state and stop. Asked after each step: keep it cheap."""
        return False

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
