"""Sections of `statistics_truth.py` on more than a row: factorial designs, trust in a proxy."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats
from statistics_simulate import Row, agree, line

from search.stats.effects import Factors, Term, contrasts, estimable, factorial_effects, term_tests
from search.stats.ranking import proxy_trust

__all__ = ["factorials", "trusts"]


CELLS = pd.DataFrame([(where, branch) for where in "abc" for branch in "xy"], columns=["where", "branch"])
LEVELS: Factors = {"where": list("abc"), "branch": list("xy")}
TERMS: list[Term] = [("where",), ("branch",), ("where", "branch")]


def factorials(rng: np.random.Generator, studies: int) -> list[Row]:
    """Error of the tests of main effects and interactions in a 3 x 2 design; branch y is worth 1 point, where nothing."""
    rows, five = [], ("at most 0.06", (0.0, 0.06))
    terms, design, _ = estimable(CELLS, LEVELS, TERMS, np.ones((len(CELLS), 1)))
    y, c = CELLS["branch"].eq("y").to_numpy(), CELLS["where"].eq("c").to_numpy()
    varying = {
        "no effect varies by seed": np.zeros(6),
        "the effect of branch y varies by seed, sd 1": y * 1.0,
        "level c varies by seed, sd 1": c * 1.0,
    }
    for seeds in (5, 10):
        for setting, slope in varying.items():
            values = rng.normal(size=(studies, seeds, 6)) + 3 * rng.normal(size=(studies, seeds, 1))
            values += rng.normal(size=(studies, seeds, 1)) * slope
            tests = [term_tests(each, design, terms)["p_value"].to_numpy() for each in values + y]
            name, where = "factorial designs", f"{seeds} seeds, {setting}"
            check_whole(values[0] + y, tests[0])
            none = np.array([term_tests(each, design, terms)["p_value"].to_numpy()[1] for each in values])
            pooled = pooled_p(values + y, design, terms)
            for k, what in ((0, "main effect of three levels"), (2, "interaction")):
                found = np.array([p[k] for p in tests]) <= 0.05
                rows.append(line(name, f"{what} found where there is none", where, found, *five))
                rows.append(line(name, f"before, seed as block alone: {what}", where, pooled[:, k] <= 0.05, "", (0, 1)))
            rows.append(line(name, "main effect of two levels found where there is none", where, none <= 0.05, *five))
            before = pooled_p(values, design, terms)[:, 1] <= 0.05
            rows.append(line(name, "before, seed as block alone: main effect of two levels", where, before, "", (0, 1)))
            power = np.array([p[1] for p in tests]) <= 0.05
            rows.append(line(name, "main effect of 1 point found", where, power, "", (0, 1)))
            rows.append(line(name, "before: main effect of 1 point found", where, pooled[:, 1] <= 0.05, "", (0, 1)))
    return rows


def check_whole(values_SC: np.ndarray, p_values: np.ndarray) -> None:
    """Stop where `factorial_effects` gives other p-values than its parts."""
    frame = pd.concat([CELLS.assign(seed=seed, y=row) for seed, row in enumerate(values_SC)])
    agree(factorial_effects(frame, "y", ["where", "branch"]).terms["p_value"].tolist(), p_values)


def pooled_p(values: np.ndarray, design: np.ndarray, terms: dict[Term, slice]) -> np.ndarray:
    """F tests against one pooled error, as of a model of seed + noise: studies x terms."""
    studies, seeds, _ = values.shape
    scores = [values @ contrasts(design, where) for where in terms.values()]
    error = sum(each.var(axis=1, ddof=1).sum(axis=1) for each in scores) / sum(each.shape[2] for each in scores)
    found = []
    for each in scores:
        f = seeds * (each.mean(axis=1) ** 2).sum(axis=1) / each.shape[2] / error
        found.append(stats.f.sf(f, each.shape[2], (seeds - 1) * 5))
    return np.stack(found, axis=1).reshape(studies, -1)


def shared_luck(rng: np.random.Generator, studies: int) -> list[Row]:
    """How often two rankings of 12 arms are found to agree, where an arm's luck on a seed is mostly that of both budgets."""
    rows, arms, seeds = [], 12, 6
    for spread, setting in ((0.0, "arms that do not differ"), (0.6, "arms that differ, sd 0.6 points")):
        merit = spread * rng.normal(size=(studies, arms, 1))
        luck = 0.6 * rng.normal(size=(studies, arms, seeds))
        cheap, expensive = (merit + 0.9 * luck + 0.25 * rng.normal(size=luck.shape) for _ in range(2))
        for what, sides in (
            ("seeds divided between the rankings", (cheap[:, :, 0::2], expensive[:, :, 1::2])),
            ("before, seeds shared", (cheap, expensive)),
        ):
            means = [side.mean(axis=2) for side in sides]
            found = np.array([agreement(one, other) for one, other in zip(*means, strict=True)])
            target = ("at most 0.05", (0.0, 0.05)) if not spread and "divided" in what else ("", (0.0, 1.0))
            rows.append(line("proxy trust", f"{what}: agreement found (p <= 0.05, tau > 0)", setting, found, *target))
    return rows


def agreement(cheap: np.ndarray, expensive: np.ndarray) -> bool:
    """Whether Kendall's tau is told from zero, and positive."""
    test = stats.kendalltau(cheap, expensive)
    return bool(test.pvalue <= 0.05 and test.statistic > 0)


def trusts(rng: np.random.Generator, studies: int) -> list[Row]:
    """How often the interval of Kendall's tau holds the tau of a normal pair: 2 / pi asin(correlation)."""
    rows = shared_luck(rng, studies)
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
