"""What a trial will cost, before it is trained: where it would run, its costs on the CPU, and its seconds.

Networks are built and a few steps are trained on the CPU; no accelerator is taken, and test images are never read.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace

import torch

from search.config import Config
from search.ledger.result import TrialResult
from search.objectives import CHEAP_COSTS
from search.trial.measure import WARM_UP
from search.trial.train import Halted, evaluate
from search.trial.untrained import facts_for_admission, prepare_cached

STEPS = 8  # that are timed, after the first, which warms up
MOST_SECONDS = 10.0  # of timing a network, one warm and one timed step at the least


def judged_costs(config: Config, names: Iterable[str]) -> list[str]:
    """Those of `names` (costs that constraints may limit) that can be known without taking an accelerator.

    Latency and memory are those of the device that trials run on; parameters, MACs and scores are the same everywhere.
    """
    return [name for name in names if name not in CHEAP_COSTS or device_kind(config) == "cpu"]


def costs_of(config: Config, names: Iterable[str]) -> dict[str, float]:
    """Measure costs of a config's network on the CPU, as its trial would before training.

    Args:
        names: of `search.recipe.COSTS`, such as "params_fused", "latency_ms" or "zero_cost.naswot".

    Raises:
        ValueError: the config cannot run, or cannot tell such a cost.
    """
    torch.set_num_threads(config.threads)
    result = TrialResult(study="", trial=0, phase="final", status="ok", seed=config.seed)
    wanted = list(names)
    prepare_cached(config).add_costs(result, wanted)
    return facts_for_admission(result, wanted)


def device_kind(config: Config) -> str:
    """Where the trials of a config would run: "cpu", or the name of an accelerator, which is not touched."""
    if config.device != "auto":
        return config.device.partition(":")[0]
    return "cuda" if torch.cuda.is_available() else "cpu"


def measured_seconds(config: Config, steps: int = STEPS, most_seconds: float = MOST_SECONDS) -> float:
    """Seconds that one trial takes on a CPU that is as busy as now: training, validation and timing the network.

    A few steps are trained as a trial would train them, and one batch is scored; both are multiplied up. Reading the
    data, and the test images of a final trial, are not in it.

    Raises:
        ValueError: the config cannot run.
        RuntimeError: its training diverges at once.
    """
    torch.set_num_threads(config.threads)
    # to compile takes longer than what is asked; steps on small images are reckoned from those on whole ones
    recipe = replace(config.train, compile=False, low_res=None, low_res_epochs=0)
    made = prepare_cached(replace(config, train=recipe))
    loaders, few = made.loaders, list(itertools.islice(made.loaders.val, 1))
    stamps: list[float] = []

    def enough() -> bool:
        stamps.append(time.perf_counter())
        return len(stamps) > steps + 1 or (len(stamps) > 2 and stamps[-1] - stamps[0] > most_seconds)

    if made.epochs:
        with contextlib.suppress(Halted):
            for _ in made.trainer(halt=enough, val=few).epochs():
                pass
    taken = [later - earlier for earlier, later in itertools.pairwise(stamps)]
    step = statistics.median(taken[1:] or taken or [0.0])
    start = time.perf_counter()
    evaluate(made.model, few, made.evaluator("val"), recipe.amp_type)
    image = (time.perf_counter() - start) / len(few[0][1])
    timed = 2 * (WARM_UP + config.measure.latency_repeats) * config.measure.latency_batch
    epochs = made.epochs
    passes = max(-(-epochs // recipe.eval_every), 1)  # of 0 epochs too
    scored = passes * loaders.val.samples + (timed if config.measure.latency_repeats else 0)
    if config.start.kind == "path":
        scored += config.start.recalibrate * config.data.batch_size
    # in epochs: a step costs what its pixels do
    saved = min(config.train.low_res_epochs, epochs) * (1 - (config.train.low_res or 1.0) ** 2)
    return (epochs - saved) * len(loaders.train) * step + scored * image
