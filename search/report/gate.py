"""What a table must say of arms that were hardly trained, or hardly differ from the plain network by construction."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from search.ledger.metric import Metric, MetricColumn, metrics_of
from search.report.arms import Arm
from search.report.values import floats, geometric_mean
from search.report.words import counted, joined, significant

__all__ = ["NEARLY_NIL", "gate"]

NEARLY_NIL = 0.05  # dose below which an added branch is nearly absent
ERRORS = 2.0  # binomial standard errors above chance that count as near it
FLAT = 0.01  # share of the first epoch's training loss that the last one must fall below it
NAMED = 4  # longer lists of arms are counted instead of named


def gate(arms: Sequence[Arm], metric: MetricColumn) -> list[str]:
    """Say, a short line each, why the rows of a table may be no comparison of trained networks; none where they are.

    Args:
        arms: the rows, of one frame.
        metric: what they are compared by. Chance is judged by the metrics of the same split that have a chance level.
    """
    if not arms:
        return []
    split = metric.split or "val"
    return [
        *(line for each in metrics_of(None) if each.has_chance for line in near_chance(arms, each, split)),
        *losses_that_did_not_fall(arms),
        *equal_everywhere(arms, metric.column),
        *nearly_nil(arms),
    ]


def near_chance(arms: Sequence[Arm], metric: Metric, split: str) -> list[str]:
    """Name the arms whose mean is at most two binomial standard errors above what guessing reaches."""
    reached, chance, images = (
        column(arms, name) for name in (f"{split}_{metric.name}", metric.chance, f"{split}_images")
    )
    known = finished(arms) & np.isfinite(reached) & np.isfinite(chance) & (images > 0)
    found, means, guesses, errors = [], [], [], []
    for arm in arms:
        keep = np.flatnonzero(known[arm.start : arm.stop]) + arm.start
        if not len(keep):
            continue
        mean, guess = float(reached[keep].mean()), float(chance[keep].mean())
        error = math.sqrt(guess * (100 - guess) / float(images[keep].min()))  # of one training: seeds share the images
        if mean <= guess + ERRORS * error:
            found.append(arm.label)
            means.append(mean)
            guesses.append(guess)
            errors.append(error)
    if not found:
        return []
    range_in_words = " to ".join(dict.fromkeys(f"{value:.1f}" for value in (min(means), max(means))))
    return [
        f"Hardly better than guessing: {named(found)} ({range_in_words} %; guessing reaches {max(guesses):.1f} ± {max(errors):.1f} %)."
    ]


def losses_that_did_not_fall(arms: Sequence[Arm]) -> list[str]:
    """Name the arms whose training loss rose, was no finite number any more, or stayed where it was."""
    first, last, epochs = (column(arms, name) for name in ("train_loss_first", "train_loss", "epochs"))
    more = np.isfinite(first) & np.isfinite(last) & (epochs > 1)
    cells = arms[0].all_cells
    reasons = cells["reason"].fillna("").str.contains("diverged", case=False).to_numpy(dtype=bool)
    rose = (more & (last > (1 + FLAT) * first)) | (reasons & (cells["status"] == "failed").to_numpy(dtype=bool))
    flat = more & ~rose & (last > (1 - FLAT) * first)
    said = []
    for which, words in (
        (rose, "Diverged, so the learning rate is too high for"),
        (flat, "The training loss did not fall in"),
    ):
        counts = {arm.label: (int(which[arm.start : arm.stop].sum()), arm.stop - arm.start) for arm in arms}
        found = [f"{label} on {count} of {counted(of, 'seed')}" for label, (count, of) in counts.items() if count]
        said += [f"{words}: {named(found)}."] if found else []
    return said


def equal_everywhere(arms: Sequence[Arm], metric: str) -> list[str]:
    """Name the arms that have the same figures as another one on the same two seeds or more."""
    values, seeds = column(arms, metric), column(arms, "seed")
    known = finished(arms) & np.isfinite(values)
    same: dict[tuple[bytes, bytes], list[str]] = {}
    for arm in arms:
        keep = np.flatnonzero(known[arm.start : arm.stop]) + arm.start  # the cells of an arm are sorted by seed
        if len(keep) > 1:
            same.setdefault((seeds[keep].tobytes(), values[keep].tobytes()), []).append(arm.label)
    return [
        f"Equal on every seed to the last digit, so hardly trained or too coarsely measured: {named(labels)}."
        for labels in same.values()
        if len(labels) > 1
    ]


def nearly_nil(arms: Sequence[Arm]) -> list[str]:
    """Name the arms whose added branches give next to nothing beside the convolution."""
    values, ok = column(arms, "dose"), finished(arms)
    means = {arm.label: geometric_mean(values[arm.start : arm.stop][ok[arm.start : arm.stop]]) for arm in arms}
    found = [
        f"{label} (dose {significant(dose, 2)})"
        for label, dose in means.items()
        if dose is not None and dose < NEARLY_NIL
    ]
    return (
        [f"Nearly the plain network, since the added branches give next to nothing: {named(found)}."] if found else []
    )


def column(arms: Sequence[Arm], name: str) -> np.ndarray:
    """A column of the cells of all arms as float64, NaN where it is NA, or where nothing was measured."""
    cells = arms[0].all_cells
    return floats(cells[name]) if name in cells else np.full(len(cells), np.nan)


def finished(arms: Sequence[Arm]) -> np.ndarray:
    """Which of those cells ended ok."""
    return (arms[0].all_cells["status"] == "ok").to_numpy(dtype=bool)


def named(arms: Sequence[str]) -> str:
    """Name a few arms; name some and count the rest of many."""
    return joined(list(arms) if len(arms) <= NAMED else [*arms[: NAMED - 1], f"{len(arms) - NAMED + 1} more"])
