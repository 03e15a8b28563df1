"""`xvol-place runs/<library> --budget macs=1.05e6`: which block to put where, from a study that trained places one at a time."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from search.cli import printed, refused
from search.ledger.metric import metric_named
from xvol.allowed import check_choice

METRIC = "val_loss"
BUDGETS = ("params", "macs", "latency_ms")
FORMS = ("md", "tex", "csv", "html")
EXAMPLES = """\
examples:
  xvol-place runs/library                                     what every place brings alone, and the best sum of them
  xvol-place runs/library --budget macs=1.05e6                the same within a budget; give another one: nothing is trained
  xvol-place runs/library --budget macs=1.05e6 --budget params=80e3 --metric val_p_true
  xvol-place runs/library --check runs/combinations           do the gains add up? additivity error, Kendall's tau

A budget is the largest cost of the whole network. docs/designs.md says how a library is trained and what it cannot tell.
Exit status: 0; 2 where no placement could be chosen.
"""


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-place",
        description="Choose at most one use a place, of the largest sum of gains within budgets, from a study that trained\n"
        "each place alone (design=one_at_a_time). Nothing is trained.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("study", help="folder of the study, e.g. runs/library, or its tables/trials.csv")
    command.add_argument(
        "--budget",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"largest cost of the whole network: one of {', '.join(BUDGETS)}; may be given for each of them",
    )
    command.add_argument(
        "--metric",
        metavar="NAME",
        default=METRIC,
        help=f"what gains are measured in, as in xvol-table (default: {METRIC})",
    )
    command.add_argument(
        "--check", metavar="STUDY", help="a study that trained combinations of these places: do their gains add up?"
    )
    command.add_argument("--format", choices=("txt", *FORMS), default="txt", help="print this form (default: txt)")
    command.add_argument("--out", metavar="DIR", help=f"write placement.{{{','.join(FORMS)}}} into this folder too")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        budgets = read_budgets(options.budget)
        metric_named(options.metric)
        for study in filter(None, (options.study, options.check)):
            if not Path(study).exists():
                raise ValueError(f"{study} does not exist; give the folder of a study, e.g. runs/library")
        text, written = _made(options, budgets)
    except (ValueError, OSError) as error:
        return refused("xvol-place", error)
    printed(text)
    if written:
        print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    return 0


def read_budgets(given: Sequence[str]) -> dict[str, float]:
    """Read `NAME=VALUE` lines; ValueError for a cost that is none, one that is given twice, or a value that is no size."""
    budgets: dict[str, float] = {}
    for line in given:
        name, equals, text = (part.strip() for part in line.partition("="))
        if not equals:
            raise ValueError(f"--budget {line}: write NAME=VALUE, e.g. macs=1.05e6; allowed are {', '.join(BUDGETS)}")
        check_choice("--budget", name, BUDGETS)
        if name in budgets:
            raise ValueError(f"--budget {name} is given twice; give its largest value once")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--budget {line}: {text or 'nothing'} is no number above 0, such as 1.05e6")
        budgets[name] = value
    return budgets


def _made(options: argparse.Namespace, budgets: Mapping[str, float]) -> tuple[str, list[Path]]:
    """The text to print, and the files that were written."""
    # here, so that --help and refusals do not wait for pandas and SciPy
    from search.report.placing import placing_table
    from search.report.reading.load import load_study
    from search.report.render import RENDERERS
    from search.report.write import save_files

    check = None if options.check is None else load_study(options.check)
    table = placing_table(load_study(options.study), options.metric, budgets, check)
    written = [] if options.out is None else save_files(table, Path(options.out), FORMS)
    return RENDERERS[options.format](table), written


if __name__ == "__main__":
    sys.exit(main())
