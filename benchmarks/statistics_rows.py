"""Sections of `statistics_truth.py` on the rows of a table: intervals, corrections, power, equivalence."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats
from statistics_simulate import SD, Row, agree, line, series, study

from search.stats.inference import (
    Correction,
    adjusted_p_values,
    bootstrap_interval,
    equivalence_p_value,
    error_of_a_row,
    minimum_detectable_difference,
    seeds_needed,
)
from search.stats.inference import powers as power_at
from search.stats.paired import difference

__all__ = ["coverage", "equivalences", "families", "powers"]


def coverage(rng: np.random.Generator, studies: int) -> list[Row]:
    """How often 95% intervals of one row hold the true difference."""
    rows = []
    for noise in ("normal", "skewed baseline"):
        for n in (3, 5, 9, 20):
            deltas = study(rng, np.array([0.5]), n, studies, noise)[:, 0]
            interval = stats.ttest_1samp(deltas, 0, axis=1).confidence_interval(0.95)
            agree([difference(*series(d)).low for d in deltas[:20]], interval.low[:20])
            target, allowed = ("0.93 to 0.97", (0.93, 0.97)) if noise == "normal" else ("", (0.0, 1.0))
            setting, name = f"n={n}, {noise}", "coverage of 95% intervals"
            held = (interval.low <= 0.5) & (interval.high >= 0.5)
            rows.append(line(name, "t (default)", setting, held, target, allowed))
            for method in ("BCa", "percentile"):
                held = np.concatenate([bootstrapped(chunk, method, rng) for chunk in np.array_split(deltas, 20)])
                rows.append(line(name, f"bootstrap {method}", setting, held, target, allowed))
            if noise == "normal":
                held = np.array([low <= 0.5 / SD <= high for low, high in map(effect_interval, deltas[:2000])])
                rows.append(line(name, "effect size d_z", setting, held, target, allowed))
    return rows


def bootstrapped(deltas: np.ndarray, method: Any, rng: np.random.Generator) -> np.ndarray:
    """Tell for each study whether the bootstrap interval (999 resamples) holds 0.5; an undefined one does not."""
    seed = int(rng.integers(2**31))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interval = stats.bootstrap(
            (deltas,), np.mean, axis=1, method=method, n_resamples=999, rng=np.random.default_rng(seed)
        ).confidence_interval
    ours = bootstrap_interval(deltas[0], method=method, resamples=999, seed=seed)
    if ours is not None:
        agree(list(ours), np.array([interval.low[0], interval.high[0]]))
    return (interval.low <= 0.5) & (interval.high >= 0.5)


def effect_interval(deltas: np.ndarray) -> tuple[float, float]:
    """Return a 95% interval of mean over sd, from the noncentral t distribution (Steiger and Fouladi 1997)."""
    n = len(deltas)
    t = float(deltas.mean() / deltas.std(ddof=1) * np.sqrt(n))
    # nctdtrinc solves for the noncentrality; by symmetry both limits can be asked for at |t|, where it is well behaved.
    near, far = special.nctdtrinc(n - 1, [0.975, 0.025], abs(t)) / np.sqrt(n)
    return (near, far) if t >= 0 else (-far, -near)


def simultaneous_intervals(rows: pd.DataFrame, correction: Correction, alpha: float = 0.05) -> pd.DataFrame:
    """Compute the t intervals that belong to a correction.

    Bonferroni's and Benjamini-Hochberg's (false coverage rate; Benjamini and Yekutieli 2005) leave out zero exactly where there is a
    finding. Holm has no simultaneous two-sided intervals that are both bounded and always agree with it, so it gets Bonferroni's.

    Args:
        rows: columns "n" (seeds), "mean", "sd" (of the difference) and "p_value".
        correction: which error is held.
        alpha: that error, over the whole table.

    Returns:
        "finding", "low", "high", and "agrees": whether the interval leaves out zero exactly where there is a finding.
    """
    adjusted = adjusted_p_values(rows["p_value"], correction)
    error, finding = error_of_a_row(adjusted, correction, alpha=alpha), adjusted <= alpha
    margin = stats.t.ppf(1 - error / 2, rows["n"] - 1) * rows["sd"] / np.sqrt(rows["n"])
    low, high = rows["mean"] - margin, rows["mean"] + margin
    agrees = ((low > 0) | (high < 0)) == finding
    return pd.DataFrame({"finding": finding, "low": low, "high": high, "agrees": agrees})


def families(rng: np.random.Generator, studies: int) -> list[Row]:
    """What the corrections hold over the rows of a table: through `simultaneous_intervals`, study by study."""
    rows = []
    scenes = {
        "6 rows, none differs, n=5": (np.zeros(6), 5),
        "6 rows, 3 differ by 3 points, n=9": (np.array([0, 0, 0, 3.0, 3.0, 3.0]), 9),
        "12 rows, 6 differ by 2 points, n=9": (np.array([0.0] * 6 + [2.0] * 6), 9),
    }
    for setting, (effects, n) in scenes.items():
        deltas = study(rng, effects, n, studies)
        frame = {
            "n": np.full(deltas.shape[:2], n),
            "mean": deltas.mean(axis=2),
            "sd": deltas.std(axis=2, ddof=1),
            "p_value": stats.ttest_1samp(deltas, 0, axis=2).pvalue,
        }
        for correction in ("holm", "bh", "none"):
            finding, low, high, agreed = through_tables(frame, correction)
            null, found = effects == 0, np.maximum(finding.sum(axis=1), 1)
            missed = (low > effects) | (high < effects)
            five, name = ("at most 0.05", (0.0, 0.05)), "corrections over rows"
            false = finding[:, null]
            target = five if correction == "holm" else ("", (0.0, 1.0))
            rows.append(line(name, f"{correction}: any false finding", setting, false.any(axis=1), *target))
            target = five if correction == "bh" else ("", (0.0, 1.0))
            rows.append(
                line(name, f"{correction}: share of false findings", setting, false.sum(axis=1) / found, *target)
            )
            if correction == "holm":
                rows.append(line(name, "holm: any interval misses the truth", setting, missed.any(axis=1), *five))
            if correction == "bh":
                share = (missed & finding).sum(axis=1) / found
                rows.append(line(name, "bh: share of intervals of findings that miss", setting, share, *five))
            if not null.all():
                rows.append(
                    line(
                        name,
                        f"{correction}: true differences found",
                        setting,
                        finding[:, ~null].mean(axis=1),
                        "",
                        (0, 1),
                    )
                )
            exact = ("1", (1.0, 1.0)) if correction != "holm" else ("", (0.0, 1.0))
            rows.append(line(name, f"{correction}: rows whose interval agrees", setting, agreed, *exact))
    return rows


def through_tables(frame: dict[str, np.ndarray], correction: Any) -> tuple[np.ndarray, ...]:
    """Run `simultaneous_intervals` on each study: findings, low and high ends (studies x rows), share of rows that agree."""
    studies, width = frame["mean"].shape
    finding, low, high, agreed = (np.empty((studies, width), dtype=kind) for kind in (bool, float, float, bool))
    for i in range(studies):
        table = simultaneous_intervals(pd.DataFrame({name: values[i] for name, values in frame.items()}), correction)
        finding[i], low[i], high[i] = table["finding"], table["low"], table["high"]
        agreed[i] = table["agrees"]
    return finding, low, high, agreed.mean(axis=1)


def powers(rng: np.random.Generator, studies: int) -> list[Row]:
    """Whether power is what `powers`, `minimum_detectable_difference` and `seeds_needed` say."""
    rows, name = [], "power of the paired t test"
    cases = [(minimum_detectable_difference(SD, n), n, f"difference that {n} seeds resolve") for n in (3, 5, 9, 20)]
    cases += [
        (1.0, seeds_needed(np.array([1 / SD]))[0] or 0, "seeds needed for 1 point"),
        (1.0, 5, "1 point at 5 seeds"),
    ]
    for effect, n, setting in cases:
        predicted = float(power_at(np.array([effect / SD]), np.array([n]), 0.05)[0])
        found = stats.ttest_1samp(study(rng, np.array([effect]), n, studies)[:, 0], 0, axis=1).pvalue <= 0.05
        allowed = (predicted - 0.01, predicted + 0.01)
        rows.append(
            line(name, f"{setting} ({effect:.2f} points)", f"n={n}", found, f"{predicted:.3f} +- 0.01", allowed)
        )
    for n in (5, 9):  # what happens when the sd is taken from a pilot of n seeds instead of known
        unit = minimum_detectable_difference(1.0, n)
        pilot = study(rng, np.array([0.0]), n, studies)[:, 0].std(axis=1, ddof=1)
        reached = study(rng, np.array([0.0]), n, studies)[:, 0] + (unit * pilot)[:, None]
        found = stats.ttest_1samp(reached, 0, axis=1).pvalue <= 0.05
        rows.append(line(name, f"difference resolved, with the sd measured on {n} seeds", f"n={n}", found, "", (0, 1)))
    return rows


def equivalences(rng: np.random.Generator, studies: int) -> list[Row]:
    """How often two one-sided tests call arms equivalent that are not, and that are."""
    rows, margin = [], 1.5
    for n in (5, 9, 20):
        for effect in (margin, -margin, 0.75, 0.0):
            deltas = study(rng, np.array([effect]), n, studies)[:, 0]
            lower = stats.ttest_1samp(deltas, -margin, axis=1, alternative="greater").pvalue
            upper = stats.ttest_1samp(deltas, margin, axis=1, alternative="less").pvalue
            shown = np.maximum(lower, upper) < 0.05
            ours = [equivalence_p_value(d, margin) < 0.05 for d in deltas[:100]]
            agree(ours, shown[:100].astype(float))
            target = ("at most 0.05", (0.0, 0.05)) if abs(effect) == margin else ("", (0.0, 1.0))
            what = f"called equivalent; true difference {effect:+.2f}, margin {margin}"
            rows.append(line("equivalence (TOST)", what, f"n={n}", shown, *target))
    return rows
