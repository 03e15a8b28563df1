"""A table as one HTML page that needs nothing else; where a cell comes from is shown when the pointer rests on it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from search.report.table import Cell, Column, Row, Table
from search.report.words import one_line

__all__ = ["to_html"]

STYLE = """\
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 88rem; padding: 0 1rem; color: #1a1a1a; }
p, ul { max-width: 60rem; overflow-wrap: anywhere; }
.table { overflow-x: auto; }
table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; }
caption { caption-side: top; text-align: left; font-weight: 600; padding: .4rem 0; }
thead { border-bottom: 1px solid; }
th, td { padding: .2rem .5rem; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th[scope=col] { white-space: normal; vertical-align: bottom; }
th[scope=row], th.left { text-align: left; font-weight: normal; }
th[scope=row] { white-space: normal; min-width: 9rem; }
th[colspan] { text-align: center; }
td[colspan] { text-align: center; }
td[title], tr[title] { cursor: help; }
td.words { text-align: left; white-space: normal; min-width: 8rem; }
caption span { display: inline-block; position: sticky; left: 0; max-width: min(100%, 85vw); overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; color: #444; }
@media (max-width: 700px) { th[scope=row] { min-width: 7rem; overflow-wrap: anywhere; } }
"""
"""A page that is never wider than the screen: a table that is scrolls inside its own box."""


def to_html(table: Table) -> str:
    """Format as a self-contained page: no script, nothing loaded, every text escaped."""
    return _html_page(table.title, "\n".join(parts(table)))


def parts(table: Table) -> list[str]:
    """Return the table, its conclusion, its notes, and the same of the tables below it."""
    rows = "\n".join(f"<tr{_titled(row.title)}>{_row_html(row, table.columns)}</tr>" for row in table.rows)
    found = [_boxed(table.title, head(table.columns), rows)]
    if table.conclusion:
        found.append(f"<p>{escape(table.conclusion)}</p>")
    if table.notes:
        items = "\n".join(f"<li>{escape(one_line(text, 1000))}</li>" for text in table.notes)
        found.append(f"<ul>\n{items}\n</ul>")
    return [*found, *(part for below in table.below for part in parts(below))]


def head(columns: Sequence[Column]) -> str:
    """Return the header: two rows where columns are grouped."""
    groups = list(dict.fromkeys(column.group for column in columns if column.group is not None))
    upper, lower, said = [], [], set()
    for column in columns:
        title = f'<th scope="col">{escape(column.title)}</th>'
        if column.group is not None:
            lower.append(title)
            if column.group not in said:
                said.add(column.group)
                span = sum(other.group == column.group for other in columns)
                upper.append(f'<th scope="colgroup" colspan="{span}">{escape(column.group)}</th>')
        else:
            side = ' class="left"' if column.kind == "words" else ""
            rows = ' rowspan="2"' if groups else ""
            upper.append(f'<th scope="col"{side}{rows}>{escape(column.title)}</th>')
    return "\n".join(f"<tr>{''.join(row)}</tr>" for row in (upper, lower) if row)


def _row_html(row: Row, columns: Sequence[Column]) -> str:
    name = f'<th scope="row">{escape(row.cells[0].text)}</th>'
    if not row.spans:
        cells = zip(row.cells[1:], columns[1:], strict=True)
        return name + "".join(_cell_html(cell, column.kind == "words") for cell, column in cells)
    pairs = [(cell, column.kind) for cell, column in zip(row.cells[1:], columns[1:], strict=True)]
    own = [cell for cell, kind in pairs if kind == "point" and cell.text]
    said = ", ".join((f"{escape(cell.label)}: " if len(own) > 1 else "") + content(cell) for cell in own)
    title = escape(own[0].title) if own else ""
    shared = f'<td colspan="{sum(kind == "point" for _, kind in pairs)}" title="{title}">{said}</td>'
    return name + shared + "".join(_cell_html(cell, words=True) for cell, kind in pairs if kind == "words")


def _cell_html(cell: Cell, words: bool) -> str:
    """Return one cell, its provenance as its title."""
    side = ' class="words"' if words else ""
    return f"<td{side}{_titled(cell.title)}>{content(cell)}</td>"


def _titled(text: str) -> str:
    """Return the attribute that shows a text when the pointer rests on it."""
    return f' title="{escape(text)}"' if text else ""


def content(cell: Cell) -> str:
    """Return what a cell shows."""
    text = f"<strong>{escape(cell.text)}</strong>" if cell.bold else escape(cell.text)
    marked = f"<sup>{escape(cell.marks)}</sup>" if cell.marks else ""
    return f"{text}{marked}" + (f" {escape(cell.behind)}" if cell.behind else "")


def _html_page(title: str, body: str) -> str:
    """A self-contained page around `body`: no script, nothing loaded."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{escape(title)}</title>
<style>
{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _boxed(caption: str, head: str, body: str) -> str:
    """A table in the box that it scrolls in."""
    return f"""<div class="table">
<table>
<caption><span>{escape(caption)}</span></caption>
<thead>
{head}
</thead>
<tbody>
{body}
</tbody>
</table>
</div>"""
