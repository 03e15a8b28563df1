"""Files that a newer version wrote are refused in words: what was found, what is read here, and what to do."""

from __future__ import annotations

from typing import Any

__all__ = ["NewerVersion", "refuse_newer"]


class NewerVersion(ValueError):
    """A file is whole, but of a later version than this one reads; it must not be taken for damaged."""


def refuse_newer(what: object, kind: str, found: Any, known: int) -> None:
    """Raise NewerVersion where `found`, the number of its `kind` ("schema", "layout") in `what`, is above `known`."""
    if isinstance(found, int) and not isinstance(found, bool) and found > known:
        raise NewerVersion(
            f"{what}: written by a newer version of xvol ({kind} {found}; this version reads {kind} {known}); "
            "update xvol, or go on with the version that wrote it"
        )
