"""nms and roi_align in plain torch: as the compiled kernels have them, and as detectors need them."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from xvol import torchvision_ops as ours

SOUND = torchvision.extension._has_ops()
NEEDED = ours.install()
needed = pytest.mark.skipif(SOUND, reason="torchvision's compiled operators load here: nothing is installed")


def greedy(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """The definition, box by box, in the boxes' own dtype."""
    order = sorted(range(len(boxes)), key=lambda i: -float(scores[i]))
    kept: list[int] = []
    for j in order:
        for i in kept:
            low, high = torch.maximum(boxes[i, :2], boxes[j, :2]), torch.minimum(boxes[i, 2:], boxes[j, 2:])
            inter = (high - low).clamp(min=0).prod()
            areas = [(boxes[k, 2] - boxes[k, 0]) * (boxes[k, 3] - boxes[k, 1]) for k in (i, j)]
            if float(inter / (areas[0] + areas[1] - inter)) > threshold:
                break
        else:
            kept.append(j)
    return kept


def sampled(maps: Tensor, roi: Tensor, scale: float, bins: tuple[int, int], ratio: int, aligned: bool) -> Tensor:
    """One box, sample by sample: (C, *bins)."""
    _, height, width = maps.shape[1:]
    image = maps[int(roi[0])]
    x1, y1, x2, y2 = (float(each) * scale - 0.5 * aligned for each in roi[1:])
    size = [y2 - y1, x2 - x1] if aligned else [max(1.0, y2 - y1), max(1.0, x2 - x1)]
    counts = [ratio if ratio > 0 else max(0, math.ceil(each / n)) for each, n in zip(size, bins, strict=True)]
    out = maps.new_zeros(maps.shape[1], *bins)
    for row in range(bins[0]):
        for column in range(bins[1]):
            for i in range(counts[0]):
                for j in range(counts[1]):
                    y = y1 + (row + (i + 0.5) / counts[0]) * size[0] / bins[0]
                    x = x1 + (column + (j + 0.5) / counts[1]) * size[1] / bins[1]
                    if not (-1 <= y <= height and -1 <= x <= width):
                        continue
                    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                    top, left = int(y), int(x)
                    for at_y, by_y in ((top, 1 - y + top), (min(top + 1, height - 1), y - top)):
                        for at_x, by_x in ((left, 1 - x + left), (min(left + 1, width - 1), x - left)):
                            out[:, row, column] += image[:, at_y, at_x] * by_y * by_x
    return out / max(1, counts[0] * counts[1])


def boxes_in(count: int, size: float, *, seed: int = 0, smallest: float = 1.0) -> Tensor:
    """Of two pictures in turn, inside size x size pixels: (count, 5), float64."""
    torch.manual_seed(seed)
    first = torch.rand(count, 2, dtype=torch.float64) * (size - smallest)
    last = first + smallest + torch.rand(count, 2, dtype=torch.float64) * (size - smallest - first)
    return torch.cat([torch.arange(count)[:, None] % 2, first, last], 1)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("torch.compile was started")

    monkeypatch.setattr(torch, "compile", refused)


def test_it_may_be_installed_again_and_is_needed_where_the_operators_are_absent() -> None:
    assert ours.install() == NEEDED == (not SOUND)
    assert len(ours._library) == int(NEEDED)
    assert hasattr(torch.ops.torchvision, "roi_align")


def test_beside_sound_operators_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [sys.modules[f"torchvision.ops.{name}"] for name in ("boxes", "roi_align")]
    monkeypatch.setattr(torchvision.extension, "_has_ops", lambda: True)
    monkeypatch.setattr(ours, "_library", [])
    before = [dict(vars(module)) for module in modules]
    assert ours.install() is False
    assert ours._library == []
    assert [dict(vars(module)) for module in modules] == before


@needed
def test_of_the_other_operators_torchvision_says_what_it_said() -> None:
    with pytest.raises(RuntimeError, match="Couldn't load custom C"):
        torchvision.ops.roi_pool(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2)


coordinates = st.integers(0, 6)
box = st.tuples(coordinates, coordinates, st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))


@given(st.lists(box, max_size=24), st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 1.0]))
def test_nms_is_the_greedy_rule_with_ties_as_they_come(drawn: list[tuple[int, ...]], threshold: float) -> None:
    table = torch.tensor(drawn, dtype=torch.float32).reshape(-1, 5)
    boxes = torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], 1)
    assert torchvision.ops.nms(boxes, table[:, 4], threshold).tolist() == greedy(boxes, table[:, 4], threshold)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_of_more_boxes_than_a_block(dtype: torch.dtype) -> None:
    boxes = boxes_in(400, 60.0, smallest=8.0)[:, 1:].to(dtype)
    scores = torch.rand(400).mul(50).round().to(dtype)
    kept = torchvision.ops.nms(boxes, scores, 0.4)
    assert kept.tolist() == greedy(boxes, scores, 0.4)
    assert ours._BLOCK // 4 < len(kept) < 400


def test_nms_takes_boxes_that_have_a_gradient() -> None:
    boxes = boxes_in(9, 20.0, smallest=8.0)[:, 1:]
    scores = torch.linspace(1, 0, 9, dtype=boxes.dtype)
    kept = torchvision.ops.nms(boxes.clone().requires_grad_() * 1.0, scores, 0.4)
    assert torch.equal(kept, torchvision.ops.nms(boxes, scores, 0.4))


def test_a_threshold_is_compared_in_double_precision() -> None:
    """0.3 as float32 is above 0.3: of two boxes that overlap by that, the second goes."""
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])
    assert torchvision.ops.nms(boxes, torch.tensor([1.0, 0.5]), 0.3).tolist() == [0]


def test_nms_for_each_class_and_of_nothing() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [0, 0, 9, 9]])
    scores, classes = torch.tensor([0.1, 0.3, 0.2]), torch.tensor([1, 1, 2])
    assert torchvision.ops.batched_nms(boxes, scores, classes, 0.5).tolist() == [1, 2]
    nothing = torchvision.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert nothing.dtype == torch.int64
    assert nothing.shape == (0,)


@needed
def test_nms_refuses_what_it_cannot_compare() -> None:
    for boxes, scores in (
        (torch.zeros(2, 5), torch.zeros(2)),
        (torch.zeros(2, 4), torch.zeros(3)),
        (torch.zeros(2, 4), torch.zeros(2).double()),
    ):
        with pytest.raises(ValueError, match=r"nms takes \(n, 4\) and \(n,\)"):
            torchvision.ops.nms(boxes, scores, 0.5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 3, -1, 0])
def test_roi_align_is_torchvisions_own_python_form_inside_the_picture(ratio: int, aligned: bool) -> None:
    torch.manual_seed(1)
    maps = torch.randn(2, 3, 12, 17, dtype=torch.float64)
    rois = boxes_in(40, 48.0, smallest=4.0)  # at least a pixel of the maps: a smaller one grows, maybe beyond the edge
    theirs = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__(maps, rois, 0.25, 5, 4, ratio, aligned)
    pooled = torchvision.ops.roi_align(maps, rois, (5, 4), 0.25, ratio, aligned)
    assert float((pooled - theirs).abs().max()) <= 1e-12
    assert pooled.is_contiguous()


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [2, -1])
def test_roi_align_outside_the_picture_and_of_boxes_without_a_size(ratio: int, aligned: bool) -> None:
    torch.manual_seed(1)
    maps = torch.randn(2, 2, 6, 9, dtype=torch.float64)
    rois = torch.tensor(
        [
            [1, -9, -9, 5, 5],
            [0, 30, 18, 60, 30],
            [1, 100, 100, 120, 130],
            [0, 4, 4, 4, 4],
            [1, 8, 8, 6, 3],
            [0, -4, -4, 36, 24],
        ],
        dtype=torch.float64,
    )
    pooled = torchvision.ops.roi_align(maps, rois, (3, 2), 0.25, ratio, aligned)
    expected = torch.stack([sampled(maps, roi, 0.25, (3, 2), ratio, aligned) for roi in rois])
    assert float((pooled - expected).abs().max()) <= 1e-12
    assert float(pooled[2].abs().max()) == 0


@pytest.mark.parametrize("ratio", [2, -1])
def test_roi_align_has_its_gradient_and_gives_boxes_none(ratio: int) -> None:
    maps = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = boxes_in(5, 20.0, smallest=3.0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda each: torchvision.ops.roi_align(each, rois.detach(), (3, 2), 0.25, ratio), (maps,)
    )
    torchvision.ops.roi_align(maps, rois, (3, 2), 0.25, ratio).sum().backward()
    assert rois.grad is None


@pytest.mark.parametrize("ratio", [2, -1])
def test_roi_align_of_no_boxes_trains(ratio: int) -> None:
    maps = torch.randn(2, 3, 5, 6, requires_grad=True)
    pooled = torchvision.ops.roi_align(maps, [torch.zeros(0, 4)] * 2, (7, 6), 0.25, ratio)
    assert pooled.shape == (0, 3, 7, 6)
    pooled.sum().backward()
    assert maps.grad is not None
    assert float(maps.grad.abs().max()) == 0


@pytest.mark.parametrize("ratio", [2, -1])
def test_under_autocast_it_samples_in_float32_and_answers_in_the_dtype_of_the_maps(ratio: int) -> None:
    maps = torch.randn(2, 3, 12, 17).bfloat16()
    rois = boxes_in(9, 48.0, smallest=3.0).float()
    exact = torchvision.ops.roi_align(maps.float(), rois, 5, 0.25, ratio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = torchvision.ops.roi_align(maps, rois, 5, 0.25, ratio)
        assert torch.equal(torchvision.ops.roi_align(maps.float(), rois, 5, 0.25, ratio), exact)
        kept = torchvision.ops.nms(rois[:, 1:], torch.arange(9.0).bfloat16(), 0.1)
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, exact.bfloat16())
    assert kept.tolist() == greedy(rois[:, 1:], torch.arange(9.0), 0.1)


@needed
def test_roi_align_refuses_boxes_of_another_dtype() -> None:
    with pytest.raises(ValueError, match="of one dtype"):
        torchvision.ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5).double(), 2)


@pytest.mark.usefixtures("no_compiler")
def test_a_detector_with_masks_trains_and_predicts() -> None:
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    few = {
        "rpn_post_nms_top_n_train": 40,
        "rpn_post_nms_top_n_test": 40,
        "box_batch_size_per_image": 16,
        "box_detections_per_img": 9,
    }
    model = MaskRCNN(body, 3, min_size=64, max_size=64, box_score_thresh=0.0, **few)
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 8:40, 10:50] = 1
    target = {"boxes": torch.tensor([[10.0, 8, 50, 40]]), "labels": torch.tensor([2]), "masks": masks}
    losses = model([torch.rand(3, 64, 64)] * 2, [target] * 2)
    assert losses.keys() >= {"loss_mask", "loss_box_reg", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert float(body.body["layer1"][0].conv1.weight.grad.abs().sum()) > 0
    with torch.no_grad():
        (found,) = model.eval()([torch.rand(3, 64, 64)])
    assert found["masks"].shape == (len(found["boxes"]), 1, 64, 64)
    assert len(found["boxes"])


@pytest.mark.skipif(not SOUND, reason="torchvision's compiled operators do not load here: nothing to compare with")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("aligned", [False, True])
def test_both_are_what_the_compiled_operators_are(dtype: torch.dtype, aligned: bool) -> None:
    boxes = (boxes_in(700, 80.0, smallest=5.0) - torch.tensor([0, 9, 9, 9, 9])).to(dtype)
    scores = torch.rand(700).mul(99).round().to(dtype)
    for threshold in (0.3, 0.5, 0.7):
        assert torch.equal(
            ours.nms(boxes[:, 1:], scores, threshold), torchvision.ops.nms(boxes[:, 1:], scores, threshold)
        )
    for ratio in (2, -1):
        maps = [torch.rand(2, 4, 14, 19, dtype=dtype).requires_grad_()]
        maps.append(maps[0].detach().clone().requires_grad_())
        one = ours.roi_align(maps[0], boxes, 0.25, 7, 5, ratio, aligned)
        other = torchvision.ops.roi_align(maps[1], boxes, (7, 5), 0.25, ratio, aligned)
        weight = torch.rand_like(one)
        (one * weight).sum().backward()
        (other * weight).sum().backward()
        bound = 1e-12 if dtype == torch.float64 else 1e-5
        assert torch.allclose(one, other, rtol=bound, atol=bound)
        assert torch.allclose(maps[0].grad, maps[1].grad, rtol=10 * bound, atol=10 * bound)  # type: ignore[arg-type]
