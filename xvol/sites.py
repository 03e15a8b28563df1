"""Where a block could stand: the legal sites of a model, found by structure and one forward pass, not by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from xvol.block import FusedXVolution2d, XVolution2d
from xvol.branches.base import Geometry
from xvol.probe import Call, norm_after, watch

__all__ = ["Site", "sites"]


@dataclass(frozen=True, kw_only=True)
class Site:
    """One convolution that a block can stand in for.

    Attributes:
        fqn: name of the convolution in the model, e.g. "layer3.0.conv2".
        stage: from 1.
        block: index inside the stage, from 0.
        kernel, stride, padding, dilation, groups, in_chs, out_chs: of the convolution; windows are square.
        norm_fqn: name of the BatchNorm2d that takes its output, and nothing else.
        in_size, out_size: (height, width) in pixels for the input size that was asked for.
        params: of the convolution alone.
        macs: of the convolution alone, for one image.
    """

    fqn: str
    stage: int
    block: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    groups: int
    in_chs: int
    out_chs: int
    norm_fqn: str
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    params: int
    macs: int

    @property
    def geometry(self) -> Geometry:
        """What a branch has to stand in for."""
        return Geometry(
            in_chs=self.in_chs,
            out_chs=self.out_chs,
            kernel_size=self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


def sites(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> list[Site]:
    """The legal sites of `model`, in model order.

    Legal is a Conv2d inside a stage whose window is square, larger than 1x1 and centred with a zero border, that is not
    depthwise, runs once, and whose output goes to one BatchNorm2d. Only plain `nn.Conv2d` and `nn.BatchNorm2d` count:
    timm's `BatchNormAct2d` holds its activation, so a sum cannot be put in front of it. Stems and heads are in no
    stage, and blocks that were placed before are passed over. The model runs once, in eval mode, on one blank image;
    its modes and statistics are left as they were.

    Args:
        model: a timm model, or one whose stages are top-level sequences of blocks.
        input_size: (C, H, W) of one image.

    Raises:
        ValueError: the image does not go through the model, or the model has no legal site.
    """
    calls = watch(model, input_size)
    stages = _stages(model)
    found = []
    for fqn, conv in _outside_blocks(model):
        place = _place(model, fqn, stages)
        if place is None or type(conv) is not nn.Conv2d or fqn not in calls or not _is_spatial(conv):
            continue
        norm_fqn = norm_after(model, fqn, calls)
        if norm_fqn is not None:
            found.append(_site(fqn, conv, place, norm_fqn, calls[fqn]))
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no site for a block: that is an odd, centred, square Conv2d above 1x1, "
            f"not depthwise, feeding a plain BatchNorm2d inside a stage ({len(stages)} stages were found"
            f"{': ' + ', '.join(stages) if stages else ''}). Choose another backbone, such as resnet18"
        )
    return found


def _is_spatial(conv: nn.Conv2d) -> bool:
    """Tell whether a branch could stand in: a centred square window above 1x1 with a zero border, not depthwise."""
    pairs = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    if any(isinstance(pair, str) or pair[0] != pair[1] for pair in pairs):
        return False
    size, padding, dilation = conv.kernel_size[0], conv.padding[0], conv.dilation[0]
    centred = size % 2 == 1 and padding == dilation * (size - 1) // 2 and conv.padding_mode == "zeros"
    depthwise = conv.groups > 1 and conv.groups == conv.in_channels
    return size > 1 and centred and not depthwise


def _site(fqn: str, conv: nn.Conv2d, place: tuple[int, int], norm_fqn: str, call: Call) -> Site:
    out_size = (call.gave.shape[2], call.gave.shape[3])
    return Site(
        fqn=fqn,
        stage=place[0],
        block=place[1],
        kernel=conv.kernel_size[0],
        stride=conv.stride[0],
        padding=int(conv.padding[0]),
        dilation=conv.dilation[0],
        groups=conv.groups,
        in_chs=conv.in_channels,
        out_chs=conv.out_channels,
        norm_fqn=norm_fqn,
        in_size=(call.took.shape[2], call.took.shape[3]),
        out_size=out_size,
        params=sum(parameter.numel() for parameter in conv.parameters()),
        macs=conv.weight.numel() * out_size[0] * out_size[1],
    )


def _outside_blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules in model order, without the insides of blocks that stand there already."""
    inside: str | None = None
    for fqn, module in model.named_modules():
        if inside is not None and fqn.startswith(inside):
            continue
        inside = None
        if isinstance(module, (XVolution2d, FusedXVolution2d)):
            inside = f"{fqn}." if fqn else ""
            continue
        yield fqn, module


def _stages(model: nn.Module) -> list[str]:
    """Names of the stages in model order: what `feature_info` names and holds convolutions, else by structure."""
    info = getattr(model, "feature_info", None) or []
    entries = getattr(info, "info", info)
    modules = dict(model.named_modules())
    named = [entry["module"] for entry in entries if isinstance(entry, dict) and entry.get("module") in modules]
    stages = [name for name in named if _holds_blocks(modules[name])]
    return stages or [name for name, child in model.named_children() if _is_sequence_of_blocks(child)]


def _holds_blocks(module: nn.Module) -> bool:
    """A stage has parts which have convolutions inside; a stem, which `feature_info` also names, is made of layers."""
    return any(
        inner is not part and isinstance(inner, nn.Conv2d) for part in module.children() for inner in part.modules()
    )


def _is_sequence_of_blocks(module: nn.Module) -> bool:
    """A sequence whose items all have parts of their own; a stem's items are single layers."""
    items = list(module.children()) if isinstance(module, (nn.Sequential, nn.ModuleList)) else []
    return bool(items) and _holds_blocks(module) and all(next(item.children(), None) is not None for item in items)


def _place(model: nn.Module, fqn: str, stages: list[str]) -> tuple[int, int] | None:
    """(stage from 1, block from 0) of a module; None outside of all stages."""
    for number, stage in enumerate(stages, start=1):
        if fqn.startswith(f"{stage}."):
            parts = fqn.removeprefix(f"{stage}.").split(".")
            index = next((int(part) for part in parts if part.isdigit()), None)
            if index is None:
                index = [name for name, _ in model.get_submodule(stage).named_children()].index(parts[0])
            return number, index
    return None
