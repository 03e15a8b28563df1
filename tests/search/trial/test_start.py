"""What a training starts from: the function of its root, to the last bit, and of a fork the whole of its root's training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from search.ledger.record import read_history
from search.ledger.result import TrialResult, read_result
from search.trial import start as module
from search.trial import train
from search.trial.check import network_facts
from search.trial.run import run_trial
from search.trial.start import RootLost
from search.trial.state import load_checkpoint

from .conftest import Small

RECIPES = {
    "sgd with an average": ("train.ema_decay=0.9", "train.schedule=onecycle", "data.flip=true"),
    "adamw, cosine": ("train.opt=adamw", "train.lr=0.01", "train.schedule=cosine", "train.ema_decay=null"),
    "muon, small images first": (
        *("train.opt=muon", "train.lr=0.05", "train.opt_kwargs={ns_steps: 3}", "train.ema_decay=null"),
        *("train.low_res=0.75", "train.low_res_epochs=1", "train.whiten=true", "train.channels_last=true"),
    ),
    "lamb, layer decay, mixing": (
        *("train.opt=lamb", "train.lr=0.005", "train.layer_decay=0.8", "train.mixup=0.2", "train.reprob=0.2"),
        "train.accumulate=2",
    ),
}
KEPT = ("checkpoint=always", "train.epochs=3")


def trained(small: Small, folder: Path, *overrides: str) -> TrialResult:
    run_trial(small(*KEPT, *overrides), folder)
    return read_result(folder / "result.json")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "checkpoint.pt")


def assert_equal(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


@pytest.fixture(scope="module")
def root(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "root"
    trained(small, folder, "seed=5")
    return folder


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_fork_of_a_plain_training_is_that_training(small: Small, tmp_path: Path, recipe: tuple[str, ...]) -> None:
    whole = trained(small, tmp_path / "whole", *recipe)
    trunk = trained(small, tmp_path / "trunk", *recipe, "start.stop_epoch=2")
    forked = trained(small, tmp_path / "fork", *recipe, "start.kind=fork", f"start.root={tmp_path / 'trunk'}")
    assert trunk.epochs == trunk.epochs_planned == 2
    assert_equal(tmp_path / "whole", tmp_path / "fork")
    ours, theirs = (read_history(tmp_path / name) for name in ("fork", "whole"))
    assert [{**row, "seconds": 0} for row in ours] == [{**row, "seconds": 0} for row in theirs]
    assert [row["seconds"] for row in ours[:2]] == ["0", "0"]  # which the trunk has taken, not the fork
    assert forked.metrics == whole.metrics
    assert (forked.start, forked.root, forked.root_seed) == ("fork", str(tmp_path / "trunk"), 0)
    assert len({whole.recipe_hash, trunk.recipe_hash, forked.recipe_hash}) == 3


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_block_goes_on_in_a_fork(small: Small, tmp_path: Path, recipe: tuple[str, ...]) -> None:
    trained(small, tmp_path / "trunk", *recipe, "start.stop_epoch=2")
    at = (*recipe, "start.kind=fork", f"start.root={tmp_path / 'trunk'}")
    result = trained(small, tmp_path / "block", *at, "placement.policy=stage3")
    assert result.sites
    assert (result.dose or 0.0) > 0  # it has begun


def test_a_graft_starts_from_the_function_of_its_root(small: Small, root: Path, tmp_path: Path) -> None:
    made = (f"start.root={root}", "start.kind=shared", "train.lr=1e-12", "train.weight_decay=0", "train.epochs=1")
    plain = trained(small, tmp_path / "plain", *made, "seed=7")
    block = trained(small, tmp_path / "block", *made, "seed=7", "placement.policy=stage3")
    loud = trained(small, tmp_path / "loud", *made, "seed=7", "placement.policy=stage3", "branch.gamma=0.3")
    assert block.metrics["val_top1"] == plain.metrics["val_top1"]
    assert block.metrics["val_loss"] == pytest.approx(plain.metrics["val_loss"], rel=1e-6)
    assert loud.metrics["val_loss"] != pytest.approx(plain.metrics["val_loss"], rel=1e-3)
    assert str(loud.arm).endswith("gamma=0.3")
    assert (plain.start, plain.root_seed) == ("shared", 5)


def test_another_stream_of_branches_changes_no_plain_network_and_every_block(
    small: Small, root: Path, tmp_path: Path
) -> None:
    at = (f"start.root={root}", "start.kind=shared", "train.epochs=1", "seed=7")
    base = trained(small, tmp_path / "plain", *at)
    null = trained(small, tmp_path / "null", *at, "start.init_stream=1")
    assert_equal(tmp_path / "plain", tmp_path / "null")
    assert base.fingerprint != null.fingerprint  # so that it is trained, not taken over
    for stream in (0, 1):
        trained(small, tmp_path / f"block{stream}", *at, "placement.policy=stage3", f"start.init_stream={stream}")
    ours, theirs = weights(tmp_path / "block0"), weights(tmp_path / "block1")
    assert any(not torch.equal(value, theirs[name]) for name, value in ours.items())


def test_what_is_planned_from_a_root_is_what_is_trained(small: Small, root: Path, tmp_path: Path) -> None:
    words = (*KEPT, f"start.root={root}", "start.kind=shared", "train.epochs=1", "seed=7")
    done = trained(small, tmp_path / "a", *words[len(KEPT) :])
    assert (done.fingerprint or "").endswith(f"-{network_facts(small(*words))['content']}")
    with pytest.raises(ValueError, match="there is no such folder"):
        network_facts(small(*words, f"start.root={tmp_path / 'gone'}"))


def test_a_root_of_other_weights_is_another_training(small: Small, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    trained(small, other, "seed=6")
    at = ("start.kind=shared", "train.epochs=1", "seed=7")
    first = trained(small, tmp_path / "a", *at, f"start.root={root}")
    second = trained(small, tmp_path / "b", *at, f"start.root={other}")
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    third = trained(small, tmp_path / "c", *at, f"start.root={moved}")
    assert first.recipe_hash == second.recipe_hash == third.recipe_hash
    assert first.fingerprint != second.fingerprint
    assert first.fingerprint == third.fingerprint


def test_a_file_of_weights_is_a_root(small: Small, root: Path, tmp_path: Path) -> None:
    at = ("start.kind=shared", "train.epochs=1", "seed=7", "placement.policy=stage2")
    trained(small, tmp_path / "folder", *at, f"start.root={root}")
    result = trained(small, tmp_path / "file", *at, f"start.root={root / 'checkpoint.pt'}")
    assert_equal(tmp_path / "folder", tmp_path / "file")
    assert (result.root, result.root_seed) == (str(root / "checkpoint.pt"), None)


def test_an_attention_alone_gives_the_convolutions_up(small: Small, root: Path, tmp_path: Path) -> None:
    at = (f"start.root={root}", "start.kind=shared", "train.epochs=1", "placement.policy=stage3", "branch.use=pssa")
    assert trained(small, tmp_path / "alone", *at).branches == ["pssa"]


def test_a_start_of_no_epochs_is_evaluated_as_it_is(
    small: Small, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "make_optimizer", None)  # which nobody needs
    at = (f"start.root={root}", "start.kind=shared", "seed=7", "data.probe_size=20", "measure.latency_repeats=0")
    plain = trained(small, tmp_path / "plain", *at, "train.epochs=0")
    before = read_result(root / "result.json")
    assert {name: plain.metrics[name] for name in ("val_top1", "val_loss", "chance_top1")} == {
        name: before.metrics[name] for name in ("val_top1", "val_loss", "chance_top1")
    }
    assert (plain.epochs, plain.epochs_planned, plain.train_loss, plain.status) == (0, 0, None, "ok")
    assert read_history(tmp_path / "plain") == []
    assert_equal(root, tmp_path / "plain")
    assert (tmp_path / "plain" / "samples.npz").is_file()
    block = trained(small, tmp_path / "block", *at, "train.epochs=0", "placement.policy=stage3")
    assert block.metrics["val_top1"] == before.metrics["val_top1"]  # gamma is 0
    assert block.fingerprint != plain.fingerprint


def test_only_what_the_plain_network_lacks_is_trained(small: Small, root: Path, tmp_path: Path) -> None:
    at = (
        f"start.root={root}",
        "start.kind=shared",
        "start.trains=blocks",
        "train.epochs=2",
        "seed=7",
        "branch.gamma=0.3",
    )
    before = weights(root)
    for name, more in {
        "beside": ("placement.policy=stage3",),
        "parts of a batch": ("placement.policy=stage3", "train.accumulate=2"),
        "muon": ("placement.policy=stage3", *RECIPES["muon, small images first"][:3]),
    }.items():
        trained(small, tmp_path / name, *at, *more)
        after = weights(tmp_path / name)
        own = {key for key in after if ".branches.pssa." in key or ".norms.pssa." in key}
        assert own
        kept = [value for key, value in after.items() if key not in own]
        assert len(kept) == len(before)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(kept, before.values(), strict=True))
        untouched = tmp_path / f"{name}, untouched"
        trained(small, untouched, *at, *more, "train.epochs=0")
        assert all(not torch.equal(after[key], value) for key, value in weights(untouched).items() if key in own)


def test_a_block_whose_convolution_gave_way_is_trained_whole(small: Small, root: Path, tmp_path: Path) -> None:
    at = (f"start.root={root}", "start.kind=shared", "start.trains=blocks", "train.epochs=1", "placement.policy=stage3")
    for name, more in {"alone": ("branch.use=pssa",), "kernel": ("branch.options.conv.kernel=5",)}.items():
        for epochs in (0, 1):
            trained(small, tmp_path / f"{name}{epochs}", *at, *more, f"train.epochs={epochs}")
        before, after = (weights(tmp_path / f"{name}{epochs}") for epochs in (0, 1))
        moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
        assert moved
        assert moved == {key for key in after if ".branches." in key or ".norms." in key}


def test_a_plain_network_has_nothing_to_train_then(small: Small, root: Path, tmp_path: Path) -> None:
    at = (f"start.root={root}", "start.kind=shared", "start.trains=blocks", "seed=7")
    result = trained(small, tmp_path / "plain", *at)
    assert (result.status, result.epochs, result.epochs_planned) == ("ok", 0, 0)
    assert result.metrics["val_loss"] == read_result(root / "result.json").metrics["val_loss"]
    assert_equal(tmp_path / "plain", root)
    block = trained(small, tmp_path / "block", *at, "placement.policy=stage3")
    assert block.epochs_planned == 3
    assert block.recipe_hash == result.recipe_hash  # so that one can be compared with the other


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("start.trains=blocks",), "start.kind=scratch has none"),
        (("start.kind=fork", "start.root=TRUNK", "start.trains=blocks"), "start.kind=fork has none"),
        (("start.kind=shared", "start.root=ROOT", "start.trains=block"), "did you mean blocks"),
        (("start.kind=shared",), "needs a trained plain network"),
        (("start.kind=shared", "start.root=nowhere"), "there is no such folder or file"),
        (("start.kind=shared", "start.root=study"), "whose study trains the roots"),
        (("start.kind=fork", "start.root=ROOT"), "trunk.pt is gone"),
        (("start.kind=shared", "start.root=BLOCK"), "a plain trial that came to its end is needed"),
        (("start.kind=shared", "start.root=ROOT", "backbone.kwargs={channels: [8, 16, 32, 32]}"), "another one"),
        (("start.kind=fork", "start.root=TRUNK", "train.lr=0.2"), "that has lr=0.1, this trial lr=0.2"),
        (("start.root=ROOT",), "of no effect from scratch"),
        (("start.stop_epoch=3",), "start.stop_epoch=3"),
        (("start.kind=sharde",), "did you mean"),
    ],
)
def test_what_cannot_start_is_told(
    small: Small, root: Path, tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    places = {"ROOT": str(root), "BLOCK": str(tmp_path / "block"), "TRUNK": str(tmp_path / "trunk")}
    if "BLOCK" in str(overrides):
        trained(small, tmp_path / "block", "placement.policy=stage3", "train.epochs=1")
    if "TRUNK" in str(overrides):
        trained(small, tmp_path / "trunk", "start.stop_epoch=1")
    for name, place in places.items():
        overrides = tuple(line.replace(name, place) for line in overrides)
    with pytest.raises((ValueError, RootLost), match=said):
        trained(small, tmp_path / "new", *overrides)


def test_a_network_that_is_not_the_roots_is_told_before_it_is_trained(
    small: Small, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(model: nn.Module, *_: object) -> None:
        return None

    monkeypatch.setattr(module, "take_state", spoiled)
    with pytest.raises(ValueError, match="does not compute what the root does"):
        trained(small, tmp_path / "new", "start.kind=shared", f"start.root={root}", "placement.policy=stage3")
    assert read_history(tmp_path / "new") == []
