"""Trainings that go on from a plain one: from its network (a graft), or from its whole state (a fork)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import xvol
from search.config import Config, PlacementConfig
from search.ledger.files import refuse_newer, write_whole
from search.ledger.result import RESULT_FILE, read_result
from search.ledger.study_files import CHECKPOINT_FILE, TRUNK_FILE
from search.recipe import OF_STUDY
from search.tasks.model import start_from_file
from search.trial.state import load_checkpoint
from search.trial.train import Trainer, take_state
from search.trial.untrained import Untrained

LAYOUT = 1  # of a trunk's file; to be raised when what is in it changes
OF_NO_EFFECT = ("eval_every", "state_every_seconds")
COMPARED = 32  # images on which the function of the converted network is compared


class RootLost(RuntimeError):
    """There is no trained network to start from; the message says why, and how to mend it."""


@dataclass(frozen=True)
class Root:
    """What a training starts from.

    Attributes:
        place: folder of a plain trial, or file of a plain network's weights.
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
        RootLost: the root is there no more, or is no plain trial that came to its end.
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
    if result.status != "ok" or result.sites:
        state = f"it is {result.status}" if result.status != "ok" else f"its network is {result.arm}"
        raise RootLost(f"start.root={place}: {state}, and a plain trial that came to its end is needed")
    file = path / (TRUNK_FILE if kind == "fork" else CHECKPOINT_FILE)
    if not file.is_file():
        how = "start.stop_epoch" if kind == "fork" else "checkpoint=always"
        raise RootLost(f"{file} is gone, so that nothing can start from there: train that trial again, with {how}")
    return Root(path, file, result.seed, result.wandb_id)


def started(made: Untrained, root: Root) -> Untrained:
    """`made` with the weights of a root; of a fork, for what is measured before training: `forked` goes on with the rest.

    Raises:
        ValueError: the root is of another network or recipe, or the converted network does not compute what it does.
    """
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
        for name, _, norm in block.parts():
            if name != "conv":
                for parameter in norm.parameters():
                    nn.init.zeros_(parameter)
    inputs, _ = made.loaders.train.sample(COMPARED)
    with torch.no_grad():
        ours, expected = silent(inputs.cpu()), copy.deepcopy(plain).eval()(inputs.cpu())
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
