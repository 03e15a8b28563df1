"""A grid as one HTML page that needs nothing else; where a cell comes from is shown when the pointer rests on it."""

from __future__ import annotations

from html import escape

from search.report.grid.grid import Cell, Grid, GridRow
from search.report.grid.text import heading, marks, row_name, shown
from search.report.sources import sources_title

__all__ = ["grid_to_html", "html_frame", "html_page"]

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


def html_page(title: str, body: str) -> str:
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


def html_frame(caption: str, head: str, body: str) -> str:
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


def grid_to_html(grid: Grid) -> str:
    """Format as a self-contained page, every text escaped."""
    rows = "\n".join(f"<tr>{row_html(row, grid)}</tr>" for row in grid.rows)
    legend = "\n".join(f"<li>{escape(text)}</li>" for text in grid.legend)
    return html_page(grid.title, f"{html_frame(grid.title, head(grid), rows)}\n<ul>\n{legend}\n</ul>")


def head(grid: Grid) -> str:
    """Return the header: two rows where the columns have a factor."""
    pivot = grid.spec.columns is not None
    rows = ' rowspan="2"' if pivot else ""
    corner = f'<th scope="col" class="left"{rows}>{escape(grid.corner)}</th>'
    paper = "".join(f'<th scope="col" class="left"{rows}>{escape(title)}</th>' for title in grid.paper)
    metrics = "".join(f'<th scope="col">{escape(heading(metric, grid))}</th>' for metric in grid.metrics)
    if not pivot:
        return f"<tr>{corner}{metrics}{paper}</tr>"
    span = len(grid.metrics)
    groups = "".join(f'<th scope="colgroup" colspan="{span}">{escape(group)}</th>' for group in grid.groups)
    return f"<tr>{corner}{groups}{paper}</tr>\n<tr>{metrics * len(grid.groups)}</tr>"


def row_html(row: GridRow, grid: Grid) -> str:
    """Return the cells of one row."""
    name = f'<th scope="row">{escape(row_name(row))}</th>'
    if row.spans:
        said = ", ".join(
            (f"{escape(cell.metric.title)}: " if len(grid.metrics) > 1 else "") + content(cell, grid)
            for cell in row.cells
            if cell
        )
        titles = [sources_title(cell.sources) for cell in row.cells if cell][:1]
        wide = len(grid.groups) * len(grid.metrics)
        cells = f'<td colspan="{wide}" title="{escape("".join(titles))}">{said}</td>'
    else:
        cells = "".join(cell_html(cell, grid) for cell in row.cells)
    return name + cells + "".join(f'<td class="words">{escape(text)}</td>' for text in row.paper)


def cell_html(cell: Cell | None, grid: Grid) -> str:
    """Return one cell, its provenance as its title."""
    if cell is None:
        return '<td title="no trial of this combination">-</td>'
    return f'<td title="{escape(sources_title(cell.sources))}">{content(cell, grid)}</td>'


def content(cell: Cell, grid: Grid) -> str:
    """Return what a cell shows."""
    main, behind = shown(cell, grid)
    text = f"<strong>{escape(main)}</strong>" if cell.best and cell.n else escape(main)
    marked = f"<sup>{escape(marks(cell))}</sup>" if marks(cell) else ""
    return f"{text}{marked}" + (f" {escape(behind)}" if behind else "")
