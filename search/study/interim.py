"""The looks of a design: what is written down before the first one, and which cells get seeds after each.

Looks read validation images. Test images are read once, when the last look is over, of the networks that were trained: in
a phase of its own, so that an unfinished study holds no test score.

Who goes on is a function of the looks and of what the ledger holds, so an interrupted study, or a second command that
joins, comes to the same. Three rules keep the error rate of `search/stats/sequential.py`:

- Looks, alpha, spending, margin, cells and first seed are written down before anything is trained, and never change.
- A cell that failed is run again, as often as `max_retries` allows, before the look, and never after it. What is lost
  then is made up for by a spare seed; a row may lose `spare_seeds` seeds, and one that finished none gets no more.
- A look waits until each row that can come to it has its seeds.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial

from search.design.options import DesignOptions
from search.design.trials import cell_at
from search.ledger.files import write_atomic
from search.ledger.study_files import LOOKS_FILE, Cell
from search.report.interim import judged_arms, look_values
from search.report.reading.load import load_study
from search.report.words import counted, joined
from search.stats.sequential import FOUND, GIVEN_UP, UNDECIDED, WAITING, LookPlan, plan_looks, sequential_verdicts
from search.study.queue import TrialQueue
from search.study.spec import StudySpec
from search.study.trials import BASELINE, CELL, FOLDER, INTERRUPTED, LOOKED_AT, OVERRIDES, RETRY_OF

ATTRIBUTE = "looks"  # of the study


def spare_seeds(looks: Sequence[int]) -> int:
    """How many lost seeds of a row are made up for: a quarter of the last look, at least one."""
    return max(1, looks[-1] // 4)


def look_spec(spec: StudySpec) -> StudySpec:
    """Of a design's final phase the one before it, which trains: it reads no test data, and keeps the weights until then."""
    return replace(spec, optuna_name=spec.study_name, phase="search", keeps_weights=True)


def cells_to_read(looked: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """The final trials: one for each trial of the looks that came to an end of its own, to read its network on test."""
    again = {trial.user_attrs.get(RETRY_OF) for trial in looked}
    return [
        {**{name: trial.user_attrs[name] for name in (CELL, OVERRIDES, BASELINE)}, LOOKED_AT: trial.user_attrs[FOLDER]}
        for trial in looked
        if trial.state.is_finished() and FOLDER in trial.user_attrs and trial.number not in again
    ]


def is_looked_at(queue: TrialQueue) -> bool:
    """Whether a design was planned with looks; `queue` is of its final phase."""
    return queue.study.user_attrs.get(ATTRIBUTE) is not None


def claim_looks(
    queue: TrialQueue,
    looked: Sequence[FrozenTrial],
    study_dir: Path,
    options: DesignOptions,
    cells: Sequence[Cell],
    max_retries: int,
    metric: str,
) -> LookPlan | None:
    """Write down how the study is looked at, or compare with what stands there; None for a design without looks.

    Args:
        queue: of the final phase, where the plan is written down.
        looked: trials of the phase of the looks.
        metric: column of the validation data that rows are compared by; no look reads test.

    Raises:
        ValueError: the study was planned with other looks, or without any, or is a search.
    """
    mine: dict[str, Any] | None = None
    if options.looks:
        mine = {
            "looks": list(options.looks),
            "alpha": options.alpha,
            "spending": options.spending,
            "margin": options.margin,
            "metric": metric,
            "first_seed": options.first_seed,
            "max_retries": max_retries,
            "cells": sorted(cell.name for cell in cells),
        }
        if any(CELL not in trial.user_attrs for trial in looked):
            raise ValueError(f"{study_dir} holds a search; give the design another hydra.sweeper.study_name")
    with queue.lock():
        theirs = queue.study.user_attrs.get(ATTRIBUTE)
        if theirs != mine and not queue.trials() and not looked:  # nothing was trained by the other plan
            queue.study.set_user_attr(ATTRIBUTE, mine)
            theirs = mine
    if theirs is None and mine is not None:
        raise ValueError(
            f"{study_dir} was begun without looks, and hydra.sweeper.design.looks={list(options.looks)} cannot be chosen "
            f"after results may have been seen: the error rate would not hold. {_anew(queue)}"
        )
    if theirs and mine and str(theirs.get("metric")).startswith("test_"):  # before November 2026
        raise ValueError(
            f"{study_dir} was begun by an earlier version, whose looks read the test images; looks read validation images now, so "
            f"it cannot go on. Its trials and tables stay as they are, and xvol-table reads them. {_anew(queue)}"
        )
    if theirs is not None and theirs != mine:
        raise ValueError(
            f"{study_dir} was planned with hydra.sweeper.design.looks={theirs['looks']}, and what was planned before the first "
            f"look cannot change: the error rate would not hold.\n{_differences(theirs, mine)}\n"
            f"Run the command that the study was begun with. {_anew(queue)}"
        )
    if mine is None:
        (study_dir / LOOKS_FILE).unlink(missing_ok=True)
        return None
    write_atomic(study_dir / LOOKS_FILE, json.dumps(mine, indent=1) + "\n")
    return plan_looks(options.looks, alpha=options.alpha, spending=options.spending, margin=options.margin)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Standing:
    """How the rows of a design stand: verdicts of `sequential_verdicts`, and the values it takes.

    Attributes:
        baseline: label of the baseline; None where it finished no seed.
        cell_of: the cell that is trained for a row's further seeds, by label; of cells that build one network the first.
        tried: seeds on which that cell has ended for good.
    """

    verdicts: pd.DataFrame
    values: pd.DataFrame
    baseline: str | None
    cell_of: Mapping[str, str]
    tried: Mapping[str, Collection[int]]


def standing(
    queue: TrialQueue, study_dir: Path, plan: LookPlan, cells: Sequence[Cell], first_seed: int, metric: str
) -> Standing:
    """Look: hold the rows against the baseline; ValueError where the ledger does not have the metric.

    `next_step` goes on from here.
    """
    trials = queue.trials()  # before the ledger is read: what has ended here has its result there
    try:
        frame = load_study(study_dir)
    except ValueError as error:
        raise ValueError(f"hydra.sweeper.design.looks compares rows by {metric} in the ledger, but {error}") from None
    arms = judged_arms(frame, metric)
    if not arms:
        raise ValueError(
            f"hydra.sweeper.design.looks compares rows by {metric}, which no finished trial in {study_dir} has; leave looks "
            "out for this application"
        )
    values, baseline = look_values(arms, metric)
    ended = _ended(trials)
    last = first_seed + plan.looks[-1] + spare_seeds(plan.looks)
    named = {cell_at(cell, seed): cell.name for cell in cells for seed in range(first_seed, last)}
    cell_of_trial = {trial.number: named.get(str(trial.user_attrs.get(CELL))) for trial in trials}
    cell_of: dict[str, str] = {}
    tried: dict[str, Collection[int]] = {}
    for arm in arms:
        own = {cell_of_trial.get(int(number)) for number in arm.trials["trial"].dropna()}
        cell = next((cell for cell in cells if cell.name in own), None)
        if cell is not None:
            cell_of[arm.label] = cell.name
            tried[arm.label] = frozenset(seed for seed in range(first_seed, last) if cell_at(cell, seed) in ended)
    kept = [label for label in values.columns if label in cell_of]
    if baseline not in kept:
        baseline = None
    verdicts = sequential_verdicts(plan, values[kept] if baseline else values[[]].assign(none=0.0), baseline or "none")
    return Standing(verdicts, values[kept], baseline, cell_of, tried)


@dataclass(frozen=True)
class Step:
    """What comes after a look, in words too: seeds that cells shall have from now on; none where the design has ended."""

    counts: Mapping[str, int]
    text: str


def next_step(plan: LookPlan, now: Standing, first_seed: int) -> Step:
    """Which cells get how many seeds, as a function of the plan and of the seeds that have ended."""
    looks, total = plan.looks, len(now.verdicts)
    if now.baseline is None:
        return Step({}, "the baseline finished no seed, so no row can be looked at; no more seeds")
    wanted: dict[str, tuple[int, int]] = {}  # row -> (position of its next look, seeds until then)
    lost: list[str] = []
    rows: list[Any] = list(now.verdicts.itertuples())
    for row in rows:
        if row.verdict not in (WAITING, UNDECIDED):
            continue
        label = str(row.Index)
        position = 0 if row.verdict == WAITING else int(row.look)  # looks are counted from 1
        count = _seeds_until(looks[position], spare_seeds(looks), _lost(now, label), first_seed)
        if count is None:
            lost.append(label)
        else:
            wanted[label] = (position, count)
    found = int((now.verdicts["verdict"] == FOUND).sum())
    done = 0 if now.verdicts["look"].isna().all() else int(now.verdicts["look"].max())
    given_up = ""
    if lost:
        names = joined([_quoted(label) for label in lost])
        have = "has" if len(lost) == 1 else "have"
        given_up = f"; {names} {have} lost more seeds than the {spare_seeds(looks)} that are spare, and will come to no further look"
    stood = f"look {done} of {len(looks)}, at {looks[done - 1]} seeds: {found} of {counted(total, 'row')} settled"
    hopeless = int((now.verdicts["verdict"] == GIVEN_UP).sum())
    stood += f", {hopeless} given up" if hopeless else ""
    if not wanted:
        stood = stood if done else f"no row came to the first look, at {looks[0]} seeds"
        left = total - found - hopeless - len(lost)
        undecided = f", {left} undecided at the last look" if left else ""
        return Step({}, f"{stood}{undecided}{given_up}; no more seeds")
    stage = min(position for position, _ in wanted.values())
    going = {label: count for label, (position, count) in wanted.items() if position == stage}
    counts = {now.cell_of[label]: count for label, count in going.items()}
    base = now.cell_of[now.baseline]
    counts[base] = max(counts.values())
    more = {label: count - len(now.tried[label]) for label, count in going.items()}
    added = counted(max(more.values()), "more seed")
    each = added if len(set(more.values())) == 1 else f"up to {added}"
    names = joined([*map(_quoted, going), "the baseline"])
    if all(len(now.tried[label]) >= looks[stage] for label in going):
        return Step(
            counts, f"look {stage + 1} of {len(looks)} waits: {each} for {names}, in place of lost ones{given_up}"
        )
    return Step(counts, f"{stood}; {each} for {names}{given_up}")


def _quoted(label: str) -> str:
    return f"'{label}'" if "," in label else label  # in a list of labels


def _seeds_until(wanted: int, spare: int, lost: Collection[int], first_seed: int) -> int | None:
    """The first so many seeds hold `wanted` that are not lost; None where that takes more than the spare ones."""
    count = wanted
    while (beside := sum(first_seed <= seed < first_seed + count for seed in lost)) > count - wanted:
        count = wanted + beside
        if beside > spare:
            return None
    return count


def _lost(now: Standing, label: str) -> set[int]:
    """Seeds that ended without a value in the row or in the baseline."""
    assert now.baseline is not None
    return {
        seed
        for each in (label, now.baseline)
        for seed in now.tried[each]
        if seed not in now.values.index or now.values[each].isna()[seed]
    }


def _ended(trials: Sequence[FrozenTrial]) -> set[str]:
    """The names of cells that came to an end of their own, and are not run again."""
    going = {trial.user_attrs.get(CELL) for trial in trials if not trial.state.is_finished()}
    own = {t.user_attrs.get(CELL) for t in trials if t.state.is_finished() and not t.user_attrs.get(INTERRUPTED)}
    return {str(name) for name in own - going}


def _anew(queue: TrialQueue) -> str:
    name = queue.study.study_name.partition(".")[0]
    return (
        f"To start anew, on seeds that nobody has looked at: hydra.sweeper.study_name={name}_2, without "
        "hydra.sweeper.design.first_seed"
    )


def _differences(theirs: Mapping[str, Any], mine: Mapping[str, Any] | None) -> str:
    if mine is None:
        return "  looks: none are given now"
    lines = []
    for name in (name for name in theirs if theirs[name] != mine[name]):
        if name == "cells":
            gone, new = sorted(set(theirs[name]) - set(mine[name])), sorted(set(mine[name]) - set(theirs[name]))
            lines.append(f"  cells: new {', '.join(new) or 'none'}; gone {', '.join(gone) or 'none'}")
        else:
            lines.append(f"  {name}: there {theirs[name]}, now {mine[name]}")
    return "\n".join(lines)
