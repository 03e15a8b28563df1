"""Rivals of timm's newer networks: what they equal, what they cost, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import xvol
from xvol.branches import branch_class
from xvol.branches.timm_blocks import LargeKernelAttention, LayerBranch, RepLargeKernel

LAYERS = [
    *(
        "additive_attention",
        "focal_modulation",
        "global_context",
        "inception_dw",
        "large_kernel",
        "outlook",
        "single_head",
    ),
]


@pytest.mark.parametrize("name", LAYERS)
def test_under_a_stride_a_layer_sees_the_means_of_cells(name: str) -> None:
    whole, strided = (branch_class(name)(16, 16, stride=stride).eval() for stride in (1, 2))
    strided.load_state_dict(whole.state_dict())
    x = torch.randn(2, 16, 7, 6)
    torch.testing.assert_close(strided(x), whole(functional.avg_pool2d(x, 2, 2, ceil_mode=True)))
    if name not in ("large_kernel", "outlook"):  # the one is a product with x, the other wants channels last
        assert isinstance(whole, LayerBranch)
        assert torch.equal(whole(x), whole.layer(x))


def test_large_kernel_attention_is_the_input_times_three_convolutions() -> None:
    branch = LargeKernelAttention(4, 4, dtype=torch.float64)
    near, far, point = branch.layer
    x = torch.randn(2, 4, 30, 28, dtype=torch.float64)

    def depthwise(conv: nn.Conv2d, y: Tensor, reach: int, step: int) -> Tensor:
        padded, total = functional.pad(y, [reach * step] * 4), torch.zeros_like(y)
        for row in range(2 * reach + 1):
            for column in range(2 * reach + 1):
                part = padded[:, :, row * step : row * step + 30, column * step : column * step + 28]
                total += conv.weight[:, 0, row, column, None, None] * part
        return total + conv.bias[:, None, None]

    attention = torch.einsum("oi,bihw->bohw", point.weight[:, :, 0, 0], depthwise(far, depthwise(near, x, 2, 1), 3, 3))
    torch.testing.assert_close(branch(x), x * (attention + point.bias[:, None, None]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_reparameterised_large_kernel_is_one_convolution(groups: int) -> None:
    spec = xvol.BlockSpec.make(["conv", "rep_large_kernel"], gamma=1.0)
    block = xvol.XVolution2d(8, 6, groups=groups, stride=2, spec=spec, dtype=torch.float64)
    for _ in range(3):
        block(torch.randn(4, 8, 9, 9, dtype=torch.float64))
    fused = block.eval().fuse()
    assert type(fused) is nn.Conv2d
    assert fused.kernel_size == (7, 7)
    x = torch.randn(1, 8, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(fused(x), block(x))


C, T = 16, 12 * 5  # channels, and pixels


@pytest.mark.parametrize(
    ("name", "options", "params", "macs"),
    [
        # f, h and the projection with their biases; windows of 3 and 5; three gates and the product with q
        ("focal_modulation", {}, 4 * C**2 + 41 * C + 3, T * (4 * C**2 + 41 * C)),
        ("outlook", {"heads": 2}, C**2 + 2 * 81 * (C + 1) + C**2 + C, T * (C**2 + 2 * 81 * C + 81 * C + C**2)),
        ("inception_dw", {}, 2 * (9 + 11 + 11 + 3), T * 2 * (9 + 11 + 11)),
        ("additive_attention", {}, 4 * (C**2 + C) + C, T * (4 * C**2 + C + 2 * C)),
        ("large_kernel", {}, 74 * C + C**2 + 3 * C, T * (74 * C + C**2 + C)),
        ("global_context", {}, C + 2 * 4 * C + 4 + C + 8, T * 3 * C + 8 * C),
        ("rep_large_kernel", {}, (49 + 9) * C**2 + 4 * C, T * (49 + 9) * C**2),
        # a quarter of the channels attends, with 16 for queries and keys
        ("single_head", {}, C**2 + 2 * C + 4 * 36 + 2 * (4 + 36), T * (C**2 + 4 * 36) + T**2 * (16 + 4)),
        # two 3x3 of half the channels; 8 channels in between say how much of each
        ("selective_kernel", {}, 9 * C**2 + 4 * C + 3 * 8 * C + 16, T * (9 * C**2 + 2 * C) + 3 * 8 * C),
    ],
)
def test_costs_are_those_of_the_formula(name: str, options: dict[str, Any], params: int, macs: int) -> None:
    branch = branch_class(name)(C, C, **options)
    assert xvol.count_macs(branch, (C, 12, 5)) == macs
    assert xvol.count_params(branch) == params


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("focal_modulation", {"groups": 2}, "focal_modulation: groups=2 is refused"),
        ("outlook", {"heads": 3}, "outlook: heads=3 is refused: it does not divide out_chs=8"),
        ("inception_dw", {"share": 0.1}, r"inception_dw: share=0.1 of in_chs=8 is refused"),
        ("inception_dw", {"share": 0.5}, r"inception_dw: share=0.5 of in_chs=8 is refused"),
        ("single_head", {"share": 1.5}, "single_head: share=1.5 is refused"),
        ("selective_kernel", {"groups": 8}, "selective_kernel: in_chs=8 in groups=8 is refused"),
        ("rep_large_kernel", {"dilation": 2}, "rep_large_kernel: dilation=2 is refused"),
        ("rep_large_kernel", {"stride": 3}, "rep_large_kernel: stride=3 is refused"),
        ("rep_large_kernel", {"small": 9}, "rep_large_kernel: small=9 is refused: it is above window=7"),
    ],
)
def test_refuses(name: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        branch_class(name)(8, 8, **given)


def test_all_of_the_group_is_tested_for_its_stride() -> None:
    named = {name for name in xvol.branch_names() if issubclass(branch_class(name), LayerBranch)}
    assert named == set(LAYERS)
    assert not issubclass(RepLargeKernel, LayerBranch)
