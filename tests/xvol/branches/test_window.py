"""The copied edge: bit for bit torch's own, with a gradient that compiles in every layout."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from xvol import BlockSpec, XVolution2d
from xvol.branches.window import joined_edges, pad_edges

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
        from torch._inductor.cpp_builder import get_cpp_compiler

        command = get_cpp_compiler()
        subprocess.run([command, "--version"], check=True, capture_output=True)
    except Exception as error:
        return f"inductor finds no C++ compiler: {error}"
    return ""


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
