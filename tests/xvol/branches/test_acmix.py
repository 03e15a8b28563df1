"""ACmix: each path against torch's own layers, and how the convolution path folds."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

import xvol
from xvol.branches.acmix import ACmix

DOUBLE = torch.float64


def silent(branch: ACmix, path: str) -> ACmix:
    nn.init.zeros_(getattr(branch, path))
    return branch


@pytest.mark.parametrize("heads", [1, 3])
def test_a_window_as_large_as_the_image_attends_globally(heads: int) -> None:
    """There the attention path is torch's, because taps outside of the image have no weight."""
    branch = silent(ACmix(4, 6, heads=heads, window=7, dtype=DOUBLE), "beta")
    x = torch.randn(2, 4, 4, 3, dtype=DOUBLE)
    maps = (branch.query(x), branch.key(x), branch.value(x))
    q, k, v = (part.flatten(2).unflatten(1, (heads, -1)).mT for part in maps)
    expected = functional.scaled_dot_product_attention(q, k, v).mT.flatten(1, 2).unflatten(2, (4, 3)) / 2
    torch.testing.assert_close(branch(x), expected)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 2)])
def test_the_window_is_that_of_the_pixel(stride: int, dilation: int) -> None:
    """One output pixel recomputed from the pixels that its window holds."""
    branch = silent(ACmix(4, 4, heads=2, window=3, stride=stride, dilation=dilation, dtype=DOUBLE), "beta")
    x = torch.randn(1, 4, 6, 7, dtype=DOUBLE)
    y = branch(x)[0, :, 1, 1]
    taps = [(stride + dilation * i, stride + dilation * j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    inside = [x[0, :, i, j] for i, j in taps if i >= 0 and j >= 0]
    near = torch.stack(inside, dim=1)[None, :, :, None]
    k, v = branch.key(near)[0, :, :, 0], branch.value(near)[0, :, :, 0]
    q = branch.query(x)[0, :, stride, stride]
    for head in (slice(0, 2), slice(2, 4)):
        weights = (q[head] @ k[head] / 2**0.5).softmax(0)
        torch.testing.assert_close(y[head], v[head] @ weights / 2)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("position", [False, True])
def test_reflection_and_positions_are_those_of_the_authors(stride: int, dilation: int, position: bool) -> None:
    """Their operator, written out from reflected maps: softmax_t <q, k_t + p_0 - p_t> v_t, p = W_p (column, row)."""
    options = {"position": position, "border": "reflect", "stride": stride, "dilation": dilation}
    branch = silent(ACmix(4, 6, heads=2, window=3, dtype=DOUBLE, **options), "beta")
    x = torch.randn(2, 4, 6, 7, dtype=DOUBLE)
    rows = torch.linspace(-1, 1, 6).double()[:, None].expand(6, 7)
    columns = torch.linspace(-1, 1, 7).double().expand(6, 7)
    places = torch.stack([columns, rows])[None]
    codes = branch.offsets(places) if position else torch.zeros(1, 3, 6, 7, dtype=DOUBLE)

    def windows(maps: torch.Tensor) -> torch.Tensor:
        grown = functional.pad(maps, [dilation] * 4, mode="reflect")
        return functional.unfold(grown, 3, dilation, 0, stride).unflatten(1, (-1, 9))

    q = branch.query(x)[:, :, ::stride, ::stride].flatten(2).unflatten(1, (2, 3)) / 3**0.5
    k, v = (windows(part).unflatten(1, (2, 3)) for part in (branch.key(x), branch.value(x)))
    apart = codes[:, :, ::stride, ::stride].flatten(2)[:, :, None] - windows(codes)
    weights = (q[:, :, :, None] * (k + apart[:, None])).sum(2).softmax(2)
    y = branch(x)
    torch.testing.assert_close(y, ((weights[:, :, None] * v).sum(3) / 2).flatten(1, 2).view_as(y))


def test_an_image_narrower_than_the_window_is_mirrored_as_often_as_needed() -> None:
    """A row repeated in the way of mirrors standing at both ends: 0 1 2 1 0 1 2 ..."""
    branch = silent(ACmix(4, 4, heads=2, window=9, border="reflect", dtype=DOUBLE), "beta")
    x = torch.randn(1, 4, 1, 3, dtype=DOUBLE)
    wide = x[:, :, :, [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]].expand(-1, -1, 9, -1)
    k, v = branch.key(wide), branch.value(wide)
    for place in range(3):  # where the pixels 0, 1, 2 stand among nine to each side
        q = branch.query(x)[0, :, 0, place]
        first = {0: 0, 1: 1, 2: 2}[place]
        near = slice(first, first + 9)
        for head in (slice(0, 2), slice(2, 4)):
            logits = torch.einsum("c,chw->hw", q[head], k[0, head, :, near]) / 2**0.5
            weights = logits.flatten().softmax(0).view_as(logits)
            expected = (weights * v[0, head, :, near]).sum((1, 2)) / 2
            torch.testing.assert_close(branch(x)[0, head, 0, place], expected)


def test_border_and_position_are_checked() -> None:
    with pytest.raises(ValueError, match="acmix: border='zero' must be one of 'mask', 'reflect'"):
        ACmix(4, 4, border="zero")
    with pytest.raises(ValueError, match="acmix: position=1 must be True or False"):
        ACmix(4, 4, position=1)


def test_the_sums_start_as_shifts() -> None:
    """Each output of the convolution path is then a sum of shifted light maps: tap t of map t alone."""
    branch = ACmix(4, 4, heads=2, kernel=3)
    weight = branch.sum.weight.view(4, 9, 9)
    assert torch.equal(weight, torch.eye(9).expand(4, -1, -1))


def test_the_convolution_path_folds_into_the_host(randomise: Callable[[nn.Module], nn.Module]) -> None:
    block = randomise(xvol.XVolution2d(4, 8, spec=xvol.BlockSpec(("conv", "acmix")), dtype=DOUBLE)).eval()
    fused = block.fuse()
    x = torch.randn(2, 4, 5, 6, dtype=DOUBLE)
    torch.testing.assert_close(fused(x), block(x), rtol=1e-10, atol=1e-10)
    assert fused.static.kernel_size == (3, 3)
    twin = fused.dynamic[0]
    assert twin.local is twin.mix is twin.sum is None
    assert xvol.count_macs(fused, (4, 5, 6)) < xvol.count_macs(block, (4, 5, 6))


def test_costs() -> None:
    """3 Ci Co for the projections, 3 k^2 Co and k^4 Co for the convolution path, 2 K^2 Co for the window, per pixel."""
    branch = ACmix(8, 16, heads=4, window=5, kernel=3)
    assert xvol.count_macs(branch, (8, 5, 7)) == 35 * (3 * 8 * 16 + 3 * 9 * 16 + 81 * 16 + 2 * 25 * 16)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 3}, "acmix: heads=3 is refused: it does not divide out_chs=4"),
        ({"groups": 2}, "acmix: groups=2 is refused"),
        ({"window": 4}, "acmix: window=4 must be an odd whole number"),
    ],
)
def test_refuses(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ACmix(4, 4, **wrong)
