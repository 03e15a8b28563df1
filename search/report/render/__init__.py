"""The forms of a table. Each module takes any `Table` and is the only one that knows its format."""

from __future__ import annotations

from collections.abc import Callable

from search.report.render.html import to_html
from search.report.render.latex import to_latex
from search.report.render.text import render_text, to_markdown
from search.report.table import Table

__all__ = ["RENDERERS", "render_text", "to_csv", "to_html", "to_latex", "to_markdown"]


def to_csv(table: Table) -> str:
    """Format the numbers of a table at full precision, one line for each row of its `data`."""
    return table.data.to_csv(index=False, lineterminator="\n")


RENDERERS: dict[str, Callable[[Table], str]] = {
    "txt": render_text,
    "md": to_markdown,
    "tex": to_latex,
    "csv": to_csv,
    "html": to_html,
}
"""By the ending of a file."""
