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

__all__ = ["all_sources", "provenance_text", "sources_title"]

READ = ("study", "status", "seed", "run_dir", "wandb_id", "fingerprint", "reused_from", "provenance")
STATUSES = ("ok", "failed", "pruned", "infeasible", "interrupted")


def all_sources(arms: Sequence[Arm], metric: str) -> list[dict[str, Any]]:
    """Say where the cell of each arm comes from, for one metric; JSON-able.

    Returns:
        For each arm: study, run_dirs (of the averaged trials, as in `load_study`), run_ids (of W&B), seeds, arch_hash,
        recipe_hash (over the whole config that is held equal between arms), fingerprints, commits, versions (a list
        each: more than one where the trials do not agree), counts (by how the trials ended, and `reused`: finished ones
        that were taken from an earlier run), repeats (trials left out because their seed had been counted).
    """
    if not arms:
        return []
    # Lists, taken once: a data frame an arm would cost milliseconds each.
    cells = arms[0].all_cells
    columns = {name: [None if pd.isna(value) else value for value in cells[name].tolist()] for name in (*READ, metric)}
    return [
        sources_of(arm, {name: values[arm.start : arm.stop] for name, values in columns.items()}, metric)
        for arm in arms
    ]


def sources_of(arm: Arm, columns: Mapping[str, list[Any]], metric: str) -> dict[str, Any]:
    """Say where the cell of one arm comes from; `columns` holds its trials' values."""
    averaged = [
        at
        for at, (status, value) in enumerate(zip(columns["status"], columns[metric], strict=True))
        if status == "ok" and value is not None
    ]
    there = {name: [columns[name][at] for at in averaged if columns[name][at] is not None] for name in READ}
    commits: set[str] = set()
    versions: dict[str, set[str]] = {}
    for text in dict.fromkeys(there["provenance"]):
        entry = parsed(text)
        commits.add(str(entry.get("commit") or "not on record"))
        known = entry.get("versions")
        flat = {"python": entry.get("python"), **(known if isinstance(known, dict) else {})}
        for name, version in flat.items():
            versions.setdefault(name, set()).add(str(version) if version is not None else "not installed")
    counts = Counter(columns["status"])
    return {
        "study": list(dict.fromkeys(there["study"])),
        "run_dirs": list(dict.fromkeys(there["run_dir"])),
        "run_ids": list(dict.fromkeys(there["wandb_id"])),
        "seeds": [int(seed) for seed in there["seed"]],
        "arch_hash": arm.arch_hash,
        "recipe_hash": arm.recipe_hash,
        "fingerprints": list(dict.fromkeys(there["fingerprint"])),
        "commits": sorted(commits),
        "versions": {name: sorted(values) for name, values in versions.items()},
        "counts": {name: counts[name] for name in STATUSES} | {"reused": len(there["reused_from"])},
        "repeats": arm.repeats,
    }


@lru_cache(maxsize=4096)
def parsed(text: str) -> dict[str, Any]:
    """Parse the provenance of a trial; the trials of a study share a few."""
    entry = json.loads(text)
    return entry if isinstance(entry, dict) else {}


def sources_title(sources: Mapping[str, Any]) -> str:
    """Say the same in a few lines of text, for the title of a cell."""
    counts = ", ".join(f"{count} {name}" for name, count in sources["counts"].items() if count) or "no trial"
    dirs = sources["run_dirs"]
    runs = ", ".join(dirs[:8]) + (f", and {len(dirs) - 8} more" if len(dirs) > 8 else "")
    versions = ", ".join(f"{name} {'/'.join(values)}" for name, values in sources["versions"].items())
    lines = [
        f"trials: {counts}",
        f"seeds: {int_ranges(sources['seeds']) or 'none'}",
        f"runs: {runs or 'none'}",
        f"W&B: {', '.join(sources['run_ids'][:8]) or 'none'}",
        f"network {sources['arch_hash'] or 'unknown'}, recipe {sources['recipe_hash'] or 'unknown'}",
        f"commit {', '.join(sources['commits']) or 'not on record'}",
        versions,
    ]
    return "\n".join(line for line in lines if line)


def provenance_text(title: str, cells: Sequence[Mapping[str, Any]]) -> str:
    """Write the side file of a table: one entry a cell, as JSON."""
    return json.dumps({"schema": 1, "table": title, "cells": list(cells)}, indent=1, allow_nan=False) + "\n"
