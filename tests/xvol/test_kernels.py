"""One pass against plain operations: numbers, gradients, and what is kept for the backward pass."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import xvol
from xvol import kernels
from xvol.branches.pssa import PSSA
from xvol.kernels import Execution, one_pass_is_faster, set_execution

OPTIONS = [
    {},
    {"q_bias": True, "rank": 3},
    {"groups": 2, "stride": 2, "directions": 4},
    {"border": "replicate", "shift": 2, "rank": 2},
    {"border": "replicate", "stride": 3, "groups": 4, "directions": 9, "q_bias": True},
    {"embed_ratio": 0.25, "shift": 3, "stride": 2},
]


def forms(options: dict[str, object], bias: bool) -> tuple[PSSA, PSSA]:
    """One branch computed in two ways; with the bias that folding leaves on the projection, if asked."""
    torch.manual_seed(1)
    branches = [PSSA(8, 12, dtype=torch.float64, **options) for _ in range(2)]
    branches[1].load_state_dict(branches[0].state_dict())
    for branch, recompute in zip(branches, (False, True), strict=True):
        set_execution(branch, Execution(recompute=recompute))
        if branch.query.bias is not None:
            nn.init.constant_(branch.query.bias, 0.5)
        if bias:
            branch.project.bias = nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64))
    return branches[0], branches[1]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 2**18])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_pass_is_the_plain_form(
    options: dict[str, object], bias: bool, chunk: int, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results and all gradients, an image at a time and all images at once."""
    monkeypatch.setattr(kernels, "CHUNK_NUMEL_FEW_PIXELS", chunk)
    plain, one_pass = forms(options, bias)
    for size in ((1, 1), (1, 4), (5, 3), (6, 7)):
        x = torch.randn(3, 8, *size, dtype=torch.float64).to(memory_format=layout)
        results = []
        for branch in (plain, one_pass):
            leaf = x.clone().requires_grad_()
            y = branch(leaf)
            gradients = torch.autograd.grad((y * y.detach().cos()).sum(), (leaf, *branch.parameters()))
            results.append((y, *gradients))
        torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
        with torch.no_grad():
            torch.testing.assert_close(one_pass._one_pass(x), plain(x), rtol=1e-10, atol=1e-10)


def test_second_derivatives_go_through_plain_operations() -> None:
    branch = forms({"q_bias": True, "rank": 2, "border": "replicate"}, bias=True)[1]
    x = torch.randn(1, 8, 3, 2, dtype=torch.float64, requires_grad=True)
    y = branch(x)
    gradient = torch.autograd.grad(y.sum(), x, create_graph=True)[0]
    twice = torch.autograd.grad(gradient.square().sum(), (x, branch.taps))
    expected = forms({"q_bias": True, "rank": 2, "border": "replicate"}, bias=True)[0]
    again = torch.autograd.grad(expected(x).sum(), x, create_graph=True)[0]
    torch.testing.assert_close(twice, torch.autograd.grad(again.square().sum(), (x, expected.taps)))


def saved_activations(run: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes kept for the backward pass, each storage once, parameters and buffers aside."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = run()
    assert y.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("compiled", [False, True])
def test_recomputing_keeps_half_as_much_again_as_a_convolution(compiled: bool) -> None:
    """The input, and what each of the two norms takes; compiled, the custom operator keeps its saving."""
    x = torch.randn(4, 16, 24, 24, requires_grad=True)
    conv = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
    block = xvol.XVolution2d(16, 16)
    set_execution(block, Execution(recompute=True))
    base = saved_activations(lambda: conv(x), conv)
    run = torch.compile(block, fullgraph=True, backend="aot_eager") if compiled else block
    assert saved_activations(lambda: run(x), block) <= 1.51 * base
    set_execution(block, Execution(recompute=False))
    assert saved_activations(lambda: block(x), block) >= 3 * base


def test_execution_is_no_part_of_the_architecture() -> None:
    block = xvol.XVolution2d(8, 8)
    before, keys = block.spec.canonical(), set(block.state_dict())
    assert set_execution(block, Execution(recompute=True)) == 1
    assert block.spec.canonical() == before
    assert set(block.state_dict()) == keys
    with pytest.raises(ValueError, match="no pssa branch"):
        set_execution(nn.Conv2d(4, 4, 3), Execution())


def test_chooses_one_pass_for_large_maps_and_few_pixels_and_counts_the_same_work() -> None:
    assert one_pass_is_faster(64, 56 * 56)
    assert one_pass_is_faster(512, 7 * 7)
    assert not one_pass_is_faster(128, 28 * 28)
    assert not one_pass_is_faster(128, 7 * 7)
    branch, x, counts = PSSA(8, 512), torch.randn(1, 8, 4, 4), []
    for recompute in (None, False):
        branch.execution = Execution(recompute=recompute)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            branch(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_low_precision_under_autocast() -> None:
    branch = PSSA(8, 8)
    branch.execution = Execution(recompute=True)
    x = torch.randn(2, 8, 6, 6)
    y = branch(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = branch(x)
    low.float().sum().backward()
    assert low.dtype == torch.bfloat16
    assert (low.float() - y).norm() < 0.05 * y.norm()
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in branch.parameters()
    )


def test_watched_convolutions_are_called() -> None:
    """Hooks on the 1x1 convolutions see their input: no form that was not asked for bypasses them then."""
    branch, seen = PSSA(8, 512), []
    for conv in (branch.query, branch.key, branch.project):
        conv.register_forward_hook(lambda module, took, gave: seen.append(module))
    branch(torch.randn(1, 8, 4, 4))
    assert seen == [branch.query, branch.key, branch.project]
