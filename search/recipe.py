"""How a proxy is trained and what is measured on it: the configuration of `train.py` and `measure.py`, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from search.data.config import Augmentation
from search.objectives import check_scores
from xvol.allowed import check_choice, check_number

COCO_BACKENDS = {"pycocotools": "pycocotools", "faster": "faster_coco_eval"}  # by name what is imported
SCHEDULES = ("onecycle", "cosine", "multistep", "constant")
CHOICES = {
    "schedule": SCHEDULES,
    "loss": ("ce", "bce"),
    "mixup_mode": ("batch", "pair", "elem"),
    "remode": ("const", "rand", "pixel"),
    "clip_mode": ("norm", "value", "agc"),
}
CHECKPOINTS = ("never", "final", "always")


@dataclass
class TrainConfig(Augmentation):
    """The recipe, held equal between arms, in the words of timm's train.py where it has one; with what `Augmentation` draws.

    Attributes:
        epochs: passes over the training split; 0, of a start from a trained network alone: it is evaluated as it is.
        opt: a name that `timm.optim.create_optimizer_v2` knows.
        opt_kwargs: further arguments of that optimiser or of `create_optimizer_v2`, e.g. {eps: 1e-6}.
        lr: peak learning rate.
        momentum: of SGD and Muon, or the first beta of the Adam family and of Muon's fallback, unless `opt_kwargs` has betas.
        weight_decay: not applied to biases and norms.
        layer_decay: the learning rate of a layer is that of the layer above it times this, above 0 to 1; null: one rate.
        schedule: "onecycle" (warm-up, then cosine to zero, by update), "cosine" (linear warm-up, then cosine), "multistep" (linear
            warm-up, then `lr`, and from each of `decay_epochs` on a share of it), "constant".
        decay_epochs: of "multistep": how many epochs are done, parts of one too, when the rate falls, ascending.
        decay_rate: of "multistep": what it is multiplied by then.
        warmup: share of all updates that the warm-up takes, 0 to 1.
        warmup_epochs: the warm-up in epochs, in place of that share; null: the share.
        warmup_lr: rate of the first update of "cosine" and "multistep"; null: the first of equal steps up to `lr`.
        warmup_prefix: the cosine begins behind the warm-up; false: the warm-up stands for the cosine's first part, as in
            timm's own recipes.
        min_lr: rate at the end of "cosine".
        loss: "ce" (cross-entropy) or "bce" (binary cross-entropy over all classes). Validation is scored by cross-entropy.
        label_smoothing: 0 to 1.
        target_threshold: of "bce": targets above it are 1 and the others 0, after mixing; null: they stay as they are.
        bce_sum: of "bce": the sum over classes in place of the mean.
        mixup, cutmix: alpha of the beta distribution that the share of the second image is drawn from; 0: none of it.
        mixup_prob: share of batches that are mixed, 0 to 1.
        mixup_switch_prob: share of mixed batches that get cutmix where both are on.
        mixup_mode: one share for each "batch", "pair" of images or image ("elem").
        mixup_off_epoch: number of epochs after which nothing is mixed any more; 0: all are mixed.
        reprob: share of images of which a part is erased, 0 to 1.
        remode: what stands there then: "const" (zero), "rand" (a colour), "pixel" (noise).
        recount: rectangles that are erased in an image, at most.
        ema_decay: decay of the moving average of the weights, by update; the average, with the network's own batch norm
            statistics, is what is evaluated, fused and measured. null: none.
        ema_warmup: timm's `use_warmup`: the decay grows from 0, so that a short training is no average of initial
            weights.
        accumulate: equal parts of the batch of an update (`data.batch_size` images). They go through the network one after
            the other, and their gradients are averaged: batch norm sees data.batch_size / accumulate images at a time.
        clip_grad: largest norm of all gradients, largest value, or share of a weight's norm, by `clip_mode`; null: no
            clipping.
        clip_mode: "norm", "value" or "agc" (adaptive clipping, but for the head).
        amp: autocast: false; true or "bfloat16"; "float16", with a gradient scaler, on CUDA alone.
        gamma_to: what the weight of the norm behind each branch that blocks have beside a convolution is raised by, in equal steps over
            the first `gamma_epochs`, on top of what it learns: a trained network into which blocks were put at gamma 0 learns little
            about them in a short training. null: it learns alone.
        gamma_epochs: how many epochs that takes, above 0 to `epochs`, parts of one too; null with `gamma_to` null.
        channels_last: memory format of the network while it is trained. Its latency is measured in torch's own.
        whiten: the first convolution starts from the leading eigenvectors of patches of training images, each with both signs,
            scaled to whiten them, and is trained on from there; see `search.tasks.model.whiten`.
        low_res: share of `data.image_size`, above 0 and below 1, that training images are resized to in the first
            `low_res_epochs` epochs; null: none.
        low_res_epochs: how many epochs that are, 0 to `epochs`.
        compile: `torch.compile` for the training step.
        grad_checkpointing: activations are computed again in the backward pass, not kept. Each batch norm then counts a
            batch twice in its running statistics.
        sync_bn: batch norm statistics over all ranks of a trial on several GPUs.
        eval_every: epochs between two evaluations; the last epoch is always evaluated. Of no effect on the result.
        state_every_seconds: how often, at the end of an epoch, all that a trial needs to be continued is written to its
            folder; 0: after every epoch; null: only when the study is asked to stop. Of no effect on the result.
    """

    epochs: int = 4
    opt: str = "sgd"
    opt_kwargs: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    layer_decay: float | None = None
    schedule: str = "onecycle"
    decay_epochs: list[float] = field(default_factory=list)
    decay_rate: float = 0.1
    warmup: float = 0.3
    warmup_epochs: float | None = None
    warmup_lr: float | None = None
    warmup_prefix: bool = True
    min_lr: float = 0.0
    loss: str = "ce"
    label_smoothing: float = 0.0
    target_threshold: float | None = None
    bce_sum: bool = False
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: str = "batch"
    mixup_off_epoch: int = 0
    reprob: float = 0.0
    remode: str = "pixel"
    recount: int = 1
    ema_decay: float | None = 0.98
    ema_warmup: bool = True
    accumulate: int = 1
    clip_grad: float | None = None
    clip_mode: str = "norm"
    amp: bool | str = False
    gamma_to: float | None = None
    gamma_epochs: float | None = None
    channels_last: bool = False
    whiten: bool = False
    low_res: float | None = None
    low_res_epochs: int = 0
    compile: bool = False
    grad_checkpointing: bool = False
    sync_bn: bool = False
    eval_every: int = 1
    state_every_seconds: float | None = 60.0

    @property
    def warmup_share(self) -> float:
        """Share of all updates that the warm-up takes, 0 to 1."""
        return self.warmup if self.warmup_epochs is None else self.warmup_epochs / self.epochs

    @property
    def mixes(self) -> bool:
        """Whether targets are shares of classes, not labels."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def amp_type(self) -> str | None:
        """torch's name of the type that autocast computes in; None without."""
        return {"false": None, "true": "bfloat16"}.get(str(self.amp).lower(), str(self.amp))

    def check(self) -> None:
        """Raise ValueError where a value is out of its range."""
        super().check()
        check_number("train.epochs", self.epochs, low=0)
        check_number("train.lr", self.lr, above=0)
        check_number("train.momentum", self.momentum, low=0, below=1)
        check_number("train.weight_decay", self.weight_decay, low=0)
        check_number("train.layer_decay", self.layer_decay, above=0, high=1, null="one rate for all layers")
        check_number("train.warmup", self.warmup, low=0, below=1)
        epochs = self.epochs or None  # where nothing is trained, no part of it is too long
        check_number("train.warmup_epochs", self.warmup_epochs, low=0, below=epochs, null="the share train.warmup")
        check_number("train.warmup_lr", self.warmup_lr, low=0, high=self.lr, null="equal steps up to train.lr")
        check_number("train.min_lr", self.min_lr, low=0, high=self.lr)
        self._check_steps()
        check_number("train.label_smoothing", self.label_smoothing, low=0, below=1)
        check_number("train.target_threshold", self.target_threshold, low=0, below=1, null="targets as they are")
        check_number("train.recount", self.recount, low=1)
        for name in ("mixup", "cutmix", "mixup_off_epoch"):
            check_number(f"train.{name}", getattr(self, name), low=0)
        for name in ("mixup_prob", "mixup_switch_prob", "reprob"):
            check_number(f"train.{name}", getattr(self, name), low=0, high=1)
        for name, allowed in CHOICES.items():
            check_choice(f"train.{name}", getattr(self, name), allowed)
        check_choice("train.amp", str(self.amp).lower(), ("false", "true", "bfloat16", "float16"))
        check_number("train.ema_decay", self.ema_decay, low=0, below=1, null="no average")
        check_number("train.accumulate", self.accumulate, low=1)
        check_number("train.low_res", self.low_res, above=0, below=1, null="no smaller images")
        check_number("train.low_res_epochs", self.low_res_epochs, low=0, high=epochs)
        check_number("train.gamma_to", self.gamma_to, null="gammas that learn alone")
        check_number("train.gamma_epochs", self.gamma_epochs, above=0, high=epochs, null="gammas that learn alone")
        if (self.gamma_to is None) != (self.gamma_epochs is None):
            raise ValueError(
                f"train.gamma_to={self.gamma_to} and train.gamma_epochs={self.gamma_epochs}: give both, by how much gammas are raised and "
                "over how many epochs, or neither (null)"
            )
        if (self.low_res is None) != (self.low_res_epochs == 0):
            raise ValueError(
                f"train.low_res={self.low_res} and train.low_res_epochs={self.low_res_epochs}: give both, how small images "
                "are and for how many epochs, or neither (null and 0)"
            )
        check_number("train.clip_grad", self.clip_grad, above=0, null="no clipping")
        check_number("train.eval_every", self.eval_every, low=1)
        check_number("train.state_every_seconds", self.state_every_seconds, low=0, null="saving only on a stop")

    def _check_steps(self) -> None:
        ends = self.decay_epochs
        if (self.schedule == "multistep") != bool(ends) or ends != sorted(set(ends)):
            raise ValueError(
                f"train.schedule={self.schedule} with train.decay_epochs={ends}: multistep needs the epochs at which the rate falls, "
                "ascending, e.g. [8, 11] of 12, and no other schedule has them"
            )
        for end in ends:
            check_number("train.decay_epochs", end, above=0, below=self.epochs or None)
        check_number("train.decay_rate", self.decay_rate, above=0, below=1)

    def check_batch(self, size: int) -> None:
        """Raise ValueError where the batch of an update, of `size` images, cannot be cut or mixed as the recipe says."""
        part, rest = divmod(size, self.accumulate)
        if rest:
            raise ValueError(
                f"train.accumulate={self.accumulate} does not divide data.batch_size={size}, the images of one update"
            )
        if self.mixes and part % 2:
            raise ValueError(
                f"train.mixup and train.cutmix pair the images of a batch, and data.batch_size / train.accumulate is {part}: "
                "take an even number"
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
        coco_backend: what scores detections: "pycocotools", or "faster" (faster-coco-eval), which gives the same numbers sooner.
    """

    latency_batch: int = 8
    latency_repeats: int = 20
    fuse_tolerance: float = 1e-3
    zero_cost: list[str] = field(default_factory=list)
    coco_backend: str = "pycocotools"

    def check(self) -> None:
        """Raise ValueError where a value is out of its range."""
        check_number("measure.latency_batch", self.latency_batch, low=1)
        check_number("measure.latency_repeats", self.latency_repeats, low=0)
        check_number("measure.fuse_tolerance", self.fuse_tolerance, low=0)
        check_scores(self.zero_cost, "measure.zero_cost")
        check_choice("measure.coco_backend", self.coco_backend, COCO_BACKENDS)
