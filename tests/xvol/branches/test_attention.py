"""The map after the products: any odd size, over the output pixels around."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import xvol
from xvol import BlockSpec, XVolution2d, branch_class
from xvol.branches.attention import AttentionBranch, joined_edges, pad_edges
from xvol.branches.pssa import PSSA, Execution, GAPQuery
from xvol.fold import norm_at_rest

DOUBLE = torch.float64
NAMES = ["pssa", "pssa_dense", "pssa_inner", "linear_global", "softmax_global"]
SIZES = [(1, 1), (1, 5), (6, 4)]


def build(name: str, **options: object) -> AttentionBranch:
    branch = branch_class(name)(4, 6, dtype=DOUBLE, **options)
    assert isinstance(branch, AttentionBranch)
    return branch


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mix", [3, 5])
@pytest.mark.parametrize("geometry", [{}, {"stride": 2, "groups": 2}], ids=str)
def test_a_larger_map_convolves_what_the_smaller_one_takes(name: str, mix: int, geometry: dict[str, int]) -> None:
    """The products are those of the branch with a 1x1 map; torch's own convolution pads them with zeros."""
    branch = build(name, mix_kernel=mix, **geometry)
    products = build(name, **geometry)
    products.load_state_dict({**branch.state_dict(), "project.weight": branch.project.weight[:, :, :1, :1]})
    products.project = nn.Identity()  # type: ignore[assignment]
    for size in SIZES:
        x = torch.randn(2, 4, *size, dtype=DOUBLE)
        expected = functional.conv2d(
            products(x), branch.project.weight, padding=mix // 2, groups=branch.geometry.groups
        )
        torch.testing.assert_close(branch(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("mix", [1, 3])
def test_one_query_sees_the_products_of_an_image_grown_by_zeros(stride: int, mix: int) -> None:
    branch = GAPQuery(4, 6, stride=stride, mix_kernel=mix, shift=2, rank=2, q_bias=True, dtype=DOUBLE)
    nn.init.normal_(branch.query.bias)
    x = torch.randn(1, 4, 5, 7, dtype=DOUBLE)
    around = stride * (mix // 2)
    query = branch.query(x.mean((2, 3), keepdim=True)).repeat_interleave(2, dim=1)
    grown = functional.pad(branch.key(x), [around] * 4).repeat_interleave(2, dim=1)
    window = xvol.branches.attention.tap_window(branch.taps)
    near = functional.conv2d(grown, window, stride=stride, padding=2, dilation=2, groups=12)
    torch.testing.assert_close(branch(x), functional.conv2d(query * near, branch.project.weight))


@pytest.mark.parametrize(
    ("stride", "dilation", "kernel_size", "leaves"),
    [(1, 1, 5, True), (1, 1, 3, False), (2, 1, 7, True), (1, 2, 7, False), (2, 2, 5, False)],
)
def test_a_query_bias_leaves_one_query_where_all_taps_fit(
    stride: int, dilation: int, kernel_size: int, leaves: bool, randomise: Callable[[nn.Module], nn.Module]
) -> None:
    """Reach: the shift of 1 and a stride to the outer taps of P."""
    spec = BlockSpec.make(["conv", "gap_query"], {"gap_query": {"q_bias": True, "mix_kernel": 3}}, gamma=1.0)
    shape = {"stride": stride, "dilation": dilation, "kernel_size": kernel_size}
    block = randomise(XVolution2d(4, 6, spec=spec, dtype=DOUBLE, **shape)).eval()
    fused = block.fuse()
    assert (fused.dynamic[0].query.bias is None) == leaves
    x = torch.randn(2, 4, 7, 6, dtype=DOUBLE)
    torch.testing.assert_close(fused(x), block(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["pssa", "pssa_dense"])
def test_a_query_bias_stays_where_its_border_is_not_that_of_a_convolution(name: str) -> None:
    branch = build(name, q_bias=True, mix_kernel=3)
    folded = branch.fold(branch.new_norm(dtype=DOUBLE).eval(), xvol.branches.base.Geometry(in_chs=4, out_chs=6))
    assert folded.dynamic.query.bias is not None


@pytest.mark.parametrize("mix", [1, 3])
def test_every_map_keeps_the_variance_of_its_input(mix: int) -> None:
    project = PSSA(64, 64, mix_kernel=mix).project
    assert project.weight.std().item() == pytest.approx((64 * mix**2) ** -0.5, rel=0.05)


def test_costs_grow_with_the_map_alone() -> None:
    """2 Ci Ce + D Ce + Ce + m^2 Ce Co per pixel."""
    branch = PSSA(8, 12, embed_ratio=0.5, mix_kernel=3)
    assert xvol.count_macs(branch, (8, 5, 7)) == 35 * (2 * 8 * 6 + 8 * 6 + 6 + 9 * 6 * 12)
    query = GAPQuery(8, 12, embed_ratio=0.5, mix_kernel=3)
    assert xvol.count_macs(query, (8, 5, 7)) == 35 * (8 * 6 + 9 * 6 * 12) + 7 * 9 * (8 * 6 + 6) + 8 * 6


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True])
def test_a_larger_map_can_be_recomputed(compiled: bool) -> None:
    """Same numbers and gradients; of what plain operations keep for the backward pass, only the input."""
    branch = build("pssa", mix_kernel=3, rank=2, q_bias=True, border="replicate")
    x = torch.randn(2, 4, 6, 5, dtype=DOUBLE, requires_grad=True)
    results, kept = [], []
    for recompute in (False, True):
        branch.execution = Execution(recompute=recompute)
        run = torch.compile(branch, backend="aot_eager", fullgraph=True) if compiled else branch
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, to=sizes: (to.append(tensor.numel()), tensor)[1], _same
        ):
            y = run(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), (x, *branch.parameters()))))
        kept.append(sum(sizes))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
    assert kept[1] < kept[0] / 2


def _same(tensor: Tensor) -> Tensor:
    return tensor


def test_no_norm_is_a_scale_and_a_shift() -> None:
    branch = PSSA(4, 6, norm="none")
    norm = branch.new_norm()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = 100 * torch.randn(3, 6, 4, 5)
    scale, shift = norm_at_rest(norm)
    for mode in (True, False):
        torch.testing.assert_close(norm.train(mode)(x), x * scale[:, None, None] + shift[:, None, None])
    assert isinstance(PSSA(4, 6).new_norm(), nn.BatchNorm2d)


SPECS = [
    ("pssa", {"border": "zero"}),
    ("pssa", {"border": "replicate", "shift": 2, "embed_ratio": 0.25}),
    ("pssa_dense", {"border": "replicate"}),
    ("pssa_inner", {"border": "replicate"}),
    ("acmix", {"border": "reflect", "window": 3, "position": True}),
]


@settings(deadline=None, max_examples=40)
@given(
    reach=st.integers(1, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_is_bitwise_torchs_replication(
    reach: int, height: int, width: int, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    x = torch.randn(2, 3, height, width).to(dtype, memory_format=layout)
    expected = functional.pad(x, [reach] * 4, mode="replicate")
    assert torch.equal(pad_edges(x, reach), expected)
    assert torch.equal(joined_edges(x, reach), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients(size: tuple[int, int], layout: torch.memory_format) -> None:
    x = torch.randn(2, 2, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(lambda map_BCHW: joined_edges(map_BCHW, 2), (x,))
    assert torch.autograd.gradgradcheck(lambda map_BCHW: joined_edges(map_BCHW, 2).square(), (x,))


def gradients(run: nn.Module, block: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = run(leaf)
    return [y, *torch.autograd.grad((y * y.detach().cos()).sum(), (leaf, *block.parameters()))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), SPECS, ids=str)
def test_every_border_trains_compiled_on_channels_last(name: str, options: dict[str, object]) -> None:
    spec = BlockSpec.make(["conv", name], {name: options}, gamma=1.0)
    block = XVolution2d(4, 8, spec=spec, dtype=torch.float64).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    torch._dynamo.reset()
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    expected = gradients(block, block, x)
    torch.testing.assert_close(gradients(compiled, block, x), expected, rtol=1e-9, atol=1e-9)


def why_no_inductor() -> str:
    """Inductor compiles C++ on a CPU: empty where a compiler is found."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler  # heavy, and not there in each build of torch

        command = get_cpp_compiler()
        subprocess.run([command, "--version"], check=True, capture_output=True)
    except Exception as error:
        return f"inductor finds no C++ compiler: {error}"
    return ""


@pytest.mark.slow
def test_inductor_trains_a_step_with_a_replicated_border() -> None:
    """In a process of its own, for what inductor warns of, and to keep its workers out of this one."""
    reason = why_no_inductor()
    if reason:
        pytest.skip(reason)
    code = """
import torch
from xvol.branches.pssa import PSSA
torch.manual_seed(0)
torch.set_num_threads(1)
branch = PSSA(4, 4, border="replicate").to(memory_format=torch.channels_last)
x = torch.randn(2, 4, 5, 4).to(memory_format=torch.channels_last)
results = []
for run in (branch, torch.compile(branch, fullgraph=True)):
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = run(leaf)
    results.append((y, *torch.autograd.grad((y * y.detach()).sum(), (leaf, *branch.parameters()))))
torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
before = branch.taps.detach().clone()
for parameter, gradient in zip(branch.parameters(), results[1][2:], strict=True):
    parameter.grad = gradient
torch.optim.SGD(branch.parameters(), 0.1).step()
assert not torch.equal(before, branch.taps)
"""
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
