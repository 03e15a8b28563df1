"""What each part of a whole is worth: Shapley values (Shapley 1953) of the factors of a full factorial design of two levels each.

The value of a part is what it adds, averaged over all orders in which the parts may be put in; the values of all parts sum to the
difference between all of them and none. Each seed has its own values, of its own cells, so that a t interval over seeds is paired.

S = seeds, P = parts, C = 2**P cells.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from search.stats.effects import NO_SPREAD, SEED, VALUE, complete, levels_of
from search.stats.paired import CONFIDENCE


def shapley_values(values_SC: np.ndarray) -> np.ndarray:
    """Return the values of the parts on each seed, (S, P) float64, of the cells, (S, C): cell c has part p where its bit p is set."""
    n_parts = values_SC.shape[1].bit_length() - 1
    cells = np.arange(2**n_parts)
    if values_SC.shape[1] != len(cells):
        raise ValueError(f"a full factorial of two levels has 2, 4, 8, ... cells, not {values_SC.shape[1]}")
    sizes = np.array([int(cell).bit_count() for cell in cells])
    found = np.empty((len(values_SC), n_parts))
    for part in range(n_parts):
        without = cells[cells >> part & 1 == 0]
        weights = [
            math.factorial(n) * math.factorial(n_parts - n - 1) / math.factorial(n_parts) for n in sizes[without]
        ]
        found[:, part] = (values_SC[:, without | 1 << part] - values_SC[:, without]) @ np.array(weights)
    return found


def shapley(frame: pd.DataFrame, response: str, factors: Sequence[str]) -> pd.DataFrame:
    """Estimate the values of factors, each of which is a part that is there (its second level) or not (its first, the reference).

    Args:
        frame: as for `factorial_effects`.

    Returns:
        One line for each factor: "term", "level", "reference", "estimate" (mean over seeds), "se", "low" and "high" (95% t interval; NaN
        where no seed differs from another), "p_value", uncorrected.

    Raises:
        ValueError: a factor has not two levels, a cell is missing, or no two seeds hold all cells; the message names them.
    """
    values = frame[response].to_numpy(dtype=float, na_value=np.nan)
    usable = np.isfinite(values) & frame[[SEED, *factors]].notna().all(axis=1).to_numpy()
    rows = frame.loc[usable, [SEED, *factors]].assign(**{VALUE: values[usable]})
    levels = {name: levels_of(rows[name]) for name in factors}
    if wrong := [f"{name} has {len(found)}" for name, found in levels.items() if len(found) != 2]:
        raise ValueError(f"a part is there or not, so its factor has two levels: {', '.join(wrong)}")
    found = complete(rows, factors)
    wanted = [
        tuple(levels[name][on] for name, on in zip(factors, cell[::-1], strict=True))
        for cell in itertools.product((0, 1), repeat=len(factors))
    ]
    at = {
        tuple(cell): number for number, cell in enumerate(found.cells[list(factors)].itertuples(index=False, name=None))
    }
    if missing := [" x ".join(map(str, cell)) for cell in wanted if cell not in at]:
        raise ValueError(
            f"not a full factorial: {len(missing)} of {len(wanted)} cells are missing, {'; '.join(missing[:4])}"
        )
    if found.values is None:
        raise ValueError(f"no two seeds hold all {len(wanted)} cells: add seeds")
    each = shapley_values(found.values[:, [at[cell] for cell in wanted]])
    n, spread = len(each), each.std(axis=0, ddof=1)
    se = np.where(spread > NO_SPREAD * np.abs(found.values).max(), spread / math.sqrt(n), np.nan)
    mean, half = each.mean(axis=0), stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * se
    return pd.DataFrame(
        {
            "term": list(factors),
            "level": [str(levels[name][1]) for name in factors],
            "reference": [str(levels[name][0]) for name in factors],
            "estimate": mean,
            "se": se,
            "low": mean - half,
            "high": mean + half,
            "p_value": 2 * stats.t.sf(np.abs(mean) / se, n - 1),
        }
    )
