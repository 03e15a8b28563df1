"""How a proxy is trained and what is measured on it: the configuration of `train.py` and `measure.py`, free of torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = [
    "CHEAP_COSTS",
    "CHECKPOINTS",
    "COSTS",
    "KNOWN_COSTS",
    "OBJECTIVES",
    "SCHEDULES",
    "SCORE_PREFIX",
    "SENSES",
    "ZERO_COST",
    "MeasureConfig",
    "TrainConfig",
    "check_costs",
    "check_objectives",
    "check_scores",
    "sense_of",
]

SCHEDULES = ("onecycle", "cosine", "constant")
CHECKPOINTS = ("never", "final", "always")
ZERO_COST = ("synflow", "naswot", "jacob_cov", "grad_norm", "snip", "zen")
SCORE_PREFIX = "zero_cost."  # `zero_cost.synflow` names a score where metrics are named
MAXIMIZE, MINIMIZE = "maximize", "minimize"
# what a study may optimise and which way is better, beside zero_cost.NAME: never anything of the test split
SENSES = {
    "val_top1": MAXIMIZE,
    "val_loss": MINIMIZE,
    "params": MINIMIZE,
    "params_fused": MINIMIZE,
    "macs": MINIMIZE,
    "macs_fused": MINIMIZE,
    "latency_ms": MINIMIZE,
    "latency_fused_ms": MINIMIZE,
    "train_memory_mb": MINIMIZE,
    "train_seconds": MINIMIZE,
}
OBJECTIVES = tuple(SENSES)
KNOWN_COSTS = ("params", "params_fused", "macs", "macs_fused")  # of every network, before it is trained
CHEAP_COSTS = ("latency_ms", "latency_fused_ms", "train_memory_mb")  # measured before training on request
COSTS = (*KNOWN_COSTS, *CHEAP_COSTS, *(f"{SCORE_PREFIX}{name}" for name in ZERO_COST))


@dataclass
class TrainConfig:
    """The recipe, held equal between arms.

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
        if self.epochs < 1:
            raise ValueError(f"train.epochs={self.epochs}: at least 1")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"train.schedule={self.schedule}: allowed are {', '.join(SCHEDULES)}")
        if not self.lr > 0:
            raise ValueError(f"train.lr={self.lr}: must be above 0")
        for name, value in (
            ("warmup", self.warmup),
            ("ema_decay", self.ema_decay),
            ("label_smoothing", self.label_smoothing),
        ):
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"train.{name}={value}: allowed is 0 up to, not including, 1")
        if self.clip_grad is not None and not self.clip_grad > 0:
            raise ValueError(f"train.clip_grad={self.clip_grad}: must be above 0, or null for no clipping")
        for name, value in (("weight_decay", self.weight_decay), ("momentum", self.momentum)):
            if not value >= 0:
                raise ValueError(f"train.{name}={value}: at least 0")
        if self.state_every_seconds is not None and not self.state_every_seconds >= 0:
            raise ValueError(
                f"train.state_every_seconds={self.state_every_seconds}: at least 0, or null to save only on a stop"
            )


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
        for name, low in (("latency_batch", 1), ("latency_repeats", 0), ("fuse_tolerance", 0)):
            if not getattr(self, name) >= low:
                raise ValueError(f"measure.{name}={getattr(self, name)}: at least {low}")
        check_scores(self.zero_cost, "measure.zero_cost")


def check_scores(names: Iterable[str], where: str) -> None:
    """Raise ValueError where there is no zero-cost score of that name."""
    for name in names:
        if name not in ZERO_COST:
            near = difflib.get_close_matches(str(name), ZERO_COST, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{where}: unknown score {name!r}; allowed are {', '.join(ZERO_COST)}{hint}")


def check_costs(names: Iterable[str]) -> None:
    """Raise ValueError where a cost cannot be measured before training."""
    for name in names:
        if name not in COSTS:
            near = difflib.get_close_matches(name, COSTS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"cost {name!r} is not known before training; allowed are {', '.join(COSTS)}{hint}")


def sense_of(name: str) -> str:
    """Which way an objective is better: "maximize" or "minimize". The papers of the zero-cost scores maximise them."""
    return SENSES.get(name, MAXIMIZE)


def check_objectives(names: list[str], scores: Iterable[str] = ()) -> None:
    """Raise ValueError where an objective is unknown, is not measured, or would choose on test data.

    Args:
        scores: the zero-cost scores that are measured, `measure.zero_cost`.
    """
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
        elif name not in OBJECTIVES:
            raise ValueError(
                f"objectives: unknown metric {name!r}; allowed are {', '.join(OBJECTIVES)}, and {SCORE_PREFIX}NAME for "
                "each NAME in measure.zero_cost"
            )
    if not names:
        raise ValueError("objectives: give at least one, e.g. objectives=[val_top1]")
