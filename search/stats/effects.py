"""Which factor matters, and does one depend on another? Main effects and pairwise interactions of a factorial design.

An effect may differ from seed to seed (seed x factor), and then noise inside a seed is not what it must be judged by. So
each effect is computed within each seed, as a contrast of that seed's cells, and a t test over the seeds' values judges it:
exact for normal values whatever varies by seed, and the same as random slopes for every factor, without a model that may
not converge. A term of several degrees of freedom is tested as in repeated measures: F against seed x term, with the degrees
of freedom of Greenhouse and Geisser (1959). `docs/results/statistics_truth.md` has the simulated error.

That takes seeds that hold the same cells. Seeds that lack a cell are left out; a cell that most seeds lack is left out
first. The notes name both. Where no two seeds remain, there are estimates without tests.

Factors are coded by deviations (sum coding), so that a main effect is an average over the levels of the other factors, also
where cells are missing altogether.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from search.stats.paired import CONFIDENCE

Factors = dict[str, list[Hashable]]
Term = tuple[str, ...]
SEED, VALUE, CELL = "seed", "(value)", "(cell)"  # columns: one of the caller's, two of our own
NO_SPREAD = 1e-12  # of the largest value: what is left of equal numbers by rounding


@dataclass(frozen=True, kw_only=True)
class FactorialEffects:
    """Effects of a factorial design, of n rows and so many seeds; `degrees` of freedom of each t test are seeds - 1, or 0.

    Attributes:
        terms: one line for each term: "term" ("where", or "where x branch"), "kind" ("main" or "interaction"), "df",
            "df_error", "f" and "p_value" (NaN where nothing can be tested, or no seed differs from another), uncorrected.
        estimates: one line for each level that is not the reference (the first): "term", "level" ("stage3", or
            "stage3 x pssa"), "estimate", "se", "low", "high", "p_value". A main effect is the marginal mean of the level
            minus that of the reference; an interaction is a difference of differences: how much more the second factor
            changes at this level of the first than at its reference.
        notes: what was left out or done otherwise, and why; to be printed under any table made from this.
    """

    n: int
    seeds: int
    degrees: int
    terms: pd.DataFrame
    estimates: pd.DataFrame
    notes: list[str]


def factorial_effects(frame: pd.DataFrame, response: str, factors: Sequence[str]) -> FactorialEffects:
    """Estimate main effects and pairwise interactions.

    Args:
        frame: one row for each finished trial; failed and pruned ones must not be in it. Rows in which the response is
            not finite, or a factor or the seed (column `SEED`) is missing, are left out, and counted in the notes. Rows of
            one cell and seed are averaged.
        factors: columns of levels. The reference is the first category of a categorical column, otherwise the first
            level in order of appearance. ValueError where one has fewer than two.
    """
    if not factors or len(set(factors)) < len(factors):
        raise ValueError(f"factors must be one or more different columns, got {list(factors)}")
    absent = [name for name in (response, SEED, *factors) if name not in frame.columns]
    if absent:
        raise ValueError(
            f"no column {', '.join(map(repr, absent))} in the frame; columns: {', '.join(map(str, frame.columns))}"
        )
    values = frame[response].to_numpy(dtype=float, na_value=np.nan)
    usable = np.isfinite(values) & frame[[SEED, *factors]].notna().all(axis=1).to_numpy()
    rows = frame.loc[usable, [SEED, *factors]].assign(**{VALUE: values[usable]})
    left_out = f"{int((~usable).sum())} of {len(frame)} rows have no finite {response}, factor or seed: left out"
    levels = {name: levels_of(rows[name]) for name in factors}
    few = [f"{name} ({len(found)})" for name, found in levels.items() if len(found) < 2]
    if few:
        raise ValueError(f"a factor needs two levels or more among the finished rows; too few in {', '.join(few)}")
    wanted: list[Term] = [*((name,) for name in factors), *itertools.combinations(factors, 2)]
    found = complete(rows, factors)
    if found.values is None:  # estimates over all rows, with what a seed does to all cells taken out
        seed_columns = pd.get_dummies(rows[SEED].astype("category"), dtype=float).to_numpy()
        terms, design, dropped = estimable(rows, levels, wanted, seed_columns)
        solution = np.linalg.lstsq(np.hstack([design, seed_columns[:, 1:]]), rows[VALUE].to_numpy(), rcond=None)[0]
        coefficients_SP, seeds, degrees = solution[None, : design.shape[1]], seed_columns.shape[1], 0
    else:
        levels = {name: [level for level in levels[name] if level in set(found.cells[name])] for name in factors}
        wanted = [term for term in wanted if all(len(levels[name]) > 1 for name in term)]
        terms, design, dropped = estimable(found.cells, levels, wanted, np.ones((len(found.cells), 1)))
        coefficients_SP = found.values @ np.linalg.pinv(design).T
        seeds, degrees = len(coefficients_SP), len(coefficients_SP) - 1
    return FactorialEffects(
        n=found.n,
        seeds=seeds,
        degrees=degrees,
        terms=term_tests(found.values, design, terms),
        estimates=_level_estimates(coefficients_SP, terms, levels, degrees),
        notes=[*([] if usable.all() else [left_out]), *found.notes, *dropped],
    )


@dataclass(frozen=True)
class Complete:
    """Seeds that hold the same cells: the value of each cell on each seed, seeds x cells, None where no two seeds hold two cells in
    common; the levels of each cell; the rows that were used; and what was left out.
    """

    values: np.ndarray | None
    cells: pd.DataFrame
    n: int
    notes: list[str]


def complete(rows: pd.DataFrame, factors: Sequence[str]) -> Complete:
    """Leave out the seeds that lack a cell, as long as that leaves half of them; else first the cell that most seeds lack."""
    key = rows.groupby(list(factors), observed=True, sort=False).ngroup()
    cells = rows[list(factors)].groupby(key).first()
    of_cell = rows.assign(**{CELL: key})
    means = of_cell.pivot_table(VALUE, SEED, CELL, aggfunc="mean", observed=True)
    counts = of_cell.pivot_table(VALUE, SEED, CELL, aggfunc="count", observed=True).fillna(0)
    there = counts == counts.max()  # of replicates that not every seed has, the mean is of something else
    n_seeds, dropped = len(there), []
    while there.all(axis=1).sum() < max(2, n_seeds / 2) and there.shape[1] > 1:
        worst: Any = there.sum().idxmin()
        dropped.append(f"{' x '.join(map(str, cells.loc[worst]))} (on {int(there[worst].sum())} of {n_seeds})")
        there = there.drop(columns=worst)
    whole = there.all(axis=1)
    if whole.sum() < 2 or there.shape[1] < 2:
        why = "no two seeds hold two cells in common: estimates without intervals or tests; add seeds"
        return Complete(None, cells, len(rows), [why])
    notes = [f"left out, since most seeds lack it: {'; '.join(dropped)}"] if dropped else []
    if not whole.all():
        notes.append(f"left out, since not every cell finished there: seed {', '.join(map(str, whole.index[~whole]))}")
    kept = counts.loc[whole, there.columns]
    n, values = int(kept.to_numpy().sum()), means.loc[kept.index, kept.columns].to_numpy()
    return Complete(values, cells.loc[kept.columns], n, notes)


def levels_of(column: pd.Series) -> list[Hashable]:
    """List the levels that occur, the reference first."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        there = set(column)
        return [level for level in column.cat.categories if level in there]
    return list(dict.fromkeys(column))


def _codes(n_levels: int) -> np.ndarray:
    """Return the deviation coding: one line for each level, one column less; the last level is minus the sum."""
    return np.vstack([np.eye(n_levels - 1), -np.ones(n_levels - 1)])


def _columns_of(term: Term, levels: Factors, rows: pd.DataFrame) -> np.ndarray:
    """Code one term: products of the codes of its factors, rows x (product of levels - 1)."""
    product = np.ones((len(rows), 1))
    for name in term:
        position = {level: index for index, level in enumerate(levels[name])}
        coded = _codes(len(levels[name]))[[position[level] for level in rows[name]]]
        product = (product[:, :, None] * coded[:, None, :]).reshape(len(rows), -1)
    return product


def estimable(
    rows: pd.DataFrame, levels: Factors, wanted: list[Term], seed_columns: np.ndarray
) -> tuple[dict[Term, slice], np.ndarray, list[str]]:
    """Keep the terms that the finished cells can tell from the seeds and from the terms before them.

    Returns the columns of each kept term in the design, the design (intercept first), and a note for each that was dropped.
    """
    terms: dict[Term, slice] = {}
    design, notes = np.ones((len(rows), 1)), []
    rank = np.linalg.matrix_rank(seed_columns)
    for term in wanted:
        added = _columns_of(term, levels, rows)
        new_rank = np.linalg.matrix_rank(np.hstack([seed_columns, design, added]))
        if new_rank - rank < added.shape[1]:
            notes.append(_why_not(term, added, terms, design, seed_columns, rows))
            continue
        terms[term] = slice(design.shape[1], design.shape[1] + added.shape[1])
        design, rank = np.hstack([design, added]), new_rank
    return terms, design, notes


def _why_not(
    term: Term,
    added: np.ndarray,
    terms: dict[Term, slice],
    design: np.ndarray,
    seed_columns: np.ndarray,
    rows: pd.DataFrame,
) -> str:
    """Say why a term is not in the model, and which line it is a part of where it is the alias of one."""
    name = " x ".join(term)
    empty = int(pd.crosstab(rows[term[0]], rows[term[-1]]).eq(0).sum().sum()) if len(term) == 2 else 0
    if empty:
        return (
            f"{name} cannot be estimated and is not in the model: {empty} of its cells "
            f"{'has' if empty == 1 else 'have'} no finished run"
        )
    for other, where in terms.items():
        both = np.hstack([seed_columns, design[:, where]])
        if np.linalg.matrix_rank(np.hstack([both, added])) - np.linalg.matrix_rank(both) < added.shape[1]:
            line = " x ".join(other)
            return f"{name} is aliased with {line}, as in a fraction of a factorial: what stands at {line} may be either, or both"
    return f"{name} cannot be estimated and is not in the model: it is aliased with the seeds or earlier terms"


def term_tests(values_SC: np.ndarray | None, design: np.ndarray, terms: dict[Term, slice]) -> pd.DataFrame:
    """Test each term as a whole: F of repeated measures, its degrees of freedom as Greenhouse and Geisser correct them."""
    names = ["term", "kind", "df", "df_error", "f", "p_value"]
    lines = []
    for term, where in terms.items():
        df, df_error, f, p_value = where.stop - where.start, 0, np.nan, np.nan
        if values_SC is not None:
            df_error = df * (len(values_SC) - 1)
            scores_SQ = values_SC @ contrasts(design, where)
            spread_QQ = np.atleast_2d(np.cov(scores_SQ.T))
            between = len(scores_SQ) * float((scores_SQ.mean(axis=0) ** 2).sum())
            within = float(np.trace(spread_QQ))
            if within > (NO_SPREAD * np.abs(values_SC).max()) ** 2:
                f = between / within
                epsilon = within**2 / (df * float((spread_QQ**2).sum()))
                p_value = float(stats.f.sf(f, df * epsilon, df_error * epsilon))
        kind = "main" if len(term) == 1 else "interaction"
        lines.append(dict(zip(names, (" x ".join(term), kind, df, df_error, f, p_value), strict=True)))
    return pd.DataFrame(lines, columns=names)


def contrasts(design: np.ndarray, where: slice) -> np.ndarray:
    """Return orthonormal contrasts of the cells that a term has beside all other terms, cells x degrees of freedom."""
    own = design[:, where]
    others = np.delete(design, np.r_[where], axis=1)
    left = own - others @ np.linalg.lstsq(others, own, rcond=None)[0]
    return np.asarray(np.linalg.qr(left)[0])


def _level_estimates(
    coefficients_SP: np.ndarray, terms: dict[Term, slice], levels: Factors, degrees: int
) -> pd.DataFrame:
    """Compare each level with the reference, or each pair of levels by its difference of differences."""
    lines = []
    names = ["term", "level", "estimate", "se", "low", "high", "p_value"]
    for term, where in terms.items():
        for combination in itertools.product(*(range(1, len(levels[name])) for name in term)):
            contrast = np.ones(1)
            for name, index in zip(term, combination, strict=True):
                coded = _codes(len(levels[name]))
                contrast = np.outer(contrast, coded[index] - coded[0]).ravel()
            each_seed = coefficients_SP[:, where] @ contrast
            estimate, se, p_value = float(each_seed.mean()), np.nan, np.nan
            if degrees and each_seed.std() > NO_SPREAD * np.abs(coefficients_SP).max():
                se = float(each_seed.std(ddof=1) / np.sqrt(len(each_seed)))
                p_value = float(2 * stats.t.sf(abs(estimate) / se, degrees))
            margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * se if degrees else np.nan
            level = " x ".join(str(levels[name][index]) for name, index in zip(term, combination, strict=True))
            values = (" x ".join(term), level, estimate, se, estimate - margin, estimate + margin, p_value)
            lines.append(dict(zip(names, values, strict=True)))
    return pd.DataFrame(lines, columns=names)
