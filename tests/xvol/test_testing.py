"""The suite finds what is wrong with a branch, and says which check, at which options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from xvol import branches
from xvol.branches import register_branch
from xvol.branches.base import Branch, factory_of
from xvol.testing import apply_dynamic_kernel, apply_sample_kernel, check_branch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(branches, "_own", dict(branches._own))


class Good(Branch):
    """`forward` and layers, nothing else."""

    def __init__(self, in_chs: int, out_chs: int, *, width: int = 1, **host: Any) -> None:
        super().__init__(in_chs, out_chs, width=width, **host)
        geo, factory = self.geometry, factory_of(host)  # type: ignore[arg-type]
        self.value = nn.Conv2d(in_chs, out_chs, 1, stride=geo.stride, groups=geo.groups, bias=False, **factory)
        self.narrow = nn.Conv2d(in_chs, width, 1, **factory)
        self.widen = nn.Conv2d(width, out_chs, 1, **factory)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.value(x_BCHW) * self.widen(self.narrow(x_BCHW.mean((2, 3), keepdim=True)))


class WrongShape(Good):
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return super().forward(x_BCHW)[:, :, :1]


class Untrained(Good):
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.value(x_BCHW)


class WrongFold(Good):
    def fold(self, norm: Any, static: Any) -> Any:
        return super().fold(nn.BatchNorm2d(self.geometry.out_chs, dtype=torch.float64).eval(), static)


class HalfReset(Good):
    def reset_parameters(self) -> None:
        self.value.reset_parameters()


class Swallows(Good):
    def __init__(self, in_chs: int, out_chs: int, *, loud: bool = False, width: int = 1, **host: Any) -> None:
        super().__init__(in_chs, out_chs, width=width, **host)


class Claims(Good):
    has_dynamic_kernel = True


def test_forward_alone_passes() -> None:
    register_branch("good")(Good)
    check_branch("good", {"width": [3]})


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (WrongShape, r"check_shape\('wrong', .*gives \(2, 8, 1, 3\), the host \(2, 8, 5, 3\)"),
        (Untrained, r"check_training\('wrong', \{\}\): .*narrow.weight gets no gradient"),
        (WrongFold, r"check_fold\('wrong', .*not close"),
        (HalfReset, r"check_reset\('wrong', \{\}\): .*does not draw narrow.weight"),
        (Swallows, r"check_unknown_argument\('wrong'\): .*nothing was refused"),
        (Claims, r"check_kernels\('wrong', .*has no dynamic kernel"),
    ],
)
def test_what_a_branch_does_not_keep_is_named(cls: type[Branch], message: str) -> None:
    register_branch("wrong")(cls)
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check_branch("wrong")


@pytest.mark.parametrize(("stride", "groups", "size"), [(1, 1, 3), (2, 2, 5), (3, 4, 1)])
def test_a_constant_kernel_is_a_convolution(stride: int, groups: int, size: int) -> None:
    conv = nn.Conv2d(4, 8, size, stride=stride, padding=size // 2, groups=groups, dtype=torch.float64)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    y = conv(x)
    kernel = conv.weight.expand(2, *y.shape[2:], *conv.weight.shape)
    torch.testing.assert_close(apply_dynamic_kernel(x, kernel, conv.bias, stride=stride, groups=groups), y)


@pytest.mark.parametrize(("stride", "groups", "size"), [(1, 1, 3), (2, 2, 5), (3, 4, 1)])
def test_a_kernel_for_each_sample_is_a_convolution_of_each(stride: int, groups: int, size: int) -> None:
    convs = [nn.Conv2d(4, 8, size, stride=stride, padding=size // 2, groups=groups, bias=False) for _ in range(2)]
    x = torch.randn(2, 4, 6, 7)
    expected = torch.cat([conv(sample) for conv, sample in zip(convs, x.split(1), strict=True)])
    kernel, bias = torch.stack([conv.weight for conv in convs]), torch.arange(8.0)
    y = apply_sample_kernel(x, kernel, bias, stride=stride, groups=groups)
    torch.testing.assert_close(y, expected + bias[:, None, None])


@pytest.mark.network
def test_a_stranger_s_branch_passes_from_the_wheel(tmp_path: Path) -> None:
    """As README tells it: a package with an entry point, beside an installed xvol, from an empty folder."""
    source = (ROOT / "examples" / "own_branch.py").read_text(encoding="utf-8")
    package = tmp_path / "site" / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "my_branch.py").write_text(source)
    info = tmp_path / "site" / "my_package-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[xvol.branches]\nmine = my_package.my_branch\n")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path / "site", ROOT]
    subprocess.run(pip, check=True, capture_output=True)
    (tmp_path / "empty").mkdir()
    code = "import xvol.testing; print(xvol.__file__); xvol.testing.check_branch('mine', {'width': [2]})"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path / "empty", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "site")
