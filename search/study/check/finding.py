"""One thing that a check of a study has to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or, as a note, that a reader wants to know.

    Attributes:
        what: where and what, in one line.
        mend: what `--repair` does about it; None where nothing can be done.
        repair: does it; None where the study's command does, or nobody can.
        note: it is nothing wrong.
    """

    what: str
    mend: str | None = None
    repair: Callable[[], object] | None = None
    note: bool = False
