"""Makes the gallery of docs/results, and fits links that leave docs/ to the site: `make docs`.

Run as a script it writes docs/gallery.md, and into docs/gallery/ a page and plots for each committed study; mkdocs loads it as a hook.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
GALLERY = DOCS / "gallery"
HEAD = """\
# Gallery

Pages and plots of the studies in [results](results/README.md), made from their committed trials by `make docs`. What needs a study's
folder, such as the curves of its epochs, is not there.
"""
SHOWN = ("forest", "heatmap")  # under each study
LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)[^)]*\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links to what is not on the site, such as sources and tests, into their text."""
    depth = page.file.src_uri.count("/")
    return LINK.sub(lambda link: link[0] if len(link[2]) <= 3 * depth else link[1], markdown)


def write_gallery() -> None:
    """Write a page and plots for each study whose trials are committed, and the page that leads to them."""
    from search.cli.report import main  # here: mkdocs, which loads this file too, draws nothing

    lines = [HEAD]
    for trials in sorted((DOCS / "results").glob("*/trials.csv")):
        name = trials.parent.name
        page, plots = GALLERY / f"{name}.html", GALLERY / name
        status = main([str(trials), "--out", str(page), "--plots", str(plots)])
        if status:
            sys.exit(status)
        lines += [f"\n## {name}\n", f"[The page of this study](gallery/{page.name})\n", *_pictures(plots)]
    (DOCS / "gallery.md").write_text("\n".join(lines), encoding="utf-8")


def _pictures(plots: Path) -> Iterator[str]:
    for shown in SHOWN:
        if (plots / f"{shown}.svg").is_file():
            yield f"![{shown} of {plots.name}](gallery/{plots.name}/{shown}.svg)\n"


if __name__ == "__main__":
    write_gallery()
