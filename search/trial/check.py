"""What may be asked of a trial before it runs: whether it can, what its network is, and its zero-cost scores."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

import xvol
from search.config import Config, typed
from search.data.config import channels, image_size
from search.data.images import DataInfo
from search.objectives import check_scores, sense_of
from search.starting import OF_STUDY
from search.tasks.base import task_named
from search.tasks.model import build, check_low_res
from search.trial.measure import usable_device
from search.trial.optim import check_average, make_optimizer
from search.trial.refuse import check_values
from search.trial.start import RootLost, root_of, started
from search.trial.train import check_form
from search.trial.untrained import Untrained, prepare_cached

log = logging.getLogger("xvol")
ANY_CLASSES = 10  # of a network that is built to look at its backbone, without data


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
    device = usable_device(config.device)
    made = _started(prepare_cached(config))
    check_average(config.train, config.train.epochs * len(made.loaders.train))
    check_form(made.model, config.train, device)
    tell_emulation(config.train.amp_type, device.type, torch.backends.cpu.get_cpu_capability())
    check_low_res(made.model, made.input_size, config.train)
    if made.learns:
        make_optimizer(made.model, config.train)
    return {
        "arch_hash": made.architecture.hash,
        "arm": made.architecture.label,
        "objectives": len(config.objectives),
        "senses": {name: sense_of(name, config.task) for name in config.objectives},
    }


def _started(made: Untrained) -> Untrained:
    """`made` from the root that its config names, as its trial starts; where a study is yet to train that, as it is."""
    if made.config.start.root == OF_STUDY:
        return made
    try:
        root = root_of(made.config, None)
    except RootLost as error:
        raise ValueError(str(error)) from None
    return made if root is None else started(made, root)


def check_network(config: Config) -> None:
    """Build the network without data, so that what cannot be built or optimised is told before anything is written.

    Raises:
        ValueError: as `check_trial`, but for the data.
    """
    input_size = channels(config.data), image_size(config.data), image_size(config.data)
    model = _untrained(config, *input_size[:2])
    device = usable_device(config.device)
    check_form(model, config.train, device)
    tell_emulation(config.train.amp_type, device.type, torch.backends.cpu.get_cpu_capability())
    check_low_res(model, input_size, config.train)
    make_optimizer(model, config.train)


@functools.cache  # once a process: a study checks many configurations
def tell_emulation(amp_type: str | None, device_type: str, capability: str) -> None:
    """Warn where a CPU of torch's `capability` computes the type of `TrainConfig.amp_type` far slower than float32."""
    # oneDNN has no bfloat16 below AVX-512: 7.9 ms an image against 0.9 in float32 (docs/LOG.md)
    if (amp_type, device_type, capability) == ("bfloat16", "cpu", "AVX2"):
        log.warning(
            "train.amp=bfloat16: this CPU has no AVX-512 and emulates bfloat16, several times slower than float32: take "
            "train.amp=false"
        )


def score(composed: Any, names: Sequence[str]) -> dict[str, float]:
    """Zero-cost scores of the untrained network of `composed`, by name; never read from test data.

    Raises:
        ValueError: an unknown score, a config that cannot run, or a network that a score is not defined for.
    """
    check_scores(names, "names")
    config = typed(composed)
    check_values(config)
    return prepare_cached(config).scores(names, usable_device(config.device))


def network_facts(composed: Any) -> dict[str, Any]:
    """What the network of a config is and costs, built on the CPU.

    Returns:
        "arm", "arch_hash", "content" (digest of what makes a result of it), "params", "macs" (of one image), "sites"
        (names of all sites of its backbone), "chosen" (names of those with branches) and "branches" (names of those in use).

    Raises:
        ValueError: the config cannot run; the message says why.
    """
    config = typed(composed)
    check_values(config)
    made = _started(prepare_cached(config))
    return {
        "arm": made.architecture.label,
        "arch_hash": made.architecture.hash,
        "content": made.content.digest,
        "params": xvol.count_params(made.model),
        "macs": xvol.count_macs(made.model, made.input_size),
        "sites": [site.fqn for site in sites_of(config)],
        "chosen": made.architecture.sites,
        "branches": made.architecture.branches,
    }


def sites_of(config: Config) -> Sequence[xvol.Site]:
    """The legal sites of a config's backbone, in model order, at the size of its images."""
    return _sites(json.dumps(asdict(config.backbone)), channels(config.data), image_size(config.data))


@functools.lru_cache(maxsize=8)
def _sites(backbone: str, in_channels: int, size: int) -> Sequence[xvol.Site]:
    config = Config()
    config.backbone = replace(config.backbone, **json.loads(backbone))
    plain = build(replace(config, backbone=config.backbone.untrained), in_channels, ANY_CLASSES, size)[0]
    return xvol.sites(plain, input_size=(in_channels, size, size))


def _untrained(config: Config, in_channels: int, size: int) -> nn.Module:
    """A network of untrained weights as the task builds it; how many outputs it has, only the data say."""
    plain = replace(config, backbone=config.backbone.untrained)
    return task_named(config.task).model(plain, DataInfo.without_data(ANY_CLASSES, in_channels, size))[0]
