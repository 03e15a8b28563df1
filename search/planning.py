"""What can be known of a study's cells before any of them is trained: what they cost, and how long they will take.

Networks are built and a few steps are trained on the CPU; no accelerator is taken, and test images are never read.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.config import Config, typed
from search.ledger.metric import SCORE_PREFIX, metrics_of
from search.ledger.paths import NO_TRIALS_INSIDE
from search.ledger.result import RESULT_FILE, TrialResult, read_result
from search.recipe import CHEAP_COSTS
from search.space.architecture import PlacementConfig

if TYPE_CHECKING:
    from search.data.load import Data
    from xvol import Site

__all__ = [
    "Noise",
    "costs_of",
    "device_kind",
    "earlier_runs",
    "judged_costs",
    "measured_seconds",
    "network_facts",
    "noise_of",
    "seconds_of",
    "sites_of",
]

CPU = "cpu"
STEPS = 8  # that are timed, after the first, which warms up
MOST_SECONDS = 10.0  # of timing a network, one warm and one timed step at the least


def network_facts(composed: Any) -> dict[str, Any]:
    """What the network of a config is and costs, built on the CPU.

    Returns:
        "arm", "arch_hash", "content" (digest of what makes a result of it), "params", "macs" (of one image), "sites"
        (names of all sites of its backbone) and "chosen" (names of those with branches).

    Raises:
        ValueError: the config cannot run; the message says why.
    """
    import xvol
    from search.trial.check import check_values
    from search.trial.content import content_of
    from search.trial.model import build

    config = typed(composed)
    check_values(config)
    data = _data(config)
    size = (data.channels, data.image_size, data.image_size)
    model, architecture = build(config, data.channels, len(data.classes), data.image_size)
    return {
        "arm": architecture.label,
        "arch_hash": architecture.hash,
        "content": content_of(model, config.backbone.name, data.digest).digest,
        "params": xvol.count_params(model),
        "macs": xvol.count_macs(model, size),
        "sites": [site.fqn for site in sites_of(config)],
        "chosen": architecture.sites,
    }


def judged_costs(config: Config, names: Iterable[str]) -> list[str]:
    """Those of `names` (costs that constraints may limit) that can be known without taking an accelerator.

    Latency and memory are those of the device that trials run on; parameters, MACs and scores are the same everywhere.
    """
    return [name for name in names if name not in CHEAP_COSTS or device_kind(config) == CPU]


def costs_of(config: Config, names: Iterable[str]) -> dict[str, float]:
    """Measure costs of a config's network on the CPU, as its trial would before training.

    Args:
        names: of `search.recipe.COSTS`, such as "params_fused", "latency_ms" or "zero_cost.naswot".

    Raises:
        ValueError: the config cannot run, or cannot tell such a cost.
    """
    import torch

    from search.trial.admission import measure_before_training
    from search.trial.model import build

    torch.set_num_threads(config.threads)
    data = _data(config)
    model, _ = build(config, data.channels, len(data.classes), data.image_size)
    result = TrialResult(study="", trial=0, phase="final", status="ok", seed=config.seed)
    wanted = list(names)
    measure_before_training(result, model, config, data, torch.device(CPU), wanted, judged=False)
    found = {name: result.value(name) for name in wanted}
    return {
        name: math.nan if value is None and name.startswith(SCORE_PREFIX) else value for name, value in found.items()
    }


def sites_of(config: Config) -> list[Site]:
    """The legal sites of a config's backbone, in model order, at the size of its images."""
    data = _data(config)
    return list(_sites(json.dumps(asdict(config.backbone), sort_keys=True), data.channels, data.image_size))


def device_kind(config: Config) -> str:
    """Where the trials of a config would run: "cpu", or the name of an accelerator, which is not touched."""
    import torch

    if config.device != "auto":
        return config.device.partition(":")[0]
    return "cuda" if torch.cuda.is_available() else CPU


def measured_seconds(config: Config, steps: int = STEPS, most_seconds: float = MOST_SECONDS) -> float:
    """Seconds that one trial takes on a CPU that is as busy as now: training, validation and timing the network.

    A few steps are trained as a trial would train them, and one batch is scored; both are multiplied up. Reading the
    data, and the test images of a final trial, are not in it.

    Raises:
        ValueError: the config cannot run.
        RuntimeError: its training diverges at once.
    """
    import torch

    from search.data.batches import Batches
    from search.data.load import TensorPair
    from search.trial.measure import WARM_UP
    from search.trial.model import build
    from search.trial.train import Halted, Trainer, evaluate

    torch.set_num_threads(config.threads)
    data = _data(config)
    model, _ = build(config, data.channels, len(data.classes), data.image_size)
    train = Batches(data.train, data, config.data, training=True, seed=config.seed)
    few = slice(0, min(config.data.eval_batch_size, len(data.val.labels)))
    val = Batches(TensorPair(data.val.images[few], data.val.labels[few]), data, config.data, training=False)
    stamps: list[float] = []

    def enough() -> bool:
        stamps.append(time.perf_counter())
        return len(stamps) > steps + 1 or (len(stamps) > 2 and stamps[-1] - stamps[0] > most_seconds)

    trainer = Trainer(copy.deepcopy(model), train, val, config.train, enough)
    try:
        for _ in trainer.epochs():
            pass
    except Halted:
        pass
    taken = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    step = statistics.median(taken[1:] or taken or [0.0])
    start = time.perf_counter()
    evaluate(model, val, amp=config.train.amp)
    image = (time.perf_counter() - start) / val.images
    timed = 2 * (WARM_UP + config.measure.latency_repeats) * config.measure.latency_batch
    scored = config.train.epochs * len(data.val.labels) + (timed if config.measure.latency_repeats else 0)
    return config.train.epochs * len(train) * step + scored * image


def earlier_runs(runs_root: Path, recipe: str, on_cpu: bool) -> list[TrialResult]:
    """Finished trials below `runs_root` of that recipe hash, trained (not reused) on a CPU, or not on a CPU."""
    found = []
    for path in sorted(runs_root.glob(f"*/*/*/{RESULT_FILE}")):
        if NO_TRIALS_INSIDE.intersection(path.relative_to(runs_root).parts):
            continue
        try:
            result = read_result(path)
        except ValueError:
            continue  # torn or foreign: it can tell nothing
        if (
            result.status == "ok"
            and result.recipe_hash == recipe
            and result.reused_from is None
            and result.epochs == result.epochs_planned
            and (result.provenance.get("device") == CPU) == on_cpu
        ):
            found.append(result)
    return found


def seconds_of(runs: Iterable[TrialResult]) -> dict[str, float]:
    """Median seconds of a trial by architecture hash, from the first line of its record to the last."""
    taken: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        seconds = _wall(run)
        if seconds is not None and run.arch_hash is not None:
            taken[run.arch_hash].append(seconds)
    return {arch: statistics.median(values) for arch, values in taken.items()}


@dataclass(frozen=True)
class Noise:
    """How much a paired difference to the baseline varies over seeds, pooled over arms.

    Attributes:
        sd: in points of `metric`.
        degrees: degrees of freedom behind it.
    """

    sd: float
    degrees: int
    metric: str


def noise_of(runs: Sequence[TrialResult], baseline: str | None) -> Noise | None:
    """The pooled sd of paired differences in earlier runs; None where no arm shares two seeds with the baseline.

    Args:
        runs: of one recipe.
        baseline: architecture hash of the baseline.
    """
    for metric in (column.column for column in metrics_of()[0].columns):  # of test data first
        values: dict[str | None, dict[int, float]] = defaultdict(dict)
        for run in runs:
            value = run.value(metric)
            if value is not None:
                values[run.arch_hash].setdefault(run.seed, value)
        base = values.get(baseline, {})
        squares, degrees = 0.0, 0
        for arch, by_seed in values.items():
            shared = sorted(set(by_seed) & set(base))
            if arch != baseline and len(shared) > 1:
                squares += (len(shared) - 1) * statistics.variance(by_seed[seed] - base[seed] for seed in shared)
                degrees += len(shared) - 1
        if degrees and squares > 0:
            return Noise((squares / degrees) ** 0.5, degrees, metric)
    return None


def _wall(run: TrialResult) -> float | None:
    if run.attempt == 1 and run.started_at and run.finished_at:
        try:
            return (datetime.fromisoformat(run.finished_at) - datetime.fromisoformat(run.started_at)).total_seconds()
        except ValueError:
            return run.train_seconds
    return run.train_seconds


def _data(config: Config) -> Data:
    return _loaded(json.dumps(asdict(config.data), sort_keys=True))


@functools.lru_cache(maxsize=2)
def _loaded(data_json: str) -> Data:
    from search.data.config import DataConfig
    from search.data.load import load_data

    return load_data(DataConfig(**json.loads(data_json)), with_test=False)


@functools.lru_cache(maxsize=8)
def _sites(backbone_json: str, channels: int, image_size: int) -> tuple[Site, ...]:
    import xvol
    from search.space.architecture import BackboneConfig
    from search.trial.model import build

    backbone = BackboneConfig(**{**json.loads(backbone_json), "pretrained": False})
    plain = Config(backbone=backbone, placement=PlacementConfig())
    model, _ = build(plain, channels, 10, image_size)
    return tuple(xvol.sites(model, input_size=(channels, image_size, image_size)))
