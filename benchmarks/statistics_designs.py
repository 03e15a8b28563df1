"""Sections of `statistics_truth.py` on more than a row: adding seeds, factorial designs, trust in a proxy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats
from statistics_simulate import Row, agree, line, study

from search.report.effects.effects import factorial_effects
from search.report.statistics.sequential import FOUND, LookPlan, plan_looks, sequential_verdicts
from search.report.trust.trust import proxy_trust

__all__ = ["factorials", "sequences", "trusts"]


def play(plan: LookPlan, deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run the sequential rule on arrays: which rows were found (studies x rows), and how many seeds each row took."""
    found = np.zeros(deltas.shape[:2], dtype=bool)
    used = np.full(deltas.shape[:2], plan.looks[-1])
    for n, alpha in zip(plan.looks, plan.alphas, strict=True):
        p = np.where(found, 2.0, stats.ttest_1samp(deltas[:, :, :n], 0, axis=2).pvalue)
        order = np.argsort(p, axis=1)
        ranked = np.take_along_axis(p, order, axis=1)
        left = (~found).sum(axis=1)[:, None] - np.arange(p.shape[1])
        passed = np.logical_and.accumulate(ranked <= np.where(left > 0, alpha / np.maximum(left, 1), -1), axis=1)
        new = np.zeros_like(found)
        np.put_along_axis(new, order, passed, axis=1)
        used[new] = n
        found |= new
    return found, used


def sequences(rng: np.random.Generator, studies: int) -> list[Row]:
    """What the sequential rule errs over all looks and rows, and what it saves."""
    rows, name, looks = [], "sequential rule, looks at 5, 8, 12 and 20 seeds", (5, 8, 12, 20)
    scenes = {
        "1 row": np.zeros(1),
        "6 rows": np.zeros(6),
        "6 rows, 3 differ by 1.5 points": np.array([0, 0, 0, 1.5, 1.5, 1.5]),
    }
    for setting, effects in scenes.items():
        deltas, null = study(rng, effects, 20, studies), effects == 0
        for spending in ("obrien_fleming", "pocock", "equal"):
            plan = plan_looks(looks, spending=spending)  # type: ignore[arg-type]
            found, used = play(plan, deltas)
            for d, f in zip(deltas[:10], found[:10], strict=True):
                values = pd.DataFrame({"base": 60.0} | {f"arm{i}": 60 + row for i, row in enumerate(d)})
                agree((sequential_verdicts(plan, values, "base")["verdict"] == FOUND).tolist(), f.astype(float))
            five = ("at most 0.05", (0.0, 0.05))
            rows.append(line(name, f"{spending}: any false finding", setting, found[:, null].any(axis=1), *five))
            if not null.all():
                power_, seeds = found[:, ~null].mean(axis=1), used[:, ~null].mean(axis=1)
                rows.append(line(name, f"{spending}: true differences found", setting, power_, "", (0, 1)))
                rows.append(line(name, f"{spending}: seeds used for a true difference", setting, seeds, "", (0, 99)))
        p = np.array([stats.ttest_1samp(deltas[:, :, :n], 0, axis=2).pvalue for n in looks])
        naive = (p <= 0.05).any(axis=0)[:, null].any(axis=1)
        rows.append(line(name, "for comparison, p <= 0.05 at any look: any false finding", setting, naive, "", (0, 1)))
        fixed, _ = play(plan_looks([20]), deltas)
        if not null.all():
            found_all = fixed[:, ~null].mean(axis=1)
            rows.append(
                line(
                    name,
                    "for comparison, Holm on 20 seeds at once: true differences found",
                    setting,
                    found_all,
                    "",
                    (0, 1),
                )
            )
    return rows


def factorials(rng: np.random.Generator, studies: int) -> list[Row]:
    """Error of the tests of main effects and interactions: 3 x 2 design, 5 seeds; branch differs by 1 point."""
    cells = [(where, branch, seed) for seed in range(5) for where in "abc" for branch in "xy"]
    frame = pd.DataFrame(cells, columns=["where", "branch", "seed"])
    rows, five = [], ("0.04 to 0.06", (0.04, 0.06))
    for seed_sd in (3.0, 0.0):
        where, crossed, mixed, held = [], [], [], []
        for _ in range(studies):
            frame["y"] = (seed_sd * rng.normal(size=5))[frame["seed"]] + (frame["branch"] == "y") + rng.normal(size=30)
            result = factorial_effects(frame, "y", ["where", "branch"])
            p = result.terms.set_index("term")["p_value"]
            where.append(p["where"] <= 0.05)
            crossed.append(p["where x branch"] <= 0.05)
            mixed.append(result.method.startswith("mixed"))
            estimate = result.estimates.query("term == 'branch'").iloc[0]
            held.append(estimate["low"] <= 1 <= estimate["high"])
        setting, name = f"sd between seeds {seed_sd:g}", "factorial designs"
        rows.append(line(name, "main effect found where there is none", setting, np.array(where), *five))
        rows.append(line(name, "interaction found where there is none", setting, np.array(crossed), *five))
        rows.append(
            line(
                name,
                "95% interval of a main effect holds the truth",
                setting,
                np.array(held),
                "0.93 to 0.97",
                (0.93, 0.97),
            )
        )
        rows.append(
            line(
                name, "mixed model fitted (else seed as fixed block, with a note)", setting, np.array(mixed), "", (0, 1)
            )
        )
    return rows


def trusts(rng: np.random.Generator, studies: int) -> list[Row]:
    """How often the interval of Kendall's tau holds the tau of a normal pair: 2 / pi asin(correlation)."""
    rows = []
    for n, correlation in ((8, 0.6), (16, 0.6), (40, 0.6), (16, 0.9)):
        truth, held = 2 / np.pi * np.arcsin(correlation), []
        for index in range(studies):
            x, e = rng.normal(size=(2, n))
            y = correlation * x + (1 - correlation**2) ** 0.5 * e
            signs = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
            drawn = np.random.default_rng(index).integers(0, n, (500, n))
            counts = (drawn[:, :, None] == np.arange(n)).sum(axis=1).astype(float)
            pairs = [((counts @ m) * counts).sum(axis=1) for m in (signs[0] * signs[1], signs[0] ** 2)]
            low, high = np.nanquantile(pairs[0] / pairs[1], [0.025, 0.975])
            if index < 3 and abs(pairs[0]).max() > 0:
                ours = proxy_trust(pd.Series(x), pd.Series(y), resamples=500, seed=index)
                # The order of the arms does not change what is drawn, and SciPy draws the same indices.
                if ours.low is not None:
                    agree([ours.low, ours.high], np.array([low, high]))
            held.append(low <= truth <= high)
        setting = f"{n} arms, true tau {truth:.2f}"
        rows.append(
            line(
                "proxy trust",
                "95% bootstrap interval of tau holds the truth",
                setting,
                np.array(held),
                "0.93 to 0.97",
                (0.93, 0.97),
            )
        )
    return rows
