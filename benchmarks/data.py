"""What keying costs, the stream path beside timm's own loader, and what it takes to list a data set of ImageNet's size.

    OMP_NUM_THREADS=1 python benchmarks/data.py --md docs/results/data.md     # 5 minutes on two cores, 1.28 million empty files

Each ratio is of one run: the loaders are read in turn, an epoch each, round after round. The clock is the CPU time of the process and
its workers: what a machine would show that does nothing else, but for caches that others use meanwhile. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

import xvol  # noqa: F401  # before timm
from search.data import stream
from search.data.config import Augmentation, DataConfig
from search.data.images import DataInfo, TensorPair, load_data
from search.data.keyed import reseed
from search.data.loaders import image_loaders
from search.data.memory import MemoryLoader
from search.ledger.provenance import code_commit

import timm  # isort: skip
from timm.data import create_dataset, create_loader  # isort: skip

Batches = Iterable[Any]
Epoch = Callable[[int], Batches]
BATCH, BATCHES = 32, 4  # pictures in a batch; batches in an epoch, which is one turn
KINDS = {
    "500x375 to 224, RandAugment": ((500, 375), 224, Augmentation([0.08, 1.0], aa="rand-m7-mstd0.5-inc1")),
    "500x375 to 224, crop and flip": ((500, 375), 224, Augmentation([0.08, 1.0])),
    "64x64 to 56, crop and flip": ((64, 64), 56, Augmentation([0.08, 1.0])),
}


def write_pictures(folder: Path, size: tuple[int, int], count: int) -> None:
    """JPEG files of two classes, about as many bytes a pixel as photographs have."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"class{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        small = generator.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        picture.save(place / f"{number:05}.jpg", quality=90)


def ours(folder: Path, size: int, recipe: Augmentation, workers: int) -> Epoch:
    """The training loader of the stream path."""
    config = DataConfig("folder", path=str(folder), image_size=size, batch_size=BATCH, flip=True, in_memory_mb=0)
    config.workers, config.val_size, config.test_size = workers, 2, 2
    loader = image_loaders(load_data(config, recipe, with_test=False), config, recipe, seed=0).train
    return lambda epoch: loader.at(epoch)


def unkeyed(*arguments: Any) -> Epoch:
    """The same without keys: every picture takes its draws from where the global generators stand."""
    keyed = ours(*arguments)

    def batches(epoch: int) -> Batches:
        with (
            mock.patch.object(stream, "reseed", _nothing),  # a Mock would take as long as the keys
            mock.patch.object(stream, "restored", contextlib.nullcontext),
        ):
            yield from keyed(epoch)  # workers are forked inside, once

    return batches


def _nothing(*parts: object) -> None:
    pass


def timms(folder: Path, size: int, recipe: Augmentation, workers: int) -> Epoch:
    """What timm's train.py makes of the same pictures and recipe."""
    loader = create_loader(
        create_dataset("", root=str(folder), split="train", is_training=True),
        (3, size, size),
        BATCH,
        is_training=True,
        scale=recipe.scale,
        color_jitter=None,
        auto_augment=recipe.aa,
        interpolation=recipe.train_interpolation,
        num_workers=workers,
        device=torch.device("cpu"),
        persistent_workers=True,
    )
    return lambda _: loader


def clock() -> float:
    """Seconds of CPU of this process and its living workers."""
    stats = [Path(f"/proc/{worker.pid}/stat").read_text().split() for worker in multiprocessing.active_children()]
    ticks = sum(int(fields[13]) + int(fields[14]) for fields in stats)
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def compared(folder: Path, size: int, recipe: Augmentation, workers: int, rounds: int) -> dict[str, Any]:
    """Images a second of CPU of each loader, and the ratios: median of the rounds, of the fastest, interquartile range."""
    makers = {"ours": ours, "unkeyed": unkeyed, "timm": timms}
    loaders = {name: make(folder, size, recipe, workers) for name, make in makers.items()}
    taken: dict[str, list[float]] = {name: [] for name in makers}
    for turn in range(rounds + 1):
        for name in list(makers) if turn % 2 else list(reversed(makers)):
            start = clock()
            count = sum(1 for _ in loaders[name](turn))
            assert count == BATCHES, (name, count)
            if turn:  # the first warms up
                taken[name].append(clock() - start)
    found: dict[str, Any] = {"workers": workers, "rate": BATCHES * BATCH / statistics.median(taken["ours"])}
    for rival in ("unkeyed", "timm"):
        ratios = [other / own for own, other in zip(taken["ours"], taken[rival], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[rival] = middle, min(taken[rival]) / min(taken["ours"]), high - low
    return found


def memory_path(rounds: int) -> dict[str, float]:
    """Microseconds of CPU an image of 32x32, in memory, as batches of 128 come."""
    pair = TensorPair(torch.randint(0, 256, (10_000, 3, 32, 32), dtype=torch.uint8), torch.zeros(10_000).long())
    info = DataInfo(("one",), 3, 32, (0.5,) * 3, (0.2,) * 3, "noise", "0")
    config = DataConfig(flip=True, crop_padding=4)
    found = {}
    for name, recipe in {"flip and shift": Augmentation(), "random crop and flip": Augmentation([0.2, 1.0])}.items():
        loader = MemoryLoader(pair, info, config, recipe, training=True)
        times = []
        for epoch in range(rounds):
            start = time.process_time()
            for _ in loader.at(epoch):
                pass
            times.append((time.process_time() - start) / loader.samples * 1e6)
        found[name] = statistics.median(times)
    return found


def write_many(folder: Path, count: int, classes: int = 1000) -> None:
    """`count` empty files in the folders of ImageNet's names, but the first, which is a picture."""
    for number in range(classes):
        place = folder / f"n{number:08}"
        place.mkdir(parents=True)
        for picture in range(number, count, classes):
            os.close(os.open(place / f"n{number:08}_{picture}.JPEG", os.O_CREAT | os.O_WRONLY))
    first = min((folder / "n00000000").iterdir())
    Image.new("RGB", (32, 32)).save(first, "JPEG")


def listed(folder: Path) -> dict[str, float]:
    """Seconds and mebibytes that the data of a folder take until the first batch could be decoded, in this process."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of what was imported does not count
    before = _memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    config = DataConfig("folder", path=str(folder), image_size=224, in_memory_mb=0, val_size=0.02, test_size=0.02)
    data = load_data(config, backbone="resnet50", with_test=False)
    found = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return found | {"peak": _memory("VmHWM") - before, "pictures": len(data.train.labels)}


def _memory(what: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def render(found: dict[str, Any]) -> str:
    """The page."""
    facts, index, memory = found["facts"], found["index"], found["memory"]
    lines = [
        "# Data: what keying costs, and the stream path beside timm's",
        "",
        f"Written by `benchmarks/data.py` ({facts['date']}, commit {facts['commit']}).",
        "",
        f"{facts['processor']}, {facts['cores']} cores, one thread a process; torch {torch.__version__}, timm {timm.__version__}, "
        f"Pillow {Image.__version__}, Python {platform.python_version()}.",
        "",
        "Ratios of images a second of CPU (workers included) in one run, the loaders read in turn: above 1 ours is faster. Ratio: "
        "the median of the rounds; of minima: of each loader's fastest epoch; spread: interquartile range of the rounds. Load: of the "
        "machine while the row was measured.",
        "",
        "| pictures | workers | ours, images per CPU s | ours / unkeyed (goal 0.98) | of minima | spread "
        "| ours / timm (goal 0.97) | of minima | spread | load |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["loaders"]:
        figures = " | ".join(
            f"{middle:.3f} | {fastest:.3f} | {spread:.3f}" for middle, fastest, spread in (row["unkeyed"], row["timm"])
        )
        lines.append(f"| {name} | {row['workers']} | {row['rate']:.0f} | {figures} | {row['load']:.1f} |")
    lines += [
        "",
        f"To seed Python's, numpy's and torch's generators by a key takes {found['reseed']:.1f} microseconds a picture (at the fastest).",
        "",
        "In memory, microseconds of CPU an image of 32x32: "
        + ", ".join(f"{name} {value:.1f}" for name, value in memory.items())
        + ".",
    ]
    if index:
        lines += [
            "",
            f"A folder of {index['files']:,} files in 1,000 classes (empty ones, on a local disk), listed, digested by names and sizes, "
            f"split, and its first picture decoded: {index['seconds']:.1f} s ({index['cpu']:.1f} s of CPU; goal 20), "
            f"{index['peak']:.0f} MiB more at the peak than before (goal 400); load {index['load']:.1f}.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--md", type=Path, help="write the page there")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--files", type=int, default=1_281_167, help="of the folder that is listed; 0 leaves it out")
    parser.add_argument("--list", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.list:
        print(json.dumps(listed(args.list)))
        return
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": code_commit() or "unknown", "cores": os.cpu_count()}
    facts["processor"] = _processor()
    found: dict[str, Any] = {"facts": facts, "loaders": [], "index": None, "memory": memory_path(10)}
    found["reseed"] = min(timeit.repeat(lambda: reseed(1, 2, 3, 0), number=1000, repeat=20)) * 1e3
    with tempfile.TemporaryDirectory() as work:
        for name, (shape, size, recipe) in KINDS.items():
            folder = Path(work, name)
            write_pictures(folder, shape, BATCH * BATCHES + 4)  # 4 are not trained on
            for workers in (0, 2):
                row = compared(folder, size, recipe, workers, args.rounds) | {"load": os.getloadavg()[0]}
                found["loaders"].append((name, row))
                print(name, row, flush=True)
        if args.files:
            write_many(Path(work, "many"), args.files)
            load = os.getloadavg()[0]
            command = [sys.executable, __file__, "--list", str(Path(work, "many"))]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found["index"] = json.loads(printed) | {"files": args.files, "load": load}
    print(render(found))
    if args.md:
        args.md.write_text(render(found), encoding="utf-8")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
