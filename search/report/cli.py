"""`xvol-table runs/<study>`: prints a study's ablation table and writes it; other tables by spec, several studies, a diff."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from search.report.cli_options import SPEC_OPTIONS, STATISTICS, parser

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    # The rest is imported where it is used, so that --help does not wait for pandas and scipy.
    try:
        result = Made(*made(options))
    except (ValueError, OSError) as error:
        return refused(error)
    printed(result.text)
    if result.written:
        print(f"written: {', '.join(map(str, result.written))}", file=sys.stderr)
    return 0 if result.send is None else result.send()


class Made(NamedTuple):
    """What was made: the text to print, the files that were written, and what sends it to W&B where that was asked for."""

    text: str
    written: list[Path]
    send: Callable[[], int] | None = None


def made(options: argparse.Namespace) -> tuple[Any, ...]:
    """Make what the options ask for; the fields of `Made`, in their order."""
    changes = spec_changes(options)
    check_wandb(options)
    check_folders(options)
    if options.trust:
        return trust_made(options, changes)
    if options.diff:
        return diff_made(options, changes)
    from search.report.reading.pool import load_pooled

    frame = load_pooled(options.study, options.phase)
    if options.tidy:
        from search.report.save import save_tidy

        unused = [f"--{name}" for name in ("metric", "baseline", "out", "spec", *STATISTICS) if getattr(options, name)]
        unused += [f"--{name.replace('marks', 'no-marks')}" for name in changes] + ["--effects"] * (
            options.effects is not None
        )
        unused += ["--no-write"] * options.no_write + ["--format"] * (options.format != "all")
        if unused:
            raise ValueError(
                f"--tidy writes every trial x seed into its file, and does not take {', '.join(unused)}; leave that out"
            )

        return "", [save_tidy(frame, options.tidy)]
    if not options.out and Path(options.study[0]).is_file():
        options.no_write = True  # a file of trials has no folder of tables
    folder = Path(options.out) if options.out else Path(options.study[0]) / "tables"
    if options.effects is not None:
        return effects_made(options, changes, frame, folder)
    if changes or options.spec or options.format in ("html", "parquet"):
        return grid_made(options, changes, frame, folder)
    from search.report.export import render_text, to_csv, to_latex, to_markdown
    from search.report.judging import Judging
    from search.report.table import ablation_table
    from search.report.write import FORMATS, paper_grid, save_table, save_trials, with_trust

    refuse_shared_folder(options)
    given = {name: getattr(options, name) for name in STATISTICS if getattr(options, name) is not None}
    table = with_trust(ablation_table(frame, options.metric, options.baseline, options.phase, Judging(**given)), frame)
    forms = FORMATS if options.format == "all" else (options.format,)
    written = [] if options.no_write else save_table(table, folder, paper_grid(frame, table), forms)
    if options.format == "all" and not options.no_write:
        written += save_trials(frame, folder)
    render = {"all": render_text, "md": to_markdown, "tex": to_latex, "csv": to_csv}[options.format]
    return render(table), written, sender(options, frame, folder, table)


def spec_changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a table spec that the command line sets, but for those every table has."""
    given = {name: getattr(options, name) for name in SPEC_OPTIONS if getattr(options, name) is not None}
    return given | ({"marks": False} if options.no_marks else {})


def grid_made(options: argparse.Namespace, changes: dict[str, Any], frame: Any, folder: Path) -> tuple[Any, ...]:
    """Make a table by its spec."""
    from search.report.grid.grid import make_grid
    from search.report.save import GRID_FORMATS, grid_text, save_grid
    from search.report.spec import read_spec, spec_of

    refuse_shared_folder(options)
    beside = [f"--{name}" for name in ("test", "interval") if getattr(options, name) is not None]
    if beside:
        why = ", ".join(f"--{name}" for name in changes) or ("--spec" if options.spec else f"--format {options.format}")
        raise ValueError(
            f"{' and '.join(beside)} is of the table of arms, and {why} asks for a table by its spec; leave one of them out"
        )
    for name in ("baseline", "phase", "correction", "margin"):
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
    return grid_text(grid, form) if form else "", written, sender(options, frame, folder, grid)


def effects_made(
    options: argparse.Namespace, changes: dict[str, Any], frame: Any, folder: Path
) -> tuple[str, list[Path]]:
    """Estimate the effects of factors."""
    from search.report.effects.table import effects_table
    from search.report.effects.text import EFFECT_FORMATS, formatted, save_effects

    unused = [
        f"--{name}"
        for name in (*changes, "spec", "baseline", "margin", "test", "interval")
        if name in changes or getattr(options, name)
    ]
    if unused:
        raise ValueError(f"--effects takes --metric, --phase and --correction, not {', '.join(unused)}; leave that out")
    if options.format not in (*EFFECT_FORMATS, "all"):
        raise ValueError(f"--effects is written as {', '.join(EFFECT_FORMATS)}, not {options.format}")
    refuse_shared_folder(options)
    table = effects_table(frame, options.effects, options.metric, options.phase, options.correction or "holm")
    forms = EFFECT_FORMATS if options.format == "all" else (options.format,)
    written = [] if options.no_write else save_effects(table, folder, forms)
    return formatted(table, options.format), written


def trust_made(options: argparse.Namespace, changes: dict[str, Any]) -> tuple[str, list[Path]]:
    """Compare rankings; with --out, write trust.txt and trust.csv there."""
    from search.report.trust.text import trust_report

    unused = [f"--{name}" for name in ("spec", "tidy", "baseline", "diff", *STATISTICS) if getattr(options, name)]
    unused += [f"--{name.replace('marks', 'no-marks')}" for name in changes] + ["--effects"] * (
        options.effects is not None
    )
    if unused:
        raise ValueError(
            f"--trust takes --metric, --phase, --format and --out, not {', '.join(unused)}; leave that out"
        )
    if options.format not in ("csv", "all"):
        raise ValueError(f"--trust is printed as text, or as csv, not {options.format}")
    from search.ledger.files import write_atomic

    report = trust_report(options.study, options.metric, options.phase)
    table = report.data.to_csv(index=False, lineterminator="\n")
    texts = {"trust.txt": report.text, "trust.csv": table} if options.format == "all" else {"trust.csv": table}
    written = []
    if options.out and not options.no_write:
        Path(options.out).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            written.append(Path(options.out) / name)
            write_atomic(written[-1], text)
    return report.text if options.format == "all" else table, written


def diff_made(options: argparse.Namespace, changes: dict[str, Any]) -> tuple[str, list[Path]]:
    """Compare two studies; with --out, write diff.md and diff.csv there."""
    unused = [f"--{name}" for name in ("spec", "tidy", "baseline", *STATISTICS) if getattr(options, name)]
    unused += ["--effects"] * (options.effects is not None)
    unused += [f"--{name.replace('marks', 'no-marks')}" for name in changes]
    if len(options.study) != 2 or unused:
        wrong = f"{', '.join(unused)} does not go with it" if unused else f"{len(options.study)} given"
        raise ValueError(f"--diff takes two studies, --metric and --phase: {wrong}")
    if options.format not in ("md", "csv", "all"):
        raise ValueError(f"--diff is printed as md or csv, not {options.format}")
    from search.ledger.files import write_atomic
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


def check_wandb(options: argparse.Namespace) -> None:
    """Raise ValueError where there is no table of one study to send."""
    settings = [f"--wandb-{name}" for name in ("mode", "project", "entity") if getattr(options, f"wandb_{name}")]
    if settings and not options.wandb:
        raise ValueError(f"{', '.join(settings)} says where to send the table; add --wandb to send it")
    other = ("trust", "diff", "tidy", "no_write")
    unfit = [f"--{name.replace('_', '-')}" for name in other if getattr(options, name)]
    unfit += ["--effects"] * (options.effects is not None) + ["several studies"] * (len(options.study) > 1)
    unfit += ["a file of trials"] * Path(options.study[0]).is_file()
    if options.wandb_project is not None:
        from search.ledger.tracker import TrackerConfig, check_tracker

        try:
            check_tracker(TrackerConfig(project=options.wandb_project))
        except ValueError as error:
            raise ValueError(str(error).replace("tracker.project=", "--wandb-project ")) from None
    if options.wandb and unfit:
        raise ValueError(
            f"--wandb sends the table of one study, with its files: it does not go with {', '.join(unfit)}"
        )


def check_folders(options: argparse.Namespace) -> None:
    """Raise ValueError for a study that is compared with itself, and for a folder of files that are not written."""
    if options.out and options.no_write:
        raise ValueError("--out names a folder for the files, and --no-write writes none; leave one of them out")
    if options.diff and len({Path(name).resolve() for name in options.study}) < len(options.study):
        raise ValueError(f"--diff compares two studies, and {options.study[0]} is given more than once")


def sender(options: argparse.Namespace, frame: Any, folder: Path, table: Any) -> Callable[[], int] | None:
    """Return what sends a table to W&B and returns the exit status; None where that was not asked for."""
    if not options.wandb:
        return None
    from search.report.mirror import mirror_asked

    given = {name: getattr(options, f"wandb_{name}") for name in ("mode", "project", "entity")}
    return lambda: mirror_asked(Path(options.study[0]), folder, frame, table, given)


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
