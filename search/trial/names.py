"""Wrong names of branches and stages, told without torch: loading it takes longer than a slip of the keyboard is worth.

What is refused here would be refused when the network is built, seconds later; what passes here may still be refused
there.
"""

from __future__ import annotations

import math
import re

from search.recipe import check_once
from search.space.architecture import AUTO, BackboneConfig, BranchConfig, PlacementConfig
from xvol.registry import branch_names
from xvol.suggest import meant

__all__ = ["STAGES", "check_names"]

STAGES = {
    "xvol_proxy_resnet": 4,
    "resnet18": 4,
    "resnet34": 4,
    "resnet50": 4,
    "resnext50_32x4d": 4,
    "wide_resnet50_2": 4,
}
"""How many stages the backbones of conf/backbone have; any other is asked when it is built."""

_PLAIN = "none"
_PARTS = re.compile(r"[+,](?![^\[]*\])")
_STAGE = re.compile(r"stage(?:(\d+)|\[([\d\s,-]+)\])(?:\..+)?")


def check_names(backbone: BackboneConfig, placement: PlacementConfig, branch: BranchConfig) -> None:
    """Raise ValueError for a branch or gamma that is not there, or a stage that the backbone does not have."""
    if not backbone.name:
        raise ValueError("backbone.name is empty; give a name that timm knows, e.g. resnet18, or xvol_proxy_resnet")
    gamma = branch.gamma
    if gamma != AUTO and (isinstance(gamma, str) or (gamma is not None and not math.isfinite(gamma))):
        raise ValueError(f"branch.gamma={gamma}: allowed are {AUTO} and a finite number, such as 0 or 1")
    uses = {"branch.use": branch.use, **{f"placement.at.{where}": use for where, use in placement.at.items()}}
    for key, use in uses.items():
        names = [name.strip() for name in str(use).split("+")]
        if names == [_PLAIN]:
            continue
        check_once(names, f"{key}={use}")
        for name in names:
            if not name or name == _PLAIN:
                raise ValueError(
                    f"{key}={use}: give names of branches joined by '+', e.g. conv+pssa, or {_PLAIN} alone"
                )
            _check_branch(f"{key}={use}", name)
    for name in branch.options:
        _check_branch(f"branch.options.{name}", str(name))
    for key, policy in (
        ("placement.policy", placement.policy),
        *(("placement.at", policy) for policy in placement.at),
    ):
        _check_stages(f"{key}={policy}", str(policy), backbone.name)


def _check_branch(given: str, name: str) -> None:
    known = branch_names()
    if name not in known:
        raise ValueError(f"{given}: no branch is named {name!r}; allowed are {', '.join(known)}{meant(name, known)}")


def _check_stages(given: str, policy: str, backbone: str) -> None:
    there = STAGES.get(backbone)
    if there is None:
        return
    for term in (term.strip() for term in _PARTS.split(policy)):
        match = _STAGE.fullmatch(term)
        numbers = [int(number) for number in re.findall(r"\d+", match[1] or match[2])] if match else []
        wrong = [number for number in numbers if not 1 <= number <= there]
        if wrong:
            raise ValueError(
                f"{given}: {term!r} selects nothing, for {backbone} has no stage{wrong[0]}; it has stage1 to stage{there}"
            )
