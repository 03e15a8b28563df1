"""Limits on what an architecture may cost, checked before it takes an accelerator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xvol.suggest import meant

__all__ = ["Constraint", "parse_constraints"]

_FORM = re.compile(r"\s*(<=|>=)?\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")


@dataclass(frozen=True)
class Constraint:
    """One limit, both ends included.

    Attributes:
        name: a cost that trials state before they train, e.g. "params", "macs_fused", "latency_ms".
        upper: whether `limit` is the most, else the least that is allowed.
    """

    name: str
    upper: bool
    limit: float

    def violation(self, costs: Mapping[str, Any]) -> str | None:
        """Why `costs` break the limit, or None where they keep it.

        Raises:
            ValueError: the cost was not stated.
        """
        value = costs.get(self.name)
        if value is None:
            raise ValueError(f"hydra.sweeper.constraints.{self.name}: the trial did not state it before training")
        if (value <= self.limit) if self.upper else (value >= self.limit):
            return None
        return f"{self.name} {value:g} is {'above' if self.upper else 'below'} {self.limit:g}"


def parse_constraints(given: Mapping[str, Any] | None, known: tuple[str, ...] | None) -> tuple[Constraint, ...]:
    """Read `hydra.sweeper.constraints`: name -> "<=1e6", ">=10", or a bare number, which is an upper limit.

    Args:
        known: names that the task can state; None where it does not say.

    Raises:
        ValueError: an unknown name, or a limit that is no number.
    """
    found = []
    for name, text in (given or {}).items():
        if known is not None and name not in known:
            raise ValueError(f"hydra.sweeper.constraints.{name}: allowed are {', '.join(known)}{meant(name, known)}")
        match = _FORM.fullmatch(str(text))
        if match is None:
            raise ValueError(
                f"hydra.sweeper.constraints.{name}={text}: give a limit such as '<=1.2e6', '>=10', or a number, which is the most"
            )
        found.append(Constraint(str(name), match[1] != ">=", float(match[2])))
    return tuple(found)
