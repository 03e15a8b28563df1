"""Where a cell of a table comes from (runs, commit, hashes, versions, how its trials ended), and what casts doubt on it.

`gate` says what stands before any conclusion: that arms were hardly trained, or hardly differ from the plain network by construction.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import Metric, MetricColumn, metrics_of
from search.report.arms import Arm
from search.report.values import floats, geometric_mean
from search.report.words import counted, int_ranges, joined_few, significant, span

READ = ("study", "status", "seed", "run_dir", "wandb_id", "fingerprint", "reused_from", "provenance")
ODD_SHOWN = 3
NAMED = 4  # longer lists of arms are counted instead of named
FLAT = 0.01  # share of the first epoch's training loss that the last one must fall below it
ERRORS = 2.0  # binomial standard errors above chance that count as near it
NEARLY_NIL = 0.05  # dose below which an added branch is nearly absent
STATUSES = ("ok", "failed", "pruned", "infeasible", "interrupted")


def provenance_of_arms(arms: Sequence[Arm], metric: str) -> list[dict[str, Any]]:
    """Say where the cell of each arm comes from, for one metric; JSON-able.

    Study, run_dirs (of the averaged trials, as in `load_study`), run_ids (of W&B), seeds, arch_hash,
    recipe_hash (over the whole config that is held equal between arms), fingerprints, commits, versions (a list
    each: more than one where the trials do not agree), counts (by how the trials ended, and `reused`: finished ones
    that were taken from an earlier run), repeats (trials left out because their seed had been counted).
    """
    if not arms:
        return []
    # Lists, taken once: a data frame an arm would cost milliseconds each.
    trials = arms[0].all_trials
    columns = {name: [None if pd.isna(value) else value for value in trials[name].tolist()] for name in (*READ, metric)}
    return [
        _provenance_of(arm, {name: values[arm.start : arm.stop] for name, values in columns.items()}, metric)
        for arm in arms
    ]


def _provenance_of(arm: Arm, columns: Mapping[str, list[Any]], metric: str) -> dict[str, Any]:
    averaged = [
        at
        for at, (status, value) in enumerate(zip(columns["status"], columns[metric], strict=True))
        if status == "ok" and value is not None
    ]
    there = {name: [columns[name][at] for at in averaged if columns[name][at] is not None] for name in READ}
    made = [parsed(text) for text in dict.fromkeys(there["provenance"])]
    versions: dict[str, set[str]] = {}
    for entry in made:
        for name, version in versions_of(entry).items():
            versions.setdefault(name, set()).add("not installed" if version is None else str(version))
    counts = Counter(columns["status"])
    study, run_dirs, run_ids, fingerprints = (
        list(dict.fromkeys(there[name])) for name in ("study", "run_dir", "wandb_id", "fingerprint")
    )
    return {
        "study": study,
        "run_dirs": run_dirs,
        "run_ids": run_ids,
        "seeds": [int(seed) for seed in there["seed"]],
        "arch_hash": arm.arch_hash,
        "recipe_hash": arm.recipe_hash,
        "fingerprints": fingerprints,
        "commits": sorted({str(entry.get("commit") or "not on record") for entry in made}),
        "versions": {name: sorted(values) for name, values in versions.items()},
        "counts": {name: counts[name] for name in STATUSES} | {"reused": len(there["reused_from"])},
        "repeats": arm.repeats,
    }


def versions_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Python and the packages that a provenance names; None for one that was not installed."""
    known = entry.get("versions")
    return {"python": entry.get("python"), **(known if isinstance(known, dict) else {})}


@lru_cache(maxsize=4096)
def parsed(text: str) -> dict[str, Any]:
    """Parse the provenance of a trial; the trials of a study share a few."""
    entry = json.loads(text)
    return entry if isinstance(entry, dict) else {}


def odd_trials(arms: Sequence[Arm]) -> list[str]:
    """Name, in one line, the finished trials that another commit, other code or other images made than most; or nothing."""
    if not arms:
        return []
    trials = arms[0].all_trials
    made = [
        None if status != "ok" else (None if pd.isna(text) else text, None if pd.isna(images) else images)
        for status, text, images in zip(
            *(trials[name].tolist() for name in ("status", "provenance", "data_digest")), strict=True
        )
    ]
    counts: dict[str, Counter[str]] = {}
    for what, many in Counter(what for what in made if what is not None).items():
        for name, value in made_by(*what).items():
            counts.setdefault(name, Counter())[value] += many
    usual = {name: values.most_common(1)[0][0] for name, values in counts.items()}
    seeds = trials["seed"].tolist()
    said = []
    for arm in arms:
        odd: dict[str, list[int]] = {}
        for at in range(arm.start, arm.stop):
            cell = made[at]
            how = differences(made_by(*cell), usual) if cell is not None else ""
            if how:
                odd.setdefault(how, []).append(int(seeds[at]))
        said += [f"{arm.label} seed{'s' * (len(where) > 1)} {int_ranges(where)} ({how})" for how, where in odd.items()]
    if not said:
        return []
    more = f"; and {len(said) - ODD_SHOWN} more" if len(said) > ODD_SHOWN else ""
    return [f"Not made as the rest of the table: {'; '.join(said[:ODD_SHOWN])}{more}."]


@lru_cache(maxsize=4096)
def made_by(provenance: str | None, images: str | None) -> dict[str, str]:
    """What made a trial, by name: its commit, the parts of its code, the images."""
    entry = parsed(provenance) if provenance is not None else {}
    code = entry.get("code")
    # these differ from trial to trial by design; roots stand in columns of their own
    read = code.items() if isinstance(code, dict) else ()
    parts = {f"other code of {part}": str(value) for part, value in read if part not in ("root", "checkpoint")}
    known = {"commit": str(entry.get("commit") or "not on record"), "other images": images or ""}
    return known | parts | {"code not on record": "" if parts else "so"}


def differences(made: Mapping[str, str], usual: Mapping[str, str]) -> str:
    """What differs from `usual`, in words; of a cell whose code is not on record, what is."""
    odd = [name for name, value in made.items() if value != usual[name]]
    said = [name for name in odd if name != "commit" and made[name]]
    if "commit" in odd:
        same = made["code not on record"] == "" and not said
        said.insert(0, f"commit {made['commit']}{', the same code' if same else ''}")
    return ", ".join(said)


def provenance_title(provenance: Mapping[str, Any]) -> str:
    """Say the same in a few lines of text, for the title of a cell."""
    counts = ", ".join(f"{count} {name}" for name, count in provenance["counts"].items() if count) or "no trial"
    dirs = provenance["run_dirs"]
    runs = ", ".join(dirs[:8]) + (f", and {len(dirs) - 8} more" if len(dirs) > 8 else "")
    versions = ", ".join(f"{name} {'/'.join(values)}" for name, values in provenance["versions"].items())
    lines = [
        f"trials: {counts}",
        f"seeds: {int_ranges(provenance['seeds']) or 'none'}",
        f"runs: {runs or 'none'}",
        f"W&B: {', '.join(provenance['run_ids'][:8]) or 'none'}",
        f"network {provenance['arch_hash'] or 'unknown'}, recipe {provenance['recipe_hash'] or 'unknown'}",
        f"commit {', '.join(provenance['commits']) or 'not on record'}",
        versions,
    ]
    return "\n".join(line for line in lines if line)


def provenance_text(title: str, cells: Sequence[Mapping[str, Any]]) -> str:
    """Write the side file of a table: one entry a cell, as JSON."""
    return json.dumps({"schema": 1, "table": title, "cells": list(cells)}, indent=1, allow_nan=False) + "\n"


def gate(arms: Sequence[Arm], metric: MetricColumn) -> list[str]:
    """Say, a short line each, why the rows of a table may be no comparison of trained networks; none where they are.

    Chance is judged by the metrics that have a chance level, on test images where `metric` is of those, else on validation images.
    """
    if not arms:
        return []
    split = "test" if metric.split == "test" else "val"
    return [
        *(line for each in metrics_of(None) if each.has_chance for line in _near_chance(arms, each, split)),
        *_losses_that_did_not_fall(arms),
        *_equal_everywhere(arms, metric.column),
        *_nearly_nil(arms),
    ]


def _near_chance(arms: Sequence[Arm], metric: Metric, split: str) -> list[str]:
    """Name the arms whose mean is at most two binomial standard errors above what guessing reaches."""
    reached, chance, images = (
        column(arms, name) for name in (f"{split}_{metric.name}", metric.chance, f"{split}_images")
    )
    known = finished(arms) & np.isfinite(reached) & np.isfinite(chance) & (images > 0)
    found = []
    for arm in arms:
        keep = np.flatnonzero(known[arm.start : arm.stop]) + arm.start
        if not len(keep):
            continue
        mean, guess = float(reached[keep].mean()), float(chance[keep].mean())
        error = math.sqrt(guess * (100 - guess) / float(images[keep].min()))  # of one training: seeds share the images
        if mean <= guess + ERRORS * error:
            found.append((arm.label, mean, guess, error))
    if not found:
        return []
    labels, means, guesses, errors = zip(*found, strict=True)
    reaches = f"guessing reaches {max(guesses):.1f} ± {max(errors):.1f} %"
    return [f"Hardly better than guessing: {joined_few(labels, NAMED)} ({span(means, '.1f')} %; {reaches})."]


def _losses_that_did_not_fall(arms: Sequence[Arm]) -> list[str]:
    """Name the arms whose training loss rose, was no finite number any more, or stayed where it was."""
    first, last, epochs = (column(arms, name) for name in ("train_loss_first", "train_loss", "epochs"))
    more = np.isfinite(first) & np.isfinite(last) & (epochs > 1)
    trials = arms[0].all_trials
    reasons = trials["reason"].fillna("").str.contains("diverged", case=False).to_numpy(dtype=bool)
    rose = (more & (last > (1 + FLAT) * first)) | (reasons & (trials["status"] == "failed").to_numpy(dtype=bool))
    trained_before = trials["start"].eq("shared").to_numpy(dtype=bool, na_value=False) if "start" in trials else False
    flat = more & ~rose & (last > (1 - FLAT) * first) & ~np.asarray(trained_before)
    said = []
    for which, words in (
        (rose, "Diverged, so the learning rate is too high for"),
        (flat, "The training loss did not fall in"),
    ):
        counts = {arm.label: (int(which[arm.start : arm.stop].sum()), arm.stop - arm.start) for arm in arms}
        found = [f"{label} on {count} of {counted(of, 'seed')}" for label, (count, of) in counts.items() if count]
        said += [f"{words}: {joined_few(found, NAMED)}."] if found else []
    return said


def _equal_everywhere(arms: Sequence[Arm], metric: str) -> list[str]:
    """Name the arms that have the same figures as another one on the same two seeds or more."""
    values, seeds = column(arms, metric), column(arms, "seed")
    known = finished(arms) & np.isfinite(values)
    same: dict[tuple[bytes, bytes], list[str]] = {}
    for arm in arms:
        keep = np.flatnonzero(known[arm.start : arm.stop]) + arm.start  # the trials of an arm are sorted by seed
        if len(keep) > 1:
            same.setdefault((seeds[keep].tobytes(), values[keep].tobytes()), []).append(arm.label)
    return [
        f"Equal on every seed to the last digit, so hardly trained or too coarsely measured: {joined_few(labels, NAMED)}."
        for labels in same.values()
        if len(labels) > 1
    ]


def _nearly_nil(arms: Sequence[Arm]) -> list[str]:
    """Name the arms whose added branches give next to nothing beside the convolution."""
    values, ok = column(arms, "dose"), finished(arms)
    means = {arm.label: geometric_mean(values[arm.start : arm.stop][ok[arm.start : arm.stop]]) for arm in arms}
    found = [
        f"{label} (dose {significant(dose, 2)})"
        for label, dose in means.items()
        if dose is not None and dose < NEARLY_NIL
    ]
    return (
        [f"Nearly the plain network, since the added branches give next to nothing: {joined_few(found, NAMED)}."]
        if found
        else []
    )


def column(arms: Sequence[Arm], name: str) -> np.ndarray:
    """A column of the trials of all arms as float64, NaN where it is NA, or where nothing was measured."""
    trials = arms[0].all_trials
    return floats(trials[name]) if name in trials else np.full(len(trials), np.nan)


def finished(arms: Sequence[Arm]) -> np.ndarray:
    """Which of those trials ended ok."""
    return (arms[0].all_trials["status"] == "ok").to_numpy(dtype=bool)
