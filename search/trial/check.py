"""What can be known to be wrong with a trial before it trains."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from search.allowed import check_choice, check_number
from search.config import Config, typed
from search.ledger.tracker import check_tracker
from search.recipe import CHECKPOINTS, check_objectives, check_scores, sense_of
from search.trial.names import check_names
from xvol.suggest import meant

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")

__all__ = ["check_network", "check_trial", "check_values", "score"]


def check_values(config: Config) -> None:
    """Raise ValueError where a value is out of its range; imports no torch."""
    from search.data.config import check as check_data

    check_data(config.data)
    config.train.check()
    config.measure.check()
    check_objectives(config.objectives, config.measure.zero_cost)
    if config.measure.latency_repeats == 0 and any(name.startswith("latency") for name in config.objectives):
        raise ValueError("objectives: latency is not measured with measure.latency_repeats=0; take at least 1")
    check_tracker(config.tracker)
    check_names(config.backbone, config.placement, config.branch)
    check_number("threads", config.threads, low=1)
    check_number("seed", config.seed, low=0, below=2**63)
    check_choice("checkpoint", config.checkpoint, CHECKPOINTS)
    if not re.fullmatch(rf"({'|'.join(DEVICES)})|({'|'.join(DEVICES[2:])}):\d+", config.device):
        raise ValueError(
            f"device={config.device}: allowed are {', '.join(DEVICES)}, and a number with an accelerator, e.g. cuda:1"
            f"{meant(config.device, DEVICES)}"
        )


def check_trial(composed: Any) -> dict[str, Any]:
    """Load the data and build the network, so that what cannot run is told before a study starts.

    Returns:
        "arch_hash" and "arm" of the architecture, the number of "objectives", and their "senses": by the name of each,
        in their order, "maximize" or "minimize".

    Raises:
        ValueError: what is wrong, what is allowed, and how to mend it.
    """
    config = typed(composed)
    check_values(config)
    from search.data.batches import Batches
    from search.trial.average import check_average
    from search.trial.device import usable_device
    from search.trial.model import build
    from search.trial.train import make_optimizer

    usable_device(config.device)
    data = _loaded(json.dumps(asdict(config.data), sort_keys=True))
    check_average(config.train, config.train.epochs * len(Batches(data.train, data, config.data, training=True)))
    model, architecture = build(config, data.channels, len(data.classes), data.image_size)
    make_optimizer(model, config.train)
    return {
        "arch_hash": architecture.hash,
        "arm": architecture.label,
        "objectives": len(config.objectives),
        "senses": {name: sense_of(name) for name in config.objectives},
    }


def check_network(config: Config) -> None:
    """Build the network without data, so that what cannot be built or optimised is told before anything is written.

    Raises:
        ValueError: as `check_trial`, but for the data.
    """
    from search.data.config import channels, image_size
    from search.trial.device import usable_device
    from search.trial.model import build
    from search.trial.train import make_optimizer

    usable_device(config.device)
    plain = replace(config, backbone=replace(config.backbone, pretrained=False))
    make_optimizer(build(plain, channels(config.data), 10, image_size(config.data))[0], config.train)


def score(composed: Any, names: Sequence[str]) -> dict[str, float]:
    """Zero-cost scores of the untrained network of `composed`, by name; never read from test data.

    Raises:
        ValueError: an unknown score, a config that cannot run, or a network that a score is not defined for.
    """
    check_scores(names, "names")
    config = typed(composed)
    check_values(config)
    from search.data.batches import Batches
    from search.trial.device import usable_device
    from search.trial.model import build
    from search.trial.zero_cost import score_batch, scores

    device = usable_device(config.device)
    data = _loaded(json.dumps(asdict(config.data), sort_keys=True))
    Batches(data.train, data, config.data, training=True)
    model, _ = build(config, data.channels, len(data.classes), data.image_size)
    return scores(model.to(device), *score_batch(data, config.data, config.seed, device), names, config.seed)


@functools.lru_cache(maxsize=1)
def _loaded(data_json: str) -> Any:
    """The data of a config; a study's configurations mostly share theirs."""
    from search.data.config import DataConfig
    from search.data.load import load_data

    return load_data(DataConfig(**json.loads(data_json)), with_test=False)
