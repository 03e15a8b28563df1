"""What the tests of xvol share: determinism, and models whose norms have lived."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from xvol import testing  # xvol mends torchvision before a test imports timm

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Give every norm statistics and an affine part such as training leaves, and every other parameter its own value."""
    return testing.randomise
