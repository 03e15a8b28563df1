"""`xvol-report runs/<study>`: a study as one page, and its plots as files. Light: neither pandas nor matplotlib is loaded for `--help`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from search import report  # what it hands out is loaded when it is used, so that --help need not wait for it
from search.cli import printed, refused

FORMATS = ("svg", "pdf", "png", "pgf")
SECONDS = 15  # between two looks at a study that runs
QUIET_LOOKS = (
    2  # at a study that no worker is at, before it has ended: between two phases there is none for some seconds
)
EXAMPLES = """\
examples:
  xvol-report runs/digits                            write runs/digits/tables/report.html
  xvol-report runs/digits --out digits.html          somewhere else
  xvol-report runs/digits --plots figures --format pdf     each plot as a file too
  xvol-report runs/digits --live                     again and again while the study runs
  xvol-report docs/results/cifar10_stages/trials.csv --out stages.html     from a file of trials, without the runs

Reads the study's folder alone; torch is never imported. docs/report.md shows pages, and the plots as Python functions.
Exit status: 0; 2 where no page could be made.
"""


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-report",
        description="A study as one page that needs nothing else: verdict, table, effects, curves, what the search did, and where\n"
        "each number comes from.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("study", help="folder of a study, e.g. runs/digits, or its tables/trials.csv")
    command.add_argument("--out", metavar="FILE", help="the page (default: <study>/tables/report.html)")
    command.add_argument(
        "--margin",
        type=float,
        metavar="M",
        help="show which arms are equivalent within plus or minus M, in the metric's unit",
    )
    command.add_argument("--plots", metavar="DIR", help="write each plot into this folder as well")
    command.add_argument("--format", choices=FORMATS, default="svg", help="of these plots (default: svg)")
    command.add_argument(
        "--live",
        nargs="?",
        type=int,
        const=SECONDS,
        metavar="SECONDS",
        help=f"write the page again every so many seconds (default: {SECONDS}) until the study has ended, or Ctrl-C",
    )
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        check(options)
        written = made(options)
    except (ValueError, OSError) as error:
        return refused("xvol-report", error)
    printed("".join(f"{path}\n" for path in written))
    return 0


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go with one another, or with the study."""
    study, out = Path(options.study), options.out
    if not study.exists():
        raise ValueError(f"{study} does not exist; give the folder of a study, e.g. runs/digits")
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: a page is one file whose name ends in .html")
    if options.live is not None and options.live < 1:
        raise ValueError(f"--live {options.live}: give whole seconds, 1 or more")
    if options.live is not None and study.is_file():
        raise ValueError(f"--live follows a study that runs, and {study} is a file of trials; leave --live out")


def made(options: argparse.Namespace) -> list[Path]:
    """Write what the options ask for; return the paths."""
    judging = report.Judging(margin=options.margin)
    out = None if options.out is None else Path(options.out)
    if options.live is not None:
        with contextlib.suppress(KeyboardInterrupt):
            follow(
                Path(options.study), options.live, lambda: report.write_page(options.study, out, judging, options.live)
            )
    written = [report.write_page(options.study, out, judging)]
    if options.plots is not None:
        written += report.write_plots(options.study, Path(options.plots), options.format, judging)
    return written


def follow(study: Path, seconds: int, write: Callable[[], Path]) -> None:
    """Call `write` every so many seconds while a worker of the study lives; one that has no trial yet is waited for."""
    # here, since it loads Optuna
    from search.study.check.study import living_workers

    quiet, said = 0, ""
    while quiet < QUIET_LOOKS:
        quiet = 0 if living_workers(study) else quiet + 1
        if quiet == 0:
            try:
                line = f"{write()}: the study runs; this page is written again every {seconds} s until it ends (Ctrl-C)"
            except ValueError as error:
                line = f"waiting for a trial: {error}"
            if line != said:
                print(line, file=sys.stderr)
            said = line
        elif not said:
            print(f"{study}: no worker of this study is running", file=sys.stderr)
            return
        time.sleep(seconds)


if __name__ == "__main__":
    sys.exit(main())
