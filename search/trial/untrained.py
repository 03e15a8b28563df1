"""A trial before it is trained: its task, data and network, and what they will cost."""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import xvol
from search.config import Architecture, Config
from search.data.config import Augmentation, DataConfig
from search.data.loaders import Loaders
from search.ledger.metric import LATENCIES, SCORE_PREFIX
from search.ledger.result import TrialResult
from search.objectives import CHEAP_COSTS, check_costs
from search.recipe import TrainConfig
from search.slot import idle
from search.tasks.base import MeasuresPart, Scores, Task, task_named
from search.tasks.model import train_blocks_alone, whiten
from search.tasks.weights import checkpoint_of
from search.trial.content import Content, content_of
from search.trial.measure import latency, train_memory_mb
from search.trial.train import Trainer, formed
from search.trial.zero_cost import SCORE_BATCH, scores

log = logging.getLogger("xvol")
CPU = torch.device("cpu")
PAUSES = (2.0, 5.0, 10.0, 20.0)  # seconds between attempts at a latency that the study judges by
WHITENED_BY = 512  # training images, or one batch of fewer: tens of thousands of patches


@dataclass(frozen=True)
class Untrained:
    """A trial that is ready to be trained.

    Attributes:
        model: on the CPU, in training mode, but for norms that are not trained; whatever is measured is measured on copies, with
            random states of its own.
        root: file of the trained network, or of the training, that it starts from; None from scratch.
    """

    config: Config
    task: Task
    loaders: Loaders
    model: nn.Module
    architecture: Architecture
    root: Path | None = None

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of one input."""
        return self.task.probe_input(self.loaders.info)

    def measured(self, network: nn.Module | None = None) -> nn.Module:
        """What of the network, or of `network` in its place, is counted, fused and timed: all of it, if its task says nothing else."""
        whole = self.model if network is None else network
        return self.task.measured(whole, self.config) if isinstance(self.task, MeasuresPart) else whole

    @property
    def learns(self) -> bool:
        """Whether anything of it is to be trained."""
        return any(each.requires_grad for each in self.model.parameters())

    @property
    def epochs(self) -> int:
        """How many epochs it is trained for."""
        return self.config.last_epoch if self.learns else 0

    @property
    def content(self) -> Content:
        """What makes its result beside its settings."""
        learned_by = [type(self.task), *self.evaluator("val").makers]
        backbone = self.config.backbone
        begun = None if backbone.checkpoint is None else str(checkpoint_of(self.config, self.architecture))
        root = None if self.root is None else str(self.root)
        return content_of(
            self.model, backbone.name, self.loaders.info.digest, learned_by, backbone.weights, root, begun
        )

    def evaluator(self, split: str, device: torch.device = CPU) -> Scores:
        """A new evaluator for one pass over a split."""
        return Scores(self.task, self.config, split, device)

    def trainer(
        self,
        device: torch.device = CPU,
        halt: Callable[[], bool] = lambda: False,
        val: Iterable[tuple[Tensor, Tensor]] | None = None,
    ) -> Trainer:
        """A trainer of a copy of the network; `val` stands for the batches of the validation split."""
        recipe = self.config.train
        training = self.task.training(formed(copy.deepcopy(self.model), recipe, device), recipe)
        scores = functools.partial(self.evaluator, "val", device)
        val = self.loaders.val if val is None else val
        last = self.config.last_epoch
        return Trainer(training, self.loaders.train, val, scores, recipe, self.config.seed, halt, last)

    def scores(self, names: Sequence[str], device: torch.device = CPU) -> dict[str, float]:
        """Zero-cost scores by name, on one small batch of training images."""
        inputs, targets = (part.to(device) for part in self.loaders.train.sample(SCORE_BATCH))
        model = copy.deepcopy(self.model).to(device).train().requires_grad_(True)
        return scores(model, self.task, (inputs, targets), names, self.config.seed)

    def add_scores(self, result: TrialResult, names: Iterable[str]) -> None:
        """Write the zero-cost scores of `names` to `result`, those that are not there yet."""
        missing = [name for name in names if name not in result.zero_cost]
        if missing:
            found = self.scores(missing)
            result.zero_cost |= {name: value if math.isfinite(value) else None for name, value in found.items()}

    def add_costs(
        self, result: TrialResult, costs: Iterable[str], device: torch.device = CPU, *, judged: bool = False
    ) -> None:
        """Write parameters and MACs to `result`, and whatever `costs` and the objectives name beside.

        Latency and memory are those of `device`; a score that is asked for before training is computed on the CPU.

        Args:
            judged: a study decides by what is measured, so that a latency counts only from an exclusive slot.

        Raises:
            ValueError: a cost that cannot be measured before training.
            RuntimeError: a latency that is judged could not be measured in an exclusive slot, however often it was tried.
        """
        wanted = set(costs)
        check_costs(sorted(wanted))
        wanted |= {name for name in self.config.objectives if name in CHEAP_COSTS}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            part = self.measured()
            fused = xvol.fuse(part, self.input_size)
            result.params, result.params_fused = xvol.count_params(part), xvol.count_params(fused)
            result.macs, result.macs_fused = (
                xvol.count_macs(part, self.input_size),
                xvol.count_macs(fused, self.input_size),
            )
            if wanted.intersection(LATENCIES):
                self._time(result, fused, device, judged)
            if "train_memory_mb" in wanted and not self.learns:
                result.train_memory_mb = 0.0  # there is no step
            elif "train_memory_mb" in wanted:
                batch = self.loaders.train.sample(self.config.data.batch_size // self.config.train.accumulate)
                result.train_memory_mb = train_memory_mb(
                    self.model, self.task, batch, self.config.train, device, self.config.seed
                )
            self.add_scores(
                result, [n.removeprefix(SCORE_PREFIX) for n in sorted(wanted) if n.startswith(SCORE_PREFIX)]
            )

    def _time(self, result: TrialResult, fused: nn.Module, device: torch.device, judged: bool) -> None:
        wanted = self.config.measure
        if wanted.latency_repeats < 1:
            raise ValueError(
                "the study asks for the latency, and measure.latency_repeats=0 measures none; take at least 1"
            )
        generator = torch.Generator().manual_seed(self.config.seed)
        images: Tensor = torch.randn(wanted.latency_batch, *self.input_size, generator=generator).to(device)
        plain, fused = copy.deepcopy(self.measured()).to(device).eval(), fused.to(device).eval()
        for pause in (*PAUSES, None):
            measured = latency(plain, fused, images, wanted.latency_repeats)
            if measured.latency_exclusive or not judged:
                break
            if pause is None:
                raise RuntimeError(
                    f"the study judges by latency, and {len(PAUSES) + 1} attempts found no moment in which nothing else "
                    f"ran on this machine: last {measured.latency_ms:.3g} ms; end what runs beside, or take macs"
                )
            log.warning("the study judges by latency: measured again in %.0f s", pause)
            with idle():
                time.sleep(pause)
        for name, value in vars(measured).items():
            setattr(result, name, value)
        result.latency_batch = wanted.latency_batch


def prepare(
    config: Config, device: torch.device = CPU, splits: Collection[str] = ("train", "val"), world: int = 1
) -> Untrained:
    """Load the data to `device` and build the network, for the first of `world` ranks; test data only where `splits` has them.

    Raises:
        ValueError: what of it cannot be.
    """
    task = task_named(config.task)
    return _built(config, task, task.data(config, splits, device, 0, world))


def prepare_cached(config: Config) -> Untrained:
    """`prepare` on the CPU, without test data, for what is asked of many configurations: most of them share their data."""
    drawn = {one.name: getattr(config.train, one.name) for one in fields(Augmentation)}
    about = (config.task, config.backbone.name, json.dumps(asdict(config.data)), json.dumps(drawn), config.seed)
    return _built(config, task_named(config.task), _loaders(*about))


@functools.lru_cache(maxsize=2)
def _loaders(task: str, backbone: str, data: str, drawn: str, seed: int) -> Loaders:
    config = Config(data=DataConfig(**json.loads(data)), train=TrainConfig(**json.loads(drawn)), task=task, seed=seed)
    config.backbone.name = backbone  # pictures are normalised as its weights want them
    return task_named(task).data(config, ("train", "val"), CPU)


def _built(config: Config, task: Task, loaders: Loaders) -> Untrained:
    model, architecture = task.model(config, loaders.info)
    if config.train.whiten and config.start.kind == "scratch":
        whiten(model, loaders.train.sample(WHITENED_BY)[0])
    if config.start.trains == "blocks":
        train_blocks_alone(model)
    return Untrained(config, task, loaders, model, architecture)


def facts_for_admission(result: TrialResult, names: Iterable[str]) -> dict[str, Any]:
    """What a study admits a trial by: costs by name, not a number where a score was measured and is not finite."""
    found = {name: result.value(name) for name in names}
    return {
        name: math.nan if value is None and name.startswith(SCORE_PREFIX) else value for name, value in found.items()
    }
