"""The Pareto front of a study with several objectives: which arms are on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from search.ledger.metric import LATENCIES, metric_columns
from search.ledger.study_files import read_objectives
from search.report.arms import Arm, compared_trials, declared_by, list_arms
from search.report.table import Cell, Column, Row, Table
from search.report.values import arm_values
from search.report.words import joined, one_line, scaled, significant
from search.stats.ranking import on_front

COUNTS = ("params", "params_fused", "macs", "macs_fused")


@dataclass(frozen=True)
class Front:
    """The arms of one phase held against several objectives.

    `higher` says whether more is better by the column of the tidy frame, in the order of the study. `points` are float64
    (arms, objectives): means over the finished trials, of a latency the median over those measured in an exclusive slot; NaN where
    there is none. `members` says whether the arm is on the front; None where a value is missing.
    """

    phase: str
    higher: Mapping[str, bool]
    arms: tuple[Arm, ...]
    points: np.ndarray
    members: tuple[bool | None, ...]

    @property
    def title(self) -> str:
        """Say what it is the front of."""
        named = [f"{name} ({'higher' if higher else 'lower'} is better)" for name, higher in self.higher.items()]
        return f"Pareto front of {joined(named)}, phase {self.phase}; by means, seed noise is not reckoned with"


def front_of(arms: Sequence[Arm], frame: pd.DataFrame, phase: str) -> Front | None:
    """Hold the arms of a phase against the objectives of their study; None where it has fewer than two, or no arms."""
    path = frame.attrs.get("path")
    senses = {} if path is None else read_objectives(Path(str(path)))
    if len(senses) < 2 or not arms:
        return None
    known = metric_columns()  # in the final phase what was read on test stands for an objective read on validation data
    split = "test" if phase == "final" else "val"
    twins = {f"val_{column.name}": column.column for column in known.values() if column.split == split}
    higher = {twins.get(name, name): sense == "maximize" for name, sense in senses.items()}
    columns = [_values_of(arms, name) for name in higher]
    points = np.array(columns, dtype=float).T
    return Front(phase, higher, tuple(arms), points, tuple(on_front(points, list(higher.values()))))


def _values_of(arms: Sequence[Arm], column: str) -> list[float]:
    """Return one objective of each arm; NaN where it was not measured."""
    if column not in arms[0].all_trials:
        return [float("nan")] * len(arms)
    found = arm_values(arms, column)
    if column in LATENCIES:
        return [getattr(each, column) if each.latency_exclusive else np.nan for each in found]
    return [float(each.values.mean()) if len(each.values) else np.nan for each in found]


def fronts_of(frame: pd.DataFrame, phases: Sequence[str] = ("search", "final")) -> list[Front]:
    """Return the front of each phase that has trials."""
    declared = declared_by(frame)
    found = [
        front_of(list_arms(compared_trials(frame[frame["phase"] == phase]), declared), frame, phase) for phase in phases
    ]
    return [front for front in found if front is not None]


def order(front: Front) -> list[int]:
    """Return the positions of the members, the best in the first objective first."""
    sign = -1.0 if next(iter(front.higher.values())) else 1.0
    return sorted(
        (position for position, member in enumerate(front.members) if member),
        key=lambda position: sign * front.points[position, 0],
    )


def front_table(front: Front) -> Table:
    """Make the table of the members of a front, rounded for a reader."""
    members = order(front)
    columns = [Column("arm", "arm", "words")]
    cells = [[one_line(front.arms[position].label, 400) for position in members]]
    for number, name in enumerate(front.higher):
        show = scaled if name in COUNTS else lambda value: significant(value, 4)
        columns.append(Column(name, name))
        cells.append([show(float(front.points[position, number])) for position in members])
    rows = [Row([Cell(text) for text in texts]) for texts in zip(*cells, strict=True)]
    return Table(name="front", title=front.title, columns=columns, rows=rows, data=fronts_data([front]))


def fronts_data(fronts: Sequence[Front]) -> pd.DataFrame:
    """Return the members at full precision, one row each: phase, arm, its hashes, and a column an objective."""
    rows = [
        {
            "phase": front.phase,
            "arm": front.arms[position].label,
            "arch_hash": front.arms[position].arch_hash,
            "recipe_hash": front.arms[position].recipe_hash,
            **dict(zip(front.higher, front.points[position].tolist(), strict=True)),
        }
        for front in fronts
        for position in order(front)
    ]
    return pd.DataFrame(rows)
