r"""A float for a paper: a `table` that fits a column of common classes, with caption, label and legend; pure ASCII."""

from __future__ import annotations

import re
from collections.abc import Sequence

from search.report.render.latex import latex, row_name, tabular
from search.report.table import Table
from search.report.words import one_line

__all__ = ["to_float"]

# points: of a column of ICML (those of CVPR, article, ACM and IEEE are wider) and of the text of NeurIPS; what names need at least; the gap
# between columns; a letter at the size of a footnote, on average
NARROW, WIDE, NAMES, GAP, LETTER = 234.0, 397.0, 62.0, 6.0, 4.3
SIZES = (("footnotesize", 1.0), ("scriptsize", 0.875))
BREAK = "\u200b"  # a space of no width
WORD = 14  # letters, from which a word may break anywhere


def to_float(table: Table, *, wide: bool = False, label: str = "", comments: Sequence[str] = ()) -> str:
    r"""Format as a `table` that fits a column of common classes, or with `wide` as a `table*` over both, with caption, label and legend.

    A column is at least 3.25 in wide (ICML; CVPR, article in two columns and IEEE have more), both together 5.5 in (NeurIPS). Where
    the figures leave too little of that for the names the letters are smaller; where that does not help either it is a ValueError.
    Packages as `to_latex`; the title is the caption, the notes are the legend below, `comments` and the conclusion stand above it all.
    """
    shown = tabular(table)
    room, kind = (WIDE, "table*") if wide else (NARROW, "table")
    names = [_breakable(row.cells[0].text) for row in table.rows]
    figures = sum(_points(table, at) for at in range(1, len(table.columns)))
    longest = LETTER * max((len(row.cells[0].text) for row in table.rows), default=0)
    size, scale = next(((size, scale) for size, scale in SIZES if scale * figures + NAMES <= room), ("", 0.0))
    if not size:
        raise ValueError(
            f"the table does not fit {'5.5' if wide else '3.25'} inches: its {len(table.columns) - 1} columns of figures take "
            f"{SIZES[-1][1] * figures / 72.27:.1f}, and names need {NAMES / 72.27:.1f} more; "
            + ("" if wide else "use --paper double, or ")
            + "ask for less with --metrics, --show mean, --digits or other --columns"
        )
    fits = scale * (figures + longest) <= room
    first = "l" if fits else r">{\raggedright\arraybackslash\hangindent=1em}X"
    natural = f"{scale * (figures + longest):.0f}pt"  # a table that is wider than it needs to be is hard to read along
    width = rf"\ifdim\linewidth>{natural} {natural}\else\linewidth\fi"
    begin, end = (r"tabular}{", "tabular") if fits else (f"tabularx}}{{{width}}}{{", "tabularx")
    said = [*comments, *([table.conclusion] if table.conclusion else [])]
    return "\n".join(
        [
            *(f"% {latex(one_line(text, 1000))}" for text in said),
            r"% \usepackage{booktabs,siunitx" + ("}" if fits else ",tabularx}"),
            rf"\begin{{{kind}}}[t]",
            r"  \centering",
            rf"  \caption{{{_breakable(table.title)}}}",
            *([rf"  \label{{{label}}}"] if label else []),
            rf"  \{size}\setlength{{\tabcolsep}}{{3pt}}\setlength{{\abovetopsep}}{{3pt}}%",
            rf"  \begin{{{begin}@{{}}{first}{shown.spec}@{{}}}}",
            r"    \toprule",
            *shown.head,
            r"    \midrule",
            *(f"    {' & '.join([name, *cells])} \\\\" for name, cells in zip(names, shown.rows, strict=True)),
            r"    \bottomrule",
            rf"  \end{{{end}}}",
            *([r"  \par\smallskip{\scriptsize\raggedright"] if table.notes else []),
            *(f"  {_breakable(note)}".replace("} p $<$ ", "}~p~$<$~") for note in table.notes),
            *([r"  \par}"] if table.notes else []),
            rf"\end{{{kind}}}",
            "",
        ]
    )


def _points(table: Table, at: int) -> float:
    """Estimate the width of a column of figures in points, at the size of a footnote, with the gap before it; never too small."""
    cells = [row.cells[at] for row in table.rows if not row.spans]
    texts = [f"{cell.text}{cell.behind}" for cell in cells]
    marks = max((len(cell.marks) for cell in cells), default=0)
    widest = max((len(text) for text in texts), default=0) + 0.8 * marks + 1.5 * any("±" in text for text in texts)
    return LETTER * max(widest + any(cell.bold for cell in cells), len(table.columns[at].title)) + GAP


def _breakable(text: str) -> str:
    """Escape text that must fit a narrow column: words may break where their parts join, and a long part after every sixth letter."""
    line = re.sub(r"(?<=\S)([=/.:-])(?=[^\s\d=/.:-])", rf"\1{BREAK}", one_line(text, 1000))
    line = re.sub(rf"[^\W_]{{{WORD},}}", lambda word: BREAK.join(re.findall(".{1,6}", word[0])), line)
    line = re.sub(r"([^\x00-\u024f\u200b])(?=\S)", rf"\1{BREAK}", line)  # shown as its code, e.g. [U+4E2D]
    return row_name(line).replace(row_name(BREAK), r"\allowbreak{}")
