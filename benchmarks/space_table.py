"""Trains a small space exhaustively through the harness, and writes it as the table that benchmarks/replay.py replays.

    python benchmarks/space_table.py --seeds 6                      # CIFAR-10 proxy; resumes where it was stopped
    python benchmarks/space_table.py --seeds 2 --table /tmp/t.csv --study try -- data=digits train=short train.epochs=1

One study a seed, so that seeds can be added later: `python -m search -m --config-dir benchmarks/conf
experiment=space_table seed=S`. The table has a row for each network and seed: the point (placement.at.stage1 to
placement.at.stage4: "none" or "block"; branch, empty where nothing is placed), arch_hash, seed, val_top1 and what else
was measured. Test images are not read.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from search.ledger.result import TrialResult, read_result

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "results" / "space_table.csv"
STAGES = ("stage1", "stage2", "stage3", "stage4")
MEASURED = ("val_top1", "val_loss", "params", "macs", "latency_ms", "epochs", "train_seconds", "recipe_hash", "commit")
ARMS = 46

Row = dict[str, Any]


def main() -> None:
    """Train what is missing, seed by seed; the table is written again after each."""
    args = _arguments()
    rows: list[Row] = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        name = f"{args.study}_s{seed}"
        folder = args.runs.absolute() / name
        if not args.collect:
            _train(name, folder, seed, args.overrides)
        rows += _rows(folder, seed)
        _write(rows, args.table)
        there = len({row["arch_hash"] for row in rows if row["seed"] == seed})
        print(f"seed {seed}: {there} of {ARMS} networks; {args.table}", flush=True)


def _train(name: str, folder: Path, seed: int, overrides: Sequence[str]) -> None:
    """Run, or go on with, the study of one seed; end where it fails."""
    command = [
        *(sys.executable, "-m", "search", "-m", "--config-dir", str(ROOT / "benchmarks" / "conf")),
        *("experiment=space_table", f"seed={seed}", f"hydra.sweeper.study_name={name}", f"hydra.sweep.dir={folder}"),
        *overrides,
    ]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        raise SystemExit(
            f"space_table.py: the study of seed {seed} ended with {code}; the same command goes on with it"
        )


def _rows(folder: Path, seed: int) -> list[Row]:
    """The finished networks of one study, each once, in the order of the grid."""
    found: dict[str, Row] = {}
    for result in _finished(folder):
        point = _point(result.overrides)
        facts = {name: getattr(result, name) for name in MEASURED if name != "commit"}
        facts["commit"] = result.provenance.get("commit")
        found.setdefault(str(result.arch_hash), {**point, "arch_hash": result.arch_hash, "seed": seed, **facts})
    return sorted(found.values(), key=lambda row: [str(row[name]) for name in point_columns()])


def _finished(folder: Path) -> Iterator[TrialResult]:
    for path in sorted(folder.glob("trials/*/result.json")):
        result = read_result(path)
        if result.status == "ok" and result.metrics.get("val_top1") is not None:
            yield result


def point_columns() -> list[str]:
    """The columns of a point."""
    return [*(f"placement.at.{stage}" for stage in STAGES), "branch"]


def _point(overrides: Sequence[str]) -> Row:
    """The point that a trial's overrides describe; the last one of a key counts."""
    given = dict(line.lstrip("+").split("=", 1) for line in overrides)
    placed = given["placement.policy"].split("+")
    point: Row = {f"placement.at.{stage}": "block" if stage in placed else "none" for stage in STAGES}
    return {**point, "branch": "" if placed == ["none"] else given["branch"]}


def _write(rows: Sequence[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*point_columns(), "arch_hash", "seed", *MEASURED], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6, help="how many seeds; replaying needs two at least")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--table", type=Path, default=TABLE, help="where the table goes")
    parser.add_argument("--study", default="space_table", help="the studies are named STUDY_s0, STUDY_s1, ...")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="folder of the studies")
    parser.add_argument("--collect", action="store_true", help="train nothing, write the table of what is there")
    parser.add_argument("overrides", nargs="*", help="after --: further overrides of every trial")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds {args.seeds}: at least 1")
    return args


if __name__ == "__main__":
    main()
