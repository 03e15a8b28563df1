"""What a plot shows, as data: a small tidy frame, what it says in words, and what was left out. No picture is drawn here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from search.report.words import one_line

MANY, SHOWN = 40, 30  # more arms than the first are not drawn, but so many of the best
LONGEST_LABEL = 60
_BREAK = re.compile(r"(?<=[ +(=,/])(?! )|(?<=[a-z]\.)")


class NothingToShow(ValueError):
    """A plot would be empty; the message says why."""


@dataclass(frozen=True, kw_only=True)
class PlotData:
    """What one plot shows.

    Attributes:
        name: stem of its file.
        title: what it is of.
        frame: its numbers, one row a mark, at full precision.
        said: what can be seen in it, in a sentence or two: its caption, and its text for those who do not see it.
        facts: what stands beside the marks: the unit, a margin, the sense of the metric.
    """

    name: str
    title: str
    frame: pd.DataFrame = field(repr=False)
    said: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def made(data_of: Callable[..., PlotData], source: Any, *more: Any) -> PlotData:
    """What a drawing function draws: its argument where that is data already, else the data that are made of it."""
    return source if isinstance(source, PlotData) else data_of(source, *more)


def label(text: object, width: int = 40) -> str:
    """A name on lines of `width` characters, which end behind a space or a sign where they can; of a long one the middle is left out."""
    whole = one_line(str(text), 1000)
    if len(whole) > LONGEST_LABEL:  # what tells arms apart stands at both ends
        whole = f"{whole[:34].rstrip()}...{whole[-23:].lstrip()}"
    lines = [""]
    for piece in _BREAK.split(whole):
        for at in range(0, len(piece), width):  # one, but of a piece that is longer than a line
            part = piece[at : at + width]
            if lines[-1] and len((lines[-1] + part).rstrip()) > width:
                lines.append("")
            lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def left_out(shown: int, of: int, what: str = "arms") -> str:
    """Say that not all are shown; "" where they are."""
    return "" if shown == of else f" Shown are {shown:,} of {of:,} {what}."
