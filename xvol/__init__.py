"""X-volution: convolution and self-attention summed in one block, placed anywhere in a timm model.

List the sites of a model, choose some by a policy, swap them, train, and fuse:

    >>> import xvol, timm
    >>> model = timm.create_model("resnet18")
    >>> chosen = xvol.select(xvol.sites(model), "stage3.*")
    >>> model = xvol.convert(model, {site.fqn: xvol.BlockSpec() for site in chosen})
    >>> deployed = xvol.fuse(model)

Importing it is cheap: torch and timm are loaded with the first name that is used. Import it before timm where torch is a
CPU build, and for timm to know our models: see `xvol/timm_hook.py`.
"""

from __future__ import annotations

import sys
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from xvol.timm_hook import TimmHook

if TYPE_CHECKING:
    from xvol.block import BlockSpec, XVolution2d
    from xvol.branches import branch_class, branch_names, branch_options, register_branch
    from xvol.deploy_form import load_state_dict
    from xvol.paths import PathBlock, Paths
    from xvol.placement import describe, select
    from xvol.probe import count_macs, count_params, doses, geometric_mean, plain_names
    from xvol.siting import Refusal, Site, refused, sites
    from xvol.surgery import FuseReport, convert, fuse, fuse_error, fuse_report, norms_left

__all__ = [
    "BlockSpec",
    "FuseReport",
    "PathBlock",
    "Paths",
    "Refusal",
    "Site",
    "XVolution2d",
    "branch_class",
    "branch_names",
    "branch_options",
    "convert",
    "count_macs",
    "count_params",
    "describe",
    "doses",
    "fuse",
    "fuse_error",
    "fuse_report",
    "geometric_mean",
    "load_state_dict",
    "norms_left",
    "plain_names",
    "refused",
    "register_branch",
    "select",
    "sites",
]

_NAMES = {
    "block": ("BlockSpec", "XVolution2d"),
    "deploy_form": ("load_state_dict",),
    "probe": ("count_macs", "count_params", "doses", "geometric_mean", "plain_names"),
    "paths": ("PathBlock", "Paths"),
    "placement": ("describe", "select"),
    "branches": ("branch_class", "branch_names", "branch_options", "register_branch"),
    "siting": ("Refusal", "Site", "refused", "sites"),
    "surgery": ("FuseReport", "convert", "fuse", "fuse_error", "fuse_report", "norms_left"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

TimmHook.install(sys.meta_path)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = resolve_name(f"xvol.{_MODULES[name]}:{name}")
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
