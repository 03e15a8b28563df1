"""A table's numbers at full precision, for a program."""

from __future__ import annotations

from search.report.table import Table

__all__ = ["to_csv"]


def to_csv(table: Table) -> str:
    """Format `table.data`, one line for each of its rows."""
    return table.data.to_csv(index=False, lineterminator="\n")
