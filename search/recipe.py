"""How a proxy is trained and what is measured on it: the configuration of `train.py` and `measure.py`, free of torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from search.allowed import check_choice, check_number
from search.data.config import Augmentation
from search.ledger.metric import CLASSIFY, SCORE_PREFIX, chosen_by, metrics_of
from xvol.suggest import meant

SCHEDULES = ("onecycle", "cosine", "constant")
CHECKPOINTS = ("never", "final", "always")
ZERO_COST = ("synflow", "naswot", "jacob_cov", "grad_norm", "snip", "zen")
MAXIMIZE, MINIMIZE = "maximize", "minimize"
KNOWN_COSTS = ("params", "params_fused", "macs", "macs_fused")  # of every network, before it is trained
CHEAP_COSTS = ("latency_ms", "latency_fused_ms", "train_memory_mb")  # measured before training on request
COSTS = (*KNOWN_COSTS, *CHEAP_COSTS, *(f"{SCORE_PREFIX}{name}" for name in ZERO_COST))


@dataclass
class TrainConfig(Augmentation):
    """The recipe, held equal between arms; with what `Augmentation` draws for each image.

    Attributes:
        epochs: passes over the training split.
        opt: a name that `timm.optim.create_optimizer_v2` knows.
        lr: peak learning rate.
        momentum: of SGD, or the first beta of the Adam family.
        weight_decay: not applied to biases and norms.
        schedule: "onecycle" (warm-up, then cosine to zero, by step), "cosine" (linear warm-up, then cosine), "constant".
        warmup: share of all steps that the warm-up takes, 0 to 1.
        label_smoothing: 0 to 1.
        ema_decay: decay of the moving average of the weights, by step; the average, with the network's own batch norm
            statistics, is what is evaluated, fused and measured. null: none.
        ema_warmup: timm's `use_warmup`: the decay grows from 0, so that a short training is no average of initial
            weights.
        clip_grad: largest norm of the gradient; null: none.
        amp: bfloat16 autocast.
        state_every_seconds: how often, at the end of an epoch, all that a trial needs to be continued is written to its
            folder; 0: after every epoch; null: only when the study is asked to stop. Of no effect on the result.
    """

    epochs: int = 4
    opt: str = "sgd"
    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "onecycle"
    warmup: float = 0.3
    label_smoothing: float = 0.0
    ema_decay: float | None = 0.98
    ema_warmup: bool = True
    clip_grad: float | None = None
    amp: bool = False
    state_every_seconds: float | None = 60.0

    def check(self) -> None:
        """Raise ValueError where a value is out of its range."""
        super().check()
        check_number("train.epochs", self.epochs, low=1)
        check_choice("train.schedule", self.schedule, SCHEDULES)
        check_number("train.lr", self.lr, above=0)
        check_number("train.momentum", self.momentum, low=0, below=1)
        check_number("train.weight_decay", self.weight_decay, low=0)
        check_number("train.warmup", self.warmup, low=0, below=1)
        check_number("train.label_smoothing", self.label_smoothing, low=0, below=1)
        check_number("train.ema_decay", self.ema_decay, low=0, below=1, null="no average")
        check_number("train.clip_grad", self.clip_grad, above=0, null="no clipping")
        check_number("train.state_every_seconds", self.state_every_seconds, low=0, null="saving only on a stop")


@dataclass
class MeasureConfig:
    """What is measured beside accuracy.

    Attributes:
        latency_batch: images in one timed batch.
        latency_repeats: timed batches of each form; the two forms take turns, the median is kept. 0: no timing.
        fuse_tolerance: largest difference of a logit that the fused form may show, as a share of the largest logit
            (at least 1); above it the trial fails, since its deploy figures would be another network's.
        zero_cost: scores of the untrained network to record: synflow, naswot, jacob_cov, grad_norm, snip, zen. They
            choose nothing by themselves.
    """

    latency_batch: int = 8
    latency_repeats: int = 20
    fuse_tolerance: float = 1e-3
    zero_cost: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raise ValueError where a value is out of its range."""
        check_number("measure.latency_batch", self.latency_batch, low=1)
        check_number("measure.latency_repeats", self.latency_repeats, low=0)
        check_number("measure.fuse_tolerance", self.fuse_tolerance, low=0)
        check_scores(self.zero_cost, "measure.zero_cost")


def check_scores(names: Iterable[str], where: str) -> None:
    """Raise ValueError where there is no zero-cost score of that name."""
    for name in names:
        if name not in ZERO_COST:
            raise ValueError(
                f"{where}: unknown score {name!r}; allowed are {', '.join(ZERO_COST)}{meant(name, ZERO_COST)}"
            )
    check_once(names, where)


def check_once(names: Iterable[str], where: str) -> None:
    """Raise ValueError where something is named twice."""
    for name, times in Counter(names).items():
        if times > 1:
            raise ValueError(f"{where}: {name} is named twice; name it once")


def check_costs(names: Iterable[str]) -> None:
    """Raise ValueError where a cost cannot be measured before training."""
    for name in names:
        if name not in COSTS:
            raise ValueError(
                f"cost {name!r} is not known before training; allowed are {', '.join(COSTS)}{meant(name, COSTS)}"
            )


def senses(task: str = CLASSIFY) -> dict[str, str]:
    """What a study may optimise and which way is better, beside `zero_cost.NAME`: never anything of the test split."""
    scores = {metric.on("val").column: metric.higher_is_better for metric in metrics_of(task) if "val" in metric.splits}
    costs = dict.fromkeys((*KNOWN_COSTS, *CHEAP_COSTS, "train_seconds"), MINIMIZE)
    return {name: MAXIMIZE if higher else MINIMIZE for name, higher in scores.items()} | costs


def sense_of(name: str, task: str = CLASSIFY) -> str:
    """Which way an objective is better: "maximize" or "minimize". The papers of the zero-cost scores maximise them."""
    return senses(task).get(name, MAXIMIZE)


def check_objectives(names: list[str], scores: Iterable[str] = (), task: str = CLASSIFY) -> None:
    """Raise ValueError where an objective is unknown, is not measured, or would choose on test data.

    Args:
        scores: the zero-cost scores that are measured, `measure.zero_cost`.
    """
    allowed = senses(task)
    for name in names:
        if name.startswith("test_"):
            raise ValueError(
                f"objectives: {name} would choose on test data; test is read by the final re-evaluation alone"
            )
        if name.startswith(SCORE_PREFIX):
            score = name.removeprefix(SCORE_PREFIX)
            check_scores([score], f"objectives: {name}")
            if score not in scores:
                raise ValueError(f"objectives: {name} is not measured; add it, e.g. measure.zero_cost=[{score}]")
        elif name not in allowed:
            raise ValueError(
                f"objectives: unknown metric {name!r}; allowed are {', '.join(allowed)}, and {SCORE_PREFIX}NAME for "
                f"each NAME in measure.zero_cost{meant(name, allowed)}"
            )
    check_once(names, "objectives")
    if not names:
        raise ValueError(f"objectives: give at least one, e.g. objectives=[{chosen_by(task)}]")
