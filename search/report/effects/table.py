"""The effects of a study's factors as a table: main effects, pairwise interactions, and what they allow to be said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.arms import Arm, comparable, list_arms
from search.report.chosen import marked_baseline, metric_to_read, phase_to_read
from search.report.declared import CONTROL, Declared, declared_by
from search.report.effects.factors import levels, overrides
from search.report.effects.words import method_notes, said_of, shared_cells
from search.report.values import arm_values
from search.stats.corrections import Correction, adjusted_p_values
from search.stats.effects import FactorialEffects, factorial_effects
from search.stats.paired import ArmValues

__all__ = ["EFFECT_COLUMNS", "EffectsTable", "effects_of_arms", "effects_table", "is_factorial", "own_factors"]

EFFECT_COLUMNS: dict[str, str] = {
    "term": "string",  # a factor, or a pair of factors joined by " x "
    "kind": "string",  # main or interaction
    "level": "string",  # the level, or pair of levels, that the estimate is of
    "reference": "string",  # what it is compared with
    "estimate": "Float64",  # in the metric's unit; of an interaction a difference of differences
    "se": "Float64",
    "ci_low": "Float64",  # 95% t interval of this estimate alone
    "ci_high": "Float64",
    "p_estimate": "Float64",  # of this estimate alone
    "df": "Int64",  # of the term
    "df_error": "Int64",  # of what it is tested against: seed x term
    "f": "Float64",
    "p_value": "Float64",  # F test of the term as a whole
    "p_corrected": "Float64",  # the same, corrected over the terms
}
"""Name and dtype of each column of `EffectsTable.data`: one row for each estimate; a term's test stands in each of its rows."""

SEED = "seed"


@dataclass(frozen=True, kw_only=True)
class EffectsTable:
    """Main effects and pairwise interactions, and the words that belong to them.

    Attributes:
        title: one line: study, phase, metric.
        metric: what the estimates are of.
        data: rows with the columns `EFFECT_COLUMNS`.
        correction: of the terms' p-values.
        conclusion: what the table allows to be said.
        notes: method, what was left out, how to read it.
    """

    title: str
    metric: MetricColumn
    data: pd.DataFrame
    correction: Correction
    conclusion: str
    notes: list[str]


def effects_table(
    frame: pd.DataFrame,
    factors: Sequence[str] = (),
    metric: str | None = None,
    phase: str | None = None,
    correction: Correction = "holm",
) -> EffectsTable:
    """Estimate the effects of a study's factors.

    Args:
        frame: rows of `load_study`.
        factors: names of the study's own factors, or of those that a table's rows may be of (see
            `search/report/effects/factors.py`); by default the factors that its design declared, else the keys of the
            overrides that every arm sets and that differ between arms.
        metric, phase: as `ablation_table`.
        correction: of the p-values over the terms.

    Raises:
        ValueError: no factor is known or named, a factor that no arm has, or one with fewer than two levels.
    """
    phase = phase_to_read(frame, phase)
    trials = frame[frame["phase"] == phase]
    chosen = metric_to_read(trials, phase, metric)
    declared = declared_by(frame)
    arms = list_arms(trials, declared)
    study = " + ".join(trials["study"].dropna().unique().tolist())
    return effects_of_arms(arms, declared, factors or own_factors(arms, declared), chosen, correction, study)


def effects_of_arms(
    arms: Sequence[Arm],
    declared: Declared,
    factors: Sequence[str],
    metric: MetricColumn,
    correction: Correction = "holm",
    study: str = "",
) -> EffectsTable:
    """Estimate the effects of factors over arms; arguments and errors as `effects_table`."""
    kept, notes = of_one_kind(arms, factors)
    rows = rows_of(kept, arm_values(kept, metric.column), factors, metric)
    result = factorial_effects(rows, metric.column, list(factors))
    corrected = adjusted_p_values(result.terms["p_value"], correction)
    data = data_of(result, rows, corrected)
    notes += shared_cells(kept)
    fraction = declared.design is not None and declared.design.kind == "fractional"
    return EffectsTable(
        title=" ".join(part for part in (f"{study}:" if study else "", "effects on", metric.title) if part),
        metric=metric,
        data=data,
        correction=correction,
        conclusion=said_of(result, corrected, metric, correction),
        notes=[
            *method_notes(result, correction, fraction, len(factors) > 2),
            *notes,
            *(f"{note}." for note in result.notes),
        ],
    )


def is_factorial(arms: Sequence[Arm], declared: Declared) -> bool:
    """Tell whether arms are those of a full or fractional factorial of two or more factors, as their study declared it.

    It is none for this purpose where two cells built one network (a branch argument where nothing is placed): there a
    factor is nested in another, and its main effect is an average over cells where it is nothing.
    """
    design = declared.design
    if design is None or design.kind not in ("factorial", "fractional"):
        return False
    cells = [cell for cell in design.cells if CONTROL not in cell.factors]
    sizes = [len(found) for name, found in design.factors.items() if name != CONTROL]
    points = {tuple(sorted(cell.factors.items())) for cell in cells}
    whole = design.kind == "fractional" or len(points) == math.prod(sizes)
    alone = all(len(arm.cell_names) == 1 for arm in arms)
    return len(sizes) > 1 and whole and alone and len(arms) == len(design.cells)


def own_factors(arms: Sequence[Arm], declared: Declared) -> list[str]:
    """Return the factors that the study declared, or that its overrides show."""
    if declared.design is not None:
        found = [name for name in declared.design.factors if name != CONTROL]
        return [name for name in found if len({arm.levels[name] for arm in arms if name in arm.levels}) > 1]
    per_arm = [overrides(arm) for arm in arms]
    shared = [key for key in (per_arm[0] if per_arm else {}) if all(len(each.get(key, [])) == 1 for each in per_arm)]
    varying = [key for key in shared if key != "seed" and len({each[key][0] for each in per_arm}) > 1]
    if not varying:
        raise ValueError(
            "the study declared no factors, and its overrides show none that every arm sets; name them, e.g. --effects where "
            "what: the names are those that --rows takes"
        )
    return varying


def level_of(arms: Sequence[Arm], factor: str) -> list[str | None]:
    """Return the level that each arm has of a factor: of the design's own, else of those that rows may be of."""
    if any(factor in arm.levels for arm in arms):
        return [arm.levels.get(factor) for arm in arms]
    return levels(arms, factor)


def of_one_kind(arms: Sequence[Arm], factors: Sequence[str]) -> tuple[list[Arm], list[str]]:
    """Leave out controls, and arms that may not be compared with the baseline; say which."""
    reference = marked_baseline(arms) or next(iter(arms), None)
    kept, notes = [], []
    for arm in arms:
        if CONTROL in arm.levels and CONTROL not in factors:
            notes.append(f"{arm.label} is a control beside the design: left out.")
        elif reference is not None and not comparable(arm, reference):
            notes.append(f"{arm.label} was trained by another recipe: left out.")
        else:
            kept.append(arm)
    return kept, notes if len(notes) <= 4 else [*notes[:3], f"So were {len(notes) - 3} more arms."]


def rows_of(
    arms: Sequence[Arm], measured: Sequence[ArmValues], factors: Sequence[str], metric: MetricColumn
) -> pd.DataFrame:
    """Return one row for each finished trial: seed, value, and the levels, the baseline's first in each factor."""
    taken = [factor for factor in factors if factor in (SEED, metric.column)]
    if taken or len(set(factors)) < len(factors):
        raise ValueError(f"factors: {', '.join(factors)}: name each factor once; {SEED} and {metric.column} are none")
    reference = marked_baseline(arms)
    lengths = [len(each.values) for each in measured]
    columns: dict[str, Any] = {
        SEED: np.concatenate([each.seeds for each in measured]) if measured else [],
        metric.column: np.concatenate([each.values for each in measured]) if measured else [],
    }
    for factor in factors:
        per_arm = level_of(arms, factor)
        base = [level for arm, level in zip(arms, per_arm, strict=True) if arm is reference and level is not None]
        order = list(dict.fromkeys([*base, *(level for level in per_arm if level is not None)]))
        each_row = [level for level, n in zip(per_arm, lengths, strict=True) for _ in range(n)]
        columns[factor] = pd.Categorical(each_row, categories=order)
    return pd.DataFrame(columns)


def data_of(result: FactorialEffects, rows: pd.DataFrame, corrected: pd.Series[float]) -> pd.DataFrame:
    """Put estimates and tests into one frame, term by term."""
    lines: list[dict[str, Any]] = []
    terms: list[Any] = list(result.terms.itertuples(index=False))
    for term, p_corrected in zip(terms, corrected.tolist(), strict=True):
        there = result.estimates[result.estimates["term"] == term.term]
        reference = first_level(rows[term.term]) if term.kind == "main" else None
        for each in there.itertuples(index=False):
            lines.append(
                {
                    "term": term.term,
                    "kind": term.kind,
                    "level": each.level,
                    "reference": reference,
                    "estimate": each.estimate,
                    "se": each.se,
                    "ci_low": each.low,
                    "ci_high": each.high,
                    "p_estimate": each.p_value,
                    "df": term.df,
                    "df_error": term.df_error,
                    "f": term.f,
                    "p_value": term.p_value,
                    "p_corrected": p_corrected,
                }
            )
    columns = {name: [None if pd.isna(line[name]) else line[name] for line in lines] for name in EFFECT_COLUMNS}
    return pd.DataFrame({name: pd.array(columns[name], dtype=dtype) for name, dtype in EFFECT_COLUMNS.items()})  # type: ignore[call-overload]


def first_level(column: pd.Series[Any]) -> str:
    """Return the reference level: the first that occurs, in the order of the categories."""
    there = set(column)
    return str(next(level for level in column.cat.categories if level in there))
