"""The detector around a backbone: its samplers, what it shares between arms, and that it is torchvision's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import xvol
from xvol import torchvision_ops

# isort: split
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from search.config import BackboneConfig, Config, PlacementConfig
from search.data.images import DataInfo
from search.detector import DetectorConfig
from search.tasks.detect import DetectTraining
from search.tasks.detector import FixedProposals, Sampler, build_detector, classes_of

torchvision_ops.install()
SMALL = DetectorConfig(
    fpn_channels=16,
    anchor_scale=4,
    canonical_scale=56,
    candidates=40,
    proposals=20,
    rpn_samples=16,
    box_samples=16,
    box_channels=32,
    mask_channels=8,
    mask_layers=1,
    detections=5,
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def info(classes: int = 3, size: int = 64) -> DataInfo:
    return DataInfo(tuple(map(str, range(classes))), 3, size, MEAN, STD, source="", digest="")


def config(policy: str = "none", detector: DetectorConfig = SMALL, **changes: Any) -> Config:
    given = {"placement": PlacementConfig(policy=policy), "detector": detector, "task": "instance_segmentation"}
    return replace(Config(), **{**given, **changes})


def batch(count: int = 2, size: int = 64) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    drawn = torch.Generator().manual_seed(0)
    images = [torch.rand(3, size, size, generator=drawn) for _ in range(count)]
    box = torch.tensor([[8.0, 8.0, 40.0, 48.0], [30.0, 20.0, 60.0, 50.0]])
    masks = torch.zeros(2, size, size, dtype=torch.uint8)
    masks[0, 8:48, 8:40], masks[1, 20:50, 30:60] = 1, 1
    return images, [
        {"boxes": box, "labels": torch.tensor([1, 3]), "masks": masks, "image_id": at} for at in range(count)
    ]


@given(st.integers(1, 300), st.integers(1, 64), st.floats(0.1, 0.9), st.integers(0, 2**40))
def test_a_sampler_takes_as_many_boxes_of_each_kind_as_torchvisions(n: int, most: int, share: float, seed: int) -> None:
    matched = [torch.randint(-1, 4, (n,), generator=torch.Generator().manual_seed(seed + at)) for at in range(2)]
    ours, theirs = Sampler(most, share), BalancedPositiveNegativeSampler(most, share)
    ours.reseed(seed)
    chosen, expected = ours(matched), theirs(matched)
    for masks, others in zip(chosen, expected, strict=True):
        assert [int(mask.sum()) for mask in masks] == [int(mask.sum()) for mask in others]
    for positive, negative, each in zip(*chosen, matched, strict=True):
        assert bool((each[positive] >= 1).all())
        assert bool((each[negative] == 0).all())
    ours.reseed(seed)
    assert all(torch.equal(one, other) for one, other in zip(ours(matched)[1], chosen[1], strict=True))


def test_what_a_sampler_draws_for_a_picture_does_not_hang_on_the_matches_of_another() -> None:
    sampler, matched = Sampler(8, 0.25), torch.tensor([0] * 30 + [1] * 5)
    found = []
    for other in (torch.zeros(35), torch.ones(35)):
        sampler.reseed(1)
        found.append(sampler([other, matched])[1][1])
    assert torch.equal(*found)


def test_arms_of_one_seed_share_backbone_pyramid_and_heads() -> None:
    plain, _ = build_detector(config(), info(), masks=True)
    placed, architecture = build_detector(config("stage3"), info(), masks=True)
    assert architecture.label.startswith("stage3: conv+pssa")
    there, names = plain.state_dict(), xvol.plain_names(placed)
    assert set(names.values()) == set(there)
    assert all(torch.equal(value, there[names[name]]) for name, value in placed.state_dict().items() if name in names)
    other, _ = build_detector(config(seed=1), info(), masks=True)
    name = "roi_heads.box_head.fc6.weight"
    assert not torch.equal(other.state_dict()[name], there[name])


def test_the_heads_are_part_of_the_architecture() -> None:
    hashes = {
        build_detector(config(detector=replace(SMALL, **change)), info(classes), masks=masks)[1].hash
        for change, classes, masks in (
            ({}, 3, True),
            ({"proposals": 30}, 3, True),
            ({}, 4, True),
            ({}, 3, False),
        )
    }
    assert len(hashes) == 4


@pytest.mark.slow
def test_with_the_defaults_it_is_torchvisions_mask_rcnn() -> None:
    of_coco = info(classes=90, size=128)
    given = config(detector=DetectorConfig(), backbone=BackboneConfig(name="resnet50"))
    ours, _ = build_detector(given, of_coco, masks=True)
    theirs = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        min_size=128,
        max_size=128,
        rpn_pre_nms_top_n_test=2000,
        box_detections_per_img=100,
    )
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    theirs.load_state_dict(ours.state_dict())
    images, _ = batch(1, 128)
    with torch.no_grad():
        (one,), (other,) = ours.eval()(images), theirs.eval()(images)
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_other_heads_learn_and_are_measured(head: str) -> None:
    model, _ = build_detector(
        config("stage3", replace(SMALL, head=head, fpn_channels=32), task="detection"), info(), masks=False
    )
    losses = DetectTraining(model)(*batch())
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    part = FixedProposals(model, 20, 5).eval()
    assert xvol.count_macs(part, (3, 64, 64)) > xvol.count_macs(model.backbone, (3, 64, 64))


def test_the_measured_part_counts_the_heads_over_a_fixed_number_of_boxes_and_fuses() -> None:
    model, _ = build_detector(config("stage3"), info(), masks=True)
    part, size = FixedProposals(model, 20, 5).eval(), (3, 64, 64)
    more = FixedProposals(model, 21, 5)
    hidden, cells = SMALL.box_channels, SMALL.fpn_channels * 49
    a_box = (
        cells * hidden + hidden * hidden + hidden * (4 + 16)
    )  # two layers; scores and corners of 3 classes and the background
    assert xvol.count_macs(more, size) - xvol.count_macs(part, size) == a_box
    fused = xvol.fuse(part, size).eval()
    assert xvol.fuse_error(part, fused, torch.randn(1, *size)) < 1e-4
    assert xvol.count_params(part) == xvol.count_params(model)


def test_what_is_frozen_needs_no_gradient_and_keeps_its_statistics() -> None:
    model, _ = build_detector(config("stage3", replace(SMALL, frozen_stages=2)), info(), masks=True)
    body = model.backbone.body
    asked = {name.split(".")[0] for name, parameter in body.named_parameters() if parameter.requires_grad}
    assert asked == {"layer3", "layer4"}
    assert not body.layer1[0].bn1.training
    assert body.layer3[0].bn2.training
    with pytest.raises(ValueError, match=r"frozen_stages=5: the backbone has 4 stages"):
        build_detector(config(detector=replace(SMALL, frozen_stages=5)), info(), masks=True)


def test_frozen_norms_are_scales_and_shifts_of_fixed_numbers_beside_blocks_too() -> None:
    model, _ = build_detector(config("stage3", replace(SMALL, freeze_norms=True)), info(), masks=True)
    before = {name: value.clone() for name, value in model.state_dict().items() if ".bn" in name}
    DetectTraining(model.train())(*batch())["loss"].backward()
    assert before
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_wrong_levels_are_told() -> None:
    with pytest.raises(ValueError, match=r"detector.levels=\[7\]: xvol_proxy_resnet has the maps 0 to 4, of strides 2"):
        build_detector(config(detector=replace(SMALL, levels=[7])), info(), masks=True)


def test_arms_learn_from_the_same_anchors_whatever_their_boxes_are() -> None:
    chosen = []
    for policy in ("none", "stage3"):
        model, _ = build_detector(config(policy), info(), masks=True)
        training, sampler = DetectTraining(model), model.rpn.fg_bg_sampler
        taken: list[Any] = []
        model.rpn.fg_bg_sampler = lambda matched, sampler=sampler, taken=taken: (
            taken.append(sampler(matched)) or taken[-1]
        )
        torch.manual_seed(9)  # as the trainer seeds each part of a step
        training(*batch())
        chosen.append([mask for masks in taken[0] for mask in masks])
    assert all(map(torch.equal, *chosen))
    assert sum(int(mask.sum()) for mask in chosen[0]) == 2 * SMALL.rpn_samples


@pytest.mark.parametrize("head", ["rcnn", "fcos", "retinanet"])
def test_weights_say_how_many_classes_there_are(head: str) -> None:
    model, _ = build_detector(config(detector=replace(SMALL, head=head, fpn_channels=32)), info(7), masks=False)
    assert classes_of(head, model.state_dict()) == 7
    with pytest.raises(KeyError, match="weight"):
        classes_of(head, {})
