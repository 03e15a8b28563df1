"""How a proxy is trained and what is measured on it: the configuration of `train.py` and `measure.py`, free of torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CHECKPOINTS", "OBJECTIVES", "SCHEDULES", "MeasureConfig", "TrainConfig", "check_objectives"]

SCHEDULES = ("onecycle", "cosine", "constant")
CHECKPOINTS = ("never", "final", "always")
# what a study may optimise: never anything of the test split
OBJECTIVES = (
    "val_top1",
    "val_loss",
    "params",
    "params_fused",
    "macs",
    "macs_fused",
    "latency_ms",
    "latency_fused_ms",
    "train_seconds",
)


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
        ema_decay: decay of the moving average of the weights, by step; the average is what is evaluated, fused and
            measured. null: none.
        clip_grad: largest norm of the gradient; null: none.
        amp: bfloat16 autocast.
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
    clip_grad: float | None = None
    amp: bool = False

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


@dataclass
class MeasureConfig:
    """What is measured on the trained model, beside accuracy.

    Attributes:
        latency_batch: images in one timed batch.
        latency_repeats: timed batches of each form; the two forms take turns, the median is kept. 0: no timing.
        fuse_tolerance: largest difference of a logit that the fused form may show, as a share of the largest logit
            (at least 1); above it the trial fails, since its deploy figures would be another network's.
    """

    latency_batch: int = 8
    latency_repeats: int = 20
    fuse_tolerance: float = 1e-3

    def check(self) -> None:
        """Raise ValueError where a value is out of its range."""
        for name, low in (("latency_batch", 1), ("latency_repeats", 0), ("fuse_tolerance", 0)):
            if not getattr(self, name) >= low:
                raise ValueError(f"measure.{name}={getattr(self, name)}: at least {low}")


def check_objectives(names: list[str]) -> None:
    """Raise ValueError where an objective is unknown, or would choose on test data."""
    for name in names:
        if name.startswith("test_"):
            raise ValueError(
                f"objectives: {name} would choose on test data; test is read by the final re-evaluation alone"
            )
        if name not in OBJECTIVES:
            raise ValueError(f"objectives: unknown metric {name!r}; allowed are {', '.join(OBJECTIVES)}")
    if not names:
        raise ValueError("objectives: give at least one, e.g. objectives=[val_top1]")
