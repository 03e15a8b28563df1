r"""A grid as a LaTeX `tabular`: booktabs rules, siunitx columns that align at the point, headers of two rows."""

from __future__ import annotations

import re

from search.report.escape import latex
from search.report.grid.grid import Cell, Grid, GridRow
from search.report.grid.text import heading, marks, row_name, shown
from search.report.layout import latex_frame, latex_name
from search.report.words import one_line

__all__ = ["grid_to_latex"]

NUMBER = re.compile(r"([+-]?)(\d+)(?:\.(\d+))?$")


def grid_to_latex(grid: Grid) -> str:
    r"""Format as a `tabular`, pure ASCII, with the title and the legend as comments above it.

    It needs `\usepackage{booktabs}` and `\usepackage{siunitx}` (version 3, in texlive-science), and where a name is long
    `\usepackage{tabularx}`. Each column of ours is an S column for the figure and, where something stands behind it, a
    second one for that.
    """
    kinds = [(position, metric) for position in range(len(grid.groups)) for metric in range(len(grid.metrics))]
    wide = [row for row in grid.rows if not row.spans]
    columns = [[row.cells[at] for row in wide] for at in range(len(kinds))]
    behind = [any(cell is not None and shown(cell, grid)[1] for cell in column) for column in columns]
    spec = "".join(column_type(column, grid, two) for column, two in zip(columns, behind, strict=True))
    spec += "l" * len(grid.paper)
    packages, begin, end = latex_frame([row_name(row) for row in grid.rows], spec)
    comments = [f"% {latex(one_line(text, 1000))}" for text in (grid.title, *grid.legend)]
    body = [row_latex(row, grid, behind) for row in grid.rows]
    return "\n".join(
        [
            *comments,
            r"% \usepackage{booktabs}",
            r"% \usepackage{siunitx}",
            *packages,
            *begin,
            r"    \toprule",
            *head(grid, behind),
            r"    \midrule",
            *(f"    {' & '.join(cells)} \\\\" for cells in body),
            r"    \bottomrule",
            *end,
            "",
        ]
    )


def column_type(cells: list[Cell | None], grid: Grid, two: bool) -> str:
    """Return the column of some cells: wide enough for their digits, their signs and their marks."""
    whole, decimals, sign, post = 1, 0, "", ""
    for cell in cells:
        if cell is None:
            continue
        match = NUMBER.match(shown(cell, grid)[0])
        if match:
            sign = sign or ("+" if match[1] else "")
            whole, decimals = max(whole, len(match[2])), max(decimals, len(match[3] or ""))
            post = max(post, marks(cell), key=len)
    options = [f"table-format={sign}{whole}.{decimals}" if decimals else f"table-format={sign}{whole}"]
    if post:
        options.append(f"table-space-text-post={{{superscript(post)}}}")
    options += ["detect-weight=true", "mode=text"] if any(cell and cell.best for cell in cells) else []
    return f"S[{','.join(options)}]" + (r"@{\,}l" if two else "")


def superscript(text: str) -> str:
    """Put marks above the line."""
    return f"\\textsuperscript{{{latex(text)}}}"


def head(grid: Grid, behind: list[bool]) -> list[str]:
    """Return the header's lines: the levels of the columns' factor above the metrics, where there are both."""
    widths = [2 if two else 1 for two in behind]
    several = len(grid.metrics) > 1
    paper = [f"{{{latex(title)}}}" for title in grid.paper]
    pivot = grid.spec.columns is not None
    upper, rules, start = [f"{{{latex(grid.corner)}}}"], [], 2
    for number, group in enumerate(grid.groups):
        width = sum(widths[number * len(grid.metrics) : (number + 1) * len(grid.metrics)])
        upper.append(f"\\multicolumn{{{width}}}{{c}}{{{latex(group)}}}")
        rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    titles = [latex(heading(metric, grid)) for _ in grid.groups for metric in grid.metrics]
    lower = [f"\\multicolumn{{{width}}}{{c}}{{{title}}}" for width, title in zip(widths, titles, strict=True)]
    if not pivot:
        return [f"    {' & '.join([upper[0], *lower, *paper])} \\\\"]
    if not several:  # the one metric stands above the levels
        total = sum(widths)
        top = ["", f"\\multicolumn{{{total}}}{{c}}{{{titles[0]}}}", *[""] * len(paper)]
        rule = f"    \\cmidrule(lr){{2-{total + 1}}}"
        return [f"    {' & '.join(top)} \\\\", rule, f"    {' & '.join([*upper, *paper])} \\\\"]
    first, second = [*upper, *[""] * len(paper)], ["", *lower, *paper]
    return [f"    {' & '.join(first)} \\\\", f"    {' '.join(rules)}", f"    {' & '.join(second)} \\\\"]


def row_latex(row: GridRow, grid: Grid, behind: list[bool]) -> list[str]:
    """Return the cells of one line."""
    texts = [latex_name(row_name(row))]
    if row.spans:
        # One cell a metric cannot stand under its metric in every group: they share the width, each with its name.
        named = len(grid.metrics) > 1
        said = ", ".join(
            (f"{latex(cell.metric.title)}: " if named else "") + free_cell(cell, grid) for cell in row.cells if cell
        )
        texts.append(f"\\multicolumn{{{sum(2 if two else 1 for two in behind)}}}{{c}}{{{said or '--'}}}")
    else:
        for cell, two in zip(row.cells, behind, strict=True):
            texts += cell_latex(cell, grid, two)
    return texts + [latex(text) for text in row.paper]


def cell_latex(cell: Cell | None, grid: Grid, two: bool) -> list[str]:
    """Return the one or two columns of a cell; text that is no number stands in braces, so that siunitx passes it."""
    main, behind = shown(cell, grid) if cell is not None else ("-", "")
    marked = f"{{{superscript(marks(cell))}}}" if cell is not None and marks(cell) else ""
    if not NUMBER.match(main):
        text = "--" if main == "-" else latex(main)
        if cell is not None and cell.best and cell.n:
            text = f"\\textbf{{{text}}}"
        first = f"{{{text}{marked}}}"
    else:
        first = (r"\bfseries " if cell is not None and cell.best else "") + main + marked
    return [first, latex_behind(behind)] if two else [first]


def free_cell(cell: Cell, grid: Grid) -> str:
    """Return a cell outside of an S column."""
    main, behind = shown(cell, grid)
    text = "--" if main == "-" else f"${main}$" if NUMBER.match(main) else latex(main)
    if cell.best and cell.n:
        text = f"\\textbf{{{latex(main)}}}"
    return text + (superscript(marks(cell)) if marks(cell) else "") + (f" {latex_behind(behind)}" if behind else "")


def latex_behind(text: str) -> str:
    """Return what stands behind a figure: ± sd, or an interval."""
    return "$" + text.replace("±", r"\pm") + "$" if text else ""
