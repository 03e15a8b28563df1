"""What is wrong with a trial on the face of its config, told without torch: loading it takes longer than a slip is worth.

What is refused here would be refused when data are loaded and the network is built, seconds later; what passes here may still be
refused there. And keys that change nothing of what is trained: a sweep over them would compare copies of one network.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec

from search.config import AUTO, BackboneConfig, BranchConfig, Config, PlacementConfig
from search.data.config import image_size
from search.data.sources import check_fits
from search.detector import DetectorConfig, refuse_others
from search.ledger.metric import DETECTORS
from search.ledger.tracker import check_tracker
from search.objectives import check_objectives, check_once
from search.recipe import CHECKPOINTS, COCO_BACKENDS, TrainConfig
from search.tasks.base import check_task
from xvol.allowed import check_choice, check_number, meant
from xvol.branches import branch_names

DEVICES = ("auto", "cpu", "cuda", "mps", "xpu")
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
_OF_THE_STUDY = ("experiment", "sampler", "pruner", "space", "design", "tracker")
_BESIDE = (
    *("tracker.", "checkpoint", "ranks", "data.root", "data.download", "data.workers", "data.probe_size", "objectives"),
    *("train.state_every_seconds", "train.eval_every", "measure.coco_backend"),
)
_MOOT_OF_RECIPE: tuple[tuple[tuple[str, ...], Callable[[TrainConfig], bool], str], ...] = (
    (("warmup", "warmup_epochs"), lambda t: t.schedule == "constant", "train.schedule=constant has no warm-up"),
    (("warmup",), lambda t: t.warmup_epochs is not None, "train.warmup_epochs says how long the warm-up is"),
    (
        ("warmup_lr",),
        lambda t: t.schedule not in ("cosine", "multistep"),
        "it is of train.schedule=cosine and multistep",
    ),
    (("warmup_prefix", "min_lr"), lambda t: t.schedule != "cosine", "it is of train.schedule=cosine"),
    (("decay_epochs", "decay_rate"), lambda t: t.schedule != "multistep", "it is of train.schedule=multistep"),
    (("ema_warmup",), lambda t: t.ema_decay is None, "train.ema_decay=null takes no average"),
    (("target_threshold", "bce_sum"), lambda t: t.loss != "bce", "it is of train.loss=bce"),
    (("mixup_prob", "mixup_mode", "mixup_off_epoch"), lambda t: not t.mixes, "train.mixup and train.cutmix are 0"),
    (("mixup_switch_prob",), lambda t: not (t.mixup and t.cutmix), "not both of train.mixup and train.cutmix are on"),
    (("remode", "recount"), lambda t: t.reprob == 0, "train.reprob=0 erases nothing"),
    (("clip_mode",), lambda t: t.clip_grad is None, "train.clip_grad=null clips nothing"),
)


def check_values(config: Config) -> None:
    """Raise ValueError where a value is out of its range; imports no torch."""
    check_task(config.task)
    config.data.check()
    check_fits(config.task, config.data.name)
    config.train.check()
    config.train.check_batch(config.data.batch_size)
    config.start.check(config.train.epochs)
    check_beginning(config)
    config.measure.check()
    check_judge(config)
    check_detector(config)
    check_objectives(config.objectives, config.measure.zero_cost, config.task)
    if config.measure.latency_repeats == 0 and any(name.startswith("latency") for name in config.objectives):
        raise ValueError("objectives: latency is not measured with measure.latency_repeats=0; take at least 1")
    check_tracker(config.tracker)
    check_names(config.backbone, config.placement, config.branch)
    check_number("threads", config.threads, low=1)
    check_supernet(config)
    if config.ranks != "auto":
        check_ranks(config, config.ranks)
    check_number("seed", config.seed, low=0, below=2**63)
    check_choice("checkpoint", config.checkpoint, CHECKPOINTS)
    if not re.fullmatch(rf"({'|'.join(DEVICES)})|({'|'.join(DEVICES[2:])}):\d+", config.device):
        raise ValueError(
            f"device={config.device}: allowed are {', '.join(DEVICES)}, and a number with an accelerator, e.g. cuda:1"
            f"{meant(config.device, DEVICES)}"
        )


def check_beginning(config: Config) -> None:
    """Raise ValueError where the weights that a network is to begin with are not there, or contradict something else."""
    config.backbone.check()
    if config.backbone.checkpoint is not None and config.start.kind != "scratch":
        raise ValueError(
            f"backbone.checkpoint and start.kind={config.start.kind} both say what to start from; take one of them"
        )
    if config.train.whiten and (config.backbone.pretrained or config.backbone.weights or config.backbone.checkpoint):
        raise ValueError(
            "train.whiten=true lets the first convolution start anew, and the backbone is trained already: leave it false"
        )


def check_judge(config: Config) -> None:
    """Raise ValueError where what scores detections is not installed; nothing is imported."""
    if config.task not in DETECTORS:
        return
    for module in ("pycocotools", COCO_BACKENDS[config.measure.coco_backend]):
        if find_spec(module) is None:
            what = f"task={config.task} with measure.coco_backend={config.measure.coco_backend}"
            how = "xvol[detection]" if module == "pycocotools" else "faster-coco-eval"
            raise ValueError(f"{what}: {module} scores detections, and it is not installed: pip install '{how}'")


def check_detector(config: Config) -> None:
    """Raise ValueError for what a detector cannot be, or what means nothing to one; of other tasks, for what is a detector's alone."""
    if config.task not in DETECTORS:
        if config.detector != DetectorConfig():
            raise ValueError(f"detector.* is of task={' and '.join(DETECTORS)}, and task={config.task}: leave it out")
        return
    config.detector.check(config.task, image_size(config.data))
    refuse_others(config.task, train=config.train, data=config.data, measure=config.measure)
    if config.start.kind == "path" or config.placement.alternatives:
        raise ValueError(f"task={config.task}: supernets, and what starts from one, are of task=classify")


def check_supernet(config: Config) -> None:
    """Raise ValueError where the alternatives of `placement.at` would not be trained on equally many images in each update."""
    choices, recipe = config.placement.alternatives, config.train
    if not choices:
        return
    if config.start.kind == "path":
        raise ValueError(
            f"placement.at.{next(iter(choices))} leaves a choice, and start.kind=path is of one network: give each place one use"
        )
    counts = [len(each) for each in choices.values()]
    turns = math.lcm(*counts)
    if config.start.trains != "all":
        raise ValueError(
            f"start.trains={config.start.trains}: where it is the turn of the plain convolutions, nothing of a supernet would be trained; "
            "take start.trains=all"
        )
    if recipe.accumulate % turns:
        raise ValueError(
            f"train.accumulate={recipe.accumulate}: placement.at leaves the choice between {' and '.join(map(str, counts))} "
            f"alternatives, which take turns from one part of a batch to the next. Take train.accumulate={turns}, or a multiple, so that "
            f"every update trains each of them on equally many images, and a data.batch_size that {turns} divides"
        )
    for name in ("compile", "grad_checkpointing"):
        if getattr(recipe, name):
            raise ValueError(
                f"train.{name}=true: whose turn it is in a supernet is counted by forward passes, which that changes; leave it false"
            )


def check_ranks(config: Config, ranks: int | str) -> None:
    """Raise ValueError where so many ranks cannot share a trial's batches, or `ranks` is no number."""
    if isinstance(ranks, str | bool) or ranks < 1:
        raise ValueError(f"ranks={ranks}: allowed are auto, and a whole number from 1")
    parts = config.train.accumulate
    if ranks > 1 and config.placement.alternatives:
        raise ValueError(f"ranks={ranks}: the alternatives of a supernet take turns in one process; take ranks=1")
    if parts % ranks:
        raise ValueError(
            f"ranks={ranks}: each takes whole parts of the batch of an update, and train.accumulate={parts} has {parts}. Write "
            f"train.accumulate={ranks}, which is another recipe: batch norms see data.batch_size / train.accumulate images at a time"
        )
    if ranks > 1 and config.device not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"ranks={ranks} with device={config.device}: each rank has a device of its own; take auto, cpu or cuda"
        )
    if config.train.sync_bn and ranks != parts:
        raise ValueError(
            f"train.sync_bn=true takes one part of the batch a rank, so that batch norms see all of it: train.accumulate={parts} and "
            f"ranks={ranks} must be equal"
        )


def check_names(backbone: BackboneConfig, placement: PlacementConfig, branch: BranchConfig) -> None:
    """Raise ValueError for a branch or gamma that is not there, or a stage that the backbone does not have."""
    if not backbone.name:
        raise ValueError("backbone.name is empty; give a name that timm knows, e.g. resnet18, or xvol_proxy_resnet")
    for key, value in backbone.kwargs.items():  # of timm's arguments those that it takes whatever they are
        if "drop" in str(key) and str(key).endswith("rate") and isinstance(value, int | float):
            check_number(f"backbone.kwargs.{key}", value, low=0, below=1)
    gamma = branch.gamma
    if gamma != AUTO and (isinstance(gamma, str) or (gamma is not None and not math.isfinite(gamma))):
        raise ValueError(f"branch.gamma={gamma}: allowed are {AUTO} and a finite number, such as 0 or 1")
    if "|" in branch.use:
        raise ValueError(
            f"branch.use={branch.use}: alternatives are given by place: placement.at={{stage3:none|conv+pssa}}, for one"
        )
    for where, choices in placement.alternatives.items():
        check_once(choices, f"placement.at.{where}={placement.at[where]}")
    at = [
        (f"placement.at.{key}", each)
        for key, use in placement.at.items()
        for each in placement.alternatives.get(key, [use])
    ]
    for key, use in [("branch.use", branch.use), *at]:
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


def refuse_moot(keys: Iterable[str], configs: Sequence[Config], swept: bool) -> None:
    """Raise ValueError for a key that is of no effect in any of the configs.

    Args:
        keys: config keys as in overrides, e.g. "branch.options.pssa.rank" or the group "branch".
        configs: what is trained; of a sweep, each value of each key in one of them at least.
        swept: whether values of the keys are compared.
    """
    for key in keys:
        why = _moot(key, configs) or (_beside(key) if swept else None)
        if why:
            raise ValueError(f"{key} has no effect: {why}")


def _beside(key: str) -> str | None:
    if key in _OF_THE_STUDY:
        return "it is of the study, and a trial cannot choose it; give it one value"
    found = key.startswith(_BESIDE) and "it changes nothing that is trained or measured; give it one value"
    return found or None


def _moot(key: str, configs: Sequence[Config]) -> str | None:
    parts = key.split(".")
    if parts[0] == "branch":
        if not any(map(_places, configs)):
            return "no block is placed; choose where, e.g. placement=stage3"
        # placed or not: elsewhere they may be
        used = sorted({name for config in configs for name in _branches_of(config)})
        if parts[1:2] == ["options"] and len(parts) > 2 and parts[2] not in used:
            return (
                f"branch.use has no {parts[2]}, but {', '.join(used)}; give options of those, or add it to branch.use"
            )
    if key == "data.crop_padding" and all(config.train.scale or config.train.ratio for config in configs):
        return "train.scale and train.ratio crop in its place"
    if parts[0] == "train" and len(parts) > 1:
        for names, is_moot, why in _MOOT_OF_RECIPE:
            if parts[1] in names and all(is_moot(config.train) for config in configs):
                return why
    return None


def _places(config: Config) -> bool:
    return config.placement.policy not in (_PLAIN, "plain") or any(
        use != _PLAIN for use in config.placement.at.values()
    )


def _branches_of(config: Config) -> set[str]:
    names = {
        n.strip() for use in (config.branch.use, *config.placement.at.values()) for n in re.split(r"[+|]", str(use))
    }
    return names - {_PLAIN}
