"""Add seeds only where a row is undecided, and still keep the error over all looks and all rows.

The rule, which `docs/results/statistics_truth.md` puts to the test:

1. The looks (numbers of seeds) are fixed before the first one, e.g. 5, 8, 12, 20.
2. The error alpha is split over the looks as an alpha-spending function says (Lan and DeMets 1983): look k gets
   alpha_k = spent(n_k / n_K) - spent(n_(k-1) / n_K), so that the alpha_k sum to alpha. "hwang_shih_decani" spends
   alpha (1 - exp(2 f)) / (1 - exp(2)) at the fraction f (Hwang, Shih and De Cani 1990, gamma = -2): enough at 5 seeds of 20
   for a gross difference. "obrien_fleming" spends 2 (1 - Phi(z / sqrt(f))) with z the upper alpha / 2 point: next to
   nothing early. "pocock" spends alpha ln(1 + (e - 1) f): much early, at a price in power.
3. At look k, Holm's procedure runs over the rows that are not found yet, at alpha_k: the smallest p-value is held
   against alpha_k / (rows not yet found), and so on (Holm 1979; within a look as in Maurer and Bretz 2013).
4. A row that is found stays found and gets no more seeds. With a margin, the smallest difference that matters, a row is
   given up where its chance to be found at the last look is below a tenth, whether the truth is the margin or what is seen
   so far (conditional power, Lan, Simon and Halperin 1982). Any other undecided row goes on to the next look.

Family-wise error <= alpha follows from the union bound over looks and the closure principle: for any set I of true null
hypotheses, some row of I is rejected at some look with chance at most sum over k of |I| alpha_k / |I| = alpha. It uses no
joint distribution of the looks and no large samples, so the paired t test may start at few seeds. Giving up is not binding: it
takes findings away and adds none. Bounds from the normal joint distribution of the looks find 1 to 3 points more, but at
5 seeds they err in up to 5.4 % of rows in place of 5 (docs/LOG.md).
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

from search.stats.paired import PairedDifference, compared

Spending = Literal["hwang_shih_decani", "obrien_fleming", "pocock"]
GAMMA = -2.0  # of Hwang, Shih and De Cani
HOPELESS = 0.1
"""A row is given up where the chance that it is found at the last look is below this, see `_chance_left`."""

FOUND, GIVEN_UP, WAITING = "different", "given up", "waiting for seeds"
UNDECIDED, FINISHED = "undecided: more seeds", "undecided at the last look"

SEQUENTIAL_COLUMNS: dict[str, str] = {
    "verdict": "string",  # one of the words above
    "look": "Int64",  # last look that this row took part in, from 1; NA before the first
    "n": "Int64",  # seeds used at that look
    "mean": "Float64",  # difference over those seeds
    "p_value": "Float64",  # paired t test at that look, uncorrected
    "bound": "Float64",  # a p-value up to this one is a finding at that look
    "chance": "Float64",  # that the last look finds it (`_chance_left`); NA without a margin, and at that look
    "level": "Float64",  # confidence of the interval taken alone: 1 - alpha_k / rows
    "low": "Float64",  # repeated confidence interval: covers at every look and in every row together, at 1 - alpha
    "high": "Float64",
    "seeds_to_add": "Int64",  # seeds this row still has to finish for its next look; 0 where it is settled
}
"""Name and dtype of each column of `sequential_verdicts`."""


@dataclass(frozen=True, kw_only=True)
class LookPlan:
    """When to look, and what error each look may spend.

    `looks` are numbers of paired seeds, ascending, from 2 on; `alphas`, which sum to `alpha`, the error of each over all rows; `margin` is
    the smallest difference that matters, in the unit of the metric; None gives no row up.
    """

    looks: tuple[int, ...]
    alphas: tuple[float, ...]
    alpha: float
    spending: Spending
    margin: float | None = None


def plan_looks(
    looks: Sequence[int],
    *,
    alpha: float = 0.05,
    spending: Spending = "hwang_shih_decani",
    margin: float | None = None,
) -> LookPlan:
    """Fix the looks and split the error over them. To be called, and written down, before the first look.

    ValueError for looks that do not ascend from 2 on, an alpha outside 0 to 1, an unknown spending function, or a margin
    that is no number above zero.
    """
    if not looks or looks[0] < 2 or any(later <= earlier for earlier, later in itertools.pairwise(looks)):
        raise ValueError(f"looks must be ascending numbers of seeds from 2 on, got {list(looks)}; e.g. [5, 8, 12, 20]")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}; 0.05 is usual")
    if spending not in get_args(Spending):
        raise ValueError(f"unknown spending function '{spending}'; functions: {', '.join(get_args(Spending))}")
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin: {margin} is no number above zero; it is the smallest difference that matters")
    fractions = np.asarray(looks, dtype=float) / looks[-1]
    if spending == "hwang_shih_decani":
        spent = alpha * np.expm1(-GAMMA * fractions) / np.expm1(-GAMMA)
    elif spending == "obrien_fleming":
        spent = 2 * stats.norm.sf(stats.norm.isf(alpha / 2) / np.sqrt(fractions))
    else:
        spent = alpha * np.log1p((math.e - 1) * fractions)
    alphas = np.diff(spent, prepend=0.0)
    return LookPlan(
        looks=tuple(int(n) for n in looks),
        alphas=tuple(map(float, alphas)),
        alpha=alpha,
        spending=spending,
        margin=margin,
    )


def sequential_verdicts(plan: LookPlan, values: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Play all looks that the finished seeds allow, and say which rows want more seeds.

    Nothing is stored between looks: the same plan and the same seeds always give the same verdicts. A row takes part in
    look k with its first n_k paired seeds; a seed that failed is made up for by the next one.

    Args:
        values: one column for each arm, one line for each seed in the order in which they were run, NaN where a cell is
            missing, failed or pruned.
        baseline: name of the column that the others are compared with, one line each, by `SEQUENTIAL_COLUMNS`.
    """
    if baseline not in values.columns:
        raise ValueError(f"the baseline '{baseline}' is none of the arms: {', '.join(map(str, values.columns))}")
    names = [str(name) for name in values.columns if name != baseline]
    paired = {name: _finished_pairs(values, name, baseline) for name in names}
    rows: dict[str, dict[str, Any]] = {
        name: {"verdict": WAITING, "seeds_to_add": max(plan.looks[0] - len(paired[name]), 0)} for name in names
    }
    found, settled = set[str](), set[str]()  # settled: found, or given up
    for look, (n, alpha) in enumerate(zip(plan.looks, plan.alphas, strict=True), start=1):
        present = [name for name in names if name not in settled and len(paired[name]) >= n]
        level = 1 - alpha / max(len(names), 1)
        first_n = {name: paired[name][:n].T.copy() for name in present}
        results = {name: compared(arm[None], base[None], level)[0] for name, (arm, base) in first_n.items()}
        # Holm: the most convincing row first; one that fails ends the look.
        p_values = {name: math.nan if (p := results[name].p_value) is None else p for name in present}
        going, last = True, look == len(plan.looks)
        for name in sorted(present, key=lambda name: (math.isnan(p_values[name]), p_values[name], name)):
            bound = alpha / (len(names) - len(found))
            going = going and p_values[name] <= bound
            figures = {figure: getattr(results[name], figure) for figure in ("mean", "p_value", "low", "high")}
            rows[name] = figures | {
                "look": look,
                "n": n,
                "bound": bound,
                "level": level,
                "verdict": FOUND if going else FINISHED if last else UNDECIDED,
                "seeds_to_add": 0 if going or last else max(plan.looks[look] - len(paired[name]), 0),
            }
            if going:
                found.add(name)
        settled |= found
        for name in present if not last and plan.margin is not None else ():
            if name not in found and (chance := _chance_left(plan, results[name], len(names) - len(found))) is not None:
                rows[name]["chance"] = chance
                if chance < HOPELESS:
                    rows[name] |= {"verdict": GIVEN_UP, "seeds_to_add": 0}
                    settled.add(name)
    return pd.DataFrame(
        {
            column: pd.Series({name: rows[name].get(column) for name in names}, dtype=dtype)
            for column, dtype in SEQUENTIAL_COLUMNS.items()
        }
    )


def _chance_left(plan: LookPlan, so_far: PairedDifference, rows: int) -> float | None:
    """Return the chance that the last look finds a row, given its seeds so far; None where these show no spread.

    The truth is taken to be the margin upwards, the margin downwards or the difference seen so far, whichever gives the
    largest chance, and the spread to be the one seen. `rows` are not found yet: the last look is corrected over them.
    """
    if so_far.p_value is None or so_far.mean is None or so_far.sd is None or plan.margin is None:
        return None
    n, total = so_far.n, plan.looks[-1]
    bound = stats.t.isf(plan.alphas[-1] / rows / 2, total - 1) * so_far.sd / math.sqrt(total)
    spread = so_far.sd * math.sqrt(total - n) / total  # of the last mean, given the seeds so far
    truths = np.array([plan.margin, -plan.margin, so_far.mean])
    means = (n * so_far.mean + (total - n) * truths) / total
    return float((stats.norm.sf((bound - means) / spread) + stats.norm.cdf((-bound - means) / spread)).max())


def _finished_pairs(values: pd.DataFrame, name: str, baseline: str) -> np.ndarray:
    """Return arm and baseline on the seeds that both finished, in the order in which they were run: float64 (seeds, 2)."""
    if not values.index.is_unique:
        raise ValueError("a seed occurs twice in the frame: keep one line for each seed")
    pairs = values[[name, baseline]].to_numpy(dtype=float)
    return np.asarray(pairs[np.isfinite(pairs).all(axis=1)])
