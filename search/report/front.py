"""The Pareto front of a study with several objectives: which arms are on it, as text, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from search.ledger.metric import LATENCIES
from search.ledger.objectives_file import read_objectives
from search.report.arms import Arm, list_arms
from search.report.declared import declared_by
from search.report.escape import markdown
from search.report.layout import Column, markdown_table, plain_table
from search.report.values import arm_values
from search.report.words import joined, one_line, scaled, significant
from search.stats.front import on_front

__all__ = ["Front", "front_of", "front_text", "front_to_csv", "front_to_markdown", "fronts_of"]

TEST_TWIN = {"val_top1": "test_top1", "val_loss": "test_loss"}  # what stands for an objective in the final phase
COUNTS = ("params", "params_fused", "macs", "macs_fused")
WIDTH = 120


@dataclass(frozen=True)
class Front:
    """The arms of one phase held against several objectives.

    Attributes:
        phase: whose trials were read.
        higher: whether more is better, by the column of the tidy frame, in the order of the study.
        arms: all arms of the phase.
        points: float64 (arms, objectives): means over the finished trials, of a latency the median over those measured in
            an exclusive slot; NaN where there is none.
        members: whether the arm is on the front; None where a value is missing.
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
    """Hold the arms of a phase against the objectives of their study; None where it has fewer than two, or no arms.

    Args:
        arms: of that phase.
        frame: rows of `load_study`, whose `attrs["path"]` is the study's folder.

    Raises:
        ValueError: what the study wrote down of its objectives cannot be read.
    """
    path = frame.attrs.get("path")
    senses = {} if path is None else read_objectives(Path(str(path)))
    if len(senses) < 2 or not arms:
        return None
    twins = TEST_TWIN if phase == "final" else {}
    higher = {twins.get(name, name): sense == "maximize" for name, sense in senses.items()}
    columns = [values_of(arms, name) for name in higher]
    points = np.array(columns, dtype=float).T
    return Front(phase, higher, tuple(arms), points, tuple(on_front(points, list(higher.values()))))


def values_of(arms: Sequence[Arm], column: str) -> list[float]:
    """Return one objective of each arm; NaN where it was not measured."""
    if column not in arms[0].all_cells:
        return [float("nan")] * len(arms)
    found = arm_values(arms, column)
    if column in LATENCIES:
        timed = [getattr(each, column) if each.latency_exclusive else None for each in found]
        return [float("nan") if value is None else value for value in timed]
    return [float(each.values.mean()) if len(each.values) else float("nan") for each in found]


def fronts_of(frame: pd.DataFrame, phases: Sequence[str] = ("search", "final")) -> list[Front]:
    """Return the front of each phase that has trials."""
    declared = declared_by(frame)
    found = [front_of(list_arms(frame[frame["phase"] == phase], declared), frame, phase) for phase in phases]
    return [front for front in found if front is not None]


def order(front: Front) -> list[int]:
    """Return the positions of the members, the best in the first objective first."""
    sign = -1.0 if next(iter(front.higher.values())) else 1.0
    return sorted(
        (position for position, member in enumerate(front.members) if member),
        key=lambda position: sign * front.points[position, 0],
    )


def columns_of(front: Front) -> list[Column]:
    """Round the members of a front for a reader."""
    members = order(front)
    named = [one_line(front.arms[position].label, 400) for position in members]
    shown = [Column("arm", "arm", named, right=False)]
    for number, name in enumerate(front.higher):
        show = scaled if name in COUNTS else lambda value: significant(value, 4)
        shown.append(Column(name, name, [show(float(front.points[position, number])) for position in members]))
    return shown


def front_text(front: Front) -> str:
    """Format for a terminal."""
    return "\n".join([f"{front.title}:", "", *plain_table(columns_of(front), {"arm": WIDTH // 2}, WIDTH)])


def front_to_markdown(fronts: Sequence[Front]) -> str:
    """Format as GitHub tables, one for each phase."""
    parts = [[f"**{markdown(front.title)}**", "", *markdown_table(columns_of(front)), ""] for front in fronts]
    return "\n".join(line for part in parts for line in part)


def front_to_csv(fronts: Sequence[Front]) -> str:
    """Format the members at full precision, one line each: phase, arm, its hashes, seeds, and a column an objective."""
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
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
