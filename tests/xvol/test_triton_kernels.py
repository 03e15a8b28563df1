"""The Triton kernel in Triton's interpreter, on the CPU, against the plain form; and its fall-back."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from xvol import BlockSpec, XVolution2d, branch_options
from xvol.branches.pssa import PSSA, triton_runs_on

CASES = [  # batch, embedding, rank, (H, W), stride, shift, padding, dtype
    (2, 3, 1, (5, 7), 1, 1, 1, "float32"),
    (1, 2, 2, (7, 4), 2, 1, 1, "float64"),
    (1, 2, 1, (8, 9), 3, 2, 2, "float32"),
    (2, 1, 3, (1, 1), 1, 3, 3, "float64"),
    (1, 2, 1, (1, 6), 2, 2, 2, "float32"),
    (1, 2, 2, (9, 8), 1, 2, 0, "float32"),  # padded by the caller, as for a replicated border
    (1, 1, 1, (13, 21), 1, 1, 1, "float16"),  # more pixels than one block
    (1, 2, 1, (6, 5), 1, 1, 1, "bfloat16"),
    (2, 4, 2, (7, 9), 2, 3, 3, "bfloat16"),
    (2, 4, 2, (7, 9), 2, 3, 3, "float32"),
]


def compare(
    batch: int, embed: int, rank: int, size: list[int], stride: int, shift: int, padding: int, dtype: str
) -> None:
    from xvol.triton_kernels import _plain, shifted_product  # in the process that has the interpreter

    torch.manual_seed(0)
    reach = [(edge + 2 * padding - 2 * shift - 1) // stride + 1 for edge in size]
    shapes = [(batch, embed, *reach), (batch, embed, *size), (embed * rank, 1, 3, 3)]
    ours = [torch.randn(shape).to(getattr(torch, dtype)).requires_grad_() for shape in shapes]
    oracle = [tensor.detach().double().requires_grad_() for tensor in ours]
    assert triton_runs_on(ours[0])
    y, expected = (f(*t, stride, shift, padding) for f, t in ((shifted_product, ours), (_plain, oracle)))
    grad = torch.randn(y.shape).to(y.dtype)
    y.backward(grad)
    expected.backward(grad.double())
    tolerance = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}[dtype]
    for one, other in ((y, expected), *((a.grad, b.grad) for a, b in zip(ours, oracle, strict=True))):
        assert one is not None
        assert one.dtype == getattr(torch, dtype)
        assert (one.double() - other).norm() <= tolerance * other.norm() + 1e-12


BLOCKS = [  # options of the branch, of the host, (H, W), dtype
    ({}, {"stride": 2}, (5, 6), "float64"),
    ({"embed_ratio": 0.25}, {}, (7, 5), "float32"),
    ({"embed_ratio": 0.25, "border": "replicate"}, {}, (7, 5), "float32"),
    ({"embed_ratio": 0.25, "border": "replicate", "shift": 2, "rank": 2}, {"stride": 2}, (5, 9), "float64"),
    ({"rank": 3, "directions": 4, "q_bias": True}, {"groups": 2}, (3, 3), "float64"),
    ({"directions": 9, "mix_kernel": 3}, {}, (1, 1), "float64"),
    ({"embed_ratio": 0.25, "rank": 2}, {"stride": 2}, (9, 7), "bfloat16"),
]


def compare_block(options: dict[str, object], host: dict[str, int], size: list[int], dtype: str) -> None:
    """A whole block, forward and backward: every gradient against plain operations in float64."""
    from xvol import triton_kernels  # in the process that has the interpreter

    torch.manual_seed(0)
    ours, oracle = (
        XVolution2d(8, 16, spec=BlockSpec.make(options={"pssa": options | {"triton": triton}}, gamma=1.0), **host)
        for triton in (True, False)
    )
    oracle.load_state_dict(ours.to(getattr(torch, dtype)).state_dict())
    oracle.double()
    calls, kernel = [], triton_kernels.shifted_product
    # it must not fall back
    triton_kernels.shifted_product = lambda *arguments: (calls.append(1), kernel(*arguments))[1]
    x = torch.randn(2, 8, *size).to(getattr(torch, dtype))
    results = []
    for block, image in ((ours, x.clone()), (oracle, x.double())):
        image.requires_grad_()
        y = block(image)
        results.append((y, *torch.autograd.grad(y.double().cos().sum(), (image, *block.parameters()))))
    triton_kernels.shifted_product = kernel
    assert calls == [1]
    # A norm over few pixels makes small errors large, and cancels in some gradients: both scaled by the largest.
    tolerance = {"float64": 1e-10, "float32": 1e-4, "bfloat16": 0.1}[dtype]
    largest = max(other.abs().max().item() for other in results[1])
    for one, other in zip(*results, strict=True):
        assert (one.double() - other).abs().max() <= tolerance * max(other.abs().max().item(), 0.1 * largest)


def compare_second_derivatives() -> None:
    """By finite differences: all three arguments, and only one that wants a gradient."""
    from xvol.triton_kernels import shifted_product  # in the process that has the interpreter

    torch.manual_seed(0)
    shapes = [(1, 2, 2, 3), (1, 2, 4, 5), (4, 1, 3, 3)]
    for wanted in ((0, 1, 2), (1,)):
        tensors = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
        for index in wanted:
            tensors[index].requires_grad_()
        assert torch.autograd.gradgradcheck(lambda *t: shifted_product(*t, 2, 1, 1), tensors)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: pip install triton (Linux only)")
def test_is_the_plain_form_in_the_interpreter() -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET as it is imported."""
    code = f"""
import json, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_triton_kernels as here
for case in json.loads({json.dumps(CASES)!r}):
    here.compare(*case)
for case in json.loads({json.dumps(BLOCKS)!r}):
    here.compare_block(*case)
here.compare_second_derivatives()
"""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_falls_back_to_the_plain_form_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x, branch = torch.randn(2, 3, 4, 4), PSSA(3, 6, rank=2, triton=True)
    assert not triton_runs_on(x)
    y = branch(x)
    branch.triton = False
    assert torch.equal(branch(x), y)


def test_is_an_option_of_the_branch_off_by_default() -> None:
    assert branch_options("pssa")["triton"] is False
    before = BlockSpec.make(options={"pssa": {"rank": 2}})
    assert BlockSpec.make(options={"pssa": {"rank": 2, "triton": False}}).canonical() == before.canonical()
    on = BlockSpec.make(options={"pssa": {"rank": 2, "triton": True}})
    assert on.canonical() != before.canonical()


def test_xvol_works_without_loading_triton() -> None:
    XVolution2d(4, 4)(torch.randn(1, 4, 3, 3))
    assert "xvol.triton_kernels" not in sys.modules
