"""What `xvol-table` makes of options that go with one another: the text to print, the files, and what sends them to W&B."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from search.ledger.files import write_atomic
from search.ledger.tracker import TrackerConfig, check_tracker
from search.report.ablation import AblationTable, ablation_table
from search.report.budget import budget_table
from search.report.confounds import runs_table
from search.report.detections import class_table
from search.report.diff import diff_studies
from search.report.effects import effects_table
from search.report.judging import Judging
from search.report.mirror import mirror_asked
from search.report.paper import labels_of, paper_form
from search.report.pivot import PivotTable, pivot_table
from search.report.rankings import scored
from search.report.reading.load import load_pooled
from search.report.render import RENDERERS
from search.report.render.latex_float import to_float
from search.report.spec import SPEC_OPTIONS, STATISTICS, TableSpec, read_spec, spec_of
from search.report.table import Table
from search.report.trust import trust_table
from search.report.values import GIVEN, phase_to_read, read_arms
from search.report.write import (
    FORMATS,
    TEXT_FORMATS,
    measured_costs,
    paper_grid,
    save_files,
    save_pivot,
    save_table,
    save_tidy,
    save_trials,
    with_trust,
)


class Made(NamedTuple):
    """What was made: the text to print, the files that were written, and what sends it to W&B where that was asked for."""

    text: str
    written: list[Path]
    send: Callable[[], int] | None = None


def made(options: argparse.Namespace, by_spec: bool) -> Made:
    """Make what the options ask for; ValueError where it cannot be made of these studies."""
    # what belongs to no one study is written where that is asked for
    beside = Path(options.out) if options.out else None
    if options.wandb_project is not None:
        try:
            check_tracker(TrackerConfig(project=options.wandb_project))
        except ValueError as error:
            raise ValueError(str(error).replace("tracker.project=", "--wandb-project ")) from None
    if options.trust:
        report = trust_table(options.study, options.metric, options.phase)
        return _plain_made(options, report, beside, ("txt", "csv"), "txt")
    if options.diff:
        diff = diff_studies(options.study[0], options.study[1], metric=options.metric, phase=options.phase)
        return _plain_made(options, diff, beside, ("md", "csv"), "md")
    if options.arm:
        return _given_made(options, beside)
    frame = scored(load_pooled(options.study, options.phase), options.metric)
    if options.tidy:
        return Made("", [save_tidy(frame, options.tidy)])
    if not options.out and Path(options.study[0]).is_file():
        options.no_write = True  # a file of trials has no folder of tables
    folder = Path(options.out) if options.out else Path(options.study[0]) / "tables"
    if options.budget:
        table = budget_table(frame, options.metric, options.baseline, options.phase)
        return _plain_made(options, table, folder, TEXT_FORMATS, "txt")
    if options.classes:
        return _plain_made(options, class_table(frame, options.metric, options.phase), folder, TEXT_FORMATS, "txt")
    if options.effects is not None:
        table = effects_table(frame, options.effects, options.metric, options.phase, options.correction or "holm")
        return _plain_made(options, table, folder, TEXT_FORMATS, "txt")
    if options.paper:
        return _paper_made(options, frame, folder)
    if by_spec:
        return _pivot_made(options, frame, folder)
    return _ablation_made(options, frame, folder)


def _plain_made(
    options: argparse.Namespace, table: Table, folder: Path | None, forms: tuple[str, ...], printed: str
) -> Made:
    """Print one form, and write each or the one that was asked for; none without a folder."""
    wanted = forms if options.format == "all" else (options.format,)
    written = [] if folder is None or options.no_write else save_files(table, folder, wanted)
    return Made(RENDERERS[printed if options.format == "all" else options.format](table), written)


def _ablation_made(options: argparse.Namespace, frame: pd.DataFrame, folder: Path) -> Made:
    given = {name: getattr(options, name) for name in STATISTICS if getattr(options, name) is not None}
    table = with_trust(ablation_table(frame, options.metric, options.baseline, options.phase, Judging(**given)), frame)
    every = options.format == "all"
    written = []
    if not options.no_write:
        written = save_table(table, folder, paper_grid(frame, table), FORMATS if every else (options.format,))
        written += save_trials(frame, folder) if every else []
    text = RENDERERS["txt" if every else options.format](table)
    return Made(text, written, _sender(options, frame, folder, table))


def _spec_of(options: argparse.Namespace) -> TableSpec:
    names = (*SPEC_OPTIONS, "baseline", "phase", "correction", "margin")
    changes: dict[str, Any] = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    changes |= {"marks": False} if options.no_marks else {}
    changes |= {"metrics": [options.metric]} if options.metric is not None else {}
    return read_spec(options.spec, changes) if options.spec else spec_of(changes)


def _paper_made(options: argparse.Namespace, frame: pd.DataFrame, folder: Path) -> Made:
    spec, wide = _spec_of(options), options.paper == "double"
    if not spec.metrics:
        phase = phase_to_read(frame, spec.phase)
        judged = () if phase == GIVEN else (read_arms(frame, phase).metric.column, *measured_costs(frame, phase))
        spec = replace(spec, metrics=judged)
    grid = pivot_table(frame, spec)
    labels = labels_of(grid, options.label or ())
    form = paper_form(grid, frame, wide=wide, labels=labels, caption=spec.caption)
    text = to_float(form, wide=wide, label=options.tex_label or f"tab:{spec.name}", comments=form.beside[1])
    path = folder / f"{form.name}.tex"
    if not options.no_write:
        write_atomic(path, text)
    return Made(text, [] if options.no_write else [path])


def _given_made(options: argparse.Namespace, folder: Path | None) -> Made:
    """Make the table of runs that are not ours; what was checked for confounds stands above it."""
    given = {name: getattr(options, name) for name in STATISTICS if getattr(options, name) is not None}
    found, table, trials = runs_table(
        options.study[0],
        arm=options.arm,
        seed=options.seed,
        metric=options.metric,
        baseline=options.baseline,
        pick="best" if options.best else "last" if options.last else "summary",
        higher=False if options.lower_is_better else True if options.higher_is_better else None,
        judging=Judging(**given),
    )
    every = options.format == "all"
    written = (
        []
        if folder is None or options.no_write
        else save_table(table, folder, paper_grid(trials, table), FORMATS if every else (options.format,))
    )
    text = RENDERERS["txt" if every else options.format](table)
    return Made("\n".join([*found, "", text]) if every else text, written)


def _pivot_made(options: argparse.Namespace, frame: pd.DataFrame, folder: Path) -> Made:
    table = pivot_table(frame, _spec_of(options))
    every = options.format == "all"
    written = [] if options.no_write else save_pivot(table, folder, FORMATS if every else (options.format,))
    text = "" if options.format == "parquet" else RENDERERS["md" if every else options.format](table)
    return Made(text, written, _sender(options, frame, folder, table))


def _sender(
    options: argparse.Namespace, frame: pd.DataFrame, folder: Path, table: AblationTable | PivotTable
) -> Callable[[], int] | None:
    """Return what sends a table to W&B and returns the exit status; None where that was not asked for."""
    if not options.wandb:
        return None
    given = {name: getattr(options, f"wandb_{name}") for name in ("mode", "project", "entity")}
    return lambda: mirror_asked(Path(options.study[0]), folder, frame, table, given)
