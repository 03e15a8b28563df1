"""Trainings that go on from a plain one, by its network (a graft) or its whole state (a fork), or from the path of a supernet."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils._pytree import tree_map_only
from yaml import YAMLError

import xvol
from search.config import Config, PlacementConfig, typed
from search.data.keyed import keyed
from search.ledger.files import refuse_newer, write_whole
from search.ledger.result import RESULT_FILE, read_result
from search.ledger.study_files import CHECKPOINT_FILE, TRUNK_FILE
from search.starting import OF_STUDY
from search.tasks.weights import start_from_file
from search.trial.state import load_checkpoint
from search.trial.train import Trainer, autocast, take_state
from search.trial.untrained import Untrained
from xvol.paths import HOST, named

LAYOUT = 1  # of a trunk's file; to be raised when what is in it changes
OF_NO_EFFECT = ("eval_every", "state_every_seconds")
COMPARED = 32  # images on which the function of the converted network is compared


class RootLost(RuntimeError):
    """There is no trained network to start from; the message says why, and how to mend it."""


@dataclass(frozen=True)
class Root:
    """What a training starts from.

    Attributes:
        place: folder of a plain trial or a supernet's, or file of a plain network's weights.
        file: that is read: the trial's weights, its trunk, or `place` itself.
        seed: of the trial; None of a file.
        wandb_id: of its run; None of a file, and without one.
    """

    place: Path
    file: Path
    seed: int | None = None
    wandb_id: str | None = None


def root_of(config: Config, given: str | None) -> Root | None:
    """The root of a trial, or None from scratch.

    Args:
        given: folder of the trial, or file, that the study gives it; None outside of a design with roots.

    Raises:
        ValueError: none is given.
        RootLost: the root is there no more, or is no plain trial (of a path: no network with blocks) that came to its end.
    """
    kind, place = config.start.kind, config.start.root
    if kind == "scratch" or place is None:
        return None
    if place == OF_STUDY:
        if given is None:
            raise ValueError(
                f"start.root={OF_STUDY} is of a design with hydra.sweeper.design.start, whose study trains the roots; give the "
                "FOLDER of a plain trial"
            )
        place = given
    path = Path(place)
    if path.is_file() and kind == "shared":
        return Root(path, path)
    if not path.is_dir():
        raise RootLost(f"start.root={place}: there is no such folder" + (" or file" if kind == "shared" else ""))
    try:
        result = read_result(path / RESULT_FILE)
    except ValueError as error:
        raise RootLost(f"start.root={place}: {error}") from None
    if result.status != "ok" or bool(result.sites) != (kind == "path"):
        state = f"it is {result.status}" if result.status != "ok" else f"its network is {result.arm}"
        needed = "the trial of a supernet" if kind == "path" else "a plain trial"
        raise RootLost(f"start.root={place}: {state}, and {needed} that came to its end is needed")
    file = path / (TRUNK_FILE if kind == "fork" else CHECKPOINT_FILE)
    if not file.is_file():
        how = "start.stop_epoch" if kind == "fork" else "checkpoint=always"
        raise RootLost(f"{file} is gone, so that nothing can start from there: train that trial again, with {how}")
    return Root(path, file, result.seed, result.wandb_id)


def started(made: Untrained, root: Root) -> Untrained:
    """`made` with the weights of a root; of a fork, for what is measured before training: `forked` goes on with the rest.

    Raises:
        ValueError: the root is of another network or recipe, or the converted network does not compute what it does; a supernet
            has no such path.
    """
    if made.config.start.kind == "path":
        take_path(made, root)
        return replace(made, root=root.file)
    plain = _plain(made, root)
    if made.config.start.kind == "shared" and root.seed is None:
        start_from_file(plain.model, str(root.file), "start.root")
    elif made.config.start.kind == "shared":
        _load(plain.model, load_checkpoint(root.file), root)
    else:
        _load(plain.model, _trunk(root)["trainer"]["model"], root)
    take_state(made.model, plain.model.state_dict(), xvol.plain_names(made.model))
    made = replace(made, root=root.file)
    check_function(made, plain.model)
    return made


def take_path(made: Untrained, root: Root) -> None:
    """Give the network of `made` the weights that a supernet has on its path.

    Raises:
        RootLost: the supernet's config cannot be read.
        ValueError: its trial is of no supernet, or of another backbone; or at a site it has not the choice of what is placed here.
    """
    supernet = _supernet(made, root)
    ours, theirs = (
        {m.host[0]: m.spec for m in network.modules() if isinstance(m, xvol.XVolution2d) and m.host}
        for network in (made.model, supernet)
    )
    for site in {**theirs, **ours}:
        form = theirs.get(site, HOST).keeps_norm  # of what stands there, if it is the convolution alone
        mine, there = (replace(specs.get(site, replace(HOST, keeps_norm=form)), gamma=None) for specs in (ours, theirs))
        if mine not in (there.blocks if isinstance(there, xvol.Paths) else [there]):
            raise ValueError(
                f"start.root={root.place}: {named(mine)} is to stand at {site}, where the supernet has {named(there)}; place one of that"
            )
    plain, state = xvol.plain_names(made.model), supernet.state_dict()
    by_plain = {theirs: ours for ours, theirs in xvol.plain_names(supernet).items()}
    names = {name: name if name in state else by_plain[plain[name]] for name in made.model.state_dict()}
    take_state(made.model, state, names)


def recalibrate(made: Untrained, device: torch.device) -> None:
    """Compute the statistics of batch norms anew, as their mean over the first `start.recalibrate` batches of an epoch that is not trained.

    It is epoch 0. Each batch goes through in the parts and the precision in which it would be trained.

    Raises:
        ValueError: an epoch has fewer batches.
    """
    config, batches = made.config, made.loaders.train.at(0)
    wanted, parts = config.start.recalibrate, config.train.accumulate
    if wanted > len(batches):
        raise ValueError(
            f"start.recalibrate={wanted}: an epoch has {len(batches)} batches of data.batch_size={config.data.batch_size}; take fewer"
        )
    images = (inputs[part::parts] for inputs, _ in itertools.islice(batches, wanted) for part in range(parts))
    network = made.model.to(device)
    with keyed(config.seed, "recalibrate"), autocast(device, config.train.amp_type):
        update_bn(images, network)
    network.cpu()


def _supernet(made: Untrained, root: Root) -> nn.Module:
    """The network of the root's trial, with its weights."""
    path = root.place / ".hydra" / "config.yaml"
    try:
        whole: Any = OmegaConf.load(path)
        there = typed(OmegaConf.create({name: whole[name] for name in ("backbone", "placement", "branch")}))
    except (OSError, OmegaConfBaseException, YAMLError, KeyError, UnicodeDecodeError) as error:
        raise RootLost(
            f"{path} cannot be read ({str(error).splitlines()[0]}), so that it is not known which paths there are"
        ) from None
    if not there.placement.alternatives:
        raise ValueError(
            f"start.root={root.place}: its placement leaves no choice, so it is no supernet; train one, such as "
            "placement.at={stage3:none|conv+pssa} with train.accumulate=2"
        )
    backbone = there.backbone.untrained
    config = replace(made.config, backbone=backbone, placement=there.placement, branch=there.branch)
    model, architecture = made.task.model(config, made.loaders.info)
    for name, its, own in zip(
        ("network", "arguments"),
        (architecture.backbone, architecture.arguments),
        (made.architecture.backbone, made.architecture.arguments),
        strict=True,
    ):
        if its != own:
            raise ValueError(f"start.root={root.place}: the {name} of its backbone is {its}, of this trial's {own}")
    _load(model, load_checkpoint(root.file), root)
    return model


def forked(trainer: Trainer, made: Untrained, root: Root, device: torch.device) -> list[dict[str, Any]]:
    """Let a new trainer of `made` go on where the trunk ended; return the trunk's epochs, which took this trial no time.

    Raises:
        ValueError: the trunk is of another network or recipe.
    """
    trunk, plain = _trunk(root), _plain(made, root)
    recipe = _recipe(made.config)
    differ = [name for name, value in trunk["recipe"].items() if recipe.get(name) != value]
    if differ:
        there, here = (", ".join(f"{name}={each.get(name)}" for name in differ) for each in (trunk["recipe"], recipe))
        raise ValueError(
            f"start.root={root.place}: a fork goes on by the recipe of its trunk, and that has {there}, this trial {here}"
        )
    config = replace(made.config, start=replace(made.config.start, kind="scratch", root=None))
    before = replace(plain, config=config).trainer(device)
    try:
        before.load_state_dict(trunk["trainer"])
    except Exception as error:  # torch raises what it likes
        raise ValueError(f"start.root={root.place}: its state does not fit this recipe ({error})") from None
    trainer.go_on_from(before, xvol.plain_names(trainer.model))
    return [{**epoch, "seconds": 0.0} for epoch in trunk["history"]]


def save_trunk(trainer: Trainer, history: Sequence[Mapping[str, Any]], config: Config, folder: Path) -> None:
    """Keep the state in which a trunk ended."""
    state = {
        "layout": LAYOUT,
        "recipe": _recipe(config),
        "history": [dict(epoch) for epoch in history],
        "trainer": {**trainer.state_dict(), "seconds": 0.0},
    }
    write_whole(folder / TRUNK_FILE, lambda temporary: torch.save(state, temporary))


def check_function(made: Untrained, plain: nn.Module) -> None:
    """Raise ValueError unless the converted network computes what the plain one does, bit by bit, once its branches are silenced.

    Nothing is asked of a network in which a convolution gave way, or has a kernel of another size.
    """
    silent, names = copy.deepcopy(made.model).eval(), xvol.plain_names(made.model)
    here, there = silent.state_dict(), plain.state_dict()
    if set(names.values()) != set(there) or any(here[ours].shape != there[its].shape for ours, its in names.items()):
        return
    blocks = [block for block in silent.modules() if isinstance(block, xvol.XVolution2d)]
    for block in blocks:
        if isinstance(block, xvol.PathBlock):  # any path with the convolution
            block.path = next(at for at, names in enumerate(block.spec.alternatives) if "conv" in names)
        for name, norm in block.norms.items():
            if name != "conv":
                for parameter in norm.parameters():
                    nn.init.zeros_(parameter)
    inputs, _ = made.loaders.train.sample(COMPARED)
    with torch.no_grad():
        inputs = tree_map_only(Tensor, lambda each: each.cpu(), inputs)
        ours, expected = silent(inputs), copy.deepcopy(plain).eval()(inputs)
    if not _equal(ours, expected):
        raise ValueError(
            "the converted network does not compute what the root does where its branches are silent: a branch changes what "
            "stands beside it (xvol.testing.check_branch shows which law it breaks)"
        )


def _equal(one: Any, other: Any) -> bool:
    """Whether two outputs, tensors or containers of them, are equal bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return set(one) == set(other) and all(_equal(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _plain(made: Untrained, root: Root) -> Untrained:
    """The trial of the plain network of the same backbone, task and recipe, untrained."""
    config = replace(made.config, placement=PlacementConfig())
    model, architecture = made.task.model(config, made.loaders.info)
    return Untrained(config, made.task, made.loaders, model, architecture, root.file)


def _load(model: nn.Module, state: Mapping[str, Any], root: Root) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"start.root={root.place}: its network is another one than this trial's plain one ({reason})"
        ) from None


def _trunk(root: Root) -> dict[str, Any]:
    """What a trunk's file holds; only tensors and plain values are taken from it (`weights_only=True`)."""
    try:
        state: Any = torch.load(root.file, map_location="cpu", weights_only=True)
    except Exception as error:  # on a torn file torch's unpickler fails in any way
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise RootLost(f"{root.file} cannot be read ({reason}): train that trial again") from None
    layout = state.get("layout") if isinstance(state, dict) else None
    refuse_newer(root.file, "layout", layout, LAYOUT)
    return dict(state)


def _recipe(config: Config) -> dict[str, Any]:
    """What a fork and its trunk must agree in, as plain values."""
    return {name: value for name, value in asdict(config.train).items() if name not in OF_NO_EFFECT}
