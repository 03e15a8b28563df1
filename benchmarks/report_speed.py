"""How long a table of a large study takes: load, table, second load, and the memory of it, over the study's size.

    python benchmarks/report_speed.py                          1,000, 3,000 and 10,000 trials x 50 epochs
    python benchmarks/report_speed.py --sizes 500 --json -     another size; the figures as JSON on stdout
    OMP_NUM_THREADS=1 python benchmarks/report_speed.py --scores 240    scores from samples, of so many trials of 10,000 images
    OMP_NUM_THREADS=1 python benchmarks/report_speed.py --page --sizes 500 10000 --json docs/results/report_speed.json    the page

Each size gets a ledger on disk as studies write it (result.json, history.csv, .hydra/), in a temporary folder, and is
read by a fresh process. `load` starts without a cache; `changed` is a load after one result was rewritten; `texts` is
the time to format the table three ways. The `cpu` columns leave out what other programs took of a busy machine.

`--page` writes the page with its plots instead, of studies half of whose trials are a search over five parameters by
eight workers: seconds without the imports, its size, and its CPU time over that of the table and its texts.

`--scores` has each trial keep float16 logits of ten classes, and gives CPU seconds: of reading the files alone, of each score as a
column of the frame, of the variance budget, and of the NLL by torch's own function in double precision from arrays that are read already.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from search.ledger.provenance import provenance
from search.ledger.samples import write_samples

SEEDS = 5
READER = """
import json, resource, sys, time
from search.report.reading.load import load_study
from search.report.ablation import ablation_table
from search.report.render import render_text, to_csv, to_markdown
def now(): return time.perf_counter(), time.process_time()
marks = [now()]
frame = load_study(sys.argv[1]); marks.append(now())
table = ablation_table(frame); marks.append(now())
texts = [render_text(table), to_markdown(table), to_csv(table)]; marks.append(now())
took = [b[0] - a[0] for a, b in zip(marks, marks[1:])]
cpu = [b[1] - a[1] for a, b in zip(marks, marks[1:])]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"rows": len(frame), "arms": len(table.data), "took": took, "cpu": cpu, "peak": peak}))
"""


def result_of(number: int, study: str, rng: random.Random, arms: int) -> dict[str, Any]:
    """One row of the ledger; about one trial in fifty failed or was pruned."""
    arm, seed = number % arms, number // arms
    status = "ok" if rng.random() > 0.02 or arm == 0 else rng.choice(["failed", "pruned"])
    ok = status == "ok"
    return {
        "schema": 1,
        "study": study,
        "trial": number,
        "phase": "final",
        "status": status,
        "seed": 1000 + seed,
        "reason": None if ok else "loss is not finite at epoch 3",
        "arm": f"stage{arm % 4 + 1}: conv+pssa(embed_ratio=0.25, dilation={arm})" if arm else "plain",
        "is_baseline": arm == 0,
        "arch_hash": f"{arm:010x}",
        "recipe_hash": "dd8bfdcd1b",
        "fingerprint": f"{number:010x}",
        "backbone": "xvol_proxy_resnet",
        "sites": [f"layer{arm % 4 + 1}.{block}.conv2" for block in range(4)] if arm else [],
        "branches": ["conv", "pssa"] if arm else [],
        "params": 77858 + arm,
        "params_fused": 77000 + arm,
        "macs": 251008 + arm,
        "macs_fused": 250000 + arm,
        "latency_ms": 1.1 + rng.random(),
        "latency_fused_ms": 1.0 + rng.random(),
        "latency_batch": 8,
        "fuse_error": 1e-6 * rng.random(),
        "val_top1": 60 + rng.gauss(0, 1) if ok else None,
        "val_loss": 1 + rng.random() if ok else None,
        "test_top1": 60 + arm % 7 * 0.1 + rng.gauss(0, 1) if ok else None,
        "test_loss": 1 + rng.random() if ok else None,
        "epochs": 50 if ok else 3,
        "epochs_planned": 50,
        "train_seconds": 100 * rng.random(),
        "data_source": "synthetic",
        "run_dir": f"final/{number:05d}-s{1000 + seed}",
        "wandb_id": f"{number:08x}",
        "started_at": "2026-11-22T15:58:25+00:00",
        "finished_at": "2026-11-22T15:59:25+00:00",
        "overrides": [f"branch.options.pssa.dilation={arm}", f"seed={1000 + seed}"],
        "provenance": {
            "commit": "0123456789ab",
            "versions": {"xvol": "0.1.0", "torch": "2.13.0+cpu", "timm": "1.0.31", "numpy": "2.4.6", "scipy": "1.17.1"},
            "python": "3.11.7",
            "platform": "Linux",
            "processor": "AMD EPYC",
            "cores": 2,
            "host": f"node{number % 8}",
            "executable": "python",
        },
    }


PAGER = """
import json, resource, sys, time
from pathlib import Path
begun = time.perf_counter()
import search.report.page.write as writer
mark = time.perf_counter(), time.process_time()
path = writer.write_page(sys.argv[1])
took = time.perf_counter() - mark[0], time.process_time() - mark[1]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
figures = path.read_text().count("<figure")
print(json.dumps({"imports_s": mark[0] - begun, "page_s": took[0], "cpu_s": took[1], "mb": path.stat().st_size / 1e6,
                  "figures": figures, "peak_mib": peak}))
"""
WORKERS, SECONDS = 8, 60


def search_of(rows: list[dict[str, Any]], folder: Path) -> None:
    """Let the first half of the trials be a search over five parameters, by eight workers whom a journal names, and all begin in turn."""
    begun, rng, journal = datetime(2026, 11, 22, tzinfo=UTC), random.Random(0), []
    for number, row in enumerate(rows):
        start = begun + timedelta(seconds=number // WORKERS * SECONDS * 1.1)
        row |= {"started_at": start.isoformat(), "finished_at": (start + timedelta(seconds=SECONDS)).isoformat()}
        if number < len(rows) // 2:
            settings = {"placement.policy": f"stage{number % 4 + 1}", "lr": f"{10 ** rng.uniform(-4, -1):.3g}"}
            settings |= {
                f"branch.options.pssa.{name}": str(rng.choice([1, 2, 4, 8])) for name in ("rank", "dilation", "heads")
            }
            row |= {"phase": "search", "seed": 0, "is_baseline": False, "test_top1": None, "test_loss": None}
            row |= {"overrides": [f"{name}={value}" for name, value in settings.items()]}
            row |= {"run_dir": f"trials/{number:05d}-s0", "arch_hash": f"{number % 200:010x}"}
        for attribute in ({"worker": {"host": "node", "lock": f"w{number % WORKERS}"}}, {"run_dir": row["run_dir"]}):
            line = {"op_code": 8, "trial_id": number, "user_attr": attribute}
            journal.append(json.dumps(line, separators=(",", ":")) + "\n")
    (folder / "study.journal").write_text("".join(journal))


def measure_page(trials: int, scratch: Path) -> dict[str, Any]:
    """Write the page of one study in a fresh process; its CPU time beside that of the table and its texts alone, in another one."""
    folder = scratch / f"study{trials}"
    make_ledger(folder, trials, searched=True)
    done = subprocess.run([sys.executable, "-c", PAGER, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the page of {folder} failed:\n{done.stderr}")
    found = {name: round(value, 2) for name, value in json.loads(done.stdout).items()}
    table = sum(read(folder)["cpu"])
    return {"trials": trials} | found | {"table_cpu_s": round(table, 2), "over_table": round(found["cpu_s"] / table, 1)}


def make_ledger(folder: Path, trials: int, epochs: int = 50, searched: bool = False) -> None:
    """Write a study of `trials` trials, five seeds an arm, each with a history of `epochs` epochs; `searched`: half of them a search."""
    rng = random.Random(trials)
    history = "epoch,train_loss,val_loss,val_top1,lr,seconds\n" + "".join(
        f"{epoch},{2 / epoch:.6g},{2.1 / epoch:.6g},{60 - 30 / epoch:.6g},0.1,2.01\n" for epoch in range(1, epochs + 1)
    )
    arms = max((trials // 2 if searched else trials) // SEEDS, 1)
    rows = [result_of(number, folder.name, rng, arms) for number in range(trials)]
    folder.mkdir(parents=True, exist_ok=True)
    if searched:
        search_of(rows, folder)
    for row in rows:
        trial = folder / row["run_dir"]
        (trial / ".hydra").mkdir(parents=True)
        (trial / ".hydra" / "config.yaml").write_text(f"seed: {row['seed']}\n")
        (trial / "history.csv").write_text(history)
        (trial / "result.json").write_text(json.dumps(row, indent=1) + "\n")


def read(folder: Path) -> dict[str, Any]:
    """Load the study and make its table in a fresh process."""
    done = subprocess.run([sys.executable, "-c", READER, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"reading {folder} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def measure(trials: int, scratch: Path) -> dict[str, Any]:
    """Make one ledger and read it three times: without a cache, with one, and after a result has changed."""
    folder = scratch / f"study{trials}"
    make_ledger(folder, trials)
    time.sleep(2.5)  # what is younger than two seconds when it is read is read again by design
    first, second = read(folder), read(folder)
    changed = next(folder.rglob("result.json"))
    changed.write_text(changed.read_text() + " ")
    third = read(folder)
    return {
        "trials": first["rows"],
        "arms": first["arms"],
        "load_s": round(first["took"][0], 3),
        "table_s": round(first["took"][1], 3),
        "load_and_table_cpu_s": round(sum(first["cpu"][:2]), 3),
        "texts_s": round(first["took"][2], 3),
        "second_load_s": round(second["took"][0], 3),
        "second_load_cpu_s": round(second["cpu"][0], 3),
        "changed_load_s": round(third["took"][0], 3),
        "peak_mib": round(first["peak"]),
        "second_peak_mib": round(second["peak"]),
    }


SCORER = """
import json, sys, time
from pathlib import Path
import numpy as np, torch
from search.ledger.samples import samples_below
from search.report.budget import budget_table
from search.report.reading.load import load_study
from search.report.reading.scored import with_scores
frame = load_study(sys.argv[1])
took = {}
def timed(name, call):
    begun = time.process_time()
    result = call()
    took[name] = time.process_time() - begun
    return result
kept = timed("reading alone", lambda: list(samples_below(Path(sys.argv[1]))))
def by_torch():
    for each in kept:
        logits = torch.from_numpy(each.logits.astype(np.float64))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(each.target), reduction="none").mean()
timed("nll by torch, without reading", by_torch)
for name in ("nll", "p_true", "margin", "brier", "calibrated_nll"):
    timed(name, lambda: with_scores(frame, [f"val_{name}"]))
soft = [f"val_{name}" for name in ("nll", "p_true", "margin", "brier")]
timed("these four at once", lambda: with_scores(frame, soft))
timed("budget of val_top1", lambda: budget_table(frame, "val_top1"))
print(json.dumps(took))
"""


def measure_scores(trials: int, scratch: Path, images: int = 10_000, classes: int = 10) -> dict[str, float]:
    """CPU seconds of scores from samples in a fresh process, by what they are."""
    folder = scratch / "scores"
    make_ledger(folder, trials)
    random_state = np.random.default_rng(0)
    target = random_state.integers(classes, size=images)
    for run in sorted((folder / "final").iterdir()):
        logits = random_state.normal(0, 2, (images, classes))
        logits[np.arange(images), target] += 2
        parts = {"index": np.arange(images), "part": np.full(images, "val"), "target": target}
        write_samples(run, parts | {"logits": logits.astype(np.float16)})
    done = subprocess.run([sys.executable, "-c", SCORER, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"scoring {folder} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout))


def main() -> None:
    """Measure each size, print a table and, where asked for, JSON."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--sizes", type=int, nargs="+", default=[1000, 3000, 10_000], metavar="TRIALS")
    options.add_argument("--scores", type=int, metavar="TRIALS", help="scores from samples instead, of so many trials")
    options.add_argument(
        "--page", action="store_true", help="the page with its plots instead, of studies with a search"
    )
    options.add_argument("--json", metavar="FILE", help="write the figures there; - is stdout")
    options.add_argument("--scratch", metavar="DIR", help="folder for the ledgers (default: the system's)")
    given = options.parse_args()
    if given.scores:
        with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
            took = measure_scores(given.scores, Path(scratch))
        print("\n".join(["| what | CPU s |", "|---|---:|", *(f"| {name} | {cpu:.2f} |" for name, cpu in took.items())]))
        return
    rows = []
    for size in given.sizes:
        with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
            rows.append((measure_page if given.page else measure)(size, Path(scratch)))
    names = list(rows[0])
    print("| " + " | ".join(names) + " |\n|" + "---:|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in names) + " |")
    if given.json:
        facts = {name: provenance()[name] for name in ("processor", "cores", "python", "commit")}
        text = json.dumps({**facts, "load": round(os.getloadavg()[0], 1), "rows": rows}, indent=1) + "\n"
        print(text) if given.json == "-" else Path(given.json).write_text(text)


if __name__ == "__main__":
    main()
