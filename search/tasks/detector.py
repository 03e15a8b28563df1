"""A detector of torchvision around a timm backbone with its blocks, and the part of it whose cost depends on no picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from xvol import torchvision_ops

# isort: split
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from search.config import Architecture, Config
from search.data.images import DataInfo
from search.data.keyed import key
from search.tasks.model import backbone, placed
from xvol.hosts import is_batch_norm
from xvol.stages import find_stages

LEAST_STRIDE = 4
RATIOS = (0.5, 1.0, 2.0)  # of a box's height to its width
OCTAVE = 3  # sizes of retinanet's anchors from one level to the next
BOX_CELLS, MASK_CELLS, SAMPLES = 7, 14, 2  # of what is pooled from a box, a side, and points in a cell, a side
CANONICAL_LEVEL = 4  # log2 of its stride


def build_detector(config: Config, info: DataInfo, masks: bool) -> tuple[nn.Module, Architecture]:
    """Build the detector of `config` on the CPU, in training mode; the norms of frozen stages are in eval mode.

    Backbone, pyramid and heads are each initialised from the seed alone, so arms of one seed differ in their blocks alone.

    Args:
        info: the classes, and mean and deviation that pictures are normalised by.
        masks: whether there is a mask head.

    Raises:
        ValueError: as `search.tasks.model.build`; or the backbone gives no feature maps.
    """
    torchvision_ops.install()
    wanted, size = config.detector, info.image_size
    try:
        body = backbone(config, in_chans=info.channels, features_only=True)
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"backbone.name={config.backbone.name}: timm gives no feature maps of it ({error})") from None
    if wanted.freeze_norms:
        freeze_batch_norm_2d(body)
    arguments = {"in_chans": info.channels, "detector": {**wanted.canonical(masks), "classes": len(info.classes)}}
    body, architecture = placed(config, body, (info.channels, size, size), arguments)
    body.train()
    freeze_stages(body, wanted.frozen_stages)
    torch.manual_seed(key(config.seed, "detector"))
    return _detector(config, info, body, masks), architecture


class Pyramid(nn.Module):
    """A timm backbone and the feature pyramid over it, as torchvision's detectors want it: named maps, and `out_channels`.

    Args:
        body: of `features_only`.
        levels: which of its maps.
        top: whether the coarsest map is halved once more (Faster and Mask R-CNN).
    """

    def __init__(self, body: nn.Module, levels: Sequence[int], out_channels: int, top: bool) -> None:
        super().__init__()
        channels = cast(Any, body).feature_info.channels()
        self.levels, self.out_channels = tuple(levels), out_channels
        extra = LastLevelMaxPool() if top else None
        self.body = body
        self.fpn = FeaturePyramidNetwork([channels[at] for at in levels], out_channels, extra)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The maps of normalised images (B, C, H, W), finest first, each (B, `out_channels`, h, w)."""
        maps = self.body(images)
        pyramid: OrderedDict[str, Tensor] = self.fpn(OrderedDict((str(at), maps[at]) for at in self.levels))
        return pyramid


def _detector(config: Config, info: DataInfo, body: nn.Module, masks: bool) -> nn.Module:
    wanted, classes = config.detector, len(info.classes) + 1  # and the background
    levels = _levels(config, body)
    strides = [cast(Any, body).feature_info.reduction()[at] for at in levels]
    pyramid = Pyramid(body, levels, wanted.fpn_channels, top=wanted.head == "rcnn")
    common: dict[str, Any] = {
        "min_size": tuple(wanted.train_sizes) or info.image_size,
        "max_size": wanted.max_size or info.image_size,
        "image_mean": list(info.mean),
        "image_std": list(info.std),
    }
    if wanted.head == "fcos":
        anchors = AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
        kept = {"topk_candidates": wanted.candidates, "detections_per_img": wanted.detections}
        return FCOS(pyramid, classes, anchor_generator=anchors, **kept, **common)
    sides = [wanted.anchor_scale * stride for stride in strides]
    if wanted.head == "retinanet":
        octaves = tuple(tuple(round(side * 2 ** (part / OCTAVE)) for part in range(OCTAVE)) for side in sides)
        anchors = AnchorGenerator(octaves, (RATIOS,) * len(octaves))
        kept = {"topk_candidates": wanted.candidates, "detections_per_img": wanted.detections}
        return RetinaNet(pyramid, classes, anchor_generator=anchors, **kept, **common)
    sides.append(2 * sides[-1])
    names, pooled = [str(at) for at in levels], wanted.fpn_channels
    pools = {
        cells: MultiScaleRoIAlign(
            names, cells, SAMPLES, canonical_scale=wanted.canonical_scale, canonical_level=CANONICAL_LEVEL
        )
        for cells in (BOX_CELLS, MASK_CELLS)
    }
    common |= {
        "rpn_anchor_generator": AnchorGenerator(tuple((round(side),) for side in sides), (RATIOS,) * len(sides)),
        "rpn_pre_nms_top_n_train": wanted.candidates,
        "rpn_pre_nms_top_n_test": wanted.candidates,
        "rpn_post_nms_top_n_train": wanted.proposals,
        "rpn_post_nms_top_n_test": wanted.proposals,
        "rpn_batch_size_per_image": wanted.rpn_samples,
        "box_roi_pool": pools[BOX_CELLS],
        "box_head": TwoMLPHead(pooled * BOX_CELLS**2, wanted.box_channels),
        "box_predictor": FastRCNNPredictor(wanted.box_channels, classes),
        "box_batch_size_per_image": wanted.box_samples,
        "box_detections_per_img": wanted.detections,
    }
    if not masks:
        model: Any = FasterRCNN(pyramid, **common)
    else:
        hidden = wanted.mask_channels
        model = MaskRCNN(
            pyramid,
            mask_roi_pool=pools[MASK_CELLS],
            mask_head=MaskRCNNHeads(pooled, (hidden,) * wanted.mask_layers, 1),
            mask_predictor=MaskRCNNPredictor(hidden, hidden, classes),
            **common,
        )
    for part in (model.rpn, model.roi_heads):
        part.fg_bg_sampler = Sampler(part.fg_bg_sampler.batch_size_per_image, part.fg_bg_sampler.positive_fraction)
    return cast(nn.Module, model)


def classes_of(head: str, state: Mapping[str, Tensor]) -> int:
    """How many classes the detector with these weights tells apart, without the background; KeyError of the tensor that is missing."""
    layer, boxes = {
        "rcnn": ("roi_heads.box_predictor.cls_score.weight", 1),
        "fcos": ("head.classification_head.cls_logits.weight", 1),
        "retinanet": ("head.classification_head.cls_logits.weight", OCTAVE * len(RATIOS)),
    }[head]
    return len(state[layer]) // boxes - 1


def _levels(config: Config, body: nn.Module) -> list[int]:
    info, wanted = cast(Any, body).feature_info, config.detector.levels
    strides = info.reduction()
    if wanted is None:
        return [at for at, stride in enumerate(strides) if stride >= LEAST_STRIDE]
    if not set(wanted) <= set(range(len(strides))) or wanted != sorted(set(wanted)):
        raise ValueError(
            f"detector.levels={wanted}: {config.backbone.name} has the maps 0 to {len(strides) - 1}, of strides "
            f"{', '.join(map(str, strides))}; name some of them once, ascending"
        )
    return list(wanted)


def freeze_stages(body: nn.Module, count: int) -> None:
    """Let the stem and the first `count` stages of a backbone be trained no more, and their norms stand still; with 0 nothing.

    Raises:
        ValueError: it has fewer stages.
    """
    if not count:
        return
    stages = find_stages(body)
    if count > len(stages):
        raise ValueError(f"detector.frozen_stages={count}: the backbone has {len(stages)} stages")
    later = tuple(root for stage in stages[count:] for root in stage.roots)
    for name, module in body.named_modules():
        if any(name == root or name.startswith(f"{root}.") for root in later):
            continue
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        if is_batch_norm(module):
            module.eval()


class Sampler:
    """Chooses the boxes of each picture that a loss is of, as torchvision's `BalancedPositiveNegativeSampler`, from numbers of its own.

    torchvision's draws from the global generator, a number for each box that matches an object: where one arm matches another
    number of boxes, all that is drawn later differs. Here each box of a picture has a number, and the lowest are taken.

    Attributes:
        generator: on the CPU; `reseed` before each use.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image, self.positive_fraction = batch_size_per_image, positive_fraction
        self._seed = 0

    def reseed(self, seed: int) -> None:
        """Let the next batch hang on `seed` alone."""
        self._seed = seed

    def __call__(self, matched_idxs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the positive and of the negative boxes that are chosen, bool (n,) each.

        Args:
            matched_idxs: of each picture, (n,): at least 1 for a positive box, 0 for a negative one, below for one that is left out.
        """
        generator = torch.Generator().manual_seed(self._seed)
        positives, negatives = [], []
        for matched in matched_idxs:
            numbers = torch.rand(len(matched), generator=generator).to(matched.device)
            positive, negative = matched >= 1, matched == 0
            count = min(int(positive.sum()), int(self.batch_size_per_image * self.positive_fraction))
            positives.append(_lowest(numbers, positive, count))
            negatives.append(_lowest(numbers, negative, min(int(negative.sum()), self.batch_size_per_image - count)))
        return positives, negatives


def _lowest(numbers: Tensor, among: Tensor, count: int) -> Tensor:
    chosen = torch.zeros_like(among)
    chosen[numbers.masked_fill(~among, 2.0).topk(count, largest=False).indices] = True
    return chosen


class FixedProposals(nn.Module):
    """What of a detector costs the same for every picture: backbone, pyramid, and the heads over a fixed number of boxes.

    Non-maximum suppression and the pooling of boxes are not in it. From normalised images (B, C, H, W) to all that its layers give.

    Args:
        detector: of `build_detector`.
        proposals, detections: boxes of a picture for the box and for the mask head.
    """

    def __init__(self, detector: nn.Module, proposals: int, detections: int) -> None:
        super().__init__()
        self.detector, self.proposals, self.detections = detector, proposals, detections

    @property
    def body_and_pyramid(self) -> nn.Module:
        """See `search.tasks.base.TimesBody`."""
        return cast(nn.Module, self.detector.backbone)

    def forward(self, images: Tensor) -> list[Any]:
        """The pyramid's maps, and what each head puts out."""
        detector: Any = self.detector
        maps = list(detector.backbone(images).values())
        if not isinstance(detector, FasterRCNN):
            return [*maps, detector.head(maps)]
        heads, pooled = detector.roi_heads, maps[0].shape[1]
        boxes = maps[0].new_zeros(len(images) * self.proposals, pooled, BOX_CELLS, BOX_CELLS)
        found = [*maps, detector.rpn.head(maps), heads.box_predictor(heads.box_head(boxes))]
        if heads.has_mask():
            kept = maps[0].new_zeros(len(images) * self.detections, pooled, MASK_CELLS, MASK_CELLS)
            found.append(heads.mask_predictor(heads.mask_head(kept)))
        return found
