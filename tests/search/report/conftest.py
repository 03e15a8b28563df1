"""Builds ledgers on disk the way studies do: a result.json for each trial."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
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
