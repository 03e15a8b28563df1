"""Which factor matters, and does one depend on another? Main effects and pairwise interactions of a factorial design.

The model is: response = mean + main effects + pairwise interactions + seed + noise. The seed is a random effect (statsmodels
MixedLM, REML), so what a seed does to all arms alike is not taken for noise. Where that model cannot be fitted (the usual
cause: the seeds differ by less than the noise, so that their variance is estimated as zero), the seed becomes a fixed block
(least squares), which is always defined and gives the same tests in a balanced design; `method` and `notes` say so.

Factors are coded by deviations (sum coding), so that a main effect is an average over the levels of the other factors, also
where the design is not balanced. F tests and t intervals use the degrees of freedom of the block analysis,
N - seeds - coefficients: exact in balanced designs, where it is the classic analysis of variance of randomised blocks.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from search.report.statistics.stats import CONFIDENCE

__all__ = ["FactorialEffects", "factorial_effects"]

MIXED = "mixed model, seed as random effect (REML)"
BLOCKS = "least squares, seed as fixed block"
MEANS = "least squares, no error term"

Factors = dict[str, list[Hashable]]
Term = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FactorialEffects:
    """Effects of a factorial design.

    Attributes:
        method: which model gave the numbers: MIXED, BLOCKS or MEANS.
        n: rows that were used.
        seeds: different seeds among them.
        degrees: degrees of freedom of the error; 0 with MEANS.
        seed_sd: standard deviation between seeds, in the unit of the response; None unless MIXED.
        noise_sd: standard deviation of what is left; None with MEANS.
        terms: one line for each term: "term" ("where", or "where x branch"), "kind" ("main" or "interaction"), "df",
            "f" and "p_value" (NaN with MEANS), uncorrected.
        estimates: one line for each level that is not the reference (the first): "term", "level" ("stage3", or
            "stage3 x pssa"), "estimate", "se", "low", "high", "p_value". A main effect is the marginal mean of the level
            minus that of the reference; an interaction is a difference of differences: how much more the second factor
            changes at this level of the first than at its reference.
        notes: what was left out or done otherwise, and why; to be printed under any table made from this.
    """

    method: str
    n: int
    seeds: int
    degrees: int
    seed_sd: float | None
    noise_sd: float | None
    terms: pd.DataFrame
    estimates: pd.DataFrame
    notes: list[str]


@dataclass(frozen=True)
class Fit:
    """Coefficients (without blocks) and their covariance, whichever model they came from."""

    method: str
    coefficients: np.ndarray
    covariance: np.ndarray
    seed_sd: float | None
    noise_sd: float | None


def factorial_effects(
    frame: pd.DataFrame,
    response: str,
    factors: Sequence[str],
    *,
    seed: str = "seed",
    interactions: bool = True,
    confidence: float = CONFIDENCE,
) -> FactorialEffects:
    """Estimate main effects and pairwise interactions.

    Args:
        frame: one row for each finished trial; failed and pruned ones must not be in it. Rows in which the response is
            not finite, or a factor or the seed is missing, are left out, and counted in the notes.
        response: numeric column.
        factors: columns of levels. The reference is the first category of a categorical column, otherwise the first
            level in order of appearance.
        seed: column that pairs the rows.
        interactions: whether pairwise interactions are in the model.
        confidence: of the intervals.

    Raises:
        ValueError: a missing column, no usable row, or a factor with fewer than two levels.
    """
    if not factors or len(set(factors)) < len(factors):
        raise ValueError(f"factors must be one or more different columns, got {list(factors)}")
    absent = [name for name in (response, seed, *factors) if name not in frame.columns]
    if absent:
        raise ValueError(
            f"no column {', '.join(map(repr, absent))} in the frame; columns: {', '.join(map(str, frame.columns))}"
        )
    values = frame[response].to_numpy(dtype=float, na_value=np.nan)
    usable = np.isfinite(values) & frame[[seed, *factors]].notna().all(axis=1).to_numpy()
    notes = [f"{int((~usable).sum())} of {len(frame)} rows have no finite {response}, factor or seed: left out"]
    notes = notes if not usable.all() else []
    rows, y = frame[usable], values[usable]
    levels = {name: levels_of(rows[name]) for name in factors}
    few = [f"{name} ({len(found)})" for name, found in levels.items() if len(found) < 2]
    if few:
        raise ValueError(f"a factor needs two levels or more among the finished rows; too few in {', '.join(few)}")
    blocks = pd.get_dummies(rows[seed].astype("category").cat.remove_unused_categories(), dtype=float).to_numpy()
    wanted: list[Term] = [(name,) for name in factors]
    wanted += list(itertools.combinations(factors, 2)) if interactions else []
    terms, design, left_out = estimable(rows, levels, wanted, blocks)
    notes += left_out
    degrees = int(len(y) - np.linalg.matrix_rank(np.hstack([blocks, design])))
    fit, why = fitted(y, design, blocks, degrees)
    notes += why
    return FactorialEffects(
        method=fit.method,
        n=len(y),
        seeds=blocks.shape[1],
        degrees=degrees if fit.noise_sd is not None else 0,
        seed_sd=fit.seed_sd,
        noise_sd=fit.noise_sd,
        terms=term_tests(fit, terms, degrees),
        estimates=level_estimates(fit, terms, levels, degrees, confidence),
        notes=notes,
    )


def levels_of(column: pd.Series) -> list[Hashable]:
    """List the levels that occur, the reference first."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        there = set(column)
        return [level for level in column.cat.categories if level in there]
    return list(dict.fromkeys(column))


def codes(n_levels: int) -> np.ndarray:
    """Return the deviation coding: one line for each level, one column less; the last level is minus the sum."""
    return np.vstack([np.eye(n_levels - 1), -np.ones(n_levels - 1)])


def columns_of(term: Term, levels: Factors, rows: pd.DataFrame) -> np.ndarray:
    """Code one term: products of the codes of its factors, rows x (product of levels - 1)."""
    product = np.ones((len(rows), 1))
    for name in term:
        position = {level: index for index, level in enumerate(levels[name])}
        coded = codes(len(levels[name]))[[position[level] for level in rows[name]]]
        product = (product[:, :, None] * coded[:, None, :]).reshape(len(rows), -1)
    return product


def estimable(
    rows: pd.DataFrame, levels: Factors, wanted: list[Term], blocks: np.ndarray
) -> tuple[dict[Term, slice], np.ndarray, list[str]]:
    """Keep the terms that the finished cells can tell from the seeds and from the terms before them.

    Returns:
        The columns of each kept term in the design, the design (intercept first), and a note for each that was dropped.
    """
    terms: dict[Term, slice] = {}
    design, notes = np.ones((len(rows), 1)), []
    rank = np.linalg.matrix_rank(blocks)
    for term in wanted:
        added = columns_of(term, levels, rows)
        new_rank = np.linalg.matrix_rank(np.hstack([blocks, design, added]))
        if new_rank - rank < added.shape[1]:
            notes.append(why_not(term, added, terms, design, blocks, rows))
            continue
        terms[term] = slice(design.shape[1], design.shape[1] + added.shape[1])
        design, rank = np.hstack([design, added]), new_rank
    return terms, design, notes


def why_not(
    term: Term, added: np.ndarray, terms: dict[Term, slice], design: np.ndarray, blocks: np.ndarray, rows: pd.DataFrame
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
        both = np.hstack([blocks, design[:, where]])
        if np.linalg.matrix_rank(np.hstack([both, added])) - np.linalg.matrix_rank(both) < added.shape[1]:
            line = " x ".join(other)
            return f"{name} is aliased with {line}, as in a fraction of a factorial: what stands at {line} may be either, or both"
    return f"{name} cannot be estimated and is not in the model: it is aliased with the seeds or earlier terms"


def fitted(y: np.ndarray, design: np.ndarray, blocks: np.ndarray, degrees: int) -> tuple[Fit, list[str]]:
    """Fit the mixed model; where it cannot be fitted, the blocks; where nothing is left for noise, the means."""
    n_seeds, width = blocks.shape[1], design.shape[1]
    if degrees < 1:
        coefficients = np.linalg.lstsq(np.hstack([design, blocks[:, 1:]]), y, rcond=None)[0][:width]
        why = f"{len(y)} rows leave no degree of freedom for noise: estimates without intervals or tests; add seeds"
        return Fit(MEANS, coefficients, np.full((width, width), np.nan), None, None), [why]
    if n_seeds < 2:
        why = "the seed cannot be a random effect with a single seed: least squares; what seeds change is unknown"
        return blocked(y, design, blocks), [why]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # trial steps of the optimiser warn; what comes out is checked below
            warnings.simplefilter("error", ConvergenceWarning)
            # Powell needs no gradient, which is not defined where the variance between seeds nears zero.
            result = MixedLM(y, design, groups=blocks.argmax(axis=1)).fit(reml=True, method="powell")
        covariance = np.asarray(result.cov_params())[:width, :width]
        seed_variance = float(np.asarray(result.cov_re)[0, 0])
        if not (np.isfinite(covariance).all() and (np.diag(covariance) > 0).all() and seed_variance > 0):
            raise ValueError("its covariance is not defined")
    except (ConvergenceWarning, np.linalg.LinAlgError, ValueError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        return blocked(y, design, blocks), [f"the mixed model could not be fitted ({why}): {BLOCKS} instead"]
    scale = float(result.scale)
    return Fit(MIXED, np.asarray(result.fe_params), covariance, seed_variance**0.5, scale**0.5), []


def blocked(y: np.ndarray, design: np.ndarray, blocks: np.ndarray) -> Fit:
    """Fit by least squares with one column for each seed but the first."""
    width = design.shape[1]
    result = OLS(y, np.hstack([design, blocks[:, 1:]])).fit()
    covariance = np.asarray(result.cov_params())[:width, :width]
    return Fit(BLOCKS, np.asarray(result.params)[:width], covariance, None, float(result.scale) ** 0.5)


def term_tests(fit: Fit, terms: dict[Term, slice], degrees: int) -> pd.DataFrame:
    """Test each term as a whole: Wald F."""
    lines = []
    for term, where in terms.items():
        df, f = where.stop - where.start, np.nan
        if fit.noise_sd:
            part = fit.coefficients[where]
            f = float(part @ np.linalg.solve(fit.covariance[where, where], part)) / df
        kind = "main" if len(term) == 1 else "interaction"
        p_value = float(stats.f.sf(f, df, degrees)) if np.isfinite(f) else np.nan
        lines.append({"term": " x ".join(term), "kind": kind, "df": df, "f": f, "p_value": p_value})
    return pd.DataFrame(lines, columns=["term", "kind", "df", "f", "p_value"])


def level_estimates(
    fit: Fit, terms: dict[Term, slice], levels: Factors, degrees: int, confidence: float
) -> pd.DataFrame:
    """Compare each level with the reference, or each pair of levels by its difference of differences."""
    lines = []
    names = ["term", "level", "estimate", "se", "low", "high", "p_value"]
    for term, where in terms.items():
        for combination in itertools.product(*(range(1, len(levels[name])) for name in term)):
            contrast = np.ones(1)
            for name, index in zip(term, combination, strict=True):
                coded = codes(len(levels[name]))
                contrast = np.outer(contrast, coded[index] - coded[0]).ravel()
            estimate = float(contrast @ fit.coefficients[where])
            se = float(np.sqrt(contrast @ fit.covariance[where, where] @ contrast)) if fit.noise_sd else np.nan
            margin = float(stats.t.ppf((1 + confidence) / 2, degrees)) * se if fit.noise_sd else np.nan
            p_value = float(2 * stats.t.sf(abs(estimate) / se, degrees)) if fit.noise_sd else np.nan
            level = " x ".join(str(levels[name][index]) for name, index in zip(term, combination, strict=True))
            values = (" x ".join(term), level, estimate, se, estimate - margin, estimate + margin, p_value)
            lines.append(dict(zip(names, values, strict=True)))
    return pd.DataFrame(lines, columns=names)
