"""An architecture as a frozen, canonical value: two configs that build the same network are one architecture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"


@dataclass
class BackboneConfig:
    """Any timm model.

    Attributes:
        name: a name that `timm.create_model` knows; `xvol_proxy_resnet` is the small one for proxies.
        pretrained: load timm's weights; placing blocks with gamma 0, its default then, keeps the function they compute.
        weights: file of the plain network's own weights to start from, in place of timm's: a state dict or checkpoint of
            tensors (`.pt`, `.pth`, `.safetensors`), or the checkpoint.pt of a plain trial. A head of another number of
            classes is left as it is initialised. null: none.
        kwargs: more keyword arguments of `timm.create_model`, e.g. {drop_path_rate: 0.1}.
    """

    name: str = "xvol_proxy_resnet"
    pretrained: bool = False
    weights: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_trained(self) -> bool:
        """Whether training goes on from a trained network."""
        return bool(self.pretrained or self.weights or self.kwargs.get("checkpoint_path"))


@dataclass
class PlacementConfig:
    """Where blocks go.

    Attributes:
        policy: sites that take the branches of `branch.use`: "none", "all", "stage3", "stage[2-4].last", "stage3.0",
            "every=2", "last_k=2", a module's name, or several joined by "+".
        at: branches for single selections, e.g. {stage3: conv+pssa, stage4: none}. Goes before `policy`; the keys
            are read in order and a later one goes before an earlier one.
    """

    policy: str = "none"
    at: dict[str, str] = field(default_factory=dict)


@dataclass
class BranchConfig:
    """Which branches are summed at a chosen site.

    Attributes:
        use: names joined by "+": "conv+pssa" is the X-volution block, "conv" leaves the site as it is, "pssa" is
            attention alone.
        gamma: initial weight of the norm after each branch but conv: a number, or "auto": 1, the paper's batch norm,
            where training starts from scratch; where it starts from a trained network (`backbone.pretrained` or
            `backbone.weights`) 0 beside a conv branch, so that the network's function is kept, and 1
            without one. null is that last rule whatever the start, as it was before "auto".
        options: arguments of each branch by its name, e.g. {pssa: {rank: 1, embed_ratio: 0.25}}.
    """

    use: str = "conv+pssa"
    gamma: int | float | str | None = AUTO
    options: dict[str, Any] = field(default_factory=dict)


def digest(value: Any) -> str:
    """Ten hexadecimal digits of a JSON-able value; equal values have equal digits in every process and version."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((str(key), _frozen(value[key])) for key in sorted(value, key=str))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value


@dataclass(frozen=True)
class Architecture:
    """A backbone and what stands at each of its sites; sites that stay plain are not listed.

    Attributes:
        backbone: timm's name.
        arguments: keyword arguments that shape the network, frozen.
        blocks: (site, canonical block) pairs in the order of the sites' names.
        label: for people; not part of equality or of the hash.
    """

    backbone: str
    arguments: tuple[Any, ...]
    blocks: tuple[tuple[str, Any], ...]
    label: str = field(default="", compare=False)

    @classmethod
    def make(
        cls, backbone: str, arguments: Mapping[str, Any], blocks: Mapping[str, Mapping[str, Any]], label: str
    ) -> Architecture:
        """Freeze plain containers; `blocks` maps a site's name to the block's canonical dictionary."""
        return cls(backbone, _frozen(arguments), _frozen(blocks), label)

    @property
    def hash(self) -> str:
        """Ten hexadecimal digits over everything but the label."""
        return digest([self.backbone, self.arguments, self.blocks])

    @property
    def sites(self) -> list[str]:
        """Names of the replaced modules."""
        return [site for site, _ in self.blocks]
