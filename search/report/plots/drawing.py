"""The canvas of every plot, colours that all readers can tell apart, and the one place where pictures become files.

Figures are made by matplotlib's objects alone: no window, no `pyplot`, and its settings are as before when a function returns.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, MaxNLocator

from search.ledger.files import write_whole
from search.report.render.latex import latex

INK, MUTED, FAINT, PAPER = "#1b1b1f", "#63636e", "#d3d3da", "#fffffe"
SERIES = ("#0072b2", "#c4500a", "#00795a", "#a8478f", "#9a6b00", "#3a8fc4", "#7a4f2a", "#5d5db8")
"""Okabe and Ito's colours, darkened to a contrast of 3 with white; a plot tells lines apart by dashes and marks as well."""
GAIN, LOSS = SERIES[0], SERIES[1]
DASHES = ("-", "--", "-.", ":")
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH = 6.4  # inches
ENDINGS = ("pdf", "svg", "pgf", "png")
STYLE: Any = {
    "font.size": 9.5,
    "font.family": ["DejaVu Sans"],
    "text.color": INK,
    "text.parse_math": False,  # names of arms are no formulas
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.5,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "xvol",
    "pdf.fonttype": 42,
    "pgf.texsystem": "pdflatex",
    "pgf.rcfonts": False,
}
P = ParamSpec("P")


@contextmanager
def settings() -> Iterator[None]:
    """Our style inside; outside everything as it was. A letter that a font lacks is a box, and no warning."""
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def drawn(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Give a drawing function our style."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with settings():
            return draw(*args, **kwargs)

    return styled


def canvas(height: float, columns: int = 1, **more: Any) -> tuple[Figure, list[Axes]]:
    """A figure of our width and `height` inches, and its axes side by side."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **more)[0].tolist()
    return figure, axes


def names(axis: Axis, texts: Sequence[str], at: Sequence[float] | None = None) -> None:
    """Let the ticks of an axis, at 0, 1, 2... by default, bear names."""
    axis.set_ticks(list(range(len(texts)) if at is None else at))
    axis.set_major_formatter(FixedFormatter(list(texts)))
    for tick in axis.get_major_ticks():
        tick.label1.set_parse_math(False)


def whole_numbers(axis: Axis) -> None:
    """Let the ticks of an axis stand at whole numbers."""
    axis.set_major_locator(MaxNLocator(integer=True))


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure as the ending of `path` says: .pdf, .svg, .pgf (for LaTeX, whose `pdflatex` it needs) or .png.

    ValueError for another ending, or where LaTeX is not installed.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in ENDINGS:
        raise ValueError(f"{path}: a plot is written as .{', .'.join(ENDINGS)}; end the name in one of them")
    more: dict[str, Any] = {"pdf": {"metadata": {"CreationDate": None}}, "svg": {"metadata": {"Date": None}}}.get(
        form, {}
    )
    if form == "png":
        more = {"dpi": 200, "facecolor": "white"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with settings(), _for_latex(figure, form == "pgf"):
        try:
            write_whole(path, lambda temporary: figure.savefig(temporary, format=form, **more))
        except (RuntimeError, FileNotFoundError) as error:
            if form != "pgf":
                raise
            why = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path}: LaTeX did not take the plot ({why}); .pgf needs pdflatex, .pdf needs nothing"
            ) from None
    return path


@contextmanager
def _for_latex(figure: Figure, is_latex: bool) -> Iterator[None]:
    """Escape every text inside: what is typed in a name is no command."""
    texts = [each for each in figure.findobj(Text) if isinstance(each, Text)] if is_latex else []
    formatters = [axis.get_major_formatter() for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    named = [each for each in formatters if isinstance(each, FixedFormatter)] if is_latex else []
    before = [each.get_text() for each in texts], [each.seq for each in named]
    for each, text in zip(texts, before[0], strict=True):
        each.set_text(_escaped(text))
    for formatter, seq in zip(named, before[1], strict=True):
        formatter.seq = [_escaped(text) for text in seq]
    try:
        yield
    finally:
        for each, text in zip(texts, before[0], strict=True):
            each.set_text(text)
        for formatter, seq in zip(named, before[1], strict=True):
            formatter.seq = seq


def _escaped(text: str) -> str:
    return "\n".join(latex(line) for line in text.split("\n"))
