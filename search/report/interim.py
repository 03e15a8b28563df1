"""The interim analyses of a design with looks: what was planned, each row's verdict, and the words that belong to them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn, metric_named
from search.ledger.study_files import LOOKS_FILE
from search.report.arms import Arm, comparable, declared_by, list_arms, marked_baseline
from search.report.provenance import gate
from search.report.reading.load import load_study
from search.report.table import Column, Table, interval_of, rows_of, value_of
from search.report.values import arm_values
from search.report.words import counted, one_line, signed
from search.stats import sequential
from search.stats.paired import AHEAD, BEHIND, BETTER, WORSE, survivors
from search.stats.sequential import LookPlan

SPENDING_WORDS = {
    "hwang_shih_decani": "an alpha-spending function of Hwang, Shih and De Cani (1990) with gamma = -2",
    "obrien_fleming": "an O'Brien-Fleming type alpha-spending function (Lan and DeMets 1983)",
    "pocock": "a Pocock type alpha-spending function (Lan and DeMets 1983)",
}
READ_ON_VALIDATION = (
    "The looks read validation images. Test images are read once, when the last look is over; the ablation table has them, and an "
    "unfinished study has none."
)
READ_ON_TEST = "These looks were of an earlier version, and read the test images each time."


def read_looks(study_dir: str | os.PathLike[str]) -> tuple[LookPlan, str] | None:
    """Read which looks a study was planned with, and the metric they compare; None for a study without looks.

    ValueError, which names the file, where it is there and does not say it.
    """
    path = Path(study_dir) / LOOKS_FILE
    try:
        there: Any = json.loads(path.read_text(encoding="utf-8"))
        plan = sequential.plan_looks(
            there["looks"], alpha=there["alpha"], spending=there["spending"], margin=there.get("margin")
        )
        return plan, metric_named(there["metric"]).column
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} does not say which looks were planned ({type(error).__name__}: {error}); run the study's command "
            "again, which writes it anew"
        ) from None


def _phase_of(metric: str) -> str:
    """The phase whose trials are looked at. Looks of before November 2026 compared test scores."""
    return "final" if metric.startswith("test_") else "search"


def judged_arms(frame: pd.DataFrame, metric: str) -> list[Arm]:
    """The baseline of a design, and the rows over which the error is kept; `metric` is a column, e.g. "val_top1".

    A row has finished a seed at least, and is one that the ablation table compares with the baseline too.
    """
    arms = list_arms(frame[frame["phase"] == _phase_of(metric)], declared_by(frame))
    arms = [arm for arm in arms if np.isfinite(arm.values(metric)).any()]
    reference = marked_baseline(arms)
    return arms if reference is None else [arm for arm in arms if comparable(arm, reference)]


def look_values(arms: list[Arm], metric: str) -> tuple[pd.DataFrame, str | None]:
    """Put the arms side by side, as `sequential_verdicts` takes them; and the baseline's label, None where no one arm is marked."""
    values = pd.DataFrame({arm.label: arm.values(metric) for arm in arms}, dtype=float).sort_index()
    reference = marked_baseline(arms)
    return values, reference.label if reference else None


def interim_table(study_dir: str | os.PathLike[str]) -> Table | None:
    """Make the table of verdicts of a study from what its folder holds; None for a study without looks.

    Its `data` has one row for each arm but the baseline, the best difference first, with the columns "arm" and
    `SEQUENTIAL_COLUMNS`. ValueError as `load_study` and `read_looks`.
    """
    planned = read_looks(study_dir)
    if planned is None:
        return None
    plan, column = planned
    frame = load_study(study_dir)
    metric = metric_named(column)
    arms = judged_arms(frame, column)
    values, baseline = look_values(arms, column)
    table = sequential.sequential_verdicts(plan, values if baseline else pd.DataFrame({"": []}), baseline or "")
    data = table.sort_values("mean", ascending=not metric.higher_is_better, kind="stable")  # as the ablation table
    data = data.rename_axis("arm").reset_index().astype({"arm": "string"})
    looks = ", ".join(map(str, plan.looks))
    names = frame["study"].dropna().unique().tolist()
    columns = _columns_of(metric, plan, _survived_by(arms, column, baseline))
    return Table(
        name="sequential",
        title=f"{' + '.join(names) or study_dir}: sequential comparison, {metric.title}, looks at {looks} seeds",
        columns=columns,
        rows=rows_of(columns, data.itertuples(index=False)),
        data=data,
        notes=_notes_of(plan, data, metric, baseline, frame, arms),
    )


def _survived_by(arms: list[Arm], column: str, baseline: str | None) -> dict[str, str]:
    """On which seeds the verdict of an arm rests that failed, or whose baseline failed, on others: such a one is not better."""
    values = dict(zip([arm.label for arm in arms], arm_values(arms, column), strict=True))
    others = [] if baseline is None else [(label, own) for label, own in values.items() if label != baseline]
    return {label: survivors(own, values[str(baseline)], None).on_which() for label, own in others}


def _notes_of(
    plan: LookPlan, data: pd.DataFrame, metric: MetricColumn, baseline: str | None, frame: pd.DataFrame, arms: list[Arm]
) -> list[str]:
    """Name the method, and say how the table is to be read."""
    if baseline is None:
        return ["No single baseline finished a seed, so no row was looked at."]
    level = f"{100 * (1 - plan.alpha):g}%"
    notes = [
        *gate(arms, metric),
        f"Method: paired t tests against the baseline ({one_line(baseline, 400)}) at looks fixed beforehand; the chance of any "
        f"false finding over all looks and rows is at most {plan.alpha:g}, split over the looks by "
        f"{SPENDING_WORDS[plan.spending]} and within a look over the undecided rows by Holm's procedure (1979). Repeated "
        f"confidence intervals (Jennison and Turnbull 2000), {level} over all looks and rows together, in {metric.unit}.",
        READ_ON_TEST if _phase_of(metric.column) == "final" else READ_ON_VALIDATION,
        "These are the figures to report: p-values and intervals of the ablation table are those of a fixed number of "
        "seeds and do not account for looking.",
        "A row that was found got no more seeds, so rows have unequal numbers on purpose. A difference that ended early is "
        "on average too large, since it was found while it looked large; its interval allows for that.",
    ]
    if plan.margin is not None:
        notes.append(
            f"Given up: a row whose chance to be found at the last look is below {sequential.HOPELESS:.0%}, even if it differed by "
            f"{plan.margin:g} {metric.unit}, the margin stated beforehand, or by what is seen so far. That does not show that it "
            "differs by less: its interval says what is still possible."
        )
    short = data.loc[data["verdict"].isin([sequential.WAITING, sequential.UNDECIDED]), "arm"].tolist()
    if short:
        notes.append(
            f"Not yet at the next look: {', '.join(one_line(name, 400) for name in short)}: seeds are missing, because the study "
            "goes on or too many of them failed."
        )
    mixed = {arm.recipe_hash for arm in arms} - {None}
    if len(mixed) > 1:
        notes.append(
            f"The design varies the recipe: its cells have {len(mixed)} (data, training or backbone), and the difference of such a row "
            "is that of its recipe too."
        )
    everyone = list_arms(frame[frame["phase"] == _phase_of(metric.column)], declared_by(frame))
    never = sorted({arm.label for arm in everyone} - {arm.label for arm in arms})
    if never:
        notes.append(
            f"In no look, since no seed finished or the recipe is another: {', '.join(one_line(name, 400) for name in never)}."
        )
    return notes


def _columns_of(metric: MetricColumn, plan: LookPlan, survived: Mapping[str, str]) -> list[Column]:
    return [
        Column("row", "row", "words", show=lambda row: one_line(row.arm, 400)),
        Column("verdict", "verdict", "words", show=lambda row: _words_of(row, metric, survived.get(str(row.arm), ""))),
        Column("look", "look", show=value_of("look", lambda look: f"{look} of {len(plan.looks)}")),
        Column("n", "n"),
        Column("difference", "difference", "math", show=value_of("mean", partial(signed, decimals=metric.decimals))),
        Column("p", "p", show=value_of("p_value", "{:.2g}".format)),
        Column("bound", "finding if p <=", show=value_of("bound", "{:.2g}".format)),
        Column("interval", "repeated interval", "math", show=interval_of("low", "high", metric.decimals)),
    ]


def _words_of(row: Any, metric: MetricColumn, survived: str) -> str:
    """A row's verdict for a reader; `survived` as `_survived_by` has it."""
    if row.verdict == sequential.FOUND:
        gains = (row.mean > 0) == metric.higher_is_better
        if survived:
            return f"{AHEAD if gains else BEHIND} {survived}"
        return BETTER if gains else WORSE
    if row.verdict == sequential.GIVEN_UP:
        return f"given up: {row.chance:.0%} chance to be found"
    if row.verdict == sequential.WAITING:
        return f"waiting for {counted(int(row.seeds_to_add), 'seed')} to the first look"
    if row.verdict == sequential.UNDECIDED:
        return f"undecided; {counted(int(row.seeds_to_add), 'more seed')} to the next look"
    return sequential.FINISHED
