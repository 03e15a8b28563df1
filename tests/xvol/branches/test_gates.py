"""The controls of PSSA's parts: what they equal, and what they cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import xvol
from xvol.branches.gates import DWOnly, GatedDW, GateOnly, Star
from xvol.branches.pssa import PSSA


@pytest.mark.parametrize("directions", [8, 9])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 2), (1, 3, 4)])
def test_a_gated_depthwise_convolution_with_its_taps_tied_is_pssa(
    directions: int, stride: int, dilation: int, groups: int
) -> None:
    host = {"stride": stride, "dilation": dilation, "groups": groups, "dtype": torch.float64}
    pssa = PSSA(8, 12, directions=directions, shift=dilation, embed_ratio=0.5, **host)
    gated = GatedDW(8, 12, kernel=3, embed_ratio=0.5, **host)
    state = pssa.state_dict()
    state["depthwise.weight"] = pssa.window()
    del state["taps"]
    gated.load_state_dict(state)
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(gated(x), pssa(x), rtol=1e-12, atol=1e-12)


def test_a_product_of_one_tap_is_a_star_and_a_saturated_gate_leaves_the_map() -> None:
    star, gate = (kind(6, 8, stride=2, dtype=torch.float64) for kind in (Star, GateOnly))
    gated = GatedDW(6, 8, kernel=1, stride=2, dtype=torch.float64)
    gated.load_state_dict(star.state_dict() | {"depthwise.weight": torch.ones(8, 1, 1, 1, dtype=torch.float64)})
    gate.load_state_dict(star.state_dict())
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(gated(x), star(x), rtol=1e-12, atol=1e-12)
    nn.init.zeros_(gate.query.weight)  # sigmoid(0)
    torch.testing.assert_close(gate(x), gate.project(gate.key(x)) / 2, rtol=1e-12, atol=1e-12)


def test_neighbours_without_a_product_are_one_convolution() -> None:
    block = xvol.XVolution2d(8, 8, spec=xvol.BlockSpec.make(["conv", "dw_only"], gamma=1.0), dtype=torch.float64).eval()
    x = torch.randn(1, 8, 6, 5, dtype=torch.float64)
    assert type(block.fuse()) is nn.Conv2d
    torch.testing.assert_close(block.fuse()(x), block(x))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("kind", "params", "macs"),
    [
        (Star, lambda i, e, o, g: (2 * i * e + e * o) // g, lambda i, e, o, g: (2 * i * e + e * o) // g + e),
        (GateOnly, lambda i, e, o, g: (2 * i * e + e * o) // g, lambda i, e, o, g: (2 * i * e + e * o) // g + e),
        (
            GatedDW,
            lambda i, e, o, g: (2 * i * e + e * o) // g + 25 * e,
            lambda i, e, o, g: (2 * i * e + e * o) // g + 26 * e,
        ),
        (DWOnly, lambda i, e, o, g: (i * e + e * o) // g + 25 * e, lambda i, e, o, g: (i * e + e * o) // g + 25 * e),
    ],
)
def test_costs_are_those_of_the_formula(kind: type, params: object, macs: object, groups: int) -> None:
    branch = kind(8, 12, kernel_size=5, groups=groups, embed_ratio=0.5)
    sizes = (8, 6, 12, groups)
    assert xvol.count_params(branch) == params(*sizes)  # type: ignore[operator]
    assert xvol.count_macs(branch, (8, 4, 3)) == 12 * macs(*sizes)  # type: ignore[operator]
