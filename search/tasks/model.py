"""From a config to a network: backbone, sites, blocks, and the architecture as a value; a whitened start, and smaller images."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xvol  # before timm, where torch is a CPU build: see xvol/timm_hook.py

# isort: split
import timm

from search.config import AUTO, Architecture, BranchConfig, Config
from search.data.keyed import key
from search.recipe import TrainConfig
from search.tasks.weights import start_from_file, start_from_trial
from xvol import BlockSpec, Site
from xvol.allowed import nearest

PLAIN, PLAIN_LABEL = "none", "plain"
DAMPING = 0.05  # of the eigenvalues of patches, in units of the images' variance


def build(config: Config, channels: int, classes: int, image_size: int) -> tuple[nn.Module, Architecture]:
    """Build the network of `config` on the CPU, in training mode.

    The backbone is initialised from `config.seed` before anything is placed, so arms with one seed start from the
    same backbone weights wherever their blocks stand.

    Args:
        channels: channels of an image.
        classes: number of classes.
        image_size: height and width in pixels.

    Raises:
        ValueError: unknown backbone, branch, stage or site, or a site that cannot take its block.
    """
    arguments = {"in_chans": channels, "num_classes": classes}
    model = backbone(config, **arguments)
    model, architecture = placed(config, model, (channels, image_size, image_size), arguments)
    return model.train(), architecture


def placed(
    config: Config, model: nn.Module, input_size: tuple[int, int, int], arguments: Mapping[str, Any]
) -> tuple[nn.Module, Architecture]:
    """Place the blocks of `config` in a `backbone`, and load the weights of `backbone.checkpoint` into both.

    Args:
        input_size: channels, height and width of one input.
        arguments: that shape the network beside `backbone.kwargs`.

    Raises:
        ValueError: as `build`; or the weights are of another network.
    """
    chosen, label = _chosen(config, model, input_size)
    if chosen:
        model = xvol.convert(model, chosen, input_size=input_size)
    blocks = {site: spec.canonical() for site, spec in chosen.items()}
    architecture = Architecture.make(config.backbone.name, {**arguments, **config.backbone.kwargs}, blocks, label)
    if config.backbone.checkpoint is not None:
        start_from_trial(model, config, architecture)
    return model, architecture


def backbone(config: Config, **arguments: Any) -> nn.Module:
    """The plain backbone of `config`, initialised from its seed, which is where the blocks that are placed go on drawing.

    Args:
        arguments: more of `timm.create_model`.
    """
    stream = config.start.init_stream
    torch.manual_seed(key(config.seed, "stream", stream) if stream else config.seed)
    name = config.backbone.name
    if not timm.is_model(name):
        near = nearest(name, timm.list_models(), 5)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"backbone.name={name}: timm knows no such model; {hint}")
    try:
        model = timm.create_model(name, pretrained=config.backbone.pretrained, **arguments, **config.backbone.kwargs)
    except TypeError as error:
        raise ValueError(f"backbone.kwargs={config.backbone.kwargs}: {name} does not take them ({error})") from None
    assert isinstance(model, nn.Module)
    if config.backbone.weights is not None:
        start_from_file(model, config.backbone.weights)
    return model


def whiten(model: nn.Module, images: Tensor) -> None:
    """Let the first convolution start as +- the leading eigenvectors of image patches, scaled to whiten them.

    Half of its filters get the eigenvectors v of the patches' second moments, each over sqrt(eigenvalue + `DAMPING`), and the other
    half -v (Jordan 2024, arXiv 2404.00498, section 3.2, there behind no batch norm and frozen). Filters beyond twice the size of a
    patch stay as they were initialised.

    Args:
        model: on the CPU; changed in place.
        images: normalised training images, float32 (B, C, H, W).

    Raises:
        ValueError: the first module that takes the images is no plain convolution, as of a network without one, or has groups.
    """
    named = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    name, first = next(named, ("", None))
    if first is None or first.in_channels != images.shape[1] or first.groups > 1:
        found = f"{name} is {first}" if first is not None else "there is no nn.Conv2d"
        raise ValueError(
            f"train.whiten=true: {type(model).__name__} does not begin with a convolution of the images' {images.shape[1]} "
            f"channels ({found}); leave it false"
        )
    padding: Any = 0 if isinstance(first.padding, str) else first.padding
    columns = F.unfold(images.cpu(), first.kernel_size, first.dilation, padding, first.stride)  # B, C * KH * KW, places
    patches = columns.transpose(1, 2).flatten(0, 1).double()
    moments, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    count = min(first.out_channels // 2, len(moments))
    leading = (vectors / (moments.clamp(min=0) + DAMPING).sqrt()).flip(1)[:, :count].T  # largest eigenvalue first
    with torch.no_grad():
        first.weight[: 2 * count] = torch.cat((leading, -leading)).view(-1, *first.weight.shape[1:]).to(first.weight)


def added_gammas(model: nn.Module) -> list[nn.Parameter]:
    """The weights of the norms behind all branches that blocks have beside a convolution."""
    blocks = [module for module in model.modules() if isinstance(module, xvol.XVolution2d) and "conv" in module.norms]
    return [cast(nn.Parameter, norm.weight) for block in blocks for name, norm in block.norms.items() if name != "conv"]


def train_blocks_alone(model: nn.Module) -> None:
    """Let only what blocks have beside the network that they were put into be trained; see `StartConfig.trains`.

    All other parameters need no gradient, and all other batch norms are put into eval mode, in which a `Trainer` leaves them.
    """
    model.requires_grad_(False)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.eval()
    for block in model.modules():
        if not isinstance(block, xvol.XVolution2d) or block.host is None:
            continue
        for name, branch, norm in block.parts():
            is_host = name == "conv" and cast(Any, branch).conv.kernel_size == (block.geometry.kernel_size,) * 2
            if not is_host:
                for part in (branch, norm):
                    part.requires_grad_(True).train()


def shrink(images: Tensor, share: float) -> Tensor:
    """Resize images (B, C, H, W) to that share of height and width in whole pixels, bilinear with antialiasing."""
    height, width = (max(round(share * edge), 1) for edge in images.shape[2:])
    return F.interpolate(images, size=(height, width), mode="bilinear", antialias=True)


def check_low_res(model: nn.Module, input_size: tuple[int, int, int], recipe: TrainConfig) -> None:
    """Raise ValueError where the network does not take the smaller images of the recipe's first epochs."""
    if recipe.low_res is None:
        return
    images = shrink(torch.zeros(1, *input_size), recipe.low_res)
    try:
        with torch.no_grad():
            copy.deepcopy(model).eval()(images)
    except Exception as error:  # networks of a fixed size say so in any way
        raise ValueError(
            f"train.low_res={recipe.low_res}: {type(model).__name__} takes no images of {images.shape[2]}x{images.shape[3]} "
            f"({error}); take a share of which it does, or train.low_res=null train.low_res_epochs=0"
        ) from None


def _chosen(config: Config, model: nn.Module, input_size: tuple[int, int, int]) -> tuple[dict[str, BlockSpec], str]:
    """Blocks by site, in the model's order, and the arm's readable name."""
    # `BlockSpec`'s default keeps the function of a trained network; from scratch it is the paper's 1
    auto = None if config.is_continued else 1.0
    _spec(config.branch.use, config.branch, auto)  # a wrong branch is told even where nothing is placed
    if config.placement.policy == PLAIN and not config.placement.at:
        return {}, PLAIN_LABEL
    all_sites = xvol.sites(model, input_size=input_size)
    uses = {s.fqn: ("", config.branch.use) for s in xvol.select(all_sites, config.placement.policy)}
    for policy, use in config.placement.at.items():
        uses.update(dict.fromkeys((s.fqn for s in xvol.select(all_sites, policy)), (policy, use)))
    known = {key: _block(*key, config, auto) for key in dict.fromkeys(uses.values()) if key[1] != PLAIN}
    specs = {name: known[key] for name, key in uses.items() if key in known}
    placed = {s.fqn: _at(s, specs[s.fqn]) for s in all_sites if s.fqn in specs and not _is_host(specs[s.fqn])}
    return placed, _label(all_sites, placed, auto)


def _at(site: Site, spec: BlockSpec) -> BlockSpec:
    """The block as it is at a site: one whose norm no block could take over knows no other form, so the same architecture."""
    return spec if site.norm_fqn is not None else replace(spec, keeps_norm=False)


def _block(policy: str, use: str, config: Config, auto: float | None) -> BlockSpec:
    """What stands at the sites of a key of `placement.at`."""
    choices = config.placement.alternatives
    if policy not in choices:
        return _spec(use, config.branch, auto)
    blocks = [_spec(each, config.branch, auto) for each in choices[policy]]
    gamma: Any = auto if config.branch.gamma == AUTO else config.branch.gamma
    turns = math.lcm(*map(len, choices.values()))  # so that all of them come round together
    return xvol.Paths.of(blocks, policy, gamma=gamma, period=turns, seed=config.seed)


def _spec(use: str, branch: BranchConfig, auto: float | None) -> BlockSpec:
    names = [name.strip() for name in use.split("+")]
    options: Mapping[str, Any] = {name: branch.options.get(name) or {} for name in names if name != PLAIN}
    unused = sorted(set(branch.options) - set(xvol.branch_names()))
    if unused:
        raise ValueError(
            f"branch.options: no branch is called {', '.join(unused)}; branches are {', '.join(xvol.branch_names())}"
        )
    for name, given in options.items():
        if not isinstance(given, Mapping):
            raise ValueError(
                f"branch.options.{name}={given}: give options by name, e.g. branch.options.{name}.OPTION=VALUE"
            )
    if names == [PLAIN]:
        return BlockSpec.make(["conv"], keeps_norm=branch.keeps_norm)
    gamma = auto if branch.gamma == AUTO else branch.gamma
    weight: Any = gamma  # it refuses other words
    return BlockSpec.make(names, options=options, gamma=weight, keeps_norm=branch.keeps_norm)


def _is_host(spec: BlockSpec) -> bool:
    """A lone conv branch is what stands there already: the same network, so the same architecture."""
    return replace(spec, keeps_norm=False).canonical() == BlockSpec.make(["conv"]).canonical()


def _label(all_sites: Sequence[Site], placed: Mapping[str, BlockSpec], auto: float | None) -> str:
    """E.g. "stage3: conv+pssa(embed_ratio=0.25)"; sites with one kind of block are described together."""
    groups: dict[BlockSpec, list[Site]] = {}
    for site in all_sites:
        if site.fqn in placed:
            groups.setdefault(placed[site.fqn], []).append(site)
    places: dict[str, list[str]] = {}
    for spec, chosen in groups.items():
        places.setdefault(_named(spec, auto), []).append(xvol.describe(all_sites, chosen))
    choice = "one of: " if any(isinstance(spec, xvol.Paths) for spec in groups) else ""
    return choice + "; ".join(f"{', '.join(where)}: {what}" for what, where in places.items()) or PLAIN_LABEL


def _named(spec: BlockSpec, auto: float | None) -> str:
    """The block in words, with its gamma where that is not what "auto" gives it."""
    usual = replace(spec, gamma=auto).initial_gamma
    name = str(replace(spec, gamma=None))
    return name if spec.initial_gamma == usual else f"{name} gamma={spec.initial_gamma:g}"
