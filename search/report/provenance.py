"""Where a cell of a table comes from: runs, commit, hashes, versions, and how its trials ended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from search.report.arms import Arm
from search.report.words import int_ranges

READ = ("study", "status", "seed", "run_dir", "wandb_id", "fingerprint", "reused_from", "provenance")
ODD_SHOWN = 3
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
    parts = {f"other code of {part}": str(value) for part, value in code.items()} if isinstance(code, dict) else {}
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
