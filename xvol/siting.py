"""Where a block could stand: the legal sites of a model, found by structure and one forward pass, not by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from xvol.block import FusedXVolution2d, XVolution2d
from xvol.branches.base import Geometry
from xvol.hosts import CONVS, KINDS, fault, pads_by_image
from xvol.probe import Call, takers, watch
from xvol.stages import Stage, find_stages, find_stem, place_of


@dataclass(frozen=True, kw_only=True)
class Site:
    """One convolution that a block can stand in for.

    Attributes:
        fqn: name of the convolution in the model, e.g. "layer3.0.conv2".
        stage: from 1.
        block: index inside the stage, from 0.
        kernel, stride, padding, dilation, groups, in_chs, out_chs: of the convolution; windows are square.
        norm_fqn: name of the batch norm, frozen or not, or timm's BatchNormAct2d, that takes its output, and nothing else. None
            where there is none such: what follows the convolution then follows the block.
        in_size, out_size: (height, width) in pixels for the input size that was asked for.
        params: of the convolution alone.
        macs: of the convolution alone, for one image, in all its runs.
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
    norm_fqn: str | None
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    params: int
    macs: int

    @property
    def geometry(self) -> Geometry:
        """What a branch has to stand in for."""
        names = ("in_chs", "out_chs", "stride", "padding", "dilation", "groups")
        return Geometry(kernel_size=self.kernel, **{name: getattr(self, name) for name in names})


class Refusal(NamedTuple):
    """A spatial convolution inside a stage that no block can stand in for, by its name, and why, in words."""

    fqn: str
    reason: str


def sites(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> list[Site]:
    """The legal sites of `model`, in model order; ValueError counts the reasons where it has none.

    Legal is a convolution inside a stage whose window is square, larger than 1x1 and centred with a zero border: an `nn.Conv2d`, or
    timm's with standardised weights, whatever follows it and however often it runs. Groups, depthwise hosts included, strides,
    dilations and biases are allowed. Where its output goes to one BatchNorm2d, and nowhere else, a block can take that over too: a
    frozen one, as in detectors, or timm's `BatchNormAct2d`, before whose activation the block is then put. Stems and heads are in no
    stage; but the convolutions of a network whose stages have no site, such as a vision transformer with a convolutional stem,
    are stages of their own. Blocks that were placed before are passed over. The model runs once, in eval mode, on one blank
    image; its modes and statistics are left as they were.

    Args:
        model: a timm model, or one whose stages are top-level sequences of blocks.
        input_size: (C, H, W) of one image.
    """
    found, refusals, stages = _survey(model, input_size)
    if not found:
        raise ValueError(_no_site(model, refusals, stages))
    return found


def refused(model: nn.Module, input_size: tuple[int, int, int] = (3, 224, 224)) -> list[Refusal]:
    """Why each other spatial convolution inside the stages is no site, in model order.

    Together with `sites` it accounts for every `nn.Conv2d`, subclasses included, that stands in a stage, outside of
    placed blocks, and has a window above 1x1.
    """
    return _survey(model, input_size)[1]


def _survey(model: nn.Module, input_size: tuple[int, int, int]) -> tuple[list[Site], list[Refusal], list[Stage]]:
    calls = watch(model, input_size)
    stages = find_stages(model)
    found, refusals = _in_stages(model, stages, calls)
    if not found and (stages or not _has_body(model)):
        stem = find_stem(model, stages)
        found, more = _in_stages(model, stem, calls)
        return found, refusals + more, stem or stages
    return found, refusals, stages


def _in_stages(model: nn.Module, stages: list[Stage], calls: dict[str, Call]) -> tuple[list[Site], list[Refusal]]:
    order = {fqn: position for position, (fqn, _) in enumerate(model.named_modules())}
    found: list[Site] = []
    refusals: list[Refusal] = []
    for fqn, conv in _outside_blocks(model):
        place = place_of(fqn, stages, order)
        if place is None or not isinstance(conv, nn.Conv2d) or max(conv.kernel_size) == 1:
            continue
        reason = _window_fault(conv) or (None if fqn in calls else "it does not run as a module in a forward pass")
        if reason:
            refusals.append(Refusal(fqn, reason))
        else:
            found.append(_site(fqn, conv, place, _norm_after(model, fqn, calls), calls[fqn]))
    return found, refusals


def _no_site(model: nn.Module, refusals: list[Refusal], stages: list[Stage]) -> str:
    counts = Counter(refusal.reason for refusal in refusals).most_common(3)
    names = [stage.roots[-1] for stage in stages]
    if not stages and _has_body(model):
        body = type(model.body).__name__
        return (
            f"{type(model).__name__} has no stages of its own: pass its `.body`, a {body}, which is converted in place"
        )
    return (
        f"{type(model).__name__} has no site for a block: that is an odd, centred, square Conv2d above 1x1 "
        f"inside a stage. {len(stages)} stages were found{': ' + ', '.join(names) if names else ''}"
        f"; of their convolutions {len(refusals)} were refused"
        f"{': ' + '; '.join(f'{count}x {reason}' for reason, count in counts) if counts else ''}. "
        f"Choose another backbone, such as resnet18"
    )


def _has_body(model: nn.Module) -> bool:
    """Whether it is a pyramid around a network, whose stages are those of that."""
    return isinstance(getattr(model, "body", None), nn.Module)


def _window_fault(conv: nn.Conv2d) -> str | None:
    """Why no branch could stand in for the convolution itself: anything but a centred square with a zero border."""
    if type(conv) not in CONVS:
        return f"it is a {type(conv).__name__}, which is not known to be one convolution whatever its input"
    for word, pair in (("kernel", conv.kernel_size), ("stride", conv.stride), ("dilation", conv.dilation)):
        if pair[0] != pair[1]:
            return f"its {word} {pair[0]}x{pair[1]} is not square"
    size = conv.kernel_size[0]
    if size % 2 == 0:
        return f"its kernel {size}x{size} is even and has no centre"
    centred = conv.dilation[0] * (size - 1) // 2
    if pads_by_image(conv):
        lopsided = (
            f"it is a {type(conv).__name__}: its 'same' padding is lopsided under a stride and depends on the image"
        )
        return lopsided if conv.stride[0] > 1 else None
    if conv.padding not in ("same", (centred, centred)):
        return f"its padding {conv.padding} does not centre the window, which needs {centred}"
    if conv.padding_mode != "zeros":
        return f"its border is {conv.padding_mode!r}, not zero"
    return None


def _norm_after(model: nn.Module, fqn: str, calls: dict[str, Call]) -> str | None:
    """Name of the one batch norm that what the convolution gives goes through, once, and nowhere else; None where there is none."""
    names = takers(model, fqn, calls)
    if len(names) != 1 or calls[fqn].times != 1 or calls[fqn].reads != 1:
        return None
    norm = model.get_submodule(names[0])
    return names[0] if type(norm) in KINDS and calls[names[0]].times == 1 and fault(norm) is None else None


def _site(fqn: str, conv: nn.Conv2d, place: tuple[int, int], norm_fqn: str | None, call: Call) -> Site:
    out_size = (call.gave.shape[2], call.gave.shape[3])
    return Site(
        fqn=fqn,
        stage=place[0],
        block=place[1],
        kernel=conv.kernel_size[0],
        stride=conv.stride[0],
        padding=conv.dilation[0] * (conv.kernel_size[0] - 1) // 2,
        dilation=conv.dilation[0],
        groups=conv.groups,
        in_chs=conv.in_channels,
        out_chs=conv.out_channels,
        norm_fqn=norm_fqn,
        in_size=(call.took.shape[2], call.took.shape[3]),
        out_size=out_size,
        params=sum(parameter.numel() for parameter in conv.parameters()),
        macs=conv.weight.numel() * call.pixels,
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
