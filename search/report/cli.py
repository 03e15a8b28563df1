"""`xvol-table runs/<study>`: prints a study's ablation table and writes it as Markdown, LaTeX and CSV."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from search.report.metrics import METRICS

__all__ = ["main"]

EXAMPLES = """\
examples:
  xvol-table runs/digits                         print the table, write runs/digits/tables/ablation.{md,tex,csv}
  xvol-table runs/digits --format tex --no-write the LaTeX alone, for a pipe
  xvol-table runs/digits --baseline 'stage4: conv+pssa'  differences to another arm

Reads result.json files alone; torch is never imported. Exit status: 0, or 2 where no table could be made.
"""


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-table",
        description="Ablation table of a study: mean, sd and n over seeds, paired difference to the baseline with\n"
        "a 95% interval, what can be told from seed noise, size and latency.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("study", help="folder of the study, e.g. runs/digits")
    command.add_argument(
        "--metric",
        metavar="NAME",
        help=f"one of {', '.join(METRICS)} (default: test_top1 of the final phase, else val_top1)",
    )
    command.add_argument("--baseline", metavar="ARM", help="name or architecture hash of the arm to compare with")
    command.add_argument(
        "--phase", choices=("search", "final", "single"), help="trials to read (default: final where there are any)"
    )
    command.add_argument(
        "--format",
        choices=("md", "tex", "csv", "all"),
        default="all",
        help="md, tex or csv prints and writes this form alone; all (default) prints plain text and writes the three",
    )
    command.add_argument("--out", metavar="DIR", help="folder for the files (default: <study>/tables)")
    command.add_argument("--no-write", action="store_true", help="print only")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    # Here and not above, so that --help does not wait for pandas and scipy.
    from search.report.export import render_text, to_csv, to_latex, to_markdown
    from search.report.load import load_study
    from search.report.table import ablation_table
    from search.report.write import FORMATS, save_table

    try:
        table = ablation_table(load_study(options.study), options.metric, options.baseline, options.phase)
        written: list[Path] = []
        if not options.no_write:
            folder = Path(options.out) if options.out else Path(options.study) / "tables"
            written = save_table(table, folder, FORMATS if options.format == "all" else (options.format,))
    except (ValueError, OSError) as error:
        return refused(error)
    render = {"all": render_text, "md": to_markdown, "tex": to_latex, "csv": to_csv}[options.format]
    printed(render(table))
    if written:
        print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    return 0


def refused(error: Exception) -> int:
    """Print a fault of the user's as one message."""
    message = str(error)
    if isinstance(error, OSError):
        message = (
            f"{error.filename or 'the table'}: {error.strerror or error}; give a folder you can write to with --out"
        )
    print(f"xvol-table: {message}", file=sys.stderr)
    return 2


def printed(text: str, stream: TextIO | None = None) -> None:
    """Print to a terminal or a pipe that may lack a character, or close early (`| head`)."""
    out = stream or sys.stdout
    try:
        if hasattr(out, "reconfigure"):
            out.reconfigure(errors="replace")
        out.write(text)
        out.flush()
    except BrokenPipeError:
        # The reader has all it wants. Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
