"""Every identity of the folding algebra, asserted in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from xvol import fold
from xvol.fold import ScaleShift2d

DOUBLE = {"dtype": torch.float64}


def lived_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, **DOUBLE).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return norm


def random_kernel(size: int, groups: int = 1) -> fold.Kernel:
    return torch.randn(6, 4 // groups, size, size, **DOUBLE), torch.randn(6, **DOUBLE)


def conv(x: Tensor, kernel: fold.Kernel, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> Tensor:
    padding = dilation * (kernel[0].shape[-1] - 1) // 2
    return functional.conv2d(x, *kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("biased", [False, True])
def test_norm_folds_into_the_map_before_it(groups: int, biased: bool) -> None:
    weight, bias = random_kernel(3, groups)
    norm = lived_norm(6)
    x = torch.randn(2, 4, 5, 6, **DOUBLE)
    plain = functional.conv2d(x, weight, bias if biased else None, padding=1, groups=groups)
    close(norm(plain), conv(x, fold.fold_norm(weight, bias if biased else None, norm), groups=groups))


def test_norm_without_affine_part_folds() -> None:
    norm = nn.BatchNorm2d(6, affine=False, **DOUBLE).eval()
    nn.init.normal_(norm.running_mean)
    y = torch.randn(2, 6, 3, 3, **DOUBLE)
    scale, shift = fold.norm_at_rest(norm)
    close(norm(y), y * scale[:, None, None] + shift[:, None, None])


def test_norm_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="track_running_stats=False"):
        fold.norm_at_rest(nn.BatchNorm2d(6, track_running_stats=False))


@settings(deadline=None, max_examples=30)
@given(
    size=st.sampled_from([1, 3, 5]),
    grown=st.sampled_from([0, 2, 4]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
)
def test_padding_a_kernel_changes_nothing(
    size: int, grown: int, stride: int, dilation: int, height: int, width: int
) -> None:
    kernel, x = random_kernel(size), torch.randn(1, 4, height, width, **DOUBLE)
    larger = fold.pad_to_centre(*kernel, size + grown)
    assert larger[0].shape[-1] == size + grown
    close(conv(x, kernel, stride=stride, dilation=dilation), conv(x, larger, stride=stride, dilation=dilation))


@settings(deadline=None, max_examples=30)
@given(
    size=st.sampled_from([1, 3, 5]),
    factor=st.integers(1, 3),
    dilation=st.integers(1, 2),
    stride=st.integers(1, 3),
    edge=st.integers(1, 8),
)
def test_dilation_is_zeros_between_taps(size: int, factor: int, dilation: int, stride: int, edge: int) -> None:
    kernel, x = random_kernel(size), torch.randn(1, 4, edge, edge + 1, **DOUBLE)
    spread = fold.dilate(*kernel, factor)
    close(conv(x, kernel, stride=stride, dilation=factor * dilation), conv(x, spread, stride=stride, dilation=dilation))


@pytest.mark.parametrize("sizes", [(3,), (3, 1), (1, 5, 3)])
def test_parallel_convolutions_sum(sizes: tuple[int, ...]) -> None:
    kernels = [random_kernel(size, groups=2) for size in sizes]
    x = torch.randn(2, 4, 7, 5, **DOUBLE)
    together = fold.sum_parallel(*kernels)
    close(sum(conv(x, kernel, stride=2, groups=2) for kernel in kernels), conv(x, together, stride=2, groups=2))


def test_a_constant_is_a_convolution() -> None:
    bias = torch.randn(6, **DOUBLE)
    x = torch.randn(2, 4, 3, 3, **DOUBLE)
    close(conv(x, fold.bias_only(bias, 4)), bias[:, None, None].expand(2, 6, 3, 3))


@pytest.mark.parametrize(("size", "into"), [(3, 1), (3, 4)])
def test_kernels_whose_centres_do_not_meet_are_refused(size: int, into: int) -> None:
    with pytest.raises(ValueError, match="cannot be centred"):
        fold.pad_to_centre(*random_kernel(size), into)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(("stride", "shift"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_query_bias_is_a_convolution(groups: int, rank: int, stride: int, shift: int) -> None:
    """P (b * DW(K x)) as written, against the one convolution."""
    embed = 8
    project = torch.randn(6, embed * rank // groups, 1, 1, **DOUBLE)
    taps = torch.randn(embed * rank, 1, 3, 3, **DOUBLE)
    bias = torch.randn(embed, **DOUBLE)
    key = torch.randn(embed, 4 // groups, 1, 1, **DOUBLE)
    x = torch.randn(2, 4, 5, 7, **DOUBLE)
    k = functional.conv2d(x, key, groups=groups)
    neighbours = functional.conv2d(k, taps, stride=stride, padding=shift, dilation=shift, groups=embed)
    scaled = bias.repeat_interleave(rank)[:, None, None] * neighbours
    expected = functional.conv2d(scaled, project, groups=groups)
    kernel = fold.product_static_part(project, taps, bias, key, groups)
    close(expected, conv(x, kernel, stride=stride, dilation=shift, groups=groups))


@pytest.mark.parametrize("mix", [1, 3])
@pytest.mark.parametrize(("stride", "shift"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_query_bias_under_a_larger_map_is_a_convolution(mix: int, stride: int, shift: int) -> None:
    """P (b * DW(K x)) with the products of an image grown by zeros, against one convolution of dilation 1."""
    groups, rank, embed = 2, 2, 8
    project, taps = (
        torch.randn(6, embed * rank // groups, mix, mix, **DOUBLE),
        torch.randn(embed * rank, 1, 3, 3, **DOUBLE),
    )
    bias, key = torch.randn(embed, **DOUBLE), torch.randn(embed, 4 // groups, 1, 1, **DOUBLE)
    x = torch.randn(2, 4, 5, 7, **DOUBLE)
    k = functional.conv2d(x, key, groups=groups)
    around = shift + stride * (mix // 2)
    neighbours = functional.conv2d(k, taps, stride=stride, padding=around, dilation=shift, groups=embed)
    scaled = bias.repeat_interleave(rank)[:, None, None] * neighbours
    expected = functional.conv2d(scaled, project, groups=groups)
    kernel = fold.product_static_part(project, taps, bias, key, groups, stride=stride, shift=shift)
    assert kernel[0].shape[-1] == stride * (mix - 1) + 2 * shift + 1
    close(expected, conv(x, kernel, stride=stride, groups=groups))


@settings(deadline=None, max_examples=30)
@given(
    outer=st.integers(1, 3),
    inner=st.integers(1, 3),
    sizes=st.sampled_from([(1, 1), (1, 3), (3, 1), (3, 3), (3, 5), (5, 3)]),
    edge=st.integers(1, 7),
)
def test_taps_after_taps_are_one_kernel(outer: int, inner: int, sizes: tuple[int, int], edge: int) -> None:
    """One channel: a dilated convolution after a strided, dilated one, on an image grown by zeros."""
    later, earlier = (torch.randn(1, 1, size, size, **DOUBLE) for size in sizes)
    x = torch.randn(2, 1, edge, edge + 2, **DOUBLE)
    padding = inner * (sizes[1] // 2) + outer * (sizes[0] // 2)
    first = functional.conv2d(x, earlier, stride=outer, padding=padding, dilation=inner)
    kernel = fold.compose_taps(later[..., None, None] * earlier[:, :, None, None], outer, inner)
    close(functional.conv2d(first, later), conv(x, (kernel, torch.zeros(1, **DOUBLE)), stride=outer))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_a_pointwise_map_after_a_convolution_is_one_convolution(groups: int, stride: int, dilation: int) -> None:
    first, last = torch.randn(8, 4 // groups, 3, 3, **DOUBLE), torch.randn(6, 8 // groups, 1, 1, **DOUBLE)
    x = torch.randn(2, 4, 5, 7, **DOUBLE)
    shape = {"stride": stride, "dilation": dilation, "groups": groups}
    expected = functional.conv2d(conv(x, (first, torch.zeros(8, **DOUBLE)), **shape), last, groups=groups)
    kernel = fold.chain_pointwise(first, last, groups)
    assert not kernel[1].any()
    close(expected, conv(x, kernel, **shape))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("size", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 2), (5, 3, 1)])
def test_a_pointwise_map_before_a_convolution_is_one_convolution(
    groups: int, size: int, stride: int, dilation: int
) -> None:
    """On zeros pushed through the first map, bias and all: pad x, not what the first map gives."""
    first = torch.randn(8, 4 // groups, 1, 1, **DOUBLE), torch.randn(8, **DOUBLE)
    last = torch.randn(6, 8 // groups, size, size, **DOUBLE)
    x = torch.randn(2, 4, 5, 7, **DOUBLE)
    grown = functional.pad(x, [dilation * (size // 2)] * 4)
    middle = functional.conv2d(grown, *first, groups=groups)
    expected = functional.conv2d(middle, last, stride=stride, dilation=dilation, groups=groups)
    kernel = fold.widen_pointwise(first, last, groups)
    close(expected, conv(x, kernel, stride=stride, dilation=dilation, groups=groups))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (5, 3)])
def test_an_average_is_a_convolution(groups: int, size: int, stride: int) -> None:
    x = torch.randn(2, 4, 5, 7, **DOUBLE)
    kernel = fold.average_kernel(4, groups, size, x)
    assert kernel[0].dtype == x.dtype
    expected = functional.avg_pool2d(x, size, stride, size // 2, count_include_pad=True)
    close(expected, conv(x, kernel, stride=stride, groups=groups))


def test_a_scale_and_shift_folds_as_a_norm_does() -> None:
    norm = ScaleShift2d(6, **DOUBLE)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    weight, bias = random_kernel(3)
    x = torch.randn(2, 4, 5, 6, **DOUBLE)
    close(norm(conv(x, (weight, bias))), conv(x, fold.fold_norm(weight, bias, norm)))
    scale, shift = fold.norm_at_rest(norm)
    assert not scale.requires_grad
    assert not shift.requires_grad
