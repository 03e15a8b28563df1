"""How the rows of a table are judged: by which correction, and which second opinions stand beside the paired t test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.arms import Arm, comparable
from search.report.spec import check_choice, check_margin
from search.report.words import counted
from search.stats import inference, paired
from search.stats.inference import Correction
from search.stats.nested import NestedDifference, differences, judged_deltas
from search.stats.paired import ArmValues, PairedDifference, Survivors

POWER = 0.8
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
ROOTS: dict[str, str] = {
    "roots": "Int64",  # trained networks from which both this arm and the baseline went on and finished
    "orders": "Float64",  # trainings on each of them, on average
    "sd_between": "Float64",  # of the paired difference between roots, with what orders bring into it taken out
    "sd_between_low": "Float64",  # ends of its 95% interval
    "sd_between_high": "Float64",
    "sd_within": "Float64",  # of the paired difference between orders on one root; NA where each root has one
    "sd_within_low": "Float64",
    "sd_within_high": "Float64",
    "mixed_diff": "Float64",  # by the mixed model: random roots, orders nested in them
    "mixed_low": "Float64",
    "mixed_high": "Float64",
    "mixed_p": "Float64",  # of this row alone
}
"""What is known of a row that is judged over roots, in tables of such, where `n_paired` counts trainings, and seeds needed are roots."""
Sized = tuple[dict[str, Any], int, float, float]  # of a tested row: its facts to be filled, seeds, difference, spread


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
    """

    correction: Correction = "holm"
    margin: float | None = None
    test: str = "t"
    interval: str = "t"

    def __post_init__(self) -> None:
        for name in ("correction", "test", "interval"):
            check_choice(name, getattr(self, name))
        check_margin(self.margin)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What holds an arm against the baseline; only `facts`, all of them None, where it may not be, or is the baseline itself."""

    result: PairedDifference | None = None
    survived: Survivors | None = None
    facts: dict[str, Any] = field(default_factory=lambda: dict.fromkeys(JUDGED))

    def columns(self) -> dict[str, Any]:
        """Return the paired difference and the facts by the names of a table's columns."""
        names = {"n_paired": "n", "diff": "mean", "ci_low": "low", "ci_high": "high", "p_value": "p_value"}
        of_result = {column: getattr(self.result, name, None) for column, name in names.items()}
        if isinstance(self.result, NestedDifference):
            of_result["n_paired"] = self.result.pairs
        return of_result | self.facts

    def over_roots(self) -> dict[str, Any]:
        """Return what is known of roots and orders by the names of `ROOTS`, all of it None for a row that is not judged over them."""
        result = self.result
        if not isinstance(result, NestedDifference):
            return dict.fromkeys(ROOTS)
        known = {f"sd_{name}": value for name, value in vars(result.spreads).items()}
        known |= {"roots": result.n, "orders": result.pairs / result.n if result.n else None}
        model = {"mixed_diff": "mean", "mixed_low": "low", "mixed_high": "high", "mixed_p": "p_value"}
        return known | {column: getattr(result.mixed, name) for column, name in model.items()}


def compared(
    arms: Sequence[Arm], measured: Sequence[ArmValues], reference: Arm | None, metric: MetricColumn, judging: Judging
) -> list[Compared]:
    """Hold each arm against the baseline; `reference` is one of the arms, None where there is none."""
    if reference is None:
        return [Compared() for _ in arms]
    baseline = measured[_position_of(reference, arms)]
    results = differences_to(reference, arms, measured)
    facts = judged(measured, baseline, results, judging)
    return [
        Compared(facts=fact)
        if result is None
        else Compared(result=result, survived=paired.survivors(values, baseline, metric.worst), facts=fact)
        for values, result, fact in zip(measured, results, facts, strict=True)
    ]


def _position_of(reference: Arm, arms: Sequence[Arm]) -> int:
    return next(position for position, arm in enumerate(arms) if arm is reference)


def differences_to(reference: Arm, arms: Sequence[Arm], measured: Sequence[ArmValues]) -> list[PairedDifference | None]:
    """Return the paired difference of each arm to one of them; None for that one, and where recipes forbid it."""
    results = differences(measured, measured[_position_of(reference, arms)])
    return [
        None if arm is reference or not comparable(arm, reference) else result
        for arm, result in zip(arms, results, strict=True)
    ]


def corrected_p_values(results: Sequence[PairedDifference | None], correction: Correction) -> pd.Series[float]:
    """Correct the p-values of paired differences over the rows; NaN where there is none."""
    return inference.adjusted_p_values(pd.Series([each and each.p_value for each in results], dtype=float), correction)


def judged(
    arms: Sequence[ArmValues], reference: ArmValues, results: Sequence[PairedDifference | None], judging: Judging
) -> list[dict[str, Any]]:
    """Compute what the rows of a table say together, by the names `JUDGED`; None where not asked for, or not defined.

    `results` has the paired difference of each arm to the reference; None for that itself, and where none may be taken.
    """
    corrected = corrected_p_values(results, judging.correction)
    facts: list[dict[str, Any]] = [dict.fromkeys(JUDGED) for _ in results]
    error = inference.error_of_a_row(corrected, judging.correction, alpha=paired.ALPHA)
    for fact, result, p in zip(facts, results, corrected.tolist(), strict=True):
        if result is None or result.mean is None or not result.sd or math.isnan(p):
            continue
        fact |= {
            "p_corrected": p,
            "g_z": inference.hedges_factor(result.n - 1) * result.mean / result.sd if result.n > 2 else None,
            "mdd": inference.minimum_detectable_difference(result.sd, result.n, alpha=error, target=POWER),
        }
    sized = [
        (fact, result.n, abs(result.mean or 0.0), result.sd or math.nan)
        for fact, result in zip(facts, results, strict=True)
        if result is not None and fact["p_corrected"] is not None
    ]
    _exaggerated([row for row in sized if row[0]["p_corrected"] <= paired.ALPHA and row[2]], error, judging.margin)
    if judging.margin is not None:
        _planned([row for row in sized if row[0]["p_corrected"] > paired.ALPHA], error, judging.margin)
    _second_opinions(facts, arms, reference, results, judging)
    return facts


def _exaggerated(found: Sequence[Sized], error: float, margin: float | None) -> None:
    """Fill in the power behind each finding, and by how much such findings exaggerate."""
    if not found:
        return
    n = np.array([row[1] for row in found])
    effects = np.array([min(size, margin or math.inf) / sd for _, _, size, sd in found])
    each = zip(
        found, inference.powers(effects, n, error), inference.exaggerations(effects, n, alpha=error), strict=True
    )
    for (fact, *_), power, factor in each:
        fact |= {"power": float(power), "exaggeration": float(factor)}


def _planned(undecided: Sequence[Sized], error: float, margin: float) -> None:
    """Fill in how many seeds would settle each undecided row."""
    if not undecided:
        return
    n, sd = (np.array([row[at] for row in undecided]) for at in (1, 3))
    low, high = inference.sd_interval(sd, n)
    for name, spread in (("seeds_needed", sd), ("seeds_low", low), ("seeds_high", high)):
        needed = inference.seeds_needed(margin / spread, alpha=error, target=POWER)
        for (fact, *_), seeds in zip(undecided, needed, strict=True):
            fact[name] = seeds


def _second_opinions(
    facts: list[dict[str, Any]],
    arms: Sequence[ArmValues],
    reference: ArmValues,
    results: Sequence[PairedDifference | None],
    judging: Judging,
) -> None:
    """Fill in the tests and intervals that were asked for."""
    if judging.margin is None and judging.test == "t" and judging.interval == "t":
        return
    for fact, values, result in zip(facts, arms, results, strict=True):
        if result is None:
            continue
        deltas = judged_deltas(values, reference)
        if judging.test == "wilcoxon":
            fact["wilcoxon_p"] = inference.wilcoxon_p_value(deltas)
        if result.p_value is None:
            continue
        if judging.margin is not None:
            fact["equivalence_p"] = inference.equivalence_p_value(deltas, judging.margin)
        if judging.interval == "bootstrap":
            fact["boot_low"], fact["boot_high"] = inference.bootstrap_interval(deltas) or (None, None)
    for name in ("wilcoxon_p", "equivalence_p"):
        corrected = inference.adjusted_p_values(
            pd.Series([fact[name] for fact in facts], dtype=float), judging.correction
        )
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


def within(margin: float, unit: str) -> str:
    """Say a verdict of equivalence."""
    return f"equivalent within ±{margin:g} {unit}"


def row_verdict(
    result: PairedDifference, fact: Mapping[str, Any], judging: Judging, metric: MetricColumn, on_which: str = ""
) -> str:
    """Say what a row of a table allows to be said, after the correction over its rows.

    A row may differ from the baseline and still be equivalent to it: by a difference that is real and does not matter. `on_which` are
    the seeds it rests on where a training failed on others: such an arm is ahead on those seeds, and never better.
    """
    words = paired.verdict(result, higher_is_better=metric.higher_is_better, p_corrected=fact["p_corrected"])
    if on_which and result.n > 1:
        words = {paired.BETTER: paired.AHEAD, paired.WORSE: paired.BEHIND}.get(words, words)
    p = fact["equivalence_p_corrected"]
    if judging.margin is not None and p is not None and p <= paired.ALPHA:
        same = within(judging.margin, metric.unit)
        words = f"{words}, yet {same}" if words in (paired.BETTER, paired.WORSE, paired.AHEAD, paired.BEHIND) else same
    if not on_which or result.n < 2:
        return words
    of_seeds = (paired.AHEAD, paired.BEHIND, paired.UNDECIDED, paired.AFTER_CORRECTION)
    return f"{words} {on_which}" if words in of_seeds else f"{words}, {on_which}"
