"""Rivals that timm ships, each in a file of its own: importing this one registers them all."""

from xvol.branches.bottleneck_attn import Bottleneck
from xvol.branches.halo import Halo
from xvol.branches.lambda_layer import Lambda

__all__ = ["Bottleneck", "Halo", "Lambda"]
