"""How a detector is built around its backbone: the configuration of `search/tasks/detector.py`, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from search.ledger.metric import DETECTION, INSTANCES
from xvol.allowed import check_choice, check_number

HEADS = ("rcnn", "fcos", "retinanet")
FCOS_GROUPS = 32
# keys of pictures that have one label, or one size; the detector's samplers and its own transform stand in their place
OF_CLASSIFY = {
    "train": (
        "loss label_smoothing target_threshold bce_sum mixup cutmix mixup_prob mixup_switch_prob mixup_mode mixup_off_epoch reprob remode "
        "recount whiten low_res low_res_epochs compile grad_checkpointing scale ratio aa color_jitter train_interpolation repeats"
    ),
    "data": "crop_padding crop_pct interpolation probe_size",
    "measure": "zero_cost",
}


@dataclass
class DetectorConfig:
    """A detector of torchvision around a timm backbone: feature pyramid, anchors, heads. The defaults are those of its COCO models.

    Attributes:
        head: "rcnn" (Faster R-CNN; with masks Mask R-CNN), or, of boxes alone, "fcos" and "retinanet".
        levels: which of the backbone's feature maps go into the pyramid, as timm's `out_indices`; null: all of stride 4 and more.
        max_size: longer side of a picture in pixels, at most, where its shorter one is `data.image_size`; null: as that one.
        train_sizes: shorter sides, ascending to `data.image_size`, of which one is drawn for each training picture; none: that one.
        fpn_channels: of the pyramid.
        anchor_scale: side of a square anchor in strides of its level.
        canonical_scale: side in pixels of a box that is pooled from the level of stride 16 (Lin and others 2017, equation 1).
        candidates: boxes of each level that non-maximum suppression sees.
        proposals: boxes of a picture that it leaves for the heads.
        rpn_samples, box_samples: boxes of a picture that each of the two losses is of.
        box_channels: of the two hidden layers over a box.
        mask_channels, mask_layers: of the convolutions over a box's mask.
        detections: boxes of a picture in the end.
        frozen_stages: the stem and so many stages of the backbone keep their weights, and their norms their running statistics.
        freeze_norms: all batch norms of the plain backbone become scales and shifts of fixed numbers, as in detectors of COCO.
    """

    head: str = "rcnn"
    levels: list[int] | None = None
    max_size: int | None = None
    train_sizes: list[int] = field(default_factory=list)
    fpn_channels: int = 256
    anchor_scale: float = 8.0
    canonical_scale: int = 224
    candidates: int = 2000
    proposals: int = 1000
    rpn_samples: int = 256
    box_samples: int = 512
    box_channels: int = 1024
    mask_channels: int = 256
    mask_layers: int = 4
    detections: int = 100
    frozen_stages: int = 0
    freeze_norms: bool = False

    def check(self, task: str, image_size: int) -> None:
        """Raise ValueError where a value is out of its range."""
        check_choice("detector.head", self.head, HEADS)
        if task == INSTANCES and self.head != "rcnn":
            raise ValueError(f"detector.head={self.head} has no masks, and task={task}: take rcnn, or task={DETECTION}")
        if self.head == "fcos" and self.fpn_channels % FCOS_GROUPS:
            raise ValueError(
                f"detector.fpn_channels={self.fpn_channels}: the group norms of fcos need a multiple of {FCOS_GROUPS}"
            )
        check_number("detector.max_size", self.max_size, low=image_size, null="data.image_size")
        if self.train_sizes and (self.train_sizes != sorted(self.train_sizes) or self.train_sizes[-1] != image_size):
            raise ValueError(
                f"detector.train_sizes={self.train_sizes}: give them ascending to data.image_size={image_size}, at which pictures are "
                "evaluated"
            )
        if self.levels is not None and not self.levels:
            raise ValueError("detector.levels=[]: give at least one of timm's out_indices, or null")
        for name in ("anchor_scale", "canonical_scale"):
            check_number(f"detector.{name}", getattr(self, name), above=0)
        for name in (
            *("fpn_channels", "candidates", "proposals", "rpn_samples", "box_samples", "box_channels", "mask_channels"),
            *("mask_layers", "detections"),
        ):
            check_number(f"detector.{name}", getattr(self, name), low=1)
        check_number("detector.frozen_stages", self.frozen_stages, low=0)

    def canonical(self, masks: bool) -> dict[str, Any]:
        """What of it shapes the network or its training, as plain values."""
        unused: tuple[str, ...] = (
            ("candidates", "proposals", "rpn_samples", "box_samples", "box_channels") if self.head != "rcnn" else ()
        )
        unused += () if masks else ("mask_channels", "mask_layers")
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in unused}
        return {**values, "masks": masks}


def refuse_others(task: str, **parts: Any) -> None:
    """Raise ValueError where a part of a config, by its name, has another value than the default for what is of classification."""
    for part, config in parts.items():
        usual = type(config)()
        for name in OF_CLASSIFY[part].split():
            given = getattr(config, name)
            if given != getattr(usual, name):
                raise ValueError(f"{part}.{name}={given} is of task=classify, and task={task}: leave it out")
