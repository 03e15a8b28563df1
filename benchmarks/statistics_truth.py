"""Do the statistics of `search.report` keep their promises? Simulated studies whose truth is known.

    OMP_NUM_THREADS=1 python benchmarks/statistics_truth.py     # 2 to 3 minutes of one core

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
from statistics_designs import factorials, sequences, trusts
from statistics_page import page
from statistics_rows import coverage, equivalences, families, powers
from statistics_simulate import Row

from search.ledger.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]

SECTIONS: dict[str, tuple[Callable[[np.random.Generator, int], list[Row]], int]] = {
    "coverage": (coverage, 4000),
    "families": (families, 2000),
    "powers": (powers, 20000),
    "equivalences": (equivalences, 20000),
    "sequences": (sequences, 10000),
    "factorials": (factorials, 2000),
    "trusts": (trusts, 2000),
}


def main() -> None:
    """Run the sections and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--studies", type=int, help="simulated studies in each section; by default 2000 to 20000")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/statistics_truth.json")
    arguments = parser.parse_args()
    gc.freeze()  # statsmodels collects garbage at each correction: 50 ms with all modules in sight
    rows, seconds = [], {}
    for index, (name, (section, studies)) in enumerate(SECTIONS.items()):
        started = time.process_time()
        rows += section(np.random.default_rng([arguments.seed, index]), arguments.studies or studies)
        seconds[name] = round(time.process_time() - started, 1)
        print(f"{name}: {seconds[name]} s", flush=True)
    made = provenance()
    facts = {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/statistics_truth.py {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M+00:00"),
        "commit": made["commit"],
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
