"""How the rows of a table are judged: by which correction, and which second opinions stand beside the paired t test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from search.report.spec import CHOICES, check_margin
from search.report.words import counted
from search.stats.corrections import Correction, adjusted_p_values, error_of_a_row
from search.stats.inference import bootstrap_interval, equivalence, wilcoxon_p_value
from search.stats.paired import (
    AFTER_CORRECTION,
    AHEAD,
    ALPHA,
    BEHIND,
    BETTER,
    UNDECIDED,
    WORSE,
    ArmValues,
    PairedDifference,
    verdict,
)
from search.stats.power import (
    exaggerations,
    hedges_factor,
    minimum_detectable_difference,
    powers,
    sd_interval,
    seeds_needed_each,
)
from xvol.suggest import nearest

POWER = 0.8
RESAMPLES = 9999
CORRECTIONS = {
    "holm": "Holm's method",
    "bonferroni": "Bonferroni's method",
    "bh": "the method of Benjamini and Hochberg",
}
SIZES: dict[str, str] = {
    "p_corrected": "Float64",  # of the paired t test, corrected over the rows; the verdict follows it
    "g_z": "Float64",  # mean over sd of the paired differences, with Hedges' correction; NA below 3 seeds
    "mdd": "Float64",  # smallest true difference found with 80% power at the error left to the row, by its sd
    "power": "Float64",  # of a finding, to find a true difference of the size measured, or the margin where smaller
    "exaggeration": "Float64",  # of a finding: how many times too large such findings are on average
    "seeds_needed": "Int64",  # in all, for 80% power at the margin, by the sd measured; NA without one, and where decided
    "seeds_low": "Int64",  # the same by the lower end of the 95% interval of that sd
    "seeds_high": "Int64",  # and by the upper end
}
EQUIVALENCE: dict[str, str] = {
    "equivalence_p": "Float64",  # two one-sided t tests against the margin, the larger p, of this row alone
    "equivalence_p_corrected": "Float64",
}
JUDGED: dict[str, str] = {
    **SIZES,
    "wilcoxon_p": "Float64",  # signed-rank test of this row alone
    "wilcoxon_p_corrected": "Float64",
    "boot_low": "Float64",  # 95% BCa bootstrap interval of the difference
    "boot_high": "Float64",
    **EQUIVALENCE,
}
"""What `judged` computes of each row, by the names of a table's columns, with their dtypes; NA where not asked for."""


@dataclass(frozen=True, kw_only=True)
class Judging:
    """What is asked of the rows of a table, beside the paired t test and its interval, which every table has.

    Attributes:
        correction: of p-values over the rows: "holm" and "bonferroni" (family-wise error), "bh" (Benjamini-Hochberg,
            false discovery rate) or "none".
        margin: smallest difference that matters, in the unit of the metric, chosen before the numbers
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
                near = nearest(str(value), allowed)
                hint = f". Did you mean {near[0]}?" if near else ""
                raise ValueError(f"{name}: {value!r} is not one of {', '.join(allowed)}{hint}")
        check_margin(self.margin)


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
        power, of a row that is a finding: the chance to find a true difference of the size measured, or of the margin
        where that is smaller; exaggeration, by what factor such findings are too large on average (see `exaggerations`);
        seeds_needed, where a margin is given and the row is undecided: how many seeds in all find with a power of 80% a
        true difference of the margin, by the spread measured, and seeds_low and seeds_high by the ends of the 95% interval
        of that spread; None above `MAX_SEEDS`;
        wilcoxon_p, boot_low and boot_high, equivalence_p (each of its row alone), and their corrected p-values.
    """
    raw = pd.Series([np.nan if each is None or each.p_value is None else each.p_value for each in results], dtype=float)
    corrected = adjusted_p_values(raw, judging.correction)
    facts: list[dict[str, Any]] = [dict.fromkeys(JUDGED) for _ in results]
    error = error_of_a_row(corrected, judging.correction, alpha=ALPHA)
    for fact, result, p in zip(facts, results, corrected.tolist(), strict=True):
        if result is None or result.mean is None or not result.sd or math.isnan(p):
            continue
        fact |= {
            "p_corrected": p,
            "g_z": hedges_factor(result.n - 1) * result.mean / result.sd if result.n > 2 else None,
            "mdd": minimum_detectable_difference(result.sd, result.n, alpha=error, target=POWER),
        }
    exaggerated(facts, results, error, judging.margin)
    if judging.margin is not None:
        planned(facts, results, error, judging.margin)
    second_opinions(facts, arms, reference, results, judging)
    return facts


def exaggerated(
    facts: list[dict[str, Any]], results: Sequence[PairedDifference | None], error: float, margin: float | None
) -> None:
    """Fill in the power behind each finding, and by how much such findings exaggerate."""
    found = [
        (fact, result.n, min(abs(result.mean), margin or math.inf) / result.sd)
        for fact, result in zip(facts, results, strict=True)
        if result is not None and result.mean and result.sd and (fact["p_corrected"] or math.inf) <= ALPHA
    ]
    if not found:
        return
    n, effects = np.array([row[1] for row in found]), np.array([row[2] for row in found])
    each = zip(found, powers(effects, n, error), exaggerations(effects, n, alpha=error), strict=True)
    for (fact, _, _), power, factor in each:
        fact |= {"power": float(power), "exaggeration": float(factor)}


def planned(
    facts: list[dict[str, Any]], results: Sequence[PairedDifference | None], error: float, margin: float
) -> None:
    """Fill in how many seeds would settle each undecided row."""
    undecided = [
        (fact, result.sd, result.n)
        for fact, result in zip(facts, results, strict=True)
        if result is not None and result.sd and fact["p_corrected"] is not None and fact["p_corrected"] > ALPHA
    ]
    if not undecided:
        return
    sd = np.array([row[1] for row in undecided])
    low, high = sd_interval(sd, np.array([row[2] for row in undecided]))
    for name, spread in (("seeds_needed", sd), ("seeds_low", low), ("seeds_high", high)):
        needed = seeds_needed_each(margin / spread, alpha=error, target=POWER)
        for (fact, _, _), seeds in zip(undecided, needed, strict=True):
            fact[name] = seeds


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


def corrected_over(correction: Correction, number: int, of: str = "comparison") -> str:
    """Say how the p-values of `number` comparisons are corrected."""
    rows = counted(number, of)
    if number == 1:
        return f"a single {of}"
    if correction == "none":
        return f"not corrected for the number of rows ({rows})"
    kind = "false discovery rate" if correction == "bh" else "family-wise error"
    return f"corrected over {rows} by {CORRECTIONS[correction]} ({kind})"


def by_seed(arm: ArmValues) -> pd.Series[float]:
    """Return the values of an arm, indexed by seed."""
    return pd.Series(arm.values, index=arm.seeds)


def within(margin: float, unit: str) -> str:
    """Say a verdict of equivalence."""
    return f"equivalent within ±{margin:g} {unit}"


def row_verdict(
    result: PairedDifference,
    fact: dict[str, Any],
    judging: Judging,
    *,
    higher_is_better: bool,
    unit: str,
    on_which: str = "",
) -> str:
    """Say what a row of a table allows to be said, after the correction over its rows.

    A row may differ from the baseline and still be equivalent to it: by a difference that is real and does not matter.

    Args:
        on_which: the seeds it rests on where a training failed on others, see `Survivors.on_which`: such an arm is ahead on
            those seeds, and never better.
    """
    words = verdict(result, higher_is_better=higher_is_better, p_corrected=fact["p_corrected"])
    if on_which and result.n > 1:
        words = {BETTER: AHEAD, WORSE: BEHIND}.get(words, words)
    p = fact["equivalence_p_corrected"]
    if judging.margin is not None and p is not None and p <= ALPHA:
        same = within(judging.margin, unit)
        words = f"{words}, yet {same}" if words in (BETTER, WORSE, AHEAD, BEHIND) else same
    if not on_which or result.n < 2:
        return words
    return f"{words} {on_which}" if words in (AHEAD, BEHIND, UNDECIDED, AFTER_CORRECTION) else f"{words}, {on_which}"


def compared_facts(result: PairedDifference | None) -> dict[str, Any]:
    """Return a paired difference by the names of a table's columns; None where there is none."""
    names = {"n_paired": "n", "diff": "mean", "ci_low": "low", "ci_high": "high", "p_value": "p_value"}
    return {column: getattr(result, name, None) for column, name in names.items()}
