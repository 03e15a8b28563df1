"""Surgery on whole models: swap chosen convolutions for X-volution blocks, keeping what the model computes; fuse it to deploy."""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xvol.allowed import suggest
from xvol.block import BlockSpec, XVolution2d
from xvol.branches import branch_class
from xvol.fold import fold_norm
from xvol.hosts import KINDS, HostNorm, is_batch_norm, split_norm
from xvol.paths import new_block
from xvol.probe import Call, at_rest, count_params, takers, watch
from xvol.siting import Refusal, Site, sites

_FOLDABLE = (nn.Conv2d, Conv2dSame)  # linear in their weights; a weight-standardised convolution is not


def convert(
    model: nn.Module, chosen: Mapping[str, BlockSpec], input_size: tuple[int, int, int] = (3, 224, 224)
) -> nn.Module:
    """Put a block in the place of each chosen convolution, and of the batch norm after it where it takes that, in the model given.

    The block's conv branch takes over the convolution and the norm themselves: weights, affine part, running statistics
    (so timm's `zero_init_last` is carried over, and parameters keep their identity). Where the norm was, an
    `nn.Identity` is left; of timm's `BatchNormAct2d`, its drop and its activation. With gamma 0, the default beside a
    conv branch of the host's kernel, logits stay bitwise equal in eval and in train mode. A block without conv branch
    starts afresh. Hosts that re-parameterise themselves (RepVGG's) no longer do once a block stands in them.

    Where no such norm follows (`Site.norm_fqn` is None), or the spec `keeps_norm`, what follows the convolution stays as it is. The
    block then has norms behind its other branches alone, and its sum goes where the convolution's output went.

    A frozen norm stays the frozen norm that it is. Beside it a branch has a norm of its own: a BatchNorm2d that learns, with
    1e-5 for an eps, or a scale and a shift where the branch's option `norm` is "none". Batches of one or two pictures, as
    detectors take them, want the latter, or statistics of all GPUs by `nn.SyncBatchNorm.convert_sync_batchnorm(model)`,
    which leaves frozen norms alone and folds as well.

    Initialisation is equal across placements: seed torch, build the model, convert. The parameters of each branch are
    drawn from a stream of their own, derived from `torch.initial_seed()`, the site's name and the branch's; torch's
    global stream is left where it was. So neither the plain parts of the model nor another site depend on what is
    placed here.

    Args:
        model: changed in place.
        chosen: name of a site (`Site.fqn`) to what is to stand there. Empty leaves the model as it is.
        input_size: (C, H, W) of one image; sites are found by running one.

    Returns:
        `model`.

    Raises:
        ValueError: a name is no legal site, or a branch cannot stand in there; nothing was changed then.
    """
    legal = {site.fqn: site for site in sites(model, input_size)} if chosen else {}
    for fqn, spec in chosen.items():
        _check(fqn, spec, legal)
    seed = torch.initial_seed()
    for fqn, spec in chosen.items():
        _replace(model, legal[fqn], spec, seed)
    return model


def _check(fqn: str, spec: BlockSpec, legal: Mapping[str, Site]) -> None:
    if fqn not in legal:
        raise ValueError(f"{fqn!r} is no site of this model: {suggest(fqn, legal)}")
    for name in spec.branches:
        try:
            branch_class(name).check(legal[fqn].geometry, **spec.branch_options(name))
        except ValueError as error:
            raise ValueError(f"site {fqn!r}: branch {name!r} cannot stand in for its convolution: {error}") from None


def _replace(model: nn.Module, site: Site, spec: BlockSpec, seed: int) -> None:
    conv = cast(nn.Conv2d, model.get_submodule(site.fqn))
    norm = rest = None
    if site.norm_fqn is None:
        spec = replace(spec, keeps_norm=True)
    else:
        norm, rest = split_norm(model.get_submodule(site.norm_fqn))
    block = _build(site, spec, seed, norm).to(device=conv.weight.device, dtype=conv.weight.dtype).train(conv.training)
    model.set_submodule(site.fqn, block)
    if site.norm_fqn is None or rest is None or spec.keeps_norm:
        block.take_over(conv)
        block.host = site.fqn, None
    else:
        block.take_over(conv, norm)
        block.host = site.fqn, site.norm_fqn
        model.set_submodule(site.norm_fqn, rest)
    keep_from_reparameterising(model, site.fqn)


def _build(site: Site, spec: BlockSpec, seed: int, norm: HostNorm | None) -> XVolution2d:
    """Build on the CPU, so that the numbers drawn are the same on every device."""
    with _own_stream(seed, site.fqn):
        made: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
        if isinstance(norm, nn.BatchNorm2d):  # a frozen one has no momentum, and often an eps of 0
            made |= {"eps": norm.eps, "momentum": norm.momentum}
        block = new_block(spec, site.in_chs, site.out_chs, **site.geometry.window, **made)
    for name, branch in block.branches.items():
        with _own_stream(seed, site.fqn, name):
            cast(Any, branch).reset_parameters()
    return block


@contextmanager
def _own_stream(seed: int, *names: str) -> Iterator[None]:
    """Inside, torch's CPU generator runs a stream fixed by seed and names; after, it goes on as if untouched."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


def keep_from_reparameterising(model: nn.Module, fqn: str) -> None:
    """Let `timm.utils.model.reparameterize_model` pass over the hosts around `fqn` (RepVGG's, LeViT's), and go on inside them.

    Such a host reads the weights of a convolution and a norm that are gone. It stays as it is, which is exact.
    """
    parts = fqn.split(".")
    for depth in range(1, len(parts)):
        host: Any = model.get_submodule(".".join(parts[:depth]))
        for method in ("fuse", "reparameterize", "switch_to_deploy"):
            if callable(getattr(host, method, None)):
                setattr(host, method, partial(_itself, host))


def _itself(module: nn.Module) -> nn.Module:
    return module


@dataclass(frozen=True, kw_only=True)
class FuseReport:
    """What fusing a model does to it.

    Attributes:
        blocks: X-volution blocks in the model; `collapsed` of them become a plain `nn.Conv2d`.
        params, params_fused: number of parameters before and after.
        error_float64, error_float32: largest absolute difference of an output between the two forms, in each precision:
            whether the algebra is exact, and what a user will see; of outputs as large as `largest`.
        norms: BatchNorms of plain convolutions that were taken in.
        left: why others were not, most frequent first, each with how many; empty unless they were to be taken in.
    """

    blocks: int
    collapsed: int
    params: int
    params_fused: int
    error_float64: float
    error_float32: float
    largest: float
    norms: int = 0
    left: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        taken = f"{self.norms} norms of plain convolutions taken in, " if self.norms or self.left else ""
        reasons = "; ".join(f"{count} where {reason}" for reason, count in self.left)
        left = f"{sum(count for _, count in self.left)} left ({reasons}); " if self.left else "none left; "
        return (
            f"{self.blocks} blocks fused, {self.collapsed} of them to a plain convolution; {taken}{left if taken else ''}"
            f"{self.params} -> {self.params_fused} params; largest error {self.error_float64:.1e} in float64, "
            f"{self.error_float32:.1e} in float32, of outputs up to {self.largest:.3g}"
        )


def fuse(model: nn.Module, input_size: tuple[int, int, int] | None = None) -> nn.Module:
    """A copy of `model`, or of a block, with each X-volution block replaced by its exact deploy twin.

    Args:
        input_size: None copies all else unchanged. So does `timm.utils.model.reparameterize_model`, with the same
            result, but for hosts that timm re-parameterises itself (RepVGG's): to have these collapsed too, give its
            result to `fuse`. With the (C, H, W) of one image, every other Conv2d that alone feeds one BatchNorm2d
            takes it in as well, so that the latency of a plain backbone can be compared with that of a converted
            one; of timm's `BatchNormAct2d`, drop and activation stay. `norms_left` says which norms remain, and why.

    Raises:
        ValueError: an image of `input_size` does not go through the model.
    """
    if isinstance(model, XVolution2d):
        return model.fuse()
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, XVolution2d):
            twin.set_submodule(name, module.fuse())
    if input_size is not None:
        _take_norms_in(twin, input_size)
    return twin


def fuse_report(model: nn.Module, x: Tensor | tuple[int, int, int], *, plain: bool = False) -> FuseReport:
    """Fuse copies of a model, or block, in float64 and float32, on the CPU and in eval mode, and compare what they give.

    Args:
        x: a batch of images, or the (C, H, W) of one, for which two of unit-normal noise are drawn from a fixed seed.
        plain: also let plain convolutions take their norms in, as `fuse(model, input_size)` does.

    Raises:
        ValueError: the images do not go through the model, or it cannot be fused.

    Example:
        >>> print(fuse_report(model, (3, 224, 224)))  # doctest: +SKIP
    """
    if isinstance(x, Tensor):
        images_BCHW = x.detach().to("cpu", torch.float64)
    else:
        noise = torch.Generator().manual_seed(0)
        images_BCHW = torch.randn(2, *x, generator=noise, dtype=torch.float64)
    size = (images_BCHW.shape[1], images_BCHW.shape[2], images_BCHW.shape[3])
    errors: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.float64):
        trained = copy.deepcopy(model).to("cpu", dtype)
        fused = fuse(trained, size if plain else None)
        errors[dtype] = fuse_error(trained, fused, images_BCHW.to(dtype))
    with at_rest(trained):
        largest = max(float(each.abs().max()) for each in tree_leaves(trained(images_BCHW)))
    blocks = [name for name, module in model.named_modules() if isinstance(module, XVolution2d)]
    before, left = (len(_norms(fuse(trained))), norms_left(trained, size)) if plain else (0, [])
    return FuseReport(
        blocks=len(blocks),
        collapsed=sum(type(fused.get_submodule(name)) is nn.Conv2d for name in blocks),
        params=count_params(trained),
        params_fused=count_params(fused),
        error_float64=errors[torch.float64],
        error_float32=errors[torch.float32],
        largest=largest,
        norms=before - len(left),
        left=tuple(Counter(refusal.reason for refusal in left).most_common()),
    )


def norms_left(model: nn.Module, input_size: tuple[int, int, int]) -> list[Refusal]:
    """Each BatchNorm that `fuse(model, input_size)` leaves as it is, in model order, and why; of a block none is left.

    Args:
        model: before or after fusing; left as it is.
        input_size: (C, H, W) of one image. ValueError where it does not go through the model.
    """
    twin = fuse(model)
    calls = watch(twin, input_size)
    reasons = [Refusal(name, _fault(twin, name, calls) or "") for name in _norms(twin)]
    return [refusal for refusal in reasons if refusal.reason]


def _take_norms_in(model: nn.Module, input_size: tuple[int, int, int]) -> None:
    calls = watch(model, input_size)
    for norm_name in [name for name in _norms(model) if _fault(model, name, calls) is None]:
        name, norm = _feeders(norm_name, model, calls)[0], model.get_submodule(norm_name)
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        plain, rest = split_norm(norm)
        weight, bias = fold_norm(conv.weight.detach(), None if conv.bias is None else conv.bias.detach(), plain)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        model.set_submodule(norm_name, rest)
        keep_from_reparameterising(model, norm_name)


def _norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if is_batch_norm(module)]


def _feeders(norm_name: str, model: nn.Module, calls: dict[str, Call]) -> list[str]:
    """Names of what gives the tensor that the norm takes, without those that hand it on as it is (`nn.Identity`)."""
    names = [name for name, call in calls.items() if call.gave is calls[norm_name].took]
    return [name for name in names if not isinstance(model.get_submodule(name), nn.Identity)]


def _fault(model: nn.Module, norm_name: str, calls: dict[str, Call]) -> str | None:
    """Why no convolution can take the norm in; None where one can."""
    norm = model.get_submodule(norm_name)
    if type(norm) not in KINDS:
        return f"it is a {type(norm).__name__}, not a BatchNorm2d"
    if norm.running_mean is None:
        return "it keeps no running statistics"
    if norm_name not in calls:
        return "it does not run as a module in a forward pass"
    if calls[norm_name].times != 1:
        return "it runs more than once in a forward pass"
    feeders = _feeders(norm_name, model, calls)
    if not feeders:
        return "no layer's output comes straight to it"
    feeder = model.get_submodule(feeders[0])
    if type(feeder) not in _FOLDABLE:
        return f"a {type(feeder).__name__} feeds it, not a plain Conv2d"
    if len(feeders) > 1 or takers(model, feeders[0], calls) != [norm_name] or calls[feeders[0]].reads != 1:
        return "what its convolution gives is also read elsewhere"
    if calls[feeders[0]].times != 1:
        return "its convolution runs more than once in a forward pass"
    return None


def fuse_error(model: nn.Module, fused: nn.Module, x: Tensor) -> float:
    """Largest absolute difference between the outputs of two models on a batch, in eval mode; NaN if either has one.

    Outputs are tensors, or lists, tuples and dicts of them, as feature maps are.
    """
    with at_rest(model, fused):
        ours, theirs = tree_leaves(model(x)), tree_leaves(fused(x))
        differences = [(one - other).abs().max() for one, other in zip(ours, theirs, strict=True)]
        return float(torch.stack(differences).max())
