"""What is known of a trial once its network is built, and whether the study lets it be trained."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

import xvol
from search.channel import Channel
from search.config import Config
from search.data.load import Data
from search.ledger.metric import SCORE_PREFIX
from search.ledger.result import Phase, TrialResult
from search.recipe import CHEAP_COSTS, KNOWN_COSTS, check_costs
from search.slot import idle
from search.space.architecture import digest
from search.trial.measure import latency
from search.trial.memory import train_memory_mb
from search.trial.zero_cost import score_batch, scores

__all__ = ["LATENCIES", "admitted", "fingerprint_of", "measure_before_training", "score_untrained"]

log = logging.getLogger("xvol")
LATENCIES = ("latency_ms", "latency_fused_ms")
PAUSES = (2.0, 5.0, 10.0, 20.0)  # seconds between attempts at a latency that the study judges by


def fingerprint_of(arch_hash: str, recipe_hash: str, seed: int, epochs: int, phase: Phase, content: str) -> str:
    """Twice ten hexadecimal digits: equal for two trials of which the second could only repeat the first.

    The first ten are of what was asked for. The final re-evaluation reads test data, and so it is never the same trial
    as one of the search. The last ten are `content`, the digest of code, images and versions: what a change of theirs
    does to a result would be lost in silence.
    """
    return f"{digest([arch_hash, recipe_hash, seed, epochs, {'test': phase == 'final'}])}-{content}"


def measure_before_training(
    result: TrialResult,
    model: nn.Module,
    config: Config,
    data: Data,
    device: torch.device,
    costs: Iterable[str],
    *,
    judged: bool = True,
) -> None:
    """Write the network's parameters and MACs to `result`, and whatever `costs` and the objectives name beside.

    `model` stays on the CPU, untouched, and no random state is moved. Latency and memory are those of `device`, on a
    copy; a score that is asked for before training is computed on the CPU.

    Args:
        judged: a study decides by what is measured, so that a latency counts only from an exclusive slot.

    Raises:
        ValueError: a cost that cannot be measured before training.
        RuntimeError: a latency that is judged could not be measured in an exclusive slot, however often it was tried.
    """
    wanted = set(costs)
    check_costs(sorted(wanted))
    wanted |= {name for name in config.objectives if name in CHEAP_COSTS}
    size = (data.channels, data.image_size, data.image_size)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        fused = xvol.fuse(model, size)
        result.params, result.params_fused = xvol.count_params(model), xvol.count_params(fused)
        result.macs, result.macs_fused = xvol.count_macs(model, size), xvol.count_macs(fused, size)
        if wanted.intersection(LATENCIES):
            _time_both(result, model, fused, size, config, device, judged)
        if "train_memory_mb" in wanted:
            batch = config.data.batch_size
            result.train_memory_mb = train_memory_mb(model, size, batch, config.train, device, config.seed)
        names = [name.removeprefix(SCORE_PREFIX) for name in sorted(wanted) if name.startswith(SCORE_PREFIX)]
        score_untrained(result, model, names, config, data, torch.device("cpu"))


def _time_both(
    result: TrialResult,
    model: nn.Module,
    fused: nn.Module,
    size: tuple[int, int, int],
    config: Config,
    device: torch.device,
    judged: bool,
) -> None:
    repeats = config.measure.latency_repeats
    if repeats < 1:
        raise ValueError("the study asks for the latency, and measure.latency_repeats=0 measures none; take at least 1")
    generator = torch.Generator().manual_seed(config.seed)
    images = torch.randn(config.measure.latency_batch, *size, generator=generator).to(device)
    plain, fused = copy.deepcopy(model).to(device).eval(), fused.to(device).eval()
    for pause in (*PAUSES, None):
        measured = latency(plain, fused, images, repeats)
        if measured.latency_exclusive or not judged:
            break
        if pause is None:
            raise RuntimeError(
                f"the study judges by latency, and {len(PAUSES) + 1} attempts found no moment in which nothing else ran "
                f"on this machine: last {measured.latency_ms:.3g} ms; end what runs beside, or take macs"
            )
        log.warning("the study judges by latency: measured again in %.0f s", pause)
        with idle():
            time.sleep(pause)
    for name, value in vars(measured).items():
        setattr(result, name, value)
    result.latency_batch = config.measure.latency_batch


def score_untrained(
    result: TrialResult, model: nn.Module, names: Iterable[str], config: Config, data: Data, device: torch.device
) -> None:
    """Write the zero-cost scores of `names` to `result`, those that are not there yet."""
    missing = [name for name in names if name not in result.zero_cost]
    if missing:
        images, labels = score_batch(data, config.data, config.seed, device)
        found = scores(model, images, labels, missing, config.seed)
        result.zero_cost |= {name: value if math.isfinite(value) else None for name, value in found.items()}


def admitted(channel: Channel, result: TrialResult) -> str | None:
    """Ask the study; return the path of an earlier result that can stand for this one's, or None to train.

    Raises:
        Infeasible, InFlight: as the channel does.
    """
    assert result.fingerprint is not None
    facts: dict[str, Any] = {"arch_hash": result.arch_hash, "arm": result.arm}
    for name in (*KNOWN_COSTS, *channel.costs):
        value = result.value(name)
        facts[name] = math.nan if value is None and name.startswith(SCORE_PREFIX) else value  # measured, not finite
    return channel.admit(result.fingerprint, facts)
