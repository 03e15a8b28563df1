"""The Triton kernel in Triton's interpreter, on the CPU, against the plain form; and its fall-back."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from xvol import XVolution2d
from xvol.kernels import Execution, set_execution
from xvol.triton_kernels import _plain, shifted_product, triton_runs_on

CASES = [  # batch, embedding, rank, (H, W), stride, shift, padding, dtype
    (2, 3, 1, (5, 7), 1, 1, 1, "float32"),
    (1, 2, 2, (7, 4), 2, 1, 1, "float64"),
    (1, 2, 1, (8, 9), 3, 2, 2, "float32"),
    (2, 1, 3, (1, 1), 1, 3, 3, "float64"),
    (1, 2, 1, (1, 6), 2, 2, 2, "float32"),
    (1, 2, 2, (9, 8), 1, 2, 0, "float32"),  # padded by the caller, as for a replicated border
    (1, 1, 1, (13, 21), 1, 1, 1, "float16"),  # more pixels than one block
    (1, 2, 1, (6, 5), 1, 1, 1, "bfloat16"),
]


def compare(
    batch: int, embed: int, rank: int, size: list[int], stride: int, shift: int, padding: int, dtype: str
) -> None:
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


def compare_blocks() -> None:
    torch.manual_seed(0)
    block = XVolution2d(4, 6, stride=2, dtype=torch.float64)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    plain = block(x)
    set_execution(block, Execution(recompute=False, triton=True))
    torch.testing.assert_close(block(x), plain, rtol=1e-10, atol=1e-10)


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: pip install triton")
def test_is_the_plain_form_in_the_interpreter() -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET as it is imported."""
    code = f"""
import json, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import test_triton_kernels as here
for case in json.loads({json.dumps(CASES)!r}):
    here.compare(*case)
here.compare_blocks()
"""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_falls_back_to_the_plain_form_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    q, k, window = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.randn(6, 1, 3, 3)
    assert not triton_runs_on(q)
    assert torch.equal(shifted_product(q, k, window, 1, 1, 1), _plain(q, k, window, 1, 1, 1))


def test_xvol_works_without_loading_triton() -> None:
    XVolution2d(4, 4)(torch.randn(1, 4, 3, 3))
    assert "xvol.triton_source" not in sys.modules
