"""What the search engine costs, beside Hydra's official Optuna sweeper in the same run.

    python benchmarks/engine.py --rivals ~/rivals --json docs/results/engine.json       # about 35 minutes on two cores
    python benchmarks/engine.py --only cpu,busy                                         # ours alone, two sections

Sections: cpu (CPU a trial of a no-op objective), growth (trial 5000 against trial 100), stored (a trial that asks its study
beside 50,000 stored ones against one beside 500; no rivals), resume (of the study of growth), busy
(share of the workers' time inside trials), command (`--help` and mistakes). Results are merged into the JSON section by
section, so that a run can be done in parts; each section keeps the commit and the load of the machine it was taken at.
`--rivals DIR` makes the rivals' environments in DIR with pip where they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine_measure import complete_tree
from engine_page import render
from engine_rivals import OURS, RIVALS, environment, installed_versions
from engine_runs import Engine, Row, busy, command_line, cpu_a_trial, growth, resume
from engine_stored import stored

from search.ledger.provenance import provenance

SECTIONS = ("cpu", "growth", "stored", "resume", "busy", "command")


def main() -> None:
    """Measure what is asked for, write it down, and print the tables."""
    args = _arguments()
    found = json.loads(args.json.read_text()) if args.json and args.json.exists() else {"sections": {}}
    ours, rivals, versions, missing = _engines(args)
    found["machine"] = {key: provenance()[key] for key in ("processor", "cores", "platform", "python")}
    found["machine"]["orphans_counted"] = complete_tree()
    found["versions"] = {**found.get("versions", {}), "ours": provenance()["versions"], **versions}
    found["missing"] = missing if args.rivals else found.get("missing", missing)
    with tempfile.TemporaryDirectory(prefix="engine-", dir=args.work) as work:
        for name, section in _sections(args, ours, rivals, Path(args.keep or work)).items():
            load, start = os.getloadavg()[0], time.monotonic()
            print(f"\n== {name} ==", flush=True)
            rows = section()
            found["sections"][name] = {
                "commit": provenance()["commit"],
                "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
                "load_before": round(load, 2),
                "load_after": round(os.getloadavg()[0], 2),
                "seconds": round(time.monotonic() - start, 1),
                "rows": rows,
            }
            _write(found, args.json)
    print("\n" + render(found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, joined by commas: {', '.join(SECTIONS)}")
    parser.add_argument("--rivals", type=Path, help="folder of the rivals' environments; made where missing")
    parser.add_argument("--launcher", default="local", help="our launcher: local or joblib")
    parser.add_argument("--trials", type=int, default=200, help="trials of section cpu")
    parser.add_argument("--large", type=int, default=5000, help="trials of sections growth and resume")
    parser.add_argument("--stored", type=int, default=50_000, help="stored trials of section stored")
    parser.add_argument("--repeats", type=int, default=3, help="of each command in cpu, resume and command")
    parser.add_argument("--workers", default="2,4,8", help="numbers of workers of section busy")
    parser.add_argument("--each", type=int, default=12, help="trials a worker in section busy")
    parser.add_argument("--json", type=Path, help="results; sections that are there and not asked for are kept")
    parser.add_argument("--work", type=Path, help="where temporary folders go")
    parser.add_argument("--keep", type=Path, help="keep the studies in this folder (resume alone finds growth's there)")
    args = parser.parse_args()
    unknown = [name for name in args.only.split(",") if name not in SECTIONS]
    if unknown:
        parser.error(f"--only {args.only}: no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if args.trials < 20 or args.large < 500:
        parser.error("--trials takes at least 20, --large at least 500")
    return args


def _engines(args: argparse.Namespace) -> tuple[Engine, list[Engine], Row, Row]:
    """Ours, the rivals that could be installed, their versions, and why others are missing."""
    python = environment(OURS, args.rivals) if args.rivals else sys.executable
    ours = Engine(f"ours, {args.launcher}", str(python), args.launcher, "journal", ours=True)
    rivals: list[Engine] = []
    versions: Row = {}
    missing: Row = {} if args.rivals else {rival.name: "not asked for: give --rivals DIR" for rival in RIVALS}
    for rival in RIVALS if args.rivals else ():
        try:
            python = environment(rival, args.rivals)
        except RuntimeError as error:
            missing[rival.name] = str(error)
            print(f"WITHOUT {error}", file=sys.stderr)
            continue
        versions[rival.name] = installed_versions(python)
        rivals += [
            Engine(
                f"{rival.name}, {storage}{', one batch' if one_batch else ''}",
                str(python),
                "joblib",
                storage,
                False,
                one_batch,
            )
            for storage, one_batch in (("memory", False), ("memory", True), ("sqlite", False))
        ]
    return ours, rivals, versions, missing


def _sections(
    args: argparse.Namespace, ours: Engine, rivals: list[Engine], work: Path
) -> dict[str, Callable[[], list[Row]]]:
    in_memory = [rival for rival in rivals if rival.storage == "memory"]
    study = work / "growth"
    with_tables = replace(ours, python=sys.executable)  # which take pandas
    every: dict[str, Callable[[], list[Row]]] = {
        "cpu": lambda: _told(cpu_a_trial([ours, *rivals], work / "cpu", args.trials, 2, args.repeats)),
        "growth": lambda: _told([growth(ours, study, args.large, 2)]),
        "stored": lambda: _told([stored(with_tables, work / "stored", [500, args.stored], args.repeats)]),
        "resume": lambda: _told([resume(ours, _grown(study), 2, args.repeats)]),
        "busy": lambda: _told(
            busy([ours, *in_memory], work / "busy", [int(n) for n in args.workers.split(",")], args.each)
        ),
        "command": lambda: _told(
            command_line([ours, *(each for each in in_memory if not each.one_batch)], work / "command", args.repeats)
        ),
    }
    return {name: every[name] for name in SECTIONS if name in args.only.split(",")}


def _grown(study: Path) -> Path:
    if not (study / "trace").exists():
        raise SystemExit(
            "section resume goes on with the study of section growth: give --only growth,resume, or --keep DIR"
        )
    return study


def _told(rows: Any) -> list[Row]:
    """The rows as a list, each printed as soon as it is there."""
    kept = []
    for row in rows:
        kept.append({name: round(value, 5) if isinstance(value, float) else value for name, value in row.items()})
        print("  " + "  ".join(f"{name}={value}" for name, value in kept[-1].items()), flush=True)
    return kept


def _write(found: Row, path: Path | None) -> None:
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(render(found), encoding="utf-8")


if __name__ == "__main__":
    main()
