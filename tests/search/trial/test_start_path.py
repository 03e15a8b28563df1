"""Supernets and their paths: trained fairly, resumed bit by bit, and a path that is the network it says."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from search.channel import Channel, Stopped, opened
from search.config import typed
from search.ledger.record import read_history
from search.ledger.result import TrialResult, read_result
from search.report.reading.load import load_study
from search.trial.check import check_trial
from search.trial.run import run_trial
from search.trial.start import RootLost, recalibrate, root_of, started
from search.trial.state import load_checkpoint
from search.trial.train import evaluate
from search.trial.untrained import Untrained, prepare

from .conftest import Small, environment

CHOICES = "placement.at={stage2: none|conv+pssa|pssa, stage4: none|conv+pssa|pssa}"
SUPERNET = (
    "train.epochs=2",
    "data.batch_size=66",
    "train.accumulate=3",
    "checkpoint=always",
    "measure.latency_repeats=0",
)
PATH = ("start.kind=path", "train.epochs=0", "start.recalibrate=2", "measure.latency_repeats=0")


def placed(**uses: str) -> str:
    return f"placement.at={{{', '.join(f'{stage}: {use}' for stage, use in uses.items())}}}"


def trained(small: Small, folder: Path, *overrides: str) -> TrialResult:
    config = small(*overrides)
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    run_trial(config, folder)
    return read_result(folder / "result.json")


@pytest.fixture(scope="module")
def supernet(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supernet") / "0000-s5"
    result = trained(small, folder, *SUPERNET, "seed=5", CHOICES)
    assert result.arm == "one of: stage2, stage4: none|conv+pssa|pssa"
    assert result.branches == ["conv", "pssa"]
    return folder


def started_from(small: Small, supernet: Path, *overrides: str) -> Untrained:
    config = typed(small(*PATH, f"start.root={supernet}", *overrides))
    root = root_of(config, None)
    assert root is not None
    return started(prepare(config), root)


def test_a_supernet_has_gone_through_each_alternative_equally_often(supernet: Path) -> None:
    forwards = {
        name: int(value)
        for name, value in load_checkpoint(supernet / "checkpoint.pt").items()
        if name.endswith("forwards")
    }
    updates = 2 * (256 // 66)
    assert set(forwards.values()) == {3 * updates}
    assert len(forwards) > 2


def test_an_interrupted_supernet_goes_on_bit_by_bit(small: Small, supernet: Path, tmp_path: Path) -> None:
    class Stopping(Channel):
        asked = 0

        def stop_requested(self) -> bool:
            self.asked += 1
            return self.asked == 3

    config = small(*SUPERNET, "seed=5", CHOICES)
    with opened(Stopping()), pytest.raises(Stopped):
        run_trial(config, tmp_path / "a")
    with opened(Channel(resume_from=str(tmp_path / "a"))):
        run_trial(config, tmp_path / "b")
    ours, theirs = (load_checkpoint(folder / "checkpoint.pt") for folder in (tmp_path / "b", supernet))
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    assert read_result(tmp_path / "b" / "result.json").resumed_from is not None


def test_a_path_has_the_weights_of_the_supernet_and_statistics_of_its_own(small: Small, supernet: Path) -> None:
    made = started_from(small, supernet, placed(stage2="pssa", stage4="conv+pssa"))
    there = load_checkpoint(supernet / "checkpoint.pt")
    parameters = dict(made.model.named_parameters())
    assert [name for name, value in parameters.items() if name in there and not torch.equal(value, there[name])] == []
    assert set(parameters) - set(there) == set()
    recalibrate(made, torch.device("cpu"))
    named = {n: m for n, m in made.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in named}

    def keep(name: str) -> Any:
        return lambda _, inputs: seen[name].append((inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))))

    handles = [norm.register_forward_pre_hook(keep(name)) for name, norm in named.items()]
    first = [inputs for inputs, _ in made.loaders.train.at(0)][:2]
    with torch.no_grad():
        for inputs in first:
            made.model.train()(inputs)
    for handle in handles:
        handle.remove()
    again = started_from(small, supernet, placed(stage2="pssa", stage4="conv+pssa"))
    recalibrate(again, torch.device("cpu"))
    for name, norm in again.model.named_modules():
        if name in named:
            assert torch.allclose(norm.running_mean, torch.stack([mean for mean, _ in seen[name]]).mean(0), atol=1e-5)  # type: ignore[arg-type]
            assert torch.allclose(norm.running_var, torch.stack([var for _, var in seen[name]]).mean(0), rtol=1e-4)  # type: ignore[arg-type]
            assert norm.momentum == 0.1


def test_the_path_without_blocks_is_the_plain_network(small: Small, supernet: Path) -> None:
    made = started_from(small, supernet, placed(stage2="none", stage4="none"))
    assert made.architecture.label == "plain"
    task, info = made.task, made.loaders.info
    whole, _ = task.model(typed(small(*SUPERNET, "seed=5", CHOICES)), info)
    whole.load_state_dict(load_checkpoint(supernet / "checkpoint.pt"))
    val = made.loaders.val
    ours, theirs = (evaluate(network.eval(), val, made.evaluator("val")) for network in (made.model, whole))
    assert ours == theirs  # of the supernet, the first alternative everywhere
    images, _ = next(iter(val))
    assert torch.equal(made.model(images), whole(images))


def test_a_path_trial_is_recorded_and_repeats_itself(small: Small, supernet: Path, tmp_path: Path) -> None:
    at = placed(stage2="conv+pssa", stage4="pssa")
    given = (*PATH, f"start.root={supernet}", "seed=7", "data.probe_size=20", "checkpoint=always")
    first = trained(small, tmp_path / "a", *given, at)
    moved = tmp_path / "moved"
    shutil.copytree(supernet, moved)
    second = trained(small, tmp_path / "b", *given, f"start.root={moved}", at)
    assert (first.start, first.root, first.root_seed) == ("path", str(supernet), 5)
    assert (first.status, first.epochs, first.train_loss) == ("ok", 0, None)
    assert first.arm == "stage2: conv+pssa; stage4: pssa"
    assert first.metrics == second.metrics
    assert first.fingerprint == second.fingerprint
    assert (tmp_path / "a" / "samples.npz").is_file()
    ours, theirs = (load_checkpoint(tmp_path / each / "checkpoint.pt") for each in "ab")
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    scratch = trained(small, tmp_path / "c", "seed=7", "measure.latency_repeats=0", at)
    assert scratch.arch_hash == first.arch_hash  # so that the search and what it chose are one arm
    other = trained(small, tmp_path / "d", *SUPERNET, "seed=6", CHOICES)
    third = trained(small, tmp_path / "e", *given, f"start.root={tmp_path / 'd'}", at)
    assert other.status == "ok"
    assert third.fingerprint != first.fingerprint
    assert third.recipe_hash == first.recipe_hash


def test_a_path_is_trained_on_where_epochs_are_asked_for(small: Small, supernet: Path, tmp_path: Path) -> None:
    given = (*PATH, f"start.root={supernet}", "train.epochs=1", "train.lr=1e-9", "train.weight_decay=0")
    result = trained(small, tmp_path / "a", *given, "checkpoint=always", placed(stage2="pssa"))
    assert (result.epochs, len(read_history(tmp_path / "a"))) == (1, 1)
    weights = load_checkpoint(tmp_path / "a" / "checkpoint.pt")
    there = load_checkpoint(supernet / "checkpoint.pt")
    name = next(
        name for name in weights if name.startswith("layer2") and ".branches.pssa" in name and name.endswith("weight")
    )
    assert torch.allclose(weights[name], there[name], atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "at", "said"),
    [
        ((), placed(stage3="pssa"), r"pssa is to stand at layer3\S*, where the supernet has none"),
        (
            (),
            placed(stage2="second_conv"),
            r"second_conv is to stand at layer2\S*, where the supernet has none\|conv\+pssa\|pssa",
        ),
        (("branch.options.pssa.rank=2",), placed(stage2="pssa"), r"pssa\(rank=2\) is to stand"),
        (
            ("start.recalibrate=99",),
            placed(stage2="pssa"),
            "an epoch has 4 batches of data.batch_size=64; take fewer",
        ),
        (("start.root=PLAIN",), placed(stage2="pssa"), "its network is plain, and the trial of a supernet"),
        (("start.root=FIXED",), placed(stage2="pssa"), "its placement leaves no choice, so it is no supernet"),
        (("backbone.kwargs={drop_path_rate: 0.1}",), placed(stage2="pssa"), "the arguments of its backbone"),
        (
            (),
            placed(stage2="none|pssa"),
            r"placement\.at\.stage2 leaves a choice, and start.kind=path is of one network",
        ),
        (("start.root=study",), placed(stage2="pssa"), "give start.root=FOLDER of the trial that trained the supernet"),
        (("start.root=nowhere",), placed(stage2="pssa"), "there is no such folder"),
    ],
)
def test_what_is_no_path_is_told(
    small: Small, supernet: Path, tmp_path: Path, overrides: tuple[str, ...], at: str, said: str
) -> None:
    plain = ("checkpoint=always", "measure.latency_repeats=0")
    for word in ("PLAIN", "FIXED"):
        if f"start.root={word}" in overrides:
            trained(small, tmp_path / word, *plain, *([] if word == "PLAIN" else [placed(stage2="pssa")]))
    overrides = tuple(
        each.replace("PLAIN", str(tmp_path / "PLAIN")).replace("FIXED", str(tmp_path / "FIXED")) for each in overrides
    )
    given = (*PATH, f"start.root={supernet}", *overrides, at)
    with pytest.raises((ValueError, RootLost), match=said):
        trained(small, tmp_path / "path", *given)
    if not any(each.startswith("start.recalibrate") for each in overrides):  # which only the trial looks at
        with pytest.raises(ValueError, match=said):
            check_trial(small(*given))


def test_a_study_is_told_of_a_path_that_can_be_taken(small: Small, supernet: Path) -> None:
    assert check_trial(small(*PATH, f"start.root={supernet}", placed(stage2="pssa")))["arm"] == "stage2: pssa"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("train.accumulate=2",), "Take train.accumulate=6, or a multiple"),
        (("train.accumulate=6", "data.batch_size=66", "ranks=2"), "take ranks=1"),
        (("train.accumulate=6", "data.batch_size=66", "train.compile=true"), "train.compile=true: whose turn"),
        (
            ("train.accumulate=6", "data.batch_size=66", "train.grad_checkpointing=true"),
            "grad_checkpointing=true: whose",
        ),
        (("start.trains=blocks", "start.kind=shared", "start.root=."), "take start.trains=all"),
        (("branch.use=none|pssa",), "alternatives are given by place"),
    ],
)
def test_a_supernet_that_would_not_be_fair_is_told(
    small: Small, tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    at = "placement.at={stage2: none|conv+pssa|pssa, stage4: none|pssa}"
    with pytest.raises(ValueError, match=said):
        trained(small, tmp_path / "unfair", *overrides, at)


@pytest.mark.slow
def test_a_search_over_the_paths_of_a_supernet(tmp_path: Path) -> None:
    """Nothing is trained but the supernet and, from scratch on fresh seeds, what the search chose; and nothing a second time."""
    data = ["data=digits", "data.train_size=192", "data.val_size=100", "data.test_size=80", "tracker=disabled"]
    shared = [*data, "measure.latency_repeats=0", "train.ema_decay=null", "device=cpu"]
    root = tmp_path / "net" / "single" / "0000-s0"
    search(
        *shared,
        "train.epochs=1",
        "data.batch_size=48",
        "train.accumulate=3",
        "placement.at.stage3=none|conv+pssa|pssa",
        f"hydra.run.dir={root}",
    )
    overrides = '["start.kind=scratch","start.root=null","start.recalibrate=16","train.epochs=1"]'
    study = [
        *("-m", *shared, "start.kind=path", f"start.root={root}", "train.epochs=0", "start.recalibrate=2"),
        *(
            "placement.at.stage3=none,conv+pssa,pssa",
            "sampler=grid",
            "hydra.sweeper.n_trials=3",
            "hydra/launcher=basic",
        ),
        *("hydra.sweeper.study_name=paths", f"hydra.sweep.dir={tmp_path / 'paths'}"),
        *("hydra.sweeper.final.top_k=1", "hydra.sweeper.final.seeds=1", f"hydra.sweeper.final.overrides={overrides}"),
    ]
    search(*study)
    frame = load_study(tmp_path / "paths")
    paths, final = (frame[frame["phase"] == phase] for phase in ("search", "final"))
    assert sorted(paths["arm"]) == ["plain", "stage3: conv+pssa(embed_ratio=0.25)", "stage3: pssa(embed_ratio=0.25)"]
    assert set(paths["start"]) == {"path"}
    assert set(paths["root"]) == {str(root)}
    assert set(paths["epochs"]) == {0}
    assert len(final) == 2
    assert set(final["start"]) == {"scratch"}
    assert set(final["arch_hash"]) < set(paths["arch_hash"])
    assert set(final["status"]) == set(paths["status"]) == {"ok"}
    before = {path: path.read_bytes() for path in (tmp_path / "paths").rglob("result.json")}
    search(*study)
    assert {path: path.read_bytes() for path in (tmp_path / "paths").rglob("result.json")} == before


def search(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "search", *words], env=environment(), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
