"""Arms that went on from trained networks: what their differences are of, in words, and the controls that stand beside the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn
from search.ledger.study_files import CONTROL, KNOWN
from search.report.arms import CONTINUED, Arm, is_null, list_arms
from search.report.judging import Compared
from search.report.table import Column, interval_of, value_of
from search.report.values import Reading, floats, names_of_roots
from search.report.words import counted, counted_range, interval_decimals, joined, one_line, signed, span
from search.stats.paired import PairedDifference, difference

PAIRS_NAMED = 3
FROZEN = "start.trains=blocks"


def is_continued(read: Reading) -> bool:
    """Tell whether the rows of a table went on from trained networks."""
    return "start" in read.trials and bool(read.trials["start"].isin(CONTINUED).any())


def estimand(read: Reading) -> str:
    """Say what the differences of a table are of: "the block put into a trained network and trained on for 3 epochs"."""
    rows = read.trials[read.trials["start"].isin(CONTINUED)]
    said = []
    for kind, trials in rows.groupby("start", sort=False):
        epochs = trials["epochs_planned"].dropna().astype(int).unique()
        if kind == "shared":
            some = [int(each) for each in epochs if each]  # a network without anything to train may stand beside
            many = counted_range(min(some), max(some), "epoch") if some else ""
            frozen = trials["overrides"].str.contains(FROZEN, regex=False).fillna(False).any()
            how = " that stays as it is around it, and trained alone" if frozen else " and trained on"
            said.append(
                f"the block put into a trained network{f'{how} for {many}' if many else ' as it is, untrained'}"
            )
            continue
        trunks = read.frame[read.frame["run_dir"].isin(trials["root"].dropna().unique())]["epochs"].dropna()
        at = (
            span((float(each) / max(epochs) for each in trunks), ".0%").replace("%", " %") if len(trunks) else "a share"
        )
        said.append(f"the block put into a network that is trained in part, from {at} of the schedule on")
    return joined(said)


def roots_line(read: Reading) -> list[str]:
    """Say of rows that all went on from one network that they speak for it alone."""
    names = names_of_roots(read.trials).dropna().unique()
    if len(names) != 1:
        return []
    place = one_line(str(read.trials["root"].dropna().iloc[0]), 200)
    return [
        f"All trainings went on from one network, {place}: the differences, intervals and p-values speak for it alone."
    ]


def paths_lines(read: Reading) -> list[str]:
    """Say of rows that took their weights from a supernet what their order is worth."""
    if "start" not in read.trials:
        return []
    roots = read.trials.loc[read.trials["start"].eq("path").fillna(False), "root"]
    places = [one_line(str(place), 200) for place in roots.dropna().unique()]
    return [
        f"The networks are paths of {joined(places)}, which share their weights: whether networks that are trained by themselves come in "
        "that order, only such trainings tell (docs/designs.md)."
    ] * bool(places)


def null_fault(read: Reading) -> list[str]:
    """Say, before all else, that the null control differs from the baseline, where it does."""
    found = _null_pairs(read)
    if found is None:
        return []
    again, seeds, deltas = found
    wrong = np.flatnonzero(deltas != 0)
    if not len(wrong):
        return []
    where = joined([str(seed) for seed in seeds[wrong][:PAIRS_NAMED].tolist()])
    more = f" and {len(wrong) - PAIRS_NAMED} more" if len(wrong) > PAIRS_NAMED else ""
    return [
        f"NULL CONTROL IS NOT 0: {again}, trained again with other draws of branches that it does not have, differs by up to "
        f"{np.abs(deltas).max():.3g} {read.metric.unit} (seed{'s' * (len(wrong) > 1)} {where}{more}). Arms do not see the same "
        "training, so no difference of this table is that of its block alone."
    ]


def control_lines(read: Reading, against: Sequence[Compared]) -> list[str]:
    """Say what the controls came to: the null one, and the known one grafted and from scratch; `against` belongs to `read.arms`."""
    found = _null_pairs(read)
    again, deltas = ("the baseline", np.empty(0)) if found is None else (found[0], found[2])
    if found is None:
        null = "none was run"
    elif (deltas != 0).any():
        null = f"NOT 0, on {int((deltas != 0).sum())} of {counted(len(deltas), 'pair')}"
    else:
        null = f"0 on {'each of ' * (len(deltas) > 1)}{counted(len(deltas), 'pair')}"
    lines = [f"Null control ({again} again, with other draws of the branches that it does not have): {null}."]
    scratch = _from_scratch(read)
    known = [
        f"{arm.label} {_effect(each.result, read.metric)} from the roots, {_effect(scratch.get(arm.arch_hash), read.metric)} from scratch"
        for arm, each in zip(read.arms, against, strict=True)
        if arm is not read.reference
        and not arm.is_baseline  # which the roots are, trained from scratch as well
        and (arm.levels.get(CONTROL) == KNOWN or arm.arch_hash in scratch)
    ]
    return [*lines, f"Known control: {'; '.join(known) or 'none was run'}."]


def _null_pairs(read: Reading) -> tuple[str, np.ndarray, np.ndarray] | None:
    """What the null control trains again, seeds, int64, and differences, float64; None where none was run, or no pair finished.

    It is the study's own baseline again, whichever arm the table is read against.
    """
    baseline = next((arm for arm in read.arms if arm.is_baseline), read.reference)
    if baseline is None:
        return None
    trials = read.frame[(read.frame["phase"] == read.phase) & (read.frame["status"] == "ok")]
    column = read.metric.column
    trials = trials[is_null(trials) & trials["start"].isin(CONTINUED) & trials[column].notna()]
    null = pd.Series(floats(trials[column]), index=trials["seed"].astype("int64")).groupby(level=0).first()
    both = pd.concat({"null": null, "base": baseline.values(column)}, axis=1, join="inner").astype(float)
    if not len(both):
        return None
    again = "the baseline" if baseline is read.reference else baseline.label
    return again, both.index.to_numpy(dtype=np.int64), (both["null"] - both["base"]).to_numpy()


def _from_scratch(read: Reading) -> dict[str | None, PairedDifference]:
    """Differences of what was trained from scratch beside the table, by network, to the plain network trained as long on that seed.

    That is a root, or, of forks, the baseline in the root's own order.
    """
    frame, column = read.frame, read.metric.column
    if read.reference is None:
        return {}
    trials = frame[(frame["phase"] == read.phase) & ~is_null(frame)]
    begun = trials[trials["start"] == "scratch"]
    plain = trials[
        (trials["arch_hash"] == read.reference.arch_hash)
        & (trials["status"] == "ok")
        & ((trials["start"] == "scratch") | (trials["root_seed"] == trials["seed"]).fillna(False))
    ].dropna(subset=[column])
    found = {}
    arms: list[Arm] = list_arms(begun)
    for arm in arms:
        epochs = arm.trials["epochs"].dropna().unique()
        as_long = plain[plain["epochs"].isin(epochs)].drop_duplicates("seed")
        values = pd.Series(floats(as_long[column]), index=as_long["seed"].astype("int64"))
        if arm.arch_hash != read.reference.arch_hash:
            found[arm.arch_hash] = difference(arm.values(column), values)
    return found


def _effect(result: PairedDifference | None, metric: MetricColumn) -> str:
    """Say a difference, with its interval where it has one."""
    if result is None or result.mean is None:
        return "not measured"
    ends: list[Any] = [] if result.low is None else [(result.low, result.high)]
    digits = interval_decimals(ends, metric.decimals)
    held = f", 95% interval {' to '.join(signed(end, digits) for end in ends[0])}" if ends else ""
    return f"{signed(result.mean, digits)} {metric.unit} ({counted(result.n, result.unit)}{held})"


def root_columns(digits: int) -> list[Column]:
    """What an ablation table over roots shows beside others; sds are of the paired difference."""
    columns = [Column("roots", "roots"), Column("orders", "orders", show=value_of("orders", "{:.3g}".format))]
    for name, title in (("sd_between", "sd between roots"), ("sd_within", "sd within roots")):
        columns.append(Column(name, title, "math", width=10, show=value_of(name, f"{{:.{digits}f}}".format)))
    model = interval_of("mixed_low", "mixed_high", digits)
    return [*columns, Column("mixed", "mixed model", "math", left_out=("text", "latex"), show=model)]
