r"""A table for a paper: booktabs rules, siunitx columns that align at the point, headers of one to three lines; pure ASCII."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from search.report.table import Cell, Column, Row, Table
from search.report.words import one_line

__all__ = ["latex", "row_name", "tabular", "to_latex"]

NUMBER = re.compile(r"([+-]?)(\d+)(?:\.(\d+))?$")
# characters; where a row has a longer one, the first column takes what the others leave and breaks its names
LONG_NAME = 20
LATEX: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "`": "{`}",
    "[": "{[}",  # after the \\ of the row above, a bracket or a star would be read as its argument
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "\u03b1": r"$\alpha$",
    "\u03b2": r"$\beta$",
    "\u03b3": r"$\gamma$",
    "\u00b5": r"$\mu$",
    "\u03bc": r"$\mu$",
    "\u2013": "--",
    "\u2014": "---",
    "\u2018": "`",
    "\u2019": "'",
    "\u201c": "``",
    "\u201d": "''",
}
ACCENTS = {
    "\u0300": r"\`",
    "\u0301": r"\'",
    "\u0302": r"\^",
    "\u0303": r"\~",
    "\u0308": r"\"",
    "\u030a": r"\r",
    "\u030c": r"\v",
    "\u0327": r"\c",
}


class Tabular(NamedTuple):
    """The insides of a table: the types of the columns behind the names, the lines of the header, the cells of each row behind its name."""

    spec: str
    head: list[str]
    rows: list[list[str]]
    aligned: bool  # whether some column aligns at the decimal point


def tabular(table: Table) -> Tabular:
    """Set the columns of a table that this form has room for."""
    columns = [at for at, column in enumerate(table.columns) if "latex" not in column.left_out]
    own = [row.cells for row in table.rows if not row.spans]
    two = {at for at in columns if table.columns[at].kind == "point" and any(cells[at].behind for cells in own)}
    widths = {at: 1 + (at in two) for at in columns[1:]}
    spec = "".join(
        _column_type(table.columns[at], [cells[at] for cells in own], width > 1) for at, width in widths.items()
    )
    aligned = any(column.kind == "point" for column in table.columns)
    return Tabular(
        spec,
        head([table.columns[at] for at in columns], [1, *widths.values()], aligned),
        [list(_row_cells(row, table.columns, widths)) for row in table.rows],
        aligned,
    )


def to_latex(table: Table) -> str:
    r"""Format as a `tabular` no wider than the line, pure ASCII; title, conclusion and notes are comments above it.

    It needs `\usepackage{booktabs}`, where a name is long `\usepackage{tabularx}`, and for columns that align at the decimal point
    `\usepackage{siunitx}` (version 3, in texlive-science): each of those is an S column for the figure and, where something
    stands behind it, a second one for that. Tables that belong below it are not in it.
    """
    shown = tabular(table)
    names = [row.cells[0].text for row in table.rows]
    packages, begin, end = frame(names, shown.spec)
    said = [table.title, *([table.conclusion] if table.conclusion else []), *table.notes]
    return "\n".join(
        [
            *(f"% {latex(one_line(text, 1000))}" for text in said),
            r"% \usepackage{booktabs}",
            *([r"% \usepackage{siunitx}"] if shown.aligned else []),
            *packages,
            *begin,
            r"    \toprule",
            *shown.head,
            r"    \midrule",
            *(
                f"    {' & '.join([row_name(name), *cells])} \\\\"
                for name, cells in zip(names, shown.rows, strict=True)
            ),
            r"    \bottomrule",
            *end,
            "",
        ]
    )


def frame(names: Sequence[str], rest: str) -> tuple[list[str], list[str], list[str]]:
    """Return the packages, the first and the last lines of a table of these row names; `rest` are the other columns."""
    if max(map(len, names), default=0) <= LONG_NAME:
        return [], [rf"\begin{{tabular}}{{l{rest}}}"], [r"\end{tabular}"]
    first = r">{\raggedright\arraybackslash\hangindent=1em}X"
    small = [
        r"{\footnotesize\setlength{\tabcolsep}{3pt}%",
        rf"\begin{{tabularx}}{{\linewidth}}{{@{{}}{first}{rest}@{{}}}}",
    ]
    return [r"% \usepackage{tabularx}"], small, [r"\end{tabularx}}"]


def _column_type(column: Column, cells: Sequence[Cell], two: bool) -> str:
    """Return how LaTeX takes a column; one that aligns is wide enough for the digits, signs and marks of its cells."""
    if column.kind != "point":
        return "l" if column.kind == "words" else "r"
    whole, decimals, sign, post = 1, 0, "", ""
    for cell in cells:
        match = NUMBER.match(cell.text)
        if match:
            sign = sign or ("+" if match[1] else "")
            whole, decimals = max(whole, len(match[2])), max(decimals, len(match[3] or ""))
            post = max(post, cell.marks, key=len)
    options = [f"table-format={sign}{whole}.{decimals}" if decimals else f"table-format={sign}{whole}"]
    if sign:
        options.append("retain-explicit-plus=true")
    if post:
        options.append(f"table-space-text-post={{{_raised(post)}}}")
    options += ["detect-weight=true", "mode=text"] if any(cell.bold for cell in cells) else []
    return f"S[{','.join(options)}]" + (r"@{\,}l" if two else "")


def head(columns: Sequence[Column], widths: Sequence[int], aligned: bool) -> list[str]:
    """Return the header's lines: groups above the titles, where there are both; one title for all groups above them.

    Args:
        columns: those that are shown.
        widths: how many columns of LaTeX each of them is.
        aligned: whether some align at the point: siunitx takes other words in braces.
    """

    def over(width: int, text: str) -> str:
        return f"\\multicolumn{{{width}}}{{c}}{{{latex(text)}}}"

    def line(cells: Sequence[str]) -> str:
        return f"    {' & '.join(cells)} \\\\"

    plain = [f"{{{latex(column.title)}}}" if aligned else latex(column.title) for column in columns]
    titles = [
        over(width, column.title) if column.kind == "point" else text
        for column, width, text in zip(columns, widths, plain, strict=True)
    ]
    grouped = [at for at, column in enumerate(columns) if column.group is not None]
    if not grouped:
        return [line(titles)]
    after = titles[grouped[-1] + 1 :]
    groups: dict[str, int] = {}
    for at in grouped:
        groups[str(columns[at].group)] = groups.get(str(columns[at].group), 0) + widths[at]
    levels = [over(width, group) for group, width in groups.items()]
    if len({columns[at].title for at in grouped}) == 1:
        total = sum(groups.values())
        top = ["", over(total, columns[grouped[0]].title), *[""] * len(after)]
        return [line(top), f"    \\cmidrule(lr){{2-{total + 1}}}", line([plain[0], *levels, *after])]
    rules, start = [], 2
    for width in groups.values():
        rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    upper, lower = [plain[0], *levels, *[""] * len(after)], ["", *(titles[at] for at in grouped), *after]
    return [line(upper), f"    {' '.join(rules)}", line(lower)]


def _row_cells(row: Row, columns: Sequence[Column], widths: dict[int, int]) -> Iterator[str]:
    """Return the cells of one line behind its name; `widths` as in `head`, of the columns that are shown, but for the names."""
    if not row.spans:
        for at, width in widths.items():
            yield from _column_cells(row.cells[at], columns[at], width > 1)
        return
    # One cell a metric cannot stand under its metric in every group: they share the width, each with its name.
    own = [row.cells[at] for at in widths if columns[at].kind == "point" and row.cells[at].text]
    said = ", ".join((f"{latex(cell.label)}: " if len(own) > 1 else "") + _free_cell(cell) for cell in own)
    width = sum(width for at, width in widths.items() if columns[at].kind == "point")
    yield f"\\multicolumn{{{width}}}{{c}}{{{said or '--'}}}"
    yield from (_word_cell(row.cells[at]) for at in widths if columns[at].kind == "words")


def _column_cells(cell: Cell, column: Column, two: bool) -> list[str]:
    """Return the one or two columns of a cell; text that is no number stands in braces, so that siunitx passes it."""
    if column.kind == "math":
        text = f"{cell.text} {cell.behind}".rstrip().replace("±", r"\pm")
        return ["--" if text == "-" else f"${text}$" if text else ""]
    if column.kind != "point":
        return [_word_cell(cell)]
    marked = f"{{{_raised(cell.marks)}}}" if cell.marks else ""
    if NUMBER.match(cell.text):
        first = (r"\bfseries " if cell.bold else "") + cell.text + marked
    else:
        text = f"\\textbf{{{_word_cell(cell)}}}" if cell.bold else _word_cell(cell)
        first = f"{{{text}{marked}}}"
    return [first, behind(cell)] if two else [first]


def _word_cell(cell: Cell) -> str:
    """Return a cell of words, or of a figure that is set as words are."""
    return "--" if cell.text == "-" else latex(cell.text)


def _free_cell(cell: Cell) -> str:
    """Return a cell outside of an S column."""
    text = "--" if cell.text == "-" else f"${cell.text}$" if NUMBER.match(cell.text) else latex(cell.text)
    if cell.bold:
        text = f"\\textbf{{{latex(cell.text)}}}"
    return text + (_raised(cell.marks) if cell.marks else "") + (f" {behind(cell)}" if cell.behind else "")


def behind(cell: Cell) -> str:
    """Return what stands behind a figure: ± sd, or an interval."""
    return "$" + cell.behind.replace("±", r"\pm") + "$" if cell.behind else ""


def _raised(text: str) -> str:
    return f"\\textsuperscript{{{latex(text)}}}"


def row_name(name: str) -> str:
    """Escape the name of a row, which may break behind the signs that join its parts, and if it must behind an underscore."""
    joined = re.sub(r"(?<=\S)([+(,])(?=\S)", r"\1\\allowbreak{}", latex(name))
    return joined.replace(r"\_", r"\_\penalty500{}")


def latex(text: str) -> str:
    """Escape text for LaTeX in pure ASCII; a character without a glyph in pdflatex becomes its code, as [U+4E2D]."""
    pieces: list[str] = []
    previous = ""
    for character in unicodedata.normalize("NFC", text):
        if character == previous and character in "-'":
            pieces.append("{}")  # keeps LaTeX from joining two signs into a dash or a closing quote
        pieces.append(_latex_character(character))
        previous = character
    return "".join(pieces)


def _latex_character(character: str) -> str:
    if character in LATEX:
        return LATEX[character]
    if " " <= character <= "~":
        return character
    if character.isspace() or unicodedata.category(character) == "Cc":
        return " "
    parts = unicodedata.decomposition(character).split()
    if len(parts) == 2 and not parts[0].startswith("<"):
        letter, accent = (chr(int(part, 16)) for part in parts)
        if letter.isascii() and letter.isalpha() and accent in ACCENTS:
            return f"{ACCENTS[accent]}{{{letter}}}"
    return f"{{[}}U+{ord(character):04X}{{]}}"
