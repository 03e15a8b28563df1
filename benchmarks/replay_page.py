"""The results of benchmarks/replay.py as Markdown, and the invented table that it can be tried on."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

__all__ = ["HORIZONS", "render", "synthetic"]

HORIZONS = (8, 16, 32)  # trainings after which the arm that a search would report is looked at

Row = dict[str, Any]


def render(found: Row) -> str:
    """The results as Markdown."""
    best = found["best"]
    lines = [
        "# Trainings until a search is within noise of the best",
        "",
        f"{found['arms']} arms behind {found['points']} points, {'/'.join(map(str, found['seeds']))} seeds each; sd of the "
        f"arms' means {found['spread_of_means']:.2f}, sd of one training around its arm's mean {found['noise']:.2f} (what a "
        f"seed does to all arms taken out). Best arm: {best['point']}, "
        f"mean {best['mean']:.2f}, standard error {best['standard_error']:.2f}; {found['good_arms']} arm(s) are within that of it.",
        "",
        f"Mean of {found['repeats']} paired repeats, [95 % bootstrap interval]; at most {found['most']} trainings. Differences "
        "are paired by repeat; below 0 is better. Gap: true mean of the best arm less that of the arm a search would report.",
        "",
        "| strategy | trainings | median | never there | less random | less official TPE | proposals a training | "
        + " | ".join(f"gap after {horizon}" for horizon in HORIZONS)
        + " |",
        "|" + "---|" * (7 + len(HORIZONS)),
    ]
    for row in found["rows"]:
        cells = [row["strategy"], _shown(row["trials"], row["interval"]), f"{row['median']:g}", str(row["never"])]
        for against in ("random", "official TPE"):
            there = f"minus {against}" in row
            cells.append(_shown(row[f"minus {against}"], row[f"minus {against} interval"]) if there else "")
        cells.append(f"{row['proposals_a_training']:.2f}")
        cells += [_shown(row[f"gap_{h}"], row[f"gap_{h}_interval"], 2) for h in HORIZONS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def synthetic(path: Path, seeds: int, noise: float) -> None:
    """Write an invented table in the format: four stages, three branches, effects of stage and branch, and noise."""
    draw = random.Random(7)
    stages, branches = [f"placement.at.stage{n}" for n in range(1, 5)], ("pssa", "pssa_quarter", "softmax_global")
    effects = {(stage, branch): draw.gauss(0, 0.6) for stage in stages for branch in branches}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*stages, "branch", "arch_hash", "seed", "val_top1"])
        for subset in range(16):
            for branch in branches if subset else ("",):
                cells = ["block" if subset >> i & 1 else "none" for i in range(4)]
                mean = 49 + sum(effects[s, branch] for s, cell in zip(stages, cells, strict=True) if cell == "block")
                for seed in range(seeds):
                    writer.writerow([*cells, branch, f"{subset:x}{branch}", seed, round(draw.gauss(mean, noise), 3)])


def _shown(mean: float, interval: tuple[float, float], digits: int = 1) -> str:
    return f"{mean:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
