"""Plots as parts of a page: SVG whose colours are the page's, whose ids collide with no other's, with a text and a table beside it."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from html import escape

import pandas as pd
from matplotlib.figure import Figure

from search.report.plots.data import PlotData
from search.report.plots.drawing import FAINT, INK, MUTED, PAPER, SERIES, settings

VARIABLES = {INK: "--ink", MUTED: "--muted", FAINT: "--faint", PAPER: "--paper"} | {
    colour: f"--c{number}" for number, colour in enumerate(SERIES)
}
_COLOUR = re.compile("|".join(VARIABLES))
_LONG = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
POSITIONS = ("d", "x", "y", "width", "height", "points", "transform")
MOST_ROWS = 400  # of the table beside a plot


@dataclass(frozen=True)
class Shown:
    """A plot as it stands on a page: its data, the SVG, and its numbers as a table; both are HTML, and everything in them is escaped."""

    data: PlotData
    svg: str
    table: str


def shown(data: PlotData, figure: Figure) -> Shown:
    """Put a figure and its data into the form of a page."""
    return Shown(data, inline_svg(figure, data.name, data.title, data.said), _table(data))


def inline_svg(figure: Figure, name: str, title: str, said: str) -> str:
    """Return a figure as an `<svg>` element for HTML; ids begin with `name`, and colours are variables of the page."""
    buffer = io.BytesIO()
    with settings():
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in [each for each in parent if each.tag.endswith("}metadata")]:
            parent.remove(child)
    used = {text.rpartition("#")[2].rstrip(")") for each in root.iter() for text in each.attrib.values() if "#" in text}
    for element in root.iter():
        if element.attrib.get("id") not in used:
            element.attrib.pop("id", None)
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: _value(key, text, name) for key, text in element.attrib.items()}
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-said"}
    for at, (tag, text) in enumerate((("title", title), ("desc", said))):
        own = ElementTree.Element(tag, id=f"{name}-{'said' if at else 'title'}")
        own.text = text
        root.insert(at, own)
    return ElementTree.tostring(root, encoding="unicode")


def _value(key: str, text: str, name: str) -> str:
    """One attribute, as the page needs it."""
    key = key.rpartition("}")[2]
    if key == "id":
        return f"{name}-{text}"
    if key == "href":
        return f"#{name}-{text[1:]}"
    if key in ("style", "clip-path"):
        text = _REFERENCE.sub(rf"url(#{name}-\1)", text)
        return _COLOUR.sub(lambda found: f"var({VARIABLES[found[0]]})", text)
    return _LONG.sub(lambda found: f"{float(found[0]):.2f}", text) if key in POSITIONS else text


def _table(data: PlotData) -> str:
    """The numbers of a plot as rows of HTML."""
    frame = data.frame.head(MOST_ROWS)
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in frame)
    columns = [[_cell(value) for value in frame[name].tolist()] for name in frame]
    rows = "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    more = "" if len(frame) == len(data.frame) else f", the first {MOST_ROWS} of {len(data.frame):,} rows"
    caption = f"<caption>{escape(data.title)}: its numbers{more}</caption>"
    return f"<table>\n{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody>\n</table>"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"<td>{'' if pd.isna(value) else f'{value:.6g}'}</td>"
    if value is None or value is pd.NA:
        return "<td></td>"
    return (
        f"<td>{escape(str(value))}</td>" if isinstance(value, int) else f'<td class="words">{escape(str(value))}</td>'
    )
