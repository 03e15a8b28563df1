"""Swap chosen convolutions of a model for X-volution blocks, preserving what the model computes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from timm.layers import BatchNormAct2d
from torch import nn

from xvol.allowed import suggest
from xvol.block import XVolution2d
from xvol.branches import branch_class
from xvol.siting import Site, sites
from xvol.spec import BlockSpec


def convert(
    model: nn.Module, chosen: Mapping[str, BlockSpec], input_size: tuple[int, int, int] = (3, 224, 224)
) -> nn.Module:
    """Put a block in the place of each chosen convolution and of the norm after it, in the model given.

    The block's conv branch takes over the convolution and the norm themselves: weights, affine part, running statistics
    (so timm's `zero_init_last` is carried over, and parameters keep their identity). Where the norm was, an
    `nn.Identity` is left; of timm's `BatchNormAct2d`, its drop and its activation. With gamma 0, the default beside a
    conv branch of the host's kernel, logits stay bitwise equal in eval and in train mode. A block without conv branch
    starts afresh. Hosts that re-parameterise themselves (RepVGG's) no longer do once a block stands in them.

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
    if not chosen:
        return model
    legal = {site.fqn: site for site in sites(model, input_size)}
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
    host_norm = cast(nn.BatchNorm2d, model.get_submodule(site.norm_fqn))
    norm, rest = split_norm(host_norm)
    block = _build(site, spec, seed, norm).to(device=conv.weight.device, dtype=conv.weight.dtype).train(conv.training)
    block.take_over(conv, norm)
    model.set_submodule(site.fqn, block)
    model.set_submodule(site.norm_fqn, rest)
    keep_from_reparameterising(model, site.fqn)


def _build(site: Site, spec: BlockSpec, seed: int, norm: nn.BatchNorm2d) -> XVolution2d:
    """Build on the CPU, so that the numbers drawn are the same on every device."""
    with _own_stream(seed, site.fqn):
        norms: dict[str, Any] = {"eps": norm.eps, "momentum": norm.momentum}
        factory: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}
        block = XVolution2d(site.in_chs, site.out_chs, spec=spec, **site.geometry.window, **norms, **factory)
    for name, branch, _ in block.parts():
        with _own_stream(seed, site.fqn, name):
            branch.reset_parameters()
    return block


@contextmanager
def _own_stream(seed: int, *names: str) -> Iterator[None]:
    """Inside, torch's CPU generator runs a stream fixed by seed and names; after, it goes on as if untouched."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


def split_norm(norm: nn.BatchNorm2d) -> tuple[nn.BatchNorm2d, nn.Module]:
    """The plain norm, and what is left in its place: nothing, or the drop and the activation of a BatchNormAct2d.

    Parameters and buffers of the plain norm are those of `norm`, not copies.
    """
    if not isinstance(norm, BatchNormAct2d):
        return norm, nn.Identity().train(norm.training)
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, device="meta")
    plain._parameters.update(norm._parameters)
    plain._buffers.update(norm._buffers)
    rest = nn.Sequential(OrderedDict(drop=norm.drop, act=norm.act))
    plain.training = rest.training = norm.training
    return plain, rest


def keep_from_reparameterising(model: nn.Module, fqn: str) -> None:
    """Let `timm.utils.model.reparameterize_model` pass over the hosts around `fqn`, whose insides are not theirs any more.

    Such a host (RepVGG's, LeViT's) reads the weights of a convolution and a norm that are gone. It stays as it is,
    which is exact; timm goes on to what stands inside it.
    """
    parts = fqn.split(".")
    for depth in range(1, len(parts)):
        host: Any = model.get_submodule(".".join(parts[:depth]))
        for method in ("fuse", "reparameterize", "switch_to_deploy"):
            if callable(getattr(host, method, None)):
                setattr(host, method, partial(_itself, host))


def _itself(module: nn.Module) -> nn.Module:
    return module
