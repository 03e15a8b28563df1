"""`xvol-table runs/<study>`: its options. Light: neither pandas nor SciPy is loaded for `--help`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from search.cli import printed, refused
from search.ledger.metric import COSTS, metric_columns, metrics_of
from search.report.spec import CHOICES, PAPER, SPEC_OPTIONS, STATISTICS

EXAMPLES = """\
examples:
  xvol-table runs/digits                         print the table, write runs/digits/tables/ablation.{md,tex,csv,html,...}
  xvol-table runs/digits --format tex --no-write the LaTeX alone, for a pipe
  xvol-table runs/digits --baseline 'stage4: conv+pssa'  differences to another arm
  xvol-table runs/digits --rows where --columns what --metrics test_top1 params   stages x branches
  xvol-table runs/digits --spec tables/stages.yaml --published stage_placement    as the file asks, the paper's beside
  xvol-table runs/digits --paper single --label stage4='Ours'      LaTeX for a column of a paper, arms in words
  xvol-table wandb:me/vit --arm config.model --seed config.seed --metric val_acc --baseline resnet50   runs that are not ours
  xvol-table runs/a runs/b                       one table of several studies of one recipe
  xvol-table --diff runs/a runs/b                what differs between two studies
  xvol-table runs/digits --margin 0.5 --test wilcoxon   which arms are equivalent within half a point; ranks beside t
  xvol-table runs/digits --effects where what    main effects and interactions of factors; its own without a name
  xvol-table runs/digits --budget --metric val_p_true   what the noise of a difference is made of, and what lowers it
  xvol-table runs/garments --classes             average precision of each class, of detectors
  xvol-table --trust runs/short runs/long        may the cheap study's ranking stand for the expensive one's?
  xvol-table runs/digits --wandb                 send the table to W&B, where the study's own runs are
  xvol-table runs/digits --tidy digits.parquet   one row a trial x seed, for your own analysis

Reads result.json files, and for scores from samples samples.npz beside them; torch is never imported. Any option of the
group "table spec", and --format html or parquet, makes tables/<name>.{md,tex,html,csv,parquet}; --effects, --budget and
--classes make tables/{effects,budget,classes}.{md,tex,csv}. Exit status: 0; 2 where no table could be made; 1 where it was
made, but W&B did not take it.
"""
OF_A_SPEC = (*SPEC_OPTIONS, "no_marks", "spec")
FILES = ("metric", "format", "out", "no_write")
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "trust": (FILES, ("csv",)),
    "diff": (FILES, ("md", "csv")),
    "tidy": ((), ()),
    "effects": ((*FILES, "correction"), ("md", "tex", "csv")),
    "budget": ((*FILES, "baseline"), ("md", "tex", "csv")),
    "classes": (FILES, ("md", "tex", "csv")),
}
"""Each option that asks for another table than that of the arms: what it takes beside the phase, and its forms."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        check(options)
        from search.cli.table_made import made  # here, so that --help and refusals do not wait for pandas and SciPy

        text, written, send = made(options, has_spec(options))
    except (ValueError, OSError) as error:
        return refused("xvol-table", error)
    printed(text)
    if written:
        print(f"written: {', '.join(map(str, written))}", file=sys.stderr)
    return 0 if send is None else send()


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go with one another."""

    def given(*names: str) -> list[str]:
        there = [name for name in names if getattr(options, name) not in (None, "all")]
        return [f"--{name.replace('_', '-')}" for name in there if getattr(options, name) is not False]

    several = len(options.study) > 1
    if options.out and options.no_write:
        raise ValueError("--out names a folder for the files, and --no-write writes none; leave one of them out")
    check_paper(options, given)
    check_given(options, given)
    if (settings := given("wandb_mode", "wandb_project", "wandb_entity")) and not options.wandb:
        raise ValueError(f"{', '.join(settings)} says where to send the table; add --wandb to send it")
    unfit = (
        given("no_write", *KINDS)
        + ["several studies"] * several
        + ["a file of trials"] * Path(options.study[0]).is_file()
    )
    if options.wandb and unfit:
        raise ValueError(
            f"--wandb sends the table of one study, with its files: it does not go with {', '.join(unfit)}"
        )
    kind = next((name for name in KINDS if given(name)), None)
    if kind is not None:
        takes, forms = KINDS[kind]
        if unused := given(*(name for name in vars(options) if name not in (kind, "study", "phase", *takes))):
            also = ", ".join(f"--{name.replace('_', '-')}" for name in ("phase", *takes))
            raise ValueError(f"--{kind} takes {also}, not {', '.join(unused)}; leave that out")
        if options.format not in (*forms, "all"):
            raise ValueError(f"--{kind} is written as {' or '.join(forms)}, not as {options.format}")
    places = {Path(name).resolve() for name in options.study}
    if kind == "diff" and (len(options.study) != 2 or len(places) != 2):
        what = f"{len(options.study)} given"
        if len(places) < len(options.study):
            what = f"{options.study[0]} is given more than once"
        raise ValueError(f"--diff takes two studies: {what}")
    if kind is None and has_spec(options):
        if beside := given("test", "interval"):
            why = ", ".join(given(*OF_A_SPEC)) or f"--format {options.format}"
            raise ValueError(
                f"{' and '.join(beside)} is of the table of arms, and {why} asks for a table by its spec; leave one of them out"
            )
        if options.metric is not None and options.metrics is not None:
            raise ValueError(
                "--metric and --metrics are both given; give the metrics of the table with --metrics alone"
            )
        if options.format == "parquet" and options.no_write:
            raise ValueError("--format parquet has no text to print; leave out --no-write")
    if kind in (None, "effects", "budget", "classes") and several and not options.out and not options.no_write:
        raise ValueError(
            f"a table of {', '.join(map(str, options.study))} belongs to none of their folders; name one with --out DIR, or "
            "print it with --no-write"
        )


def check_paper(options: argparse.Namespace, given: Callable[..., list[str]]) -> None:
    """Raise ValueError for options of a paper's table that do not go with others, or have another form."""
    if not options.paper:
        if alone := given("label", "tex_label"):
            raise ValueError(f"{' and '.join(alone)} is of a table for a paper; add --paper single or double")
        return
    if unfit := given("wandb", "test", "interval", *KINDS) + [f"--format {options.format}"] * (
        options.format not in ("all", "tex")
    ):
        raise ValueError(
            f"--paper {options.paper} is LaTeX of what the table spec asks for: it does not go with {', '.join(unfit)}"
        )
    if options.tex_label is not None and not re.fullmatch(r"[A-Za-z0-9:._-]+", options.tex_label):
        raise ValueError(f"--tex-label {options.tex_label}: use letters, digits, ':', '.', '_' and '-'")


def check_given(options: argparse.Namespace, given: Callable[..., list[str]]) -> None:
    """Raise ValueError for options of runs that are not ours that lack others, or do not go with them."""
    own = ("seed", "best", "last", "lower_is_better", "higher_is_better")
    if not options.arm:
        if alone := given(*own) + [name for name in options.study if re.match(r"(?:csv|wandb):", name)]:
            raise ValueError(
                f"{', '.join(alone)} is of runs that are not ours; say which column or key is what with --arm and --seed"
            )
        return
    if missing := [f"--{name}" for name in ("seed", "metric", "baseline") if not getattr(options, name)]:
        raise ValueError(f"--arm {options.arm} compares runs that are not ours: it needs {', '.join(missing)} too")
    taken = {"study", "arm", "metric", "baseline", "format", "out", "no_write", *STATISTICS, *own}
    if unfit := given(*(name for name in vars(options) if name not in taken)):
        raise ValueError(f"--arm compares runs that are not ours: it does not go with {', '.join(unfit)}")
    if len(options.study) > 1:
        raise ValueError(f"--arm takes one source of runs, not {len(options.study)}")


def has_spec(options: argparse.Namespace) -> bool:
    """Whether a table by its spec is asked for."""
    return options.format in ("html", "parquet") or any(
        getattr(options, name) not in (None, False) for name in OF_A_SPEC
    )


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    test, val = (metrics_of(None)[0].on(split).column for split in ("test", "val"))
    command = argparse.ArgumentParser(
        prog="xvol-table",
        description="Ablation table of a study: mean, sd and n over seeds, paired difference to the baseline with\n"
        "a 95% interval, what can be told from seed noise, size and latency.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "study", nargs="+", help="folder of a study, e.g. runs/digits, or its tables/trials.csv; several are pooled"
    )
    command.add_argument(
        "--metric",
        metavar="NAME",
        help=f"one of {', '.join(metric_columns())} (default: {test} of the final phase, else {val})",
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
    command.add_argument(
        "--trust",
        action="store_true",
        help="how far cheap rankings may stand for expensive ones: of one study its search against its re-evaluation, its "
        "budgets, and its epochs; of two the first, cheap one against the second; --out writes trust.txt and trust.csv",
    )
    command.add_argument(
        "--budget",
        action="store_true",
        help="what share of the variance of a paired difference is images, training luck, order and root, and what the next hour "
        "buys where; of trials that kept samples (data.probe_size)",
    )
    command.add_argument("--classes", action="store_true", help="the average precision of each class, of detectors")
    _add_given_options(command)
    _add_wandb_options(command)
    _add_statistics_options(command)
    _add_spec_options(command)
    return command


def _add_given_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "runs that are not ours (docs/papers.md): wandb:entity/project, mlflow:URI#experiment, csv:FILE, "
        "or a folder of .wandb files"
    )
    group.add_argument("--arm", metavar="KEY", help="what is compared, e.g. config.model of W&B, or a column of a CSV")
    group.add_argument("--seed", metavar="KEY", help="what pairs the runs, e.g. config.seed")
    pick, way = group.add_mutually_exclusive_group(), group.add_mutually_exclusive_group()
    pick.add_argument(
        "--best", action="store_true", help="the best reading of each run (default: what its summary says)"
    )
    pick.add_argument("--last", action="store_true", help="the last reading of each run")
    way.add_argument(
        "--lower-is-better", action="store_true", help="of the metric; must be said where it reads like a loss"
    )
    way.add_argument("--higher-is-better", action="store_true", help="of the metric (default)")


def _add_wandb_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("Weights & Biases")
    group.add_argument("--wandb", action="store_true", help="send the table and its files, as the study's tracker says")
    group.add_argument(
        "--wandb-mode", choices=("online", "offline"), help="default: the study's; online where that is disabled"
    )
    group.add_argument("--wandb-project", metavar="NAME", help="default: the study's")
    group.add_argument("--wandb-entity", metavar="NAME", help="default: the study's")


def _add_statistics_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("statistics (docs/tables.md)")
    group.add_argument(
        "--correction", choices=CHOICES["correction"], help="of p-values over the rows, or over terms (default: holm)"
    )
    group.add_argument(
        "--margin",
        type=float,
        metavar="M",
        help="test rows for equivalence within plus or minus M, in the metric's unit; choose M before looking",
    )
    group.add_argument("--test", choices=CHOICES["test"], help="wilcoxon: signed ranks beside the t test (default: t)")
    group.add_argument(
        "--interval", choices=CHOICES["interval"], help="bootstrap: a BCa interval beside the t interval (default: t)"
    )
    group.add_argument(
        "--effects",
        nargs="*",
        metavar="FACTOR",
        help="effects and interactions of factors instead of a table of arms: those named (as --rows), else the design's own; "
        "give the study first",
    )


def _add_spec_options(command: argparse.ArgumentParser) -> None:
    spec = command.add_argument_group("table spec (docs/tables.md)")
    spec.add_argument("--spec", metavar="FILE", help="YAML file with fields of a table spec; the options below win")
    spec.add_argument("--rows", metavar="FACTOR", help="arm (default), where, what, a column or a key of the overrides")
    spec.add_argument("--columns", metavar="FACTOR", help="factor whose levels become columns")
    spec.add_argument("--metrics", nargs="+", metavar="NAME", help=f"metrics, or costs: {', '.join(COSTS)}")
    for name, words in (
        ("show", "what a cell shows (default: mean_sd)"),
        ("sort", "order of the rows (default: mean, the best first)"),
        ("bold", "bold for the best and all that cannot be told from it (default), or none"),
    ):
        spec.add_argument(f"--{name}", choices=CHOICES[name], help=words)
    spec.add_argument("--digits", type=int, metavar="N", help="digits after the point (default: as intervals allow)")
    spec.add_argument("--no-marks", action="store_true", help="mark no significance")
    spec.add_argument("--published", metavar="TABLE", help=f"published figures beside ours: {', '.join(PAPER)}")
    spec.add_argument("--caption", metavar="TEXT", help="title of the table")
    spec.add_argument("--name", metavar="STEM", help="stem of the files (default: table, or the spec file's)")
    paper = command.add_argument_group("for a paper (docs/papers.md)")
    paper.add_argument(
        "--paper",
        choices=("single", "double"),
        help="LaTeX with caption, label and legend that fits one column of a page, or both, of what the table spec asks for",
    )
    paper.add_argument(
        "--label", action="append", metavar="ARM=TEXT", help="name of a row in the paper; others are put into words"
    )
    paper.add_argument("--tex-label", metavar="KEY", help="for \\ref (default: tab:<name>)")


if __name__ == "__main__":
    sys.exit(main())
