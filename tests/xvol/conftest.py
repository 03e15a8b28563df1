"""What the tests of xvol share: determinism, and models whose norms have lived."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import xvol  # noqa: F401  # mends torchvision before a test imports timm

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Give every norm statistics and an affine part such as training leaves, and every other parameter its own value."""

    def live(module: nn.Module) -> nn.Module:
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean, std=0.5)
                nn.init.uniform_(part.running_var, 0.5, 2.0)
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
            elif isinstance(part, nn.Conv2d) and part.bias is not None:
                nn.init.normal_(part.bias)
        return module

    return live
