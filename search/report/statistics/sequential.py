"""Add seeds only where a row is undecided, and still keep the error over all looks and all rows.

The rule, which `docs/results/statistics_truth.md` puts to the test:

1. The looks (numbers of seeds) are fixed before the first one, e.g. 5, 8, 12, 20.
2. The error alpha is split over the looks as an alpha-spending function says (Lan and DeMets 1983): look k gets
   alpha_k = spent(n_k / n_K) - spent(n_(k-1) / n_K), so that the alpha_k sum to alpha. "obrien_fleming" spends
   2 (1 - Phi(z / sqrt(fraction))) with z the upper alpha / 2 point: little early, most at the last look. "pocock" spends
   alpha ln(1 + (e - 1) fraction). "equal" gives each look the same.
3. At look k, Holm's procedure runs over the rows that are still undecided, at alpha_k: the smallest p-value is held
   against alpha_k / (rows not yet found), and so on (Holm 1979; within a look as in Maurer and Bretz 2013).
4. A row that is found stays found and gets no more seeds. A row that is undecided goes on to the next look.

Family-wise error <= alpha follows from the union bound over looks and the closure principle: for any set I of true null
hypotheses, some row of I is rejected at some look with chance at most sum over k of |I| alpha_k / |I| = alpha. It uses no
joint distribution of the looks and no large samples, so the paired t test may start at few seeds. The price is power:
boundaries that use the correlation of the looks would be a little wider (Jennison and Turnbull 2000).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from search.report.statistics.stats import difference

__all__ = ["SEQUENTIAL_COLUMNS", "LookPlan", "Spending", "plan_looks", "sequential_verdicts"]

Spending = Literal["obrien_fleming", "pocock", "equal"]

FOUND, UNDECIDED, WAITING, FINISHED = (
    "different",
    "undecided: more seeds",
    "waiting for seeds",
    "undecided at the last look",
)

SEQUENTIAL_COLUMNS: dict[str, str] = {
    "verdict": "string",  # "different", "undecided: more seeds", "waiting for seeds", "undecided at the last look"
    "look": "Int64",  # last look that this row took part in, from 1; NA before the first
    "n": "Int64",  # seeds used at that look
    "mean": "Float64",  # difference over those seeds
    "p_value": "Float64",  # paired t test at that look, uncorrected
    "bound": "Float64",  # a p-value up to this one is a finding at that look
    "level": "Float64",  # confidence of the interval taken alone: 1 - alpha_k / rows
    "low": "Float64",  # repeated confidence interval: covers at every look and in every row together, at 1 - alpha
    "high": "Float64",
    "seeds_to_add": "Int64",  # seeds this row still has to finish for its next look; 0 where it is settled
}
"""Name and dtype of each column of `sequential_verdicts`."""


@dataclass(frozen=True, kw_only=True)
class LookPlan:
    """When to look, and what error each look may spend.

    Attributes:
        looks: numbers of paired seeds, ascending, from 2 on.
        alphas: error that each look may spend over all rows; they sum to `alpha`.
        alpha: error over all looks and rows.
        spending: name of the spending function.
    """

    looks: tuple[int, ...]
    alphas: tuple[float, ...]
    alpha: float
    spending: Spending


def plan_looks(looks: Sequence[int], *, alpha: float = 0.05, spending: Spending = "obrien_fleming") -> LookPlan:
    """Fix the looks and split the error over them. To be called, and written down, before the first look.

    Raises:
        ValueError: looks that do not ascend from 2 on, an alpha outside 0 to 1, or an unknown spending function.
    """
    if not looks or looks[0] < 2 or any(later <= earlier for earlier, later in itertools.pairwise(looks)):
        raise ValueError(f"looks must be ascending numbers of seeds from 2 on, got {list(looks)}; e.g. [5, 8, 12, 20]")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}; 0.05 is usual")
    if spending not in get_args(Spending):
        raise ValueError(f"unknown spending function '{spending}'; functions: {', '.join(get_args(Spending))}")
    fractions = np.asarray(looks, dtype=float) / looks[-1]
    if spending == "obrien_fleming":
        spent = 2 * stats.norm.sf(stats.norm.isf(alpha / 2) / np.sqrt(fractions))
    elif spending == "pocock":
        spent = alpha * np.log1p((math.e - 1) * fractions)
    else:
        spent = alpha * np.arange(1, len(looks) + 1) / len(looks)
    alphas = np.diff(spent, prepend=0.0)
    return LookPlan(
        looks=tuple(int(n) for n in looks), alphas=tuple(map(float, alphas)), alpha=alpha, spending=spending
    )


def sequential_verdicts(plan: LookPlan, values: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Play all looks that the finished seeds allow, and say which rows want more seeds.

    Nothing is stored between looks: the same plan and the same seeds always give the same verdicts. A row takes part in
    look k with its first n_k paired seeds; a seed that failed is made up for by the next one.

    Args:
        plan: fixed before the first look.
        values: one column for each arm, one line for each seed in the order in which they were run, NaN where a cell is
            missing, failed or pruned.
        baseline: name of the column that the others are compared with.

    Returns:
        One line for each other arm with the columns and dtypes `SEQUENTIAL_COLUMNS`.

    Raises:
        ValueError: an unknown baseline, or a seed that occurs twice.
    """
    if baseline not in values.columns:
        raise ValueError(f"the baseline '{baseline}' is none of the arms: {', '.join(map(str, values.columns))}")
    names = [str(name) for name in values.columns if name != baseline]
    paired = {name: finished_pairs(values, name, baseline) for name in names}
    rows: dict[str, dict[str, Any]] = {
        name: {"verdict": WAITING, "seeds_to_add": max(plan.looks[0] - len(paired[name]), 0)} for name in names
    }
    found: set[str] = set()
    for look, (n, alpha) in enumerate(zip(plan.looks, plan.alphas, strict=True), start=1):
        present = [name for name in names if name not in found and len(paired[name]) >= n]
        results = {
            name: difference(*first_seeds(paired[name], n), confidence=1 - alpha / len(names)) for name in present
        }
        # Holm: the most convincing row first; one that fails ends the look.
        p_values = {name: math.nan if (p := results[name].p_value) is None else p for name in present}
        going = True
        for name in sorted(present, key=lambda name: (math.isnan(p_values[name]), p_values[name], name)):
            bound = alpha / (len(names) - len(found))
            going = going and p_values[name] <= bound
            result = results[name]
            rows[name] = {
                "look": look,
                "n": n,
                "mean": result.mean,
                "p_value": result.p_value,
                "bound": bound,
                "level": 1 - alpha / len(names),
                "low": result.low,
                "high": result.high,
                "verdict": FOUND if going else FINISHED if look == len(plan.looks) else UNDECIDED,
                "seeds_to_add": 0 if going or look == len(plan.looks) else max(plan.looks[look] - len(paired[name]), 0),
            }
            if going:
                found.add(name)
    return pd.DataFrame(
        {
            column: pd.Series({name: rows[name].get(column) for name in names}, dtype=dtype)
            for column, dtype in SEQUENTIAL_COLUMNS.items()
        }
    )


def finished_pairs(values: pd.DataFrame, name: str, baseline: str) -> pd.DataFrame:
    """Return the seeds that both arms finished, in the order in which they were run."""
    if not values.index.is_unique:
        raise ValueError("a seed occurs twice in the frame: keep one line for each seed")
    pairs = values[[name, baseline]].astype(float)
    return pairs[np.isfinite(pairs.to_numpy()).all(axis=1)]


def first_seeds(pairs: pd.DataFrame, n: int) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return arm and baseline on the first n seeds."""
    return pairs.iloc[:n, 0], pairs.iloc[:n, 1]
