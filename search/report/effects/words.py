"""What a table of effects allows to be said, and how its numbers were made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.arms import Arm
from search.report.judging import CORRECTIONS
from search.report.words import counted, joined, p_is
from search.stats.corrections import Correction
from search.stats.paired import ALPHA

if TYPE_CHECKING:
    from search.stats.effects import FactorialEffects

__all__ = ["method_notes", "said_of", "shared_cells"]


def said_of(result: FactorialEffects, corrected: pd.Series[float], metric: MetricColumn, correction: Correction) -> str:
    """Say which terms can be told from noise, and which cannot."""
    if not result.degrees:
        return "No effect can be tested: no two seeds hold the same cells; add seeds."
    word = "" if correction == "none" else "corrected "
    found: dict[str, list[str]] = {"main": [], "interaction": [], "neither": []}
    constant = result.terms.loc[corrected.isna().to_numpy(), "term"].tolist()
    for term, kind, p in zip(result.terms["term"], result.terms["kind"], corrected.tolist(), strict=True):
        if pd.isna(p):
            continue
        found[kind if p <= ALPHA else "neither"].append(f"{term} ({word}{p_is(p)})")
    said = []
    if found["main"]:
        average = "On average over the other factors, " if len(result.terms) > 1 else ""
        said.append(f"{average}{metric.title} depends on {joined(found['main'])}.")
    if found["interaction"]:
        said.append(
            f"What one factor changes depends on the other in {joined(found['interaction'])}: there read the cells, since a main "
            "effect is an average over unlike ones."
        )
    if found["neither"]:
        said.append(
            f"{joined(found['neither'])} cannot be told from seed noise; that does not show that there is no such effect."
        )
    if constant:
        said.append(f"{joined(constant)}: the same on every seed, so there is no spread to judge by.")
    return " ".join(said)


def method_notes(result: FactorialEffects, correction: Correction, fraction: bool, many: bool) -> list[str]:
    """Say how the numbers were made and how to read them."""
    tested = int(result.terms["p_value"].notna().sum())
    how = (
        "not corrected"
        if correction == "none" or tested < 2
        else f"corrected by {CORRECTIONS[correction]} over {counted(tested, 'term')}"
    )
    notes = [
        f"Each effect is computed within each seed, and judged by how it varies over the seeds, so it may differ from seed to "
        f"seed: {counted(result.n, 'trial')} on {counted(result.seeds, 'seed')}"
        + (f", t tests of {counted(result.degrees, 'degree')} of freedom." if result.degrees else "."),
        "Effect: of a factor, the mean of a level minus that of the level it is held against, over the levels of the other "
        "factors; of a pair, a difference of differences. 95% t intervals, each of its line alone. F and p are of the whole "
        f"term, against seed x term (Greenhouse and Geisser 1959), {how}.",
    ]
    if fraction:
        notes.append(
            "The design is a fraction of a factorial: a line stands for its aliases too, which are named below."
        )
    if many:
        notes.append("Interactions of three or more factors are taken to be none.")
    return notes


def shared_cells(arms: Sequence[Arm]) -> list[str]:
    """Name the cells that built one network, whose trials must not count twice."""
    return [
        f"The cells {joined([repr(name) for name in arm.cell_names])} build one network: it counts once, as the first. "
        "A factor that changes nothing there is nested in another: its effect is that of the other cells."
        for arm in arms
        if len(arm.cell_names) > 1
    ][:3]
