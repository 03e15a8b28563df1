"""The report of `statistics_truth.py` as Markdown."""

from __future__ import annotations

from typing import Any

__all__ = ["page"]

Row = dict[str, Any]

COMMENTS = {
    "coverage of 95% intervals": "The t interval is the default of every table. Bootstrap intervals come from few distinct "
    "values at few seeds and are too short; they are given beside the t interval, never instead of it. With a skewed "
    "difference the t interval falls short too, and the bootstrap does no better at these numbers of seeds: no target is set.",
    "corrections over rows": "Holm's intervals are Bonferroni's: 'rows whose interval agrees' says how often such an "
    "interval leaves out zero exactly where Holm finds a difference. The rows share a baseline, so they are correlated; the "
    "false coverage rate of BH's intervals is not proved for two-sided tests that share a baseline.",
    "power of the paired t test": "Predicted by statsmodels for a known spread. Where the spread is measured on the same few "
    "seeds, the power really reached is lower on average: read a minimum detectable difference as a lower end.",
    "equivalence (TOST)": "At the margin itself every verdict of equivalence is an error.",
    "factorial designs": "Three placements, two branches; branch is worth 1 point, placement nothing. 'Before' is one pooled "
    "error, as of the mixed model with the seed as a random effect: where an effect varies by seed it errs. Contrasts within "
    "each seed hold, and pay for it in power where nothing varies.",
    "sequential rule, looks at 5, 8, 12 and 20 seeds": "Four rows that share a baseline; the sd of a paired difference is that "
    "of the CIFAR-10 proxy. Rows are given up against a margin of 0.5 points, where it is not said that none is. All families "
    "split the error by the union bound, so none errs; they differ in when they find. 20 seeds for all are 100 trainings, the "
    "baseline's among them.",
    "proxy trust": "12 arms, 6 seeds; an arm's luck on a seed is mostly the same at both budgets. Below, resampling arms, each ranking "
    "is taken as it is: the intervals are a little wide where tau is large.",
    "orders nested in roots": "All arms go on from the same roots, in the same orders; half of the rows differ by 0.5 points. 'sd' "
    "is that of a paired difference: between roots / between orders within one. A t test over all pairs takes orders for roots: where "
    "roots differ its intervals are too short, and it finds what is not there.",
}


def commits_of(facts: Row) -> str:
    """Name the commit, or the sections that each commit made."""
    found: dict[str, list[str]] = {}
    for name, commit in facts["commits"].items():
        found.setdefault(commit, []).append(name)
    if len(found) == 1:
        return f"commit {next(iter(found))}"
    return ", ".join(f"commit {commit} ({', '.join(names)})" for commit, names in found.items())


def page(facts: Row, rows: list[Row]) -> str:
    """All sections as tables, the verdict first."""
    judged = [row for row in rows if row["target"]]
    missed = [row for row in judged if row["result"] == "NOT met"]
    close = [row for row in judged if row["result"].startswith("within")]
    lines = [
        "# Statistics on simulated truth",
        "",
        f"    {facts['command']}",
        "",
        f"{facts['cpu_seconds']} s of one core ({facts['processor']}), {facts['date']}, {commits_of(facts)}, "
        f"seed {facts['seed']}, Python {facts['python']}, "
        + ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
        + ".",
        "",
        f"**Verdict.** {len(judged)} figures have a target: {len(judged) - len(missed) - len(close)} meet it, {len(close)} lie "
        f"within two standard errors of it, {len(missed)} do not meet it" + (":" if missed else "."),
        "",
        *(f"- {row['what']}, {row['setting']}: {row['value']:.3f} (target {row['target']})" for row in missed),
        "",
        "A value is the mean over the simulated studies; +- is its standard error.",
    ]
    for section in dict.fromkeys(row["section"] for row in rows):
        lines += ["", f"## {section[0].upper()}{section[1:]}", ""]
        if section in COMMENTS:
            lines += [COMMENTS[section], ""]
        lines += ["| what | setting | studies | value | target | result |", "|---|---|---|---|---|---|"]
        lines += [
            f"| {row['what']} | {row['setting']} | {row['studies']} | {row['value']:.3f} +- {row['standard_error']:.3f} "
            f"| {row['target']} | {row['result']} |"
            for row in rows
            if row["section"] == section
        ]
    return "\n".join([*lines, ""])
