"""Branches by name, and the options a search may vary. Names are known without torch; a class is imported when it is wanted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, TypeVar

from xvol.allowed import suggest

if TYPE_CHECKING:
    from xvol.branches.base import Branch

BRANCHES = {
    "acmix": "xvol.branches.acmix:ACmix",
    "additive_attention": "xvol.branches.timm_blocks:AdditiveAttention",
    "bottleneck_attn": "xvol.branches.timm_layers:Bottleneck",
    "conv": "xvol.branches.conv:Conv",
    "dbb": "xvol.branches.rivals:DiverseBranch",
    "deform_conv": "xvol.branches.deform:DeformConv",
    "dw_only": "xvol.branches.gates:DWOnly",
    "focal_modulation": "xvol.branches.timm_blocks:FocalModulation",
    "gap_query": "xvol.branches.pssa:GAPQuery",
    "gate_only": "xvol.branches.gates:GateOnly",
    "gated_dw": "xvol.branches.gates:GatedDW",
    "global_context": "xvol.branches.timm_blocks:GlobalContext",
    "halo": "xvol.branches.timm_layers:Halo",
    "identity": "xvol.branches.conv:Identity",
    "inception_dw": "xvol.branches.timm_blocks:InceptionDW",
    "involution": "xvol.branches.rivals:Involution",
    "lambda_layer": "xvol.branches.timm_layers:Lambda",
    "large_kernel": "xvol.branches.timm_blocks:LargeKernelAttention",
    "linear_global": "xvol.branches.inner:LinearGlobal",
    "outlook": "xvol.branches.timm_blocks:Outlook",
    "pool": "xvol.branches.conv:Pool",
    "pssa": "xvol.branches.pssa:PSSA",
    "pssa_dense": "xvol.branches.pssa:PSSADense",
    "pssa_inner": "xvol.branches.inner:PSSAInner",
    "rep_large_kernel": "xvol.branches.timm_blocks:RepLargeKernel",
    "second_conv": "xvol.branches.conv:SecondConv",
    "selective_kernel": "xvol.branches.timm_blocks:SelectiveKernel",
    "single_head": "xvol.branches.timm_blocks:SingleHead",
    "softmax_global": "xvol.branches.inner:SoftmaxGlobal",
    "star": "xvol.branches.gates:Star",
}
ENTRY_POINTS = "xvol.branches"

_own: dict[str, type[Branch]] = {}  # those that others have registered

_B = TypeVar("_B", bound="Branch")


def register_branch(name: str) -> Callable[[type[_B]], type[_B]]:
    """Enter a branch class under `name`, as a class decorator.

    Raises:
        ValueError: the name is taken or no Python identifier, or one of the class's options has no default.
        TypeError: the class is no `Branch`.

    Example:
        >>> @register_branch("mine")  # doctest: +SKIP
        ... class Mine(Branch): ...
    """

    def enter(cls: type[_B]) -> type[_B]:
        if not (isinstance(cls, type) and hasattr(cls, "option_defaults")):  # issubclass would take torch
            raise TypeError(f"branch {name!r}: {cls!r} is no subclass of xvol.branches.base.Branch")
        if not name.isidentifier():
            raise ValueError(f"branch name {name!r} is no Python identifier: use letters, digits and underscores")
        if name in _own or name in BRANCHES:
            holder = _own[name].__qualname__ if name in _own else BRANCHES[name]
            raise ValueError(f"branch {name!r} is registered already, for {holder}: choose another")
        required = [option for option, default in cls.option_defaults().items() if default is inspect.Parameter.empty]
        if required:
            raise ValueError(f"branch {name!r}: option {required[0]!r} has no default; each option needs one")
        if "name" not in vars(cls):
            cls.name = name
        _own[name] = cls
        return cls

    return enter


@cache
def _load_entry_points() -> None:
    """Import the modules that installed packages name under the entry-point group `xvol.branches`; ValueError names a broken one.

    They register their branches as they are imported, in every process that asks for a branch: workers too.
    """
    for point in entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:
            raise ValueError(
                f"entry point {point.name!r} of {ENTRY_POINTS} ({point.value}) cannot be loaded: {error}"
            ) from error


def branch_names() -> tuple[str, ...]:
    """Names of all branches, sorted; those that installed packages register among them."""
    _load_entry_points()
    return tuple(sorted({*BRANCHES, *_own}))


def branch_class(name: str) -> type[Branch]:
    """The class of the branch `name`; where there is none, ValueError has the near matches."""
    if name in BRANCHES:
        found: type[Branch] = resolve_name(BRANCHES[name])
        return found
    if name not in _own:
        _load_entry_points()
    if name not in _own:
        raise ValueError(f"no branch is named {name!r}: {suggest(name, branch_names())}")
    return _own[name]


def branch_options(name: str) -> dict[str, Any]:
    """What may be varied in the branch `name`: option to default, in the order of its constructor.

    Options are the keyword-only arguments of the constructor, without those that the host convolution fixes.
    """
    return branch_class(name).option_defaults()
