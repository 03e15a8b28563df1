"""A table as a value: columns, rows of cells, a conclusion and notes. Builders make one, the modules of `render/` take one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, Literal, NamedTuple

import pandas as pd

from search.report.words import signed

Kind = Literal["words", "figure", "math", "point"]


class Cell(NamedTuple):
    """What a cell shows, rounded for a reader: the main figure or words, "-" where there is nothing to show.

    `behind` it stands "± 1.2", or an interval; `marks` are raised behind it: stars, a letter of a footnote; `title` is where it comes
    from, which a page shows when the pointer rests on it; `label` what it is of, said where it stands under no column of its own.
    """

    text: str
    behind: str = ""
    marks: str = ""
    bold: bool = False
    title: str = ""
    label: str = ""


NOTHING = Cell("-")


class Row(NamedTuple):
    """One row: a cell for each column, the first of which names it, and a title for all of them.

    Where it `spans`, its figures belong to no level of the columns' factor: those that have a text share the width of all columns
    that align at the point.
    """

    cells: Sequence[Cell]
    title: str = ""
    spans: bool = False


@dataclass(frozen=True)
class Column:
    """How the cells of one column are set.

    Attributes:
        name: unique in its table.
        title: its heading.
        kind: "words" (to the left, escaped), or to the right: "figure", "math" (in mathematics, where a form has that), "point"
            (aligned at the decimal point, where a form can).
        group: heading above this column and its neighbours; None where no column has one.
        width: characters after which a cell breaks in plain text; None breaks words alone, where the line is too long.
        left_out: forms that have no room for it: "text", "latex".
        show: what it shows of a line of its builder; by default the value of its name.
    """

    name: str
    title: str
    kind: Kind = "figure"
    group: str | None = None
    width: int | None = None
    left_out: tuple[str, ...] = ()
    show: Callable[[Any], Cell | str] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as people read it, and its numbers.

    Attributes:
        name: stem of its files.
        data: the numbers at full precision, with documented columns: its CSV and Parquet.
        conclusion: what it allows to be said, in one paragraph; empty where nothing.
        notes: what changes its reading, one sentence or two each.
        of: what the notes are on, where they stand below those of another table.
        beside: heading and lines that stand for columns that plain text has no room for.
        below: tables that belong under this one.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    data: pd.DataFrame = field(repr=False)
    conclusion: str = ""
    notes: list[str] = field(default_factory=list)
    of: str = ""
    beside: tuple[str, Sequence[str]] = ("", ())
    below: tuple[Table, ...] = ()

    def _repr_html_(self) -> str:
        """The table as a notebook shows it."""
        # by its name: those who render know tables, and tables know none of them
        return "\n".join(resolve_name("search.report.render.html:parts")(self))


def value_of(name: str, show: Callable[[Any], str] = str) -> Callable[[Any], str]:
    """What shows one value of a line, or a dash where there is none."""
    return lambda line: "-" if pd.isna(value := getattr(line, name)) else show(value)


def rows_of(columns: Sequence[Column], lines: Iterable[Any]) -> list[Row]:
    """Show each line of a builder in each of its columns."""
    shown = [column.show or value_of(column.name) for column in columns]
    cells = ([show(line) for show in shown] for line in lines)
    return [Row([Cell(each) if isinstance(each, str) else each for each in row]) for row in cells]


def interval_of(low: str, high: str, digits: int) -> Callable[[Any], str]:
    """What shows an interval of differences, of the values of these names, or a dash where there is none."""

    def show(line: Any) -> str:
        ends = getattr(line, low), getattr(line, high)
        return "-" if pd.isna(ends[0]) else f"[{', '.join(signed(end, digits) for end in ends)}]"

    return show


def headings(table: Table) -> list[str]:
    """Return the heading of each column on one line: of grouped ones the group, and the title where a group has several."""
    several = len({column.title for column in table.columns if column.group is not None}) > 1
    return [
        column.title if column.group is None else f"{column.group} {column.title}" if several else column.group
        for column in table.columns
    ]


def with_dtypes(rows: Sequence[dict[str, Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Put rows of plain values into a frame with these columns and dtypes; None is NA."""
    return pd.DataFrame({name: pd.array([row[name] for row in rows], dtype=dtype) for name, dtype in dtypes.items()})  # type: ignore[call-overload]
