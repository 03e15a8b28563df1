"""What an arm varies, so that a table can have the stages as rows and the branches as columns.

| factor | of "stage3+4: conv+pssa(rank=4)" |
|---|---|
| arm | the whole name |
| where | stage3+4 (before the first colon) |
| what | conv+pssa(rank=4) (after it) |
| a column of `load_study` | its value, e.g. backbone, branches, data_source, study |
| a factor of the study's design | its level, in the words of the design |
| a key of the overrides | its value, e.g. placement.policy, branch.options.pssa.rank |

An arm without the factor (the plain network has no branches) has None: it gets a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from search.report.arms import Arm

__all__ = ["levels"]

COLUMN_FACTORS = ("study", "backbone", "branches", "sites", "data_source", "arch_hash", "recipe_hash", "epochs_planned")


def levels(arms: Sequence[Arm], factor: str) -> list[str | None]:
    """Return the level that each arm has of a factor.

    Raises:
        ValueError: no arm has the factor; the message lists those that some arm has. Or one arm has two levels of it.
    """
    found = [level(arm, factor) for arm in arms]
    if all(value is None for value in found):
        keys = sorted({key for arm in arms for key in (*overrides(arm), *arm.levels)} - {"seed"})
        raise ValueError(
            f"no arm has a level of '{factor}'; factors: arm, where, what, {', '.join((*COLUMN_FACTORS, *keys))}"
        )
    return found


def level(arm: Arm, factor: str) -> str | None:
    """Return the level of one arm; None where it has none."""
    if factor == "arm":
        return arm.label
    if factor in ("where", "what"):
        # A hash stands in brackets behind names that two arms share; it belongs to both halves of the name.
        where, colon, what = arm.label.partition(": ")
        return (where if factor == "where" else what) if colon else None
    if factor in arm.levels:
        return arm.levels[factor]
    if factor in COLUMN_FACTORS:
        values = arm.cells[factor].dropna().unique().tolist()
    else:
        values = overrides(arm).get(factor, [])
    if len(values) > 1:
        raise ValueError(
            f"'{arm.label}' has {len(values)} levels of '{factor}' ({', '.join(map(str, values))}), so it has no one "
            "place in the table; choose another factor"
        )
    return str(values[0]) if values else None


def overrides(arm: Arm) -> dict[str, list[Any]]:
    """Return the values that an arm's trials set, by key."""
    found: dict[str, list[Any]] = {}
    for text in arm.cells["overrides"].dropna().unique():
        for each in str(text).split("; "):
            key, equals, value = each.partition("=")
            key = key.lstrip("+~")
            if equals and pd.notna(value) and value not in found.setdefault(key, []):
                found[key].append(value)
    return found
