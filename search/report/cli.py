"""`xvol-table runs/<study>`: prints a study's ablation table and writes it; other tables by spec, several studies, a diff."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from search.report.metrics import COSTS, METRICS
from search.report.paper import PAPER
from search.report.spec import CHOICES

__all__ = ["main"]

EXAMPLES = """\
examples:
  xvol-table runs/digits                         print the table, write runs/digits/tables/ablation.{md,tex,csv}
  xvol-table runs/digits --format tex --no-write the LaTeX alone, for a pipe
  xvol-table runs/digits --baseline 'stage4: conv+pssa'  differences to another arm
  xvol-table runs/digits --rows where --columns what --metrics test_top1 params   stages x branches
  xvol-table runs/digits --spec tables/stages.yaml --paper stage_placement        as the file asks, the paper beside
  xvol-table runs/a runs/b                       one table of several studies of one recipe
  xvol-table --diff runs/a runs/b                what differs between two studies
  xvol-table runs/digits --tidy digits.parquet   one row a trial x seed, for your own analysis

Reads result.json files alone; torch is never imported. Any option of the group "table spec", and --format html or
parquet, makes tables/<name>.{md,tex,html,csv,parquet}. Exit status: 0, or 2 where no table could be made.
"""
SPEC_OPTIONS = (
    "rows",
    "columns",
    "metrics",
    "show",
    "sort",
    "digits",
    "bold",
    "correction",
    "paper",
    "caption",
    "name",
)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-table",
        description="Ablation table of a study: mean, sd and n over seeds, paired difference to the baseline with\n"
        "a 95% interval, what can be told from seed noise, size and latency.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("study", nargs="+", help="folder of a study, e.g. runs/digits; several are pooled")
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
        choices=("md", "tex", "csv", "html", "parquet", "all"),
        default="all",
        help="print and write this form alone (parquet is written only); all (default) writes each form and prints the "
        "table as text, or as Markdown where it has a spec",
    )
    command.add_argument("--out", metavar="DIR", help="folder for the files (default: <study>/tables)")
    command.add_argument("--no-write", action="store_true", help="print only")
    command.add_argument("--diff", action="store_true", help="compare two studies: arms in both, settings that differ")
    command.add_argument("--tidy", metavar="FILE", help="write one row a trial x seed to a .parquet or .csv instead")
    add_spec_options(command)
    return command


def add_spec_options(command: argparse.ArgumentParser) -> None:
    """Add the fields of a table spec."""
    spec = command.add_argument_group("table spec (docs/tables.md)")
    spec.add_argument("--spec", metavar="FILE", help="YAML file with fields of a table spec; the options below win")
    spec.add_argument("--rows", metavar="FACTOR", help="arm (default), where, what, a column or a key of the overrides")
    spec.add_argument("--columns", metavar="FACTOR", help="factor whose levels become columns")
    spec.add_argument("--metrics", nargs="+", metavar="NAME", help=f"metrics, or costs: {', '.join(COSTS)}")
    for name, words in (
        ("show", "what a cell shows (default: mean_sd)"),
        ("sort", "order of the rows (default: mean, the best first)"),
        ("bold", "bold for the best and all that cannot be told from it (default), or none"),
        ("correction", "of p-values over the rows (default: holm)"),
    ):
        spec.add_argument(f"--{name}", choices=CHOICES[name], help=words)
    spec.add_argument("--digits", type=int, metavar="N", help="digits after the point (default: as intervals allow)")
    spec.add_argument("--no-marks", action="store_true", help="mark no significance")
    spec.add_argument("--paper", metavar="TABLE", help=f"published figures beside ours: {', '.join(PAPER)}")
    spec.add_argument("--caption", metavar="TEXT", help="title of the table")
    spec.add_argument("--name", metavar="STEM", help="stem of the files (default: table, or the spec file's)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    # The rest is imported where it is used, so that --help does not wait for pandas and scipy.
    try:
        text, written = made(options)
    except (ValueError, OSError) as error:
        return refused(error)
    printed(text)
    if written:
        print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    return 0


def made(options: argparse.Namespace) -> tuple[str, list[Path]]:
    """Make what the options ask for: the text to print, and the files that were written."""
    changes = spec_changes(options)
    if options.diff:
        return diff_made(options, changes)
    from search.report.pool import load_pooled

    frame = load_pooled(options.study, options.phase)
    if options.tidy:
        from search.report.save import save_tidy

        return "", [save_tidy(frame, options.tidy)]
    folder = Path(options.out) if options.out else Path(options.study[0]) / "tables"
    if changes or options.spec or options.format in ("html", "parquet"):
        return grid_made(options, changes, frame, folder)
    from search.report.export import render_text, to_csv, to_latex, to_markdown
    from search.report.table import ablation_table
    from search.report.write import FORMATS, save_table

    refuse_shared_folder(options)
    table = ablation_table(frame, options.metric, options.baseline, options.phase)
    forms = FORMATS if options.format == "all" else (options.format,)
    written = [] if options.no_write else save_table(table, folder, forms)
    render = {"all": render_text, "md": to_markdown, "tex": to_latex, "csv": to_csv}[options.format]
    return render(table), written


def spec_changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a table spec that the command line sets, but for those every table has."""
    given = {name: getattr(options, name) for name in SPEC_OPTIONS if getattr(options, name) is not None}
    return given | ({"marks": False} if options.no_marks else {})


def grid_made(options: argparse.Namespace, changes: dict[str, Any], frame: Any, folder: Path) -> tuple[str, list[Path]]:
    """Make a table by its spec."""
    from search.report.grid import make_grid
    from search.report.save import GRID_FORMATS, grid_text, save_grid
    from search.report.spec import read_spec, spec_of

    refuse_shared_folder(options)
    for name in ("baseline", "phase"):
        if getattr(options, name) is not None:
            changes[name] = getattr(options, name)
    if options.metric is not None:
        if "metrics" in changes:
            raise ValueError(
                "--metric and --metrics are both given; give the metrics of the table with --metrics alone"
            )
        changes["metrics"] = [options.metric]
    grid = make_grid(frame, read_spec(options.spec, changes) if options.spec else spec_of(changes))
    written = []
    if not options.no_write:
        written = save_grid(grid, folder, GRID_FORMATS if options.format == "all" else (options.format,))
    elif options.format == "parquet":
        raise ValueError("--format parquet has no text to print; leave out --no-write")
    form = {"all": "md", "parquet": ""}.get(options.format, options.format)
    return grid_text(grid, form) if form else "", written


def diff_made(options: argparse.Namespace, changes: dict[str, Any]) -> tuple[str, list[Path]]:
    """Compare two studies; with --out, write diff.md and diff.csv there."""
    unused = [f"--{name}" for name in ("spec", "tidy", "baseline") if getattr(options, name)]
    unused += [f"--{name.replace('marks', 'no-marks')}" for name in changes]
    if len(options.study) != 2 or unused:
        wrong = f"{', '.join(unused)} does not go with it" if unused else f"{len(options.study)} given"
        raise ValueError(f"--diff takes two studies, --metric and --phase: {wrong}")
    if options.format not in ("md", "csv", "all"):
        raise ValueError(f"--diff is printed as md or csv, not {options.format}")
    from search.ledger.result import write_atomic
    from search.report.diff import diff_studies, diff_to_markdown

    diff = diff_studies(options.study[0], options.study[1], metric=options.metric, phase=options.phase)
    texts = {"md": diff_to_markdown(diff), "csv": diff.data.to_csv(index=False, lineterminator="\n")}
    written = []
    if options.out and not options.no_write:
        Path(options.out).mkdir(parents=True, exist_ok=True)
        for form in ("md", "csv") if options.format == "all" else (options.format,):
            written.append(Path(options.out) / f"diff.{form}")
            write_atomic(written[-1], texts[form])
    return texts["md" if options.format == "all" else options.format], written


def refuse_shared_folder(options: argparse.Namespace) -> None:
    """Raise ValueError where a table of several studies would lie in the folder of one."""
    if len(options.study) > 1 and not options.out and not options.no_write:
        raise ValueError(
            "a table of several studies belongs to none of their folders; name one with --out DIR, or print it with --no-write"
        )


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
