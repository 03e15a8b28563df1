"""The ablation table as one HTML page that needs nothing else: where a row comes from is shown when the pointer rests on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from search.report.effects import text as effects_text
from search.report.export import columns_of
from search.report.grid.html import html_frame, html_page
from search.report.layout import Column
from search.report.sources import sources_title
from search.report.table import AblationTable
from search.report.words import one_line

__all__ = ["table_to_html"]


def table_to_html(table: AblationTable, sources: Mapping[str, Mapping[str, Any]]) -> str:
    """Format as a self-contained page: no script, nothing loaded, every text escaped.

    Args:
        table: the table.
        sources: where the figures of each arm come from, by its label; see `all_sources`.
    """
    labels = table.data["arm"].tolist()
    titles = [sources_title(sources[label]) if label in sources else "" for label in labels]
    parts = [
        html_table(table.title, columns_of(table), titles),
        f"<p>{escape(table.conclusion)}</p>",
        html_list(table.notes),
    ]
    if table.effects is not None:
        effects = table.effects
        parts += [
            html_table(effects.title[:1].upper() + effects.title[1:], effects_text.columns_of(effects)),
            f"<p>{escape(effects.conclusion)}</p>",
            html_list(effects.notes),
        ]
    return html_page(table.title, "\n".join(parts))


def html_table(caption: str, columns: Sequence[Column], titles: Sequence[str] = ()) -> str:
    """Format columns as a table; the first one names the rows. A row's title is that of each of its cells."""
    sides = ["" if column.right else ' class="left"' for column in columns]
    head = "".join(
        f'<th scope="col"{side}>{escape(column.title)}</th>' for column, side in zip(columns, sides, strict=True)
    )
    rows = []
    for number, name in enumerate(columns[0].cells):
        title = f' title="{escape(titles[number])}"' if titles and titles[number] else ""
        cells = [f'<th scope="row">{escape(name)}</th>']
        for column in columns[1:]:
            words = "" if column.right else ' class="words"'
            cells.append(f"<td{words}>{escape(column.cells[number])}</td>")
        rows.append(f"<tr{title}>{''.join(cells)}</tr>")
    return html_frame(caption, f"<tr>{head}</tr>", "\n".join(rows))


def html_list(texts: Sequence[str]) -> str:
    """Format sentences as a list."""
    items = "\n".join(f"<li>{escape(one_line(text, 1000))}</li>" for text in texts)
    return f"<ul>\n{items}\n</ul>"
