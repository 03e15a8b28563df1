"""The oracles against torch itself, and against sums written out by hand."""

import pytest
import torch
from torch import nn

from .oracles import attend_globally, inner_shifted, product_shifted, ungroup


def test_ungrouped_weight_is_the_grouped_convolution() -> None:
    conv = nn.Conv2d(6, 4, 1, groups=2, bias=False)
    x = torch.randn(1, 6, 2, 2)
    torch.testing.assert_close(torch.einsum("oi,bihw->bohw", ungroup(conv.weight, 2), x), conv(x))


@pytest.mark.parametrize("border", ["zero", "replicate"])
def test_shifts_look_where_they_say(border: str) -> None:
    """One channel, Q = K = P = 1, one offset: y(i, j) = x(i, j) * x(i - 1, j + 2), checked pixel by pixel."""
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    y = product_shifted(x, one, None, one, one[None], [(-1, 2)], border=border)
    for i in range(3):
        for j in range(4):
            row, column = i - 1, j + 2
            if border == "replicate":
                row, column = max(row, 0), min(column, 3)
            seen = x[0, 0, row, column].item() if 0 <= row < 3 and 0 <= column < 4 else 0.0
            assert y[0, 0, i, j].item() == pytest.approx(x[0, 0, i, j].item() * seen)


def test_inner_products_weigh_the_shifted_values() -> None:
    """Two channels in one head, all maps the identity: y(i, j) = <x(i, j), x(i + 1, j)> x(i + 1, j) / 2, by hand."""
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    y = inner_shifted(x, eye, None, eye, eye, torch.ones(1, 1, dtype=torch.float64), eye, [(1, 0)])
    expected = torch.zeros_like(x)
    for i in range(2):
        for j in range(2):
            expected[0, :, i, j] = (x[0, :, i, j] @ x[0, :, i + 1, j]) * x[0, :, i + 1, j] / 2
    torch.testing.assert_close(y, expected)


def test_global_softmax_is_that_of_torch() -> None:
    layer = nn.MultiheadAttention(4, 2, bias=False, batch_first=True, dtype=torch.float64)
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    query, key, value = layer.in_proj_weight.chunk(3)
    y = attend_globally(x, query, None, key, value, layer.out_proj.weight, heads=2, softmax=True)
    sequence = x.flatten(2).mT
    torch.testing.assert_close(y.flatten(2).mT, layer(sequence, sequence, sequence)[0])
