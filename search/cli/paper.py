"""`xvol-paper runs/<study>`: what a paper says of a study, as LaTeX. Light: neither pandas nor SciPy is loaded for `--help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from search.cli import printed, refused
from search.ledger.files import write_atomic


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        files = import_module("search.report.manuscript").manuscript(
            Path(options.study), options.metric, options.baseline
        )
        folder = Path(options.out) if options.out else Path(options.study) / "tables" / "paper"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_atomic(folder / name, text)
    except (ValueError, OSError) as error:
        return refused("xvol-paper", error)
    unknown = files["methods.tex"].count(r"\xvolunknown{") + files["checklists.tex"].count(r"\xvolunknown{")
    printed(f"{folder}: {', '.join(files)}\nmarked as unknown, to be filled in by hand: {unknown}\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-paper",
        description="What a paper says of a study, read off its ledger: the paragraph on methods, a LaTeX command for every figure, the "
        "table, BibTeX, and the answers to checklists. What the ledger does not know is marked with \\xvolunknown.",
    )
    command.add_argument("study", help="folder of a study, e.g. runs/digits")
    command.add_argument("--metric", metavar="NAME", help="as in xvol-table")
    command.add_argument("--baseline", metavar="ARM", help="as in xvol-table")
    command.add_argument("--out", metavar="DIR", help="folder for the files (default: <study>/tables/paper)")
    return command


if __name__ == "__main__":
    sys.exit(main())
