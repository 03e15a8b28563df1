"""How the rows of a table are judged: by which correction, and which second opinions stand beside the paired t test."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from search.report.spec import CHOICES
from search.report.statistics.corrections import Correction, adjusted_p_values, error_of_a_row
from search.report.statistics.effect_size import hedges_factor
from search.report.statistics.equivalence import equivalence
from search.report.statistics.inference import bootstrap_interval, wilcoxon_p_value
from search.report.statistics.power import minimum_detectable_difference, seeds_needed_each
from search.report.statistics.stats import ALPHA, BETTER, WORSE, PairedDifference, verdict
from search.report.values import ArmValues

__all__ = ["CORRECTIONS", "JUDGED", "POWER", "RESAMPLES", "Judging", "judged", "row_verdict", "within"]

POWER = 0.8
RESAMPLES = 9999
CORRECTIONS = {
    "holm": "Holm's method",
    "bonferroni": "Bonferroni's method",
    "bh": "the method of Benjamini and Hochberg",
}
JUDGED = (
    "p_corrected",
    "g_z",
    "mdd",
    "seeds_needed",
    "wilcoxon_p",
    "wilcoxon_p_corrected",
    "boot_low",
    "boot_high",
    "equivalence_p",
    "equivalence_p_corrected",
)
"""What `judged` computes of each row, by the names of a table's columns."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What is asked of the rows of a table, beside the paired t test and its interval, which every table has.

    Attributes:
        correction: of p-values over the rows: "holm" and "bonferroni" (family-wise error), "bh" (Benjamini-Hochberg,
            false discovery rate) or "none".
        margin: smallest difference that matters, in the unit of the metric (points for top-1), chosen before the numbers
            are seen; rows are then tested for equivalence within it. None tests none.
        test: "wilcoxon" gives the signed-rank test beside the t test; verdicts follow the t test either way.
        interval: "bootstrap" gives a BCa bootstrap interval beside the t interval, always of the same resamples.

    Raises:
        ValueError: a value that is not offered, or a margin that is not above zero.
    """

    correction: Correction = "holm"
    margin: float | None = None
    test: str = "t"
    interval: str = "t"

    def __post_init__(self) -> None:
        for name in ("correction", "test", "interval"):
            value, allowed = getattr(self, name), CHOICES[name]
            if value not in allowed:
                near = difflib.get_close_matches(str(value), allowed, n=1)
                hint = f". Did you mean {near[0]}?" if near else ""
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}{hint}")
        margin = self.margin
        if margin is not None and not (
            isinstance(margin, int | float) and not isinstance(margin, bool) and 0 < margin < math.inf
        ):
            raise ValueError(
                f"margin: {margin!r} is no number above zero; give the smallest difference that matters, in the unit of "
                "the metric, e.g. 0.5 for half a point of top-1"
            )


def judged(
    arms: Sequence[ArmValues], reference: ArmValues, results: Sequence[PairedDifference | None], judging: Judging
) -> list[dict[str, Any]]:
    """Compute what the rows of a table say together.

    Args:
        arms: the numbers of each arm.
        reference: those of the baseline.
        results: the paired difference of each arm to it; None for the baseline itself, and where none may be taken.
        judging: what is asked.

    Returns:
        For each arm the names `JUDGED`; None where not asked for, or not defined:
        p_corrected, of the two-sided paired t test over the rows that could be tested;
        g_z, mean over sd of the paired differences with Hedges' correction (see `effect_size`);
        mdd, the smallest true difference that the row's seeds find with a power of 80% at the error that the correction
        surely leaves to a row (see `error_of_a_row`);
        seeds_needed, how many seeds in all find with that power a true difference of the margin, or without one of the
        size measured; None for a row that is decided, and above `MAX_SEEDS`;
        wilcoxon_p, boot_low and boot_high, equivalence_p (each of its row alone), and their corrected p-values.
    """
    raw = pd.Series([np.nan if each is None or each.p_value is None else each.p_value for each in results], dtype=float)
    corrected = adjusted_p_values(raw, judging.correction)
    facts: list[dict[str, Any]] = [dict.fromkeys(JUDGED) for _ in results]
    error = error_of_a_row(corrected, judging.correction, alpha=ALPHA)
    effects = np.full(len(results), np.nan)
    for position, (result, p) in enumerate(zip(results, corrected.tolist(), strict=True)):
        if result is None or result.mean is None or not result.sd or math.isnan(p):
            continue
        facts[position] |= {
            "p_corrected": p,
            "g_z": hedges_factor(result.n - 1) * result.mean / result.sd if result.n > 2 else None,
            "mdd": minimum_detectable_difference(result.sd, result.n, alpha=error, target=POWER),
        }
        if p > ALPHA:
            effects[position] = (judging.margin or result.mean) / result.sd
    for fact, seeds in zip(facts, seeds_needed_each(effects, alpha=error, target=POWER), strict=True):
        fact["seeds_needed"] = seeds
    second_opinions(facts, arms, reference, results, judging)
    return facts


def second_opinions(
    facts: list[dict[str, Any]],
    arms: Sequence[ArmValues],
    reference: ArmValues,
    results: Sequence[PairedDifference | None],
    judging: Judging,
) -> None:
    """Fill in the tests and intervals that were asked for."""
    if judging.margin is None and judging.test == "t" and judging.interval == "t":
        return
    baseline = by_seed(reference)
    for fact, values, result in zip(facts, arms, results, strict=True):
        if result is None:
            continue
        arm = by_seed(values)
        if judging.margin is not None:
            fact["equivalence_p"] = equivalence(arm, baseline, judging.margin, alpha=ALPHA).p_value
        if judging.test == "wilcoxon":
            fact["wilcoxon_p"] = wilcoxon_p_value(arm, baseline)
        if judging.interval == "bootstrap":
            interval, _ = bootstrap_interval(arm, baseline, resamples=RESAMPLES)
            fact["boot_low"], fact["boot_high"] = interval or (None, None)
    for name in ("wilcoxon_p", "equivalence_p"):
        corrected = adjusted_p_values(pd.Series([fact[name] for fact in facts], dtype=float), judging.correction)
        for fact, p in zip(facts, corrected.tolist(), strict=True):
            fact[f"{name}_corrected"] = None if math.isnan(p) else p


def by_seed(arm: ArmValues) -> pd.Series[float]:
    """Return the values of an arm, indexed by seed."""
    return pd.Series(arm.values, index=arm.seeds)


def within(margin: float, unit: str) -> str:
    """Say a verdict of equivalence."""
    return f"equivalent within ±{margin:g} {unit}"


def row_verdict(
    result: PairedDifference, fact: dict[str, Any], judging: Judging, *, higher_is_better: bool, unit: str
) -> str:
    """Say what a row of a table allows to be said, after the correction over its rows.

    A row may differ from the baseline and still be equivalent to it: by a difference that is real and does not matter.
    """
    words = verdict(result, higher_is_better=higher_is_better, p_corrected=fact["p_corrected"])
    p = fact["equivalence_p_corrected"]
    if judging.margin is None or p is None or p > ALPHA:
        return words
    same = within(judging.margin, unit)
    return f"{words}, yet {same}" if words in (BETTER, WORSE) else same
