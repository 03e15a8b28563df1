"""How far one network's latency scatters while workers train: with and without the exclusive slot, and alone.

    OMP_NUM_THREADS=1 python benchmarks/latency.py --md docs/results/latency.md     # a minute on two cores

Each of `--workers` processes trains a small network over and over; in between each measures the same network, as a trial does
at its end: 20 measurements in all. `before` looks at no lock, `after` measures in the slot; both are taken in turn, in
rounds, so that what else the machine does falls on both. `alone` is one process with nothing beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from datetime import UTC, datetime
from multiprocessing.queues import Queue
from pathlib import Path
from unittest import mock

import torch

import xvol
from search import slot
from search.config import Config, register, typed
from search.trial import measure, train
from search.trial.measure import Latency, latency
from search.trial.untrained import prepare

import timm  # isort: skip
from omegaconf import OmegaConf  # isort: skip

SPAWN = multiprocessing.get_context("spawn")
PROXY = {"data": {"train_size": 256, "val_size": 256, "test_size": 80}, "train": {"epochs": 1, "lr": 0.05}}
REPEATS, BATCH = 20, 8


def work(slots: bool, count: int, trains: bool, found: Queue[list[Latency]]) -> None:
    """Train and measure in turn, `count` times; then train on until everybody is done."""
    torch.set_num_threads(1)
    register()
    config = typed(OmegaConf.merge(OmegaConf.structured(Config), PROXY, {"placement": {"policy": "stage3"}}))
    made = prepare(config)
    model = made.model
    fused = xvol.fuse(model.eval(), made.input_size)
    images = torch.randn(BATCH, *made.input_size)
    without = contextlib.ExitStack()
    if not slots:
        without.enter_context(mock.patch.object(measure, "turnstile", return_value=None))
        without.enter_context(mock.patch.object(train, "give_way", return_value=None))
    with without:
        slot.at_work("cpu")
        taken: list[Latency] = []
        while True:
            if trains:
                list(prepare(config).trainer().epochs())
            if len(taken) < count:
                taken.append(latency(model, fused, images, REPEATS))
            if len(taken) == count:
                found.put(taken)
                count = -1
            if count < 0 and not trains:
                return


def measured(slots: bool, workers: int, count: int, trains: bool = True) -> list[Latency]:
    """Let workers train and measure, `count` measurements each."""
    found: Queue[list[Latency]] = SPAWN.Queue()
    processes = [SPAWN.Process(target=work, args=(slots, count, trains, found), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    taken = [each for _ in processes for each in found.get(timeout=900)]
    for process in processes:
        process.kill()
        process.join()
    return taken


def row(name: str, taken: list[Latency]) -> str:
    """One line of the table: wall milliseconds, CPU milliseconds, how many are marked."""
    wall = sorted(each.latency_ms for each in taken)
    cpu = sorted(each.latency_cpu_ms or 0.0 for each in taken)
    quarter, half, three = statistics.quantiles(wall, n=4)
    marked = sum(not each.latency_exclusive for each in taken)
    cells = (
        len(wall),
        wall[0],
        half,
        wall[-1],
        wall[-1] / wall[0],
        three - quarter,
        cpu[0],
        statistics.median(cpu),
        cpu[-1],
    )
    shown = " | ".join(str(cell) if isinstance(cell, int) else f"{cell:.2f}" for cell in cells)
    return f"| {name} | {shown} | {marked} |"


def seconds_a_look() -> float:
    """CPU seconds of one look at the gate, as a training does it after each step; the least of ten times a thousand."""
    here = slot.turnstile("cpu")
    if here is None:
        return float("nan")
    here.work()
    taken = []
    for _ in range(10):
        start = time.process_time()
        for _ in range(1000):
            here.give_way()
        taken.append((time.process_time() - start) / 1000)
    here.rest()
    return min(taken)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--measurements", type=int, default=20, help="of each kind, all workers together")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--md", type=Path, help="write the page here")
    args = parser.parse_args()
    each = args.measurements // (args.workers * args.rounds)
    load = os.getloadavg()[0]
    kinds: dict[str, list[Latency]] = {"before: no slot": [], "after: in the slot": [], "alone": []}
    for _ in range(args.rounds):
        kinds["alone"] += measured(True, 1, each * args.workers, trains=False)
        kinds["before: no slot"] += measured(False, args.workers, each)
        kinds["after: in the slot"] += measured(True, args.workers, each)
    kinds["after, those not marked"] = [one for one in kinds["after: in the slot"] if one.latency_exclusive]
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    git = lambda *words: subprocess.run(["git", *words], capture_output=True, text=True).stdout.strip()  # noqa: E731
    page = [
        "# Latency of one network while workers train",
        "",
        "Written by `benchmarks/latency.py`; benchmarks/README.md says what is measured and how.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {len(names)} cores of {names[0] if names else platform.processor()}, load {load:.1f} at the "
        f"start and {os.getloadavg()[0]:.1f} at the end, {args.workers} workers, {REPEATS} passes of {BATCH} images each, torch "
        f"{torch.__version__}, timm {timm.__version__}, Python {platform.python_version()}, commit "
        f"{git('rev-parse', '--short=12', 'HEAD')}{' with changes' if git('status', '--porcelain', 'search', 'benchmarks') else ''}",
        "",
        "Milliseconds of the train form. `before` is always marked: what was not measured in a slot is.",
        "",
        "| | n | least | median | most | most / least | quartiles apart | CPU least | CPU median | CPU most | marked |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(row(name, taken) for name, taken in kinds.items() if len(taken) > 1),
        "",
        f"One look at the gate after a training step: {1e6 * seconds_a_look():.1f} us of CPU.",
        "",
    ]
    print("\n".join(page))
    if args.md:
        args.md.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
