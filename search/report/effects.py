"""The effects of a study's factors as a table: main effects, pairwise interactions, and what they allow to be said."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn
from search.ledger.study_files import CONTROL, OF_ROOTS
from search.report.arms import Arm, Declared, comparable, marked_baseline
from search.report.judging import CORRECTIONS
from search.report.table import Column, Table, interval_of, rows_of, value_of
from search.report.values import Reading, arm_values, levels, overrides, read_arms
from search.report.words import P_TITLES, counted, interval_decimals, joined, p_is, p_shown, signed
from search.stats.effects import SEED, FactorialEffects, factorial_effects, levels_of
from search.stats.inference import Correction, adjusted_p_values
from search.stats.paired import ALPHA, ArmValues
from search.stats.shapley import shapley

EFFECT_COLUMNS: dict[str, str] = {
    "term": "string",  # a factor, or a pair of factors joined by " x "
    "kind": "string",  # main, interaction or shapley
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
"""Name and dtype of each column of the `data` of `effects_table`: one row for each estimate; a term's test stands in each of its rows."""


def effects_table(
    frame: pd.DataFrame,
    factors: Sequence[str] = (),
    metric: str | None = None,
    phase: str | None = None,
    correction: Correction = "holm",
) -> Table:
    """Estimate the effects of a study's factors.

    Args:
        factors: names of the study's own factors, or of those that a table's rows may be of (see
            `search/report/values.py`); by default the factors that its design declared, else the keys of the
            overrides that every arm sets and that differ between arms. ValueError where none is known, an arm has none, or
            one has fewer than two levels.
        correction: of the p-values over the terms.
    """
    read = read_arms(frame, phase, metric)
    return effects_of_arms(read, factors or own_factors(read.arms, read.declared), correction, read.studies, parts=True)


def effects_of_arms(
    read: Reading, factors: Sequence[str], correction: Correction = "holm", study: str = "", parts: bool = False
) -> Table:
    """Estimate effects over arms, and with `parts` Shapley values where each factor has two levels; errors as `effects_table`."""
    metric, design = read.metric, read.declared.design
    kept, notes = _of_one_kind(read.arms, factors)
    measured = arm_values(kept, metric.column)
    rows = trials_of(kept, measured, factors, metric)
    unit = "seed" if all(each.roots is None for each in measured) else "root"
    result = factorial_effects(rows, metric.column, list(factors))
    corrected = adjusted_p_values(result.terms["p_value"], correction)
    data, of_parts = _data_of(result, rows, corrected), list[str]()
    if parts and len(factors) > 1 and all(len(levels_of(rows[name])) == 2 for name in factors):
        data, of_parts = _with_parts(data, rows, metric, factors)
    fraction = design is not None and design.kind == "fractional"
    columns = _columns_of(data, metric, correction)
    return Table(
        name="effects",
        title=f"{study}: effects on {metric.title}" if study else f"Effects on {metric.title}",
        columns=columns,
        rows=rows_of(columns, data.assign(first=~data["term"].duplicated()).itertuples(index=False)),
        data=data,
        conclusion=_said_of(result, corrected, metric, correction).replace("no two seeds", f"no two {unit}s"),
        notes=[
            *(note.replace("seed", unit) for note in _method_notes(result, correction, fraction, len(factors) > 2)),
            *notes,
            *(note.replace("seed", unit) for note in of_parts),
            *_shared_cells(kept),
            *(f"{note.replace('seed', unit)}." for note in result.notes),
        ],
        of="the effects",
    )


def _columns_of(data: pd.DataFrame, metric: MetricColumn, correction: Correction) -> list[Column]:
    """Say how the numbers are rounded for a reader; what is a whole term's stands in its first line alone."""
    ends = data[["ci_low", "ci_high"]].dropna().itertuples(index=False, name=None)
    digits = interval_decimals(ends, metric.decimals)

    def once(show: Callable[[Any], str]) -> Callable[[Any], str]:
        return lambda line: show(line) if line.first else ""

    def level(line: Any) -> str:
        return line.level if pd.isna(line.reference) else f"{line.level} against {line.reference}"

    def f(line: Any) -> str:
        return "-" if pd.isna(line.f) else f"{line.f:.3g} ({line.df}, {line.df_error})"

    return [
        Column("term", "term", "words", show=once(value_of("term"))),
        Column("level", "level", "words", show=level),
        Column("effect", f"effect, {metric.unit}", "math", show=lambda line: signed(line.estimate, digits)),
        Column("interval", "95% interval", "math", show=interval_of("ci_low", "ci_high", digits)),
        Column("f", "F", show=once(f)),
        Column("p", P_TITLES[correction], show=once(value_of("p_corrected", p_shown))),
    ]


def is_factorial(arms: Sequence[Arm], declared: Declared) -> bool:
    """Tell whether arms are those of a full or fractional factorial of two or more factors, as their study declared it.

    It is none for this purpose where two cells built one network (a branch argument where nothing is placed): there a
    factor is nested in another, and its main effect is an average over cells where it is nothing.
    """
    design = declared.design
    if design is None or design.kind not in ("factorial", "fractional"):
        return False
    beside = {cell.name for cell in design.cells if cell.factors.get(CONTROL) in OF_ROOTS}
    arms = [arm for arm in arms if not arm.cell_names or not beside.issuperset(arm.cell_names)]
    cells = [cell for cell in design.cells if CONTROL not in cell.factors]
    sizes = [len(found) for name, found in design.factors.items() if name != CONTROL]
    points = {tuple(sorted(cell.factors.items())) for cell in cells}
    whole = design.kind == "fractional" or len(points) == math.prod(sizes)
    alone = all(len(set(arm.cell_names) - beside) == 1 for arm in arms)
    return len(sizes) > 1 and whole and alone and len(arms) == len(design.cells) - len(beside)


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


def _level_of(arms: Sequence[Arm], factor: str) -> list[str | None]:
    """Return the level that each arm has of a factor: of the design's own, else of those that rows may be of."""
    if any(factor in arm.levels for arm in arms):
        return [arm.levels.get(factor) for arm in arms]
    return levels(arms, factor)


def _of_one_kind(arms: Sequence[Arm], factors: Sequence[str]) -> tuple[list[Arm], list[str]]:
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


def trials_of(
    arms: Sequence[Arm], measured: Sequence[ArmValues], factors: Sequence[str], metric: MetricColumn
) -> pd.DataFrame:
    """Return one row for each finished trial: seed, value, and the levels, the baseline's first in each factor.

    Where arms went on from several roots, these stand for seeds: orders on one root are averaged.
    """
    taken = [factor for factor in factors if factor in (SEED, metric.column)]
    if taken or len(set(factors)) < len(factors):
        raise ValueError(f"factors: {', '.join(factors)}: name each factor once; {SEED} and {metric.column} are none")
    reference = marked_baseline(arms)
    lengths = [len(each.values) for each in measured]
    columns: dict[str, Any] = {
        SEED: np.concatenate([each.seeds if each.roots is None else each.roots for each in measured])
        if measured
        else [],
        metric.column: np.concatenate([each.values for each in measured]) if measured else [],
    }
    for factor in factors:
        per_arm = _level_of(arms, factor)
        base = [level for arm, level in zip(arms, per_arm, strict=True) if arm is reference and level is not None]
        order = list(dict.fromkeys([*base, *(level for level in per_arm if level is not None)]))
        each_row = [level for level, n in zip(per_arm, lengths, strict=True) for _ in range(n)]
        columns[factor] = pd.Categorical(each_row, categories=order)
    return pd.DataFrame(columns)


def _data_of(result: FactorialEffects, rows: pd.DataFrame, corrected: pd.Series[float]) -> pd.DataFrame:
    lines = result.estimates.merge(
        result.terms.assign(p_corrected=corrected.to_numpy()), on="term", suffixes=("_estimate", ""), sort=False
    )
    names = {"low": "ci_low", "high": "ci_high", "p_value_estimate": "p_estimate"}
    kinds = zip(lines["term"], lines["kind"], strict=True)
    against = [str(levels_of(rows[term])[0]) if kind == "main" else None for term, kind in kinds]
    lines = lines.rename(columns=names).assign(reference=pd.array(against, dtype="string"))
    return lines[list(EFFECT_COLUMNS)].astype(EFFECT_COLUMNS)


def _with_parts(
    data: pd.DataFrame, rows: pd.DataFrame, metric: MetricColumn, factors: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Put the Shapley values of the factors behind their effects, and say what they are, or why there are none."""
    try:
        found = shapley(rows, metric.column, factors)
    except ValueError as error:
        return data, [f"No Shapley values of the factors: {error}."]
    named = found.assign(term=found["term"] + " (Shapley)", kind="shapley")
    named = named.rename(columns={"low": "ci_low", "high": "ci_high", "p_value": "p_estimate"})
    total = signed(float(found["estimate"].sum()), metric.decimals)
    lines = named.reindex(columns=list(EFFECT_COLUMNS)).astype(EFFECT_COLUMNS)
    return pd.concat([data, lines], ignore_index=True), [
        f"Shapley: what a factor adds at its level, averaged over all orders of adding the factors; the values sum to {total} "
        f"{metric.unit}, the difference between all and none. Their 95% t intervals are over the values of each seed."
    ]


def _said_of(
    result: FactorialEffects, corrected: pd.Series[float], metric: MetricColumn, correction: Correction
) -> str:
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


def _method_notes(result: FactorialEffects, correction: Correction, fraction: bool, many: bool) -> list[str]:
    tested = int(result.terms["p_value"].notna().sum())
    how = "not corrected"
    if correction != "none" and tested > 1:
        how = f"corrected by {CORRECTIONS[correction]} over {counted(tested, 'term')}"
    notes = [
        f"Each effect is computed within each seed, and judged by how it varies over the seeds, so it may differ from seed to "
        f"seed: {counted(result.n, 'trial')} on {counted(result.seeds, 'seed')}"
        + (f", t tests of {counted(result.degrees, 'degree')} of freedom." if result.degrees else "."),
        "Effect: of a factor, the mean of a level minus that of the level it is held against, over the levels of the other "
        "factors; of a pair, a difference of differences. 95% t intervals, each of its line alone. F and p are of the whole "
        f"term, against seed x term (Greenhouse and Geisser 1959), {how}.",
    ]
    if fraction:
        notes += ["The design is a fraction of a factorial: a line stands for its aliases too, which are named below."]
    return [*notes, *["Interactions of three or more factors are taken to be none."] * many]


def _shared_cells(arms: Sequence[Arm]) -> list[str]:
    return [
        f"The cells {joined([repr(name) for name in arm.cell_names])} build one network: it counts once, as the first. "
        "A factor that changes nothing there is nested in another: its effect is that of the other cells."
        for arm in arms
        if len(arm.cell_names) > 1
    ][:3]
