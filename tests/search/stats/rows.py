"""All that a table says of each row, in pandas, a row at a time: what the table's own arrays must come to, and what laws are checked on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from search.stats.inference import (
    Correction,
    adjusted_p_values,
    bootstrap_interval,
    equivalence_p_value,
    error_of_a_row,
    hedges_factor,
    minimum_detectable_difference,
    seeds_needed,
    wilcoxon_p_value,
)
from search.stats.paired import difference, paired_values

ROW_COLUMNS: dict[str, str] = {
    "n": "Int64",  # seeds that both this arm and the baseline finished
    "missing": "Int64",  # seeds that any arm finished and this pair did not
    "mean": "Float64",  # of arm minus baseline, in the unit of the metric
    "sd": "Float64",  # of the difference over seeds, n - 1 in the denominator
    "low": "Float64",  # t interval of this row alone, at 1 - alpha
    "high": "Float64",
    "p_value": "Float64",  # paired t test, two-sided, uncorrected
    "p_adjusted": "Float64",  # corrected over the rows that could be tested
    "finding": "boolean",  # p_adjusted <= alpha; NA where not tested
    "level": "Float64",  # confidence of each simultaneous interval taken alone
    "boot_low": "Float64",  # bootstrap interval of this row alone, at 1 - alpha
    "boot_high": "Float64",
    "wilcoxon_p": "Float64",  # signed-rank test, two-sided, uncorrected
    "wilcoxon_p_adjusted": "Float64",
    "d_z": "Float64",  # mean / sd
    "g_z": "Float64",  # d_z with Hedges' correction
    "mdd": "Float64",  # smallest true difference that n seeds find with the power asked for, at this row's level
    "seeds_needed": "Int64",  # seeds in all that find the smallest difference that matters; NA without one, and where decided
    "equivalence_p": "Float64",  # uncorrected
    "equivalence_p_adjusted": "Float64",
}
"""Name and dtype of each column of `row_statistics`; what was not asked for, or is not defined, is NA."""


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """What `row_statistics` computes.

    Attributes:
        correction: which error is held over the rows: "holm", "bonferroni", "bh" or "none".
        alpha: that error, and one minus the confidence of the intervals of single rows.
        bootstrap: whether to compute an interval.
        resamples: of the bootstrap.
        bootstrap_seed: the same seed gives the same interval, whatever the other rows are.
        wilcoxon: whether to test signed ranks too.
        margin: smallest difference that matters, in the unit of the metric, for the equivalence test; None for none.
        smallest: difference that `seeds_needed` reckons with; by default the margin. Without either it is not given.
        power: asked for in `mdd` and `seeds_needed`.
    """

    correction: Correction = "holm"
    alpha: float = 0.05
    bootstrap: bool = True
    resamples: int = 9999
    bootstrap_seed: int = 0
    wilcoxon: bool = False
    margin: float | None = None
    smallest: float | None = None
    power: float = 0.8


def row_statistics(
    values: Mapping[str, pd.Series[float]] | pd.DataFrame, baseline: str, options: RowOptions | None = None
) -> pd.DataFrame:
    """Compare each arm with the baseline.

    Args:
        values: for each arm its values indexed by seed, of trials that finished: failed and pruned ones must not be in
            it (`Arm.values` leaves them out), NaN is a missing cell. All of one metric, phase and recipe.
        baseline: name of the arm that the others are compared with.
        options: what to compute.

    Returns:
        One row for each other arm, in the order given, indexed by its name, with the columns and dtypes `ROW_COLUMNS`.

    Raises:
        ValueError: an unknown baseline, a seed that occurs twice in an arm, or options outside their range.
    """
    options = options or RowOptions()
    if options.smallest is not None and not options.smallest > 0:
        raise ValueError(
            f"the smallest difference that matters must be above zero, got {options.smallest}; e.g. 0.2 points"
        )
    arms = {str(name): series for name, series in values.items()}
    if baseline not in arms:
        raise ValueError(f"the baseline '{baseline}' is none of the arms: {', '.join(arms) or 'none'}")
    seeds = {seed for series in arms.values() for seed in series.index[np.isfinite(series.to_numpy(dtype=float))]}
    rows = {
        name: one_row(series, arms[baseline], len(seeds), options) for name, series in arms.items() if name != baseline
    }
    table = pd.DataFrame(
        {
            column: pd.Series({name: row.get(column) for name, row in rows.items()}, dtype=dtype)
            for column, dtype in ROW_COLUMNS.items()
        }
    )
    return planned(corrected(table, options), options)


def one_row(arm: pd.Series[float], baseline: pd.Series[float], n_seeds: int, options: RowOptions) -> dict[str, Any]:
    """Compute what one row has without the others."""
    result = difference(arm, baseline, confidence=1 - options.alpha)
    pairs = paired_values(arm, baseline)
    deltas = (pairs["arm"] - pairs["baseline"]).to_numpy()
    row: dict[str, Any] = {name: getattr(result, name) for name in ("n", "mean", "sd", "low", "high", "p_value")}
    row["missing"] = n_seeds - result.n
    if options.wilcoxon:
        row["wilcoxon_p"] = wilcoxon_p_value(deltas)
    if result.p_value is None:
        return row
    row["d_z"] = result.mean / result.sd  # type: ignore[operator]
    row["g_z"] = hedges_factor(result.n - 1) * row["d_z"] if result.n > 2 else None
    if options.bootstrap:
        interval = bootstrap_interval(deltas, resamples=options.resamples, seed=options.bootstrap_seed)
        row["boot_low"], row["boot_high"] = interval or (None, None)
    if options.margin is not None:
        row["equivalence_p"] = equivalence_p_value(deltas, options.margin)
    return row


def corrected(table: pd.DataFrame, options: RowOptions) -> pd.DataFrame:
    """Fill in what depends on how many rows there are."""
    tested = table["p_value"].notna()
    for name in ("p_value", "wilcoxon_p", "equivalence_p"):
        adjusted = adjusted_p_values(table[name].astype(float), options.correction)
        table[f"{name.removesuffix('_value')}_adjusted"] = adjusted.astype("Float64")
    table["finding"] = (table["p_adjusted"] <= options.alpha).where(tested)
    error = error_of_a_row(table["p_adjusted"].astype(float), options.correction, alpha=options.alpha)
    table["level"] = pd.Series(1 - error, index=table.index, dtype="Float64").where(tested)
    return table


def planned(table: pd.DataFrame, options: RowOptions) -> pd.DataFrame:
    """Fill in what the seeds can resolve, at the error that the correction leaves to each row."""
    smallest, target = options.smallest or options.margin, options.power
    resolved, needed = list[float | None](), list[int | None]()
    rows: list[Any] = list(table.itertuples())
    for row in rows:
        error = 1 - float(row.level) if pd.notna(row.p_value) else None
        sd = float(row.sd) if error else 0.0
        resolved.append(minimum_detectable_difference(sd, int(row.n), alpha=error, target=target) if error else None)
        asked = smallest if error and not row.finding else None
        needed.append(seeds_needed(np.array([asked / sd]), alpha=error, target=target)[0] if asked and error else None)
    return table.assign(mdd=pd.array(resolved, dtype="Float64"), seeds_needed=pd.array(needed, dtype="Int64"))
