"""The configuration of one trial, whole, as Hydra is given it, and the architecture that it comes to as a frozen, canonical value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from search.data.config import DataConfig
from search.detector import DetectorConfig
from search.ledger.files import digest
from search.ledger.metric import CLASSIFY, chosen_by, metrics_of
from search.ledger.result import Phase
from search.ledger.tracker import TrackerConfig
from search.recipe import MeasureConfig, TrainConfig
from search.starting import StartConfig

AUTO = "auto"
# free-form mappings: `branch.options.pssa.rank=2` needs no `+`
OPEN_KEYS = ("backbone.kwargs", "branch.options", "placement.at", "train.opt_kwargs")


@dataclass
class BackboneConfig:
    """Any timm model.

    Attributes:
        name: a name that `timm.create_model` knows; `xvol_proxy_resnet` is the small one for proxies.
        pretrained: load timm's weights; placing blocks with gamma 0, its default then, keeps the function they compute.
        weights: file of the plain network's own weights to start from, in place of timm's: a state dict or checkpoint of
            tensors (`.pt`, `.pth`, `.safetensors`), or the checkpoint.pt of a plain trial. A head of another number of
            classes is left as it is initialised. null: none.
        checkpoint: a trial of classification with the same placement, whose weights the backbone begins with, blocks, norms and all: so
            `branch.gamma` plays no part, and all but the head is loaded. Its folder or its checkpoint.pt; or the folder of a study, of
            which the finished trial of the same arm and seed is taken, or the only one of that arm. null: none.
        kwargs: more keyword arguments of `timm.create_model`, e.g. {drop_path_rate: 0.1}.
    """

    name: str = "xvol_proxy_resnet"
    pretrained: bool = False
    weights: str | None = None
    checkpoint: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def is_trained(self) -> bool:
        """Whether the network is a trained one as it is built."""
        return bool(self.pretrained or self.weights or self.checkpoint or self.kwargs.get("checkpoint_path"))

    @property
    def untrained(self) -> BackboneConfig:
        """The same network with no weights to begin with, for who has them or needs none."""
        return replace(self, pretrained=False, weights=None, checkpoint=None)

    def check(self) -> None:
        """Raise ValueError where weights to begin with are not there, or are said twice."""
        if self.weights is not None and not Path(self.weights).is_file():
            raise ValueError(f"backbone.weights={self.weights}: there is no such file")
        if self.checkpoint is not None and not Path(self.checkpoint).exists():
            raise ValueError(f"backbone.checkpoint={self.checkpoint}: there is no such file or folder")
        said = {"pretrained=true": self.pretrained, "weights": self.weights, "checkpoint": self.checkpoint}
        given = [f"backbone.{name}" for name, value in said.items() if value]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} both say what to start from; take one of them")


@dataclass
class PlacementConfig:
    """Where blocks go.

    Attributes:
        policy: sites that take the branches of `branch.use`: "none", "all", "stage3", "stage[2-4].last", "stage3.0",
            "every=2", "last_k=2", a module's name, or several joined by "+".
        at: branches for single selections, e.g. {stage3: conv+pssa, stage4: none}. Goes before `policy`; the keys
            are read in order and a later one goes before an earlier one. {stage3: none|conv+pssa} leaves a choice: the network is
            a supernet, whose alternatives take turns in training, and of which the first is evaluated (docs/designs.md).
    """

    policy: str = "none"
    at: dict[str, str] = field(default_factory=dict)

    @property
    def alternatives(self) -> dict[str, list[str]]:
        """The uses between which a key of `at` leaves the choice, for those that do."""
        return {key: [each.strip() for each in use.split("|")] for key, use in self.at.items() if "|" in use}


@dataclass
class BranchConfig:
    """Which branches are summed at a chosen site.

    Attributes:
        use: names joined by "+": "conv+pssa" is the X-volution block, "conv" leaves the site as it is, "pssa" is
            attention alone.
        gamma: initial weight of the norm after each branch but conv: a number, or "auto": 1, the paper's batch norm,
            where training starts from scratch; where it starts from a trained network (`backbone.pretrained`, `backbone.weights`,
            `start.kind` shared or fork) 0 beside a conv branch, so that the network's function is kept, and 1 without one. null is
            that last rule whatever the start, as it was before "auto".
        options: arguments of each branch by its name, e.g. {pssa: {rank: 1, embed_ratio: 0.25}}.
        keeps_norm: the batch norm behind a convolution stays behind the block, which adds its branches before it; where there is
            no batch norm that is so in any case. See `xvol.BlockSpec`.
    """

    use: str = "conv+pssa"
    gamma: int | float | str | None = AUTO
    keeps_norm: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """One trial, whole.

    The parts check their values when asked to (`check`), not when made: a study records a trial with a wrong value as failed, and tools
    read the configs of trials whose folders and packages are no longer there.

    Attributes:
        task: what is learned and scored: "classify", "detection", "instance_segmentation", or a task of an installed package.
        seed: seeds initialisation, data order and augmentation; not the splits (`data.split_seed`).
        device: "auto" (an accelerator where there is one), "cpu", "cuda", "cuda:1", "mps".
        ranks: processes that train a trial together, on a GPU each, or on the CPU; they share out the parts of a batch,
            `train.accumulate`, which they must divide. "auto": as many as the launcher gives a trial GPUs
            (`hydra.launcher.gpus_per_trial`, submitit's `gpus_per_node`, Ray's `num_gpus`), else one. No part of the recipe.
        threads: torch threads of a process; one a process and a process a core is fastest at proxy sizes.
        checkpoint: which trials keep their evaluated weights as `checkpoint.pt`, for `xvol-export`: "never", "final"
            (the final re-evaluation and single runs, not the search), "always".
        objectives: what the trial returns to a study, in the order of `hydra.sweeper.direction`.
    """

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    branch: BranchConfig = field(default_factory=BranchConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    start: StartConfig = field(default_factory=StartConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    task: str = CLASSIFY
    seed: int = 0
    device: str = "auto"
    ranks: int | str = "auto"
    threads: int = 1
    checkpoint: str = "final"
    objectives: list[str] = field(default_factory=lambda: [chosen_by()])

    @property
    def is_continued(self) -> bool:
        """Whether training goes on from a trained plain network."""
        return self.start.kind in ("shared", "fork") or self.backbone.is_trained

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends."""
        return self.start.stop_epoch or self.train.epochs

    def keeps_weights(self, phase: Phase) -> bool:
        """Whether a trial of that phase keeps its weights."""
        return self.checkpoint == "always" or (self.checkpoint == "final" and phase != "search")


def typed(config: Any) -> Config:
    """The composed config as dataclasses; ValueError for a key that there is not, or a value that is missing or does not resolve."""
    _refuse_unknown(config, Config, "")
    try:
        value = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), config))
    except OmegaConfBaseException as error:
        raise ValueError(f"configuration: {error}") from None
    assert isinstance(value, Config)
    return value


def _refuse_unknown(node: Any, kind: Any, path: str) -> None:
    """A key that `+` has added beside those of a dataclass would be left out in silence."""
    known = get_type_hints(kind)
    for name in node:
        if name not in known:
            raise ValueError(f"Could not override '{path}{name}'.\nKey '{name}' not in '{kind.__name__}'")
        if is_dataclass(known[name]):
            _refuse_unknown(node[name], known[name], f"{path}{name}.")


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

    @property
    def branches(self) -> list[str]:
        """Names of the branches in use, sorted."""
        return sorted({name for _, block in self.blocks for name in dict(block)["branches"]})


def register() -> None:
    """Give Hydra the schema under the name that conf/config.yaml starts from."""
    node = OmegaConf.structured(Config)
    for key in OPEN_KEYS:
        OmegaConf.set_struct(OmegaConf.select(node, key), False)
    ConfigStore.instance().store(name="schema", node=node, provider="xvol")
    OmegaConf.register_new_resolver("judged_by", _judged_by, replace=True)


def _judged_by(task: str) -> str:
    """The column that a task is judged by, e.g. "val_top1"; of a task that there is not, which is told when values are checked, any."""
    return chosen_by(task if metrics_of(task) else CLASSIFY)


def config_folder() -> Path:
    """Folder of the config groups: beside `search/` in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"
