"""Builds ledgers on disk the way studies do: a result.json for each trial."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from search.ledger.result import CHECKSUM, TrialResult, checksum_of, write_result
from search.ledger.samples import write_samples

Add = Callable[..., Path]

FACTS: dict[str, Any] = {
    "backbone": "xvol_proxy_resnet",
    "recipe_hash": "9f8e7d6c5b",
    "data_source": "scikit-learn digits, 1,797 images",
    "latency_batch": 1,
    "epochs": 4,
    "epochs_planned": 4,
    "provenance": {"commit": "0123456789ab", "python": "3.11.7", "versions": {"torch": "2.13.0", "timm": "1.0.31"}},
}
SCORES, COUNTS = ("val_", "test_", "chance_"), ("val_images", "test_images")
HASHES = {"plain": "a" * 10, "stage3": "b" * 10, "stage4": "c" * 10, "stage3+4": "d" * 10}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Folder of an empty study."""
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def add(study: Path) -> Add:
    """Add one trial to the study; numbers count up by themselves inside each phase."""
    return adder(study)


def adder(study: Path) -> Add:
    """What `add` is, for a study in any folder."""
    numbers: dict[str, int] = {}

    def add_trial(arm: str | None = "plain", seed: int = 0, phase: str = "final", **values: Any) -> Path:
        number = numbers[phase] = numbers.get(phase, -1) + 1
        folder = study / {"search": "trials", "final": "final", "single": "single"}[phase] / f"{number:04d}-s{seed}"
        folder.mkdir(parents=True)
        arch = HASHES.get(arm, f"{crc32(arm.encode()):010x}") if arm is not None else None
        scores = {name: values.pop(name) for name in [*values] if name.startswith(SCORES) and name not in COUNTS}
        row = {
            "study": "demo",
            "trial": number,
            "phase": phase,
            "status": "ok",
            "arm": arm,
            "is_baseline": arm == "plain",
            "arch_hash": arch,
            "seed": seed,
            **FACTS,
            **values,
            "metrics": scores,
        }
        return write_result(folder, TrialResult(**row)).parent

    return add_trial


def keep_samples(run: Path, logits: Any, target: Any, part: Sequence[str], first: int = 0) -> Path:
    """Write what a trial keeps of its images, as trials do; `first` is the index of the first image."""
    arrays = {
        "index": np.arange(first, first + len(target)),
        "part": np.array(part),
        "target": np.asarray(target),
        "logits": np.asarray(logits, dtype=np.float16),
    }
    return write_samples(run, arrays)


def rewrite(path: Path, **values: Any) -> None:
    """Change values of a result in place, as if it had been written so."""
    scores = {name: values.pop(name) for name in [*values] if name.startswith(SCORES) and name not in COUNTS}
    row = json.loads(path.read_text()) | values
    row["metrics"] |= scores
    path.write_text(json.dumps(row | {CHECKSUM: checksum_of(row)}, indent=1) + "\n")


HOSTILE = '<script>alert(1)</script> $\\frac{1}$ {{7*7}} " & x'


@pytest.fixture
def own(whole: Path, tmp_path: Path) -> Path:
    """A copy of `whole` that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "runs" / "demo"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of 16 searched trials and the re-evaluation of four arms on three seeds, by two workers, one of them with a hostile name."""
    study = tmp_path_factory.mktemp("runs") / "demo"
    study.mkdir()
    add = adder(study)
    begun = datetime(2026, 11, 30, 12, tzinfo=UTC)
    journal, clock = [], [begun, begun]

    def trial(at: int, arm: str, seed: int, phase: str, top1: float, **more: Any) -> None:
        worker = at % 2
        start, end = clock[worker], clock[worker] + timedelta(seconds=60)
        clock[worker] = end + timedelta(seconds=20)
        facts = {"val_top1": top1, "params": 1000 + at, "macs": 10_000 + 500 * len(arm), "dose": 0.5}
        times = {"started_at": start.isoformat(), "finished_at": end.isoformat(), "wandb_id": f"run{at}"}
        place = f"{ {'search': 'trials', 'final': 'final'}[phase] }/{more.pop('number'):04d}-s{seed}"
        folder = add(arm, seed, phase, run_dir=place, **facts, **times, **more)
        lines = [f"{epoch},{2 / epoch},{2 / epoch},{top1 - 8 / epoch:.4f},0.1,1" for epoch in range(1, 5)]
        text = "\n".join(["epoch,train_loss,val_loss,val_top1,lr,seconds", *lines, ""])
        (folder / "history.csv").write_text(text)
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "config.yaml").write_text("tracker: {mode: online, entity: me, project: xvol}\n")
        for attribute in ({"worker": {"host": "here", "lock": f"w{worker}"}}, {"run_dir": place}):
            journal.append(json.dumps({"op_code": 8, "trial_id": at, "user_attr": attribute}, separators=(",", ":")))

    for at in range(16):
        where, rank = f"stage{at % 4 + 1}", 2 ** (at // 4)
        top1 = 60.0 + 3 * (at % 4) + 0.1 * rank
        overrides = [f"placement.policy={where}", f"branch.options.pssa.rank={rank}", "seed=0"]
        trial(at, f"{where}: conv+pssa(rank={rank})", 0, "search", top1, overrides=overrides, number=at)
    arms = [("plain", 0.0), ("stage3: conv+pssa(rank=8)", 4.0), ("stage4: pssa", -2.0), (f"stage4: {HOSTILE}", 0.5)]
    for number, (seed, (arm, gain)) in enumerate((seed, arm) for seed in (100, 101, 102) for arm in arms):
        top1 = 62.0 + gain + [0.0, 0.5, 0.2][seed - 100] + 0.1 * (number % 3)
        trial(16 + number, arm, seed, "final", top1, test_top1=top1, number=number, overrides=[f"seed={seed}"])
    (study / "study.journal").write_text("\n".join([*journal, '{"torn']))
    task = ["experiment=demo", "placement.policy=choice(stage1,stage2)", "storage=postgresql://me:hunter22@host/db"]
    given = {"hydra": {"overrides": {"hydra": ["hydra.mode=MULTIRUN", "hydra.sweeper.n_trials=16"], "task": task}}}
    (study / "multirun.yaml").write_text(json.dumps(given))
    return study
