"""Section of `statistics_truth.py` on looks: error over looks and rows, power, and the seeds they spend and save."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats
from statistics_simulate import Row, agree, line

from search.stats.sequential import FOUND, HOPELESS, LookPlan, plan_looks, sequential_verdicts

__all__ = ["looks"]

LOOKS, ROWS, MARGIN = (5, 8, 12, 20), 4, 0.5
# of a paired difference: pooled over the four rows of docs/results/paper_stage_placement_looks, 20 seeds each
SD = 0.81


def spent_by(alphas: np.ndarray) -> LookPlan:
    """A plan of a family that `plan_looks` does not offer, from what it has spent at each look."""
    plan = plan_looks(LOOKS, margin=MARGIN)
    shares = tuple(map(float, np.diff(alphas, prepend=0.0)))
    return LookPlan(looks=plan.looks, alphas=shares, alpha=plan.alpha, spending=plan.spending, margin=MARGIN)


def plans() -> dict[str, LookPlan]:
    """The families, with and without giving rows up."""
    fractions = np.array(LOOKS) / LOOKS[-1]
    found = {"Hwang-Shih-DeCani -2 (default), no row given up": plan_looks(LOOKS)}
    found["Hwang-Shih-DeCani -2 (default)"] = plan_looks(LOOKS, margin=MARGIN)
    for gamma in (-4.0, 1.0):
        found[f"Hwang-Shih-DeCani {gamma:+g}"] = spent_by(0.05 * np.expm1(-gamma * fractions) / np.expm1(-gamma))
    for rho in (1, 2, 3):
        found[f"Kim-DeMets power {rho}"] = spent_by(0.05 * fractions**rho)
    found["O'Brien-Fleming, no row given up (before)"] = plan_looks(LOOKS, spending="obrien_fleming")
    found["O'Brien-Fleming"] = plan_looks(LOOKS, spending="obrien_fleming", margin=MARGIN)
    found["Pocock"] = plan_looks(LOOKS, spending="pocock", margin=MARGIN)
    return found


def play(plan: LookPlan, deltas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run the sequential rule on arrays: which rows were found (studies x rows), and how many seeds each row took."""
    rows, total = deltas.shape[1], plan.looks[-1]
    found, settled = np.zeros(deltas.shape[:2], dtype=bool), np.zeros(deltas.shape[:2], dtype=bool)
    used = np.full(deltas.shape[:2], total)
    for n, alpha in zip(plan.looks, plan.alphas, strict=True):
        mean, sd = deltas[:, :, :n].mean(axis=2), deltas[:, :, :n].std(axis=2, ddof=1)
        p = np.where(settled, 2.0, 2 * stats.t.sf(np.abs(mean) / sd * n**0.5, n - 1))
        order = np.argsort(p, axis=1)
        left = (~found).sum(axis=1)[:, None] - np.arange(rows)
        ranked = np.take_along_axis(p, order, axis=1)
        passed = np.logical_and.accumulate(ranked <= np.where(left > 0, alpha / np.maximum(left, 1), -1), axis=1)
        new = np.zeros_like(found)
        np.put_along_axis(new, order, passed, axis=1)
        found |= new
        if plan.margin is not None and n < total:
            bound = stats.t.isf(plan.alphas[-1] / np.maximum((~found).sum(axis=1), 1) / 2, total - 1)[:, None]
            bound, spread = bound * sd / total**0.5, sd * (total - n) ** 0.5 / total
            means = [(n * mean + (total - n) * truth) / total for truth in (plan.margin, -plan.margin, mean)]
            chances = [stats.norm.sf((bound - m) / spread) + stats.norm.cdf((-bound - m) / spread) for m in means]
            new |= ~settled & ~found & (np.max(chances, axis=0) < HOPELESS)
        used[new & ~settled] = n
        settled |= new
    return found, used


def looks(rng: np.random.Generator, studies: int) -> list[Row]:
    """Error, power and seeds where no row, or one of four, differs."""
    rows, name = [], "sequential rule, looks at 5, 8, 12 and 20 seeds"
    noise = rng.normal(size=(studies, ROWS + 1, LOOKS[-1])) * SD / 2**0.5
    noise = noise[:, 1:] - noise[:, :1]
    for truth in (0.0, 0.25, 0.5, 1.0, 2.0):
        deltas, setting = noise.copy(), f"1 of 4 rows differs by {truth:g} points" if truth else "no row differs"
        deltas[:, 0] += truth
        null = np.arange(ROWS) > (0 if truth else -1)
        for family, plan in plans().items():
            found, used = play(plan, deltas)
            for d, f in zip(deltas[:5], found[:5], strict=True):
                values = pd.DataFrame({"base": 60.0} | {f"arm{i}": 60 + row for i, row in enumerate(d)})
                agree((sequential_verdicts(plan, values, "base")["verdict"] == FOUND).tolist(), f.astype(float))
            five = ("at most 0.05", (0.0, 0.05))
            rows.append(line(name, f"{family}: any false finding", setting, found[:, null].any(axis=1), *five))
            if truth:
                rows.append(line(name, f"{family}: found", setting, found[:, 0], "", (0, 1)))
                if truth >= 1:
                    rows.append(
                        line(name, f"{family}: found at 5 seeds", setting, found[:, 0] & (used[:, 0] == 5), "", (0, 1))
                    )
                rows.append(line(name, f"{family}: seeds of that row", setting, used[:, 0], "", (0, 99)))
            else:
                saved = 1 - (used.sum(axis=1) + used.max(axis=1)) / (ROWS + 1) / LOOKS[-1]  # the baseline goes on, too
                rows.append(line(name, f"{family}: seeds of a row", setting, used.mean(axis=1), "", (0, 99)))
                rows.append(line(name, f"{family}: share of trainings saved", setting, saved, "", (0, 1)))
        fixed, _ = play(plan_looks(LOOKS[-1:]), deltas)
        if truth:
            rows.append(line(name, "for comparison, Holm on 20 seeds at once: found", setting, fixed[:, 0], "", (0, 1)))
        else:
            p = np.array([stats.ttest_1samp(deltas[:, :, :n], 0, axis=2).pvalue for n in LOOKS])
            naive = (p <= 0.05).any(axis=(0, 2))
            rows.append(
                line(name, "for comparison, p <= 0.05 at any look: any false finding", setting, naive, "", (0, 1))
            )
    return rows
