"""Do the statistics of `search.report` keep their promises? Simulated studies whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/statistics_truth.py                     # 2 to 3 minutes of one core
    OMP_NUM_THREADS=1 python benchmarks/statistics_truth.py --only looks trusts # the other sections as they stand in the file

writes docs/results/statistics_truth.json and .md. Every study has arms that share their seeds and a baseline: what a seed
does to all arms has standard deviation 3, the noise of each arm 1, so that a paired difference has sqrt(2) and the rows of a
table are correlated. Where a loop over studies is too slow, the studies go through SciPy as one array, and the section
first checks on some of them that the function of `search.report` gives the same numbers.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from statistics_designs import factorials, trusts
from statistics_looks import looks
from statistics_page import page
from statistics_roots import roots
from statistics_rows import coverage, equivalences, families, powers
from statistics_simulate import Row

from search.ledger.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]

SECTIONS: dict[str, tuple[Callable[[np.random.Generator, int], list[Row]], int]] = {
    "coverage": (coverage, 4000),
    "families": (families, 2000),
    "powers": (powers, 20000),
    "equivalences": (equivalences, 20000),
    "looks": (looks, 10000),
    "factorials": (factorials, 2000),
    "trusts": (trusts, 2000),
    "roots": (roots, 2000),
}


def main() -> None:
    """Run the sections and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--studies", type=int, help="simulated studies in each section; by default 2000 to 20000")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/statistics_truth.json")
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), help="sections to run; the others stay as they are"
    )
    arguments = parser.parse_args()
    if arguments.only and not arguments.out.exists():
        parser.error(f"--only keeps the other sections of {arguments.out}, which is not there; run all of them once")
    gc.freeze()  # statsmodels collects garbage at each correction: 50 ms with all modules in sight
    before = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.only else {"rows": [], "facts": {}}
    rows, seconds = before["rows"], dict(before["facts"].get("seconds_of_sections", {}))
    commits = dict(before["facts"].get("commits", dict.fromkeys(seconds, before["facts"].get("commit"))))
    for index, (name, (section, studies)) in enumerate(SECTIONS.items()):
        if arguments.only and name not in arguments.only:
            continue
        started = time.process_time()
        made_now = section(np.random.default_rng([arguments.seed, index]), arguments.studies or studies)
        rows = [row for row in rows if row["section"] != made_now[0]["section"]] + made_now
        commits[name] = provenance()["commit"]
        seconds[name] = round(time.process_time() - started, 1)
        print(f"{name}: {seconds[name]} s", flush=True)
    made = provenance()
    seconds, commits = ({name: of[name] for name in SECTIONS if name in of} for of in (seconds, commits))
    facts = {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/statistics_truth.py {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M+00:00"),
        "commit": made["commit"],
        "commits": commits,
        "processor": made["processor"],
        "cpu_seconds": round(sum(seconds.values()), 1),
        "seconds_of_sections": seconds,
        "seed": arguments.seed,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "scipy", "statsmodels", "pandas")},
    }
    arguments.out.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    arguments.out.with_suffix(".md").write_text(page(facts, rows), encoding="utf-8")


if __name__ == "__main__":
    main()
