"""The proxies of conf/train/proxy: what they cost and reach, and what the committed studies under them tell of their arms.

    OMP_NUM_THREADS=1 python benchmarks/proxies.py --measure 20s 60s 120s     # about 4 minutes on one quiet core
    OMP_NUM_THREADS=1 python benchmarks/proxies.py --measure 20s --changes train.amp=false      # on a CPU without AVX-512
    python benchmarks/proxies.py                                              # the page anew, from what lies in docs/results

The first trains the plain network by each recipe, at one seed that no study here has, and reads the test images. The clock is the CPU
time of the process: of training alone, and of the whole trial from the first import on. It adds what it measured to
docs/results/proxies.json. Both write docs/results/proxies.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir

from search.config import config_folder, register, typed
from search.stats.inference import seeds_needed
from search.stats.paired import PairedDifference, difference
from search.stats.ranking import proxy_trust
from search.trial.train import evaluate, unformed
from search.trial.untrained import prepare

RESULTS = Path(__file__).resolve().parent.parent / "docs/results"
BACKBONES = {
    "20s": "proxy_resnet_128",
    "20s_sgd": "proxy_resnet_128",
    "60s": "proxy_resnet_128",
    "120s": "proxy_resnet_256",
}
SEED = 4000
MUON, SGD = (
    "proxy/20s, first form",
    "proxy/20s_sgd, first form",
)  # before 2026-11-30 08:00: timm's own Muon, whole images
STUDIES = {  # by recipe, of which an arm's trials may lie in several
    "proxy": ("paper_stage_placement", "paper_stage_placement_looks"),
    MUON: ("proxy_optimisers", "proxy_second_conv_20s"),
    SGD: ("proxy_optimisers",),
    "proxy/60s, first form": ("paper_stage_placement_60s",),
    "proxy/20s": ("proxy_stages_20s",),
}
LONGEST = "proxy/60s, first form"
PLAIN = "plain"


def measured(recipe: str, changes: Sequence[str]) -> dict[str, Any]:
    """CPU seconds and scores of the plain network under a recipe with `changes`, overrides of the command line."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        words = ["data=cifar10_all", f"backbone={BACKBONES[recipe]}", f"train=proxy/{recipe}", f"seed={SEED}"]
        config = typed(compose("config", [*words, "tracker=disabled", *changes]))
    config.train.eval_every = config.train.epochs
    trial = prepare(config, splits=("train", "val", "test"))
    trainer, amp = trial.trainer(), config.train.amp_type
    begun = _load()
    start = time.process_time()
    (*_, last) = trainer.epochs()
    trained = time.process_time()
    # once more: as long as in the last epoch
    evaluate(trainer.evaluated, trial.loaders.val, trial.evaluator("val"), amp)
    training = trained - start - (time.process_time() - trained)
    assert trial.loaders.test is not None
    scores = evaluate(
        unformed(trainer.evaluated, config.train, trial.model), trial.loaders.test, trial.evaluator("test"), amp
    )
    return {
        "recipe": f"proxy/{recipe}",
        "backbone": BACKBONES[recipe],
        "training_cpu_s": round(training, 1),
        "whole_cpu_s": round(time.process_time(), 1),
        "val_top1": last.scores["val_top1"],
        "test_top1": scores["test_top1"],
        "changes": list(changes),
        "load": round(max(begun, _load()), 1),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "torch": str(torch.__version__),
    }


def _load() -> float:
    """Processes that ran or waited to run in the last minute, this one among them."""
    return float(Path("/proc/loadavg").read_text().split()[0])


def trials() -> pd.DataFrame:
    """One row a finished trial of the studies that are there: recipe, arm, seed, test_top1."""
    frames = []
    for recipe, names in STUDIES.items():
        for path in (RESULTS / name / "trials.csv" for name in names):
            if not path.exists():
                continue
            rows = pd.read_csv(path, usecols=["phase", "status", "arm", "seed", "test_top1", "overrides"])
            rows = rows[(rows["phase"] == "final") & (rows["status"] == "ok")]
            if "optimisers" in path.parent.name:  # its cells name their recipe
                own = recipe.partition(",")[0]
                rows = rows[rows["overrides"].str.split("; ").map(lambda words, own=own: f"train={own}" in words)]
            arm = rows["arm"].str.partition(":")[0]
            frames.append(rows[["seed", "test_top1"]].assign(recipe=recipe, arm=arm))
    found = pd.concat(frames, ignore_index=True)
    return found.drop_duplicates(["recipe", "arm", "seed"])


def by_seed(table: pd.DataFrame, recipe: str, arm: str) -> pd.Series[float]:
    """Test top-1 of an arm under a recipe, indexed by seed."""
    return table[(table["recipe"] == recipe) & (table["arm"] == arm)].set_index("seed")["test_top1"].astype(float)


def signed(found: PairedDifference) -> str:
    """Cells of a paired difference: n, mean, interval, sd, p."""
    if found.mean is None or found.low is None or found.high is None or found.p_value is None:
        return f"{found.n} | - | - | - | -"
    interval = f"[{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.n} | {found.mean:+.2f} | {interval} | {found.sd:.2f} | {found.p_value:.2g}"


def costs(path: Path) -> Iterator[str]:
    """What the recipes cost and reach."""
    yield "| recipe | backbone | training, CPU s | whole trial, CPU s | test top-1 % | load | CPU | measured |"
    yield "|---|---|---:|---:|---:|---:|---|---|"
    for row in json.loads(path.read_text()) if path.exists() else []:
        seconds = f"{row['training_cpu_s']:.1f} | {row['whole_cpu_s']:.1f}"
        recipe = " ".join([row["recipe"], *row.get("changes", [])])
        told = (
            f"{row['test_top1']:.2f} | {row['load']} | {row.get('capability', '-')} | {row['at']}, torch {row['torch']}"
        )
        yield f"| {recipe} | {row['backbone']} | {seconds} | {told} |"


def arms(table: pd.DataFrame) -> Iterator[str]:
    """Each arm against the plain network of its recipe."""
    yield "| recipe | arm | n | difference | 95 % | sd of the difference | p | sd of the arm | r | seeds for 0.5 points |"
    yield "|---|---|---:|---:|---|---:|---:|---:|---:|---:|"
    for recipe in STUDIES:
        plain = by_seed(table, recipe, PLAIN)
        if plain.empty:
            continue
        yield f"| {recipe} | {PLAIN} | {len(plain)} | {plain.mean():.2f} (mean) | | | | {plain.std():.2f} | | |"
        for arm in sorted(set(table.loc[table["recipe"] == recipe, "arm"]) - {PLAIN}):
            values = by_seed(table, recipe, arm)
            found = difference(values, plain)
            alike = "" if found.correlation is None else f"{found.correlation:+.2f}"
            (needed,) = seeds_needed(np.array([0.5 / found.sd])) if found.sd else (None,)
            yield f"| {recipe} | {arm} | {signed(found)} | {values.std():.2f} | {alike} | {needed or ''} |"


def rankings(table: pd.DataFrame) -> Iterator[str]:
    """Whether a cheaper recipe orders the arms as the longest one does."""
    yield "| recipe | arms | Kendall's tau | 95 % over arms | regret, points | note |"
    yield "|---|---:|---:|---|---:|---|"
    means = table.groupby(["recipe", "arm"])["test_top1"].mean()
    for recipe in STUDIES:
        if recipe == LONGEST or recipe not in means or LONGEST not in means:
            continue
        shared = means[recipe].index.intersection(means[LONGEST].index)
        trust = proxy_trust(means[recipe][shared], means[LONGEST][shared])
        if trust.tau is not None and trust.n > 2:
            interval = "" if trust.low is None or trust.high is None else f"[{trust.low:+.2f}, {trust.high:+.2f}]"
            yield f"| {recipe} | {trust.n} | {trust.tau:+.2f} | {interval} | {trust.regret:.2f} | {trust.note} |"


def optimisers(table: pd.DataFrame) -> Iterator[str]:
    """Arm minus plain under Muon, minus the same under SGD, seed by seed: zero where the optimiser favours no arm."""
    yield "| arm | n | Muon's difference less SGD's | 95 % | sd | p |"
    yield "|---|---:|---:|---|---:|---:|"
    for arm in sorted(set(table.loc[table["recipe"] == SGD, "arm"]) - {PLAIN}):
        under = [by_seed(table, recipe, arm) - by_seed(table, recipe, PLAIN) for recipe in (MUON, SGD)]
        yield f"| {arm} | {signed(difference(under[0].dropna(), under[1].dropna()))} |"


def page() -> str:
    """The page, from what lies in docs/results."""
    table = trials()
    parts = {
        "What they cost and reach": costs(RESULTS / "proxies.json"),
        "Arms against the plain network of the same seed": arms(table),
        f"Order of the arms beside {LONGEST}": rankings(table),
        "Does the optimiser favour an arm?": optimisers(table),
    }
    lines = [
        "# Proxies that learn",
        "",
        "Made by `benchmarks/proxies.py` from proxies.json and the studies' trials.csv.",
        "",
    ]
    for title, rows in parts.items():
        lines += [f"## {title}", "", *rows, ""]
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="*", choices=list(BACKBONES), default=[], help="recipes to train now")
    parser.add_argument(
        "--changes", nargs="*", default=[], help="overrides of theirs, e.g. train.amp=false on a CPU without AVX-512"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    register()
    path = RESULTS / "proxies.json"
    for recipe in options.measure:
        begun = time.process_time()
        row = measured(recipe, options.changes)
        if recipe != options.measure[0]:
            row["whole_cpu_s"] = round(row["whole_cpu_s"] - begun, 1)
        rows = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")
        print(row, flush=True)
    (RESULTS / "proxies.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
