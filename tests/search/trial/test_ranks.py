"""Any number of ranks trains the network that one process trains, bit by bit; here on gloo, in real processes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils._pytree import tree_flatten

from search.config import config_folder
from search.ledger.result import read_result
from search.ledger.study_files import STATE_FILE
from search.trial.ranks import Group, Ranks, Statistics

from .conftest import Small
from .test_state import ALWAYS, RECIPES, Halting, assert_equal_trials, curve, killed, stop, train
from .test_state import pictures as pictures

FORMS = {
    "timm": [*RECIPES["all that timm's recipes have"], "train.accumulate=4"],
    "proxies": RECIPES["all that the proxies have"],
    "plain": ["train.accumulate=4", "train.ema_decay=0.9", "placement.policy=stage3", "branch.gamma=1"],
    "checkpointing": ["train.accumulate=2", "train.grad_checkpointing=true", "train.opt=adamw", "train.lr=0.01"],
}


def state(folder: Path) -> list[Any]:
    """All leaves of a saved state but the seconds."""
    saved = torch.load(folder / STATE_FILE, weights_only=True)["trainer"]
    return tree_flatten({**saved, "seconds": 0})[0]


def assert_equal_states(one: Path, other: Path) -> None:
    leaves, others = state(one), state(other)
    assert len(leaves) == len(others) > 100
    for here, there in zip(leaves, others, strict=True):
        assert torch.equal(here, there) if isinstance(here, torch.Tensor) else here == there


def test_two_ranks_are_two_parts_of_one_process_and_stop_where_they_are_told_to(small: Small, tmp_path: Path) -> None:
    """In the middle of the second epoch: network, average, optimiser, losses so far, and the first epoch's scores."""
    overrides = (
        "train.epochs=2",
        "train.accumulate=2",
        "train.ema_decay=0.9",
        "placement.policy=stage3",
        "branch.gamma=1",
    )
    for ranks in (1, 2):
        stop(small(*overrides, f"ranks={ranks}"), tmp_path / f"{ranks}", Halting(7))
    assert_equal_states(tmp_path / "1", tmp_path / "2")
    assert curve(tmp_path / "1") == curve(tmp_path / "2")
    one, two = (read_result(tmp_path / f"{ranks}/result.json") for ranks in (1, 2))
    assert (one.fingerprint, one.recipe_hash, one.metrics) == (two.fingerprint, two.recipe_hash, two.metrics)
    assert [result.provenance["ranks"] for result in (one, two)] == [1, 2]
    assert not list((tmp_path / "2").glob(".*.ranks"))
    assert not dist.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize(("form", "ranks"), [("timm", 2), ("proxies", 2), ("plain", 4), ("checkpointing", 2)])
def test_ranks_change_no_bit_of_a_trial_and_may_change_in_its_middle(
    small: Small, tmp_path: Path, form: str, ranks: int
) -> None:
    overrides = (*ALWAYS, *FORMS[form])
    train(small(*overrides), tmp_path / "one")
    train(small(*overrides, f"ranks={ranks}"), tmp_path / "several")
    assert_equal_trials(tmp_path / "one", tmp_path / "several")
    stop(small(*overrides, f"ranks={ranks}"), tmp_path / "stopped", Halting(6))
    train(small(*overrides), tmp_path / "again", Halting(attempt=2, resume_from=str(tmp_path / "stopped")))
    assert_equal_trials(tmp_path / "one", tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["a1", "a2", "a3"])
def test_a_whole_recipe_killed_at_any_step_goes_on_with_other_ranks_and_workers(
    small: Small, tmp_path: Path, pictures: list[str], recipe: str
) -> None:
    """timm's, on pictures that are decoded on the way: network, average and optimiser are those of one undisturbed process."""

    def made(*overrides: str) -> DictConfig:
        config = OmegaConf.merge(
            small(*pictures), {"train": OmegaConf.load(config_folder() / f"train/timm/{recipe}.yaml")}
        )
        config.merge_with_dotlist(
            [
                *(
                    "train.epochs=3",
                    "train.warmup_epochs=1",
                    "train.ema_decay=0.9",
                    "train.accumulate=2",
                    "data.flip=true",
                ),
                *("train.state_every_seconds=0", "backbone.kwargs.drop_path_rate=0.05", "placement.policy=stage3"),
                *("branch.gamma=1", *overrides),
            ]
        )
        assert isinstance(config, DictConfig)
        return config

    steps, killed_at = 4, random.SystemRandom().randrange(6, 15)  # in the second or third epoch
    stop(made(), tmp_path / "whole", Halting(3 * (steps + 1) - 1))
    killed(made("ranks=2", "data.workers=2"), tmp_path / "dead", killed_at)
    left = 3 - (len(curve(tmp_path / "dead")) - 1)
    assert left in (1, 2)
    again = Halting(left * (steps + 1) - 1, attempt=2, resume_from=str(tmp_path / "dead"))
    result = stop(made("data.workers=1"), tmp_path / "again", again)
    assert result.resumed_from is not None
    assert_equal_states(tmp_path / "whole", tmp_path / "again")
    assert curve(tmp_path / "whole") == curve(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("sync_bn", [False, True])
def test_two_gpus_train_what_one_does_but_for_rounding(small: Small, tmp_path: Path, sync_bn: bool) -> None:
    overrides = (*ALWAYS, "train.epochs=1", "train.accumulate=2", "device=cuda", "train.lr=0.01")
    one = train(small(*overrides), tmp_path / "one")
    two = train(small(*overrides, "ranks=2", f"train.sync_bn={str(sync_bn).lower()}"), tmp_path / "two")
    assert two.train_loss == pytest.approx(one.train_loss, rel=0.2 if sync_bn else 1e-3)
    assert two.latency_ms is not None


def test_running_statistics_count_each_part_in_turn() -> None:
    """As torch counts them, but for rounding; and a norm that stands still is left out."""
    torch.manual_seed(0)
    ours, torchs = (
        nn.Sequential(nn.BatchNorm2d(3, momentum=0.2), nn.BatchNorm1d(3, track_running_stats=False)) for _ in "ab"
    )
    parts = torch.randn(4, 8, 3, 2, 2).mul(3).add(1)
    statistics = Statistics(ours)
    for update in parts.split(2):
        with statistics.of_an_update(world=1):
            for part in update:
                ours[0](part)
                statistics.count(torch.cat(statistics.seen()))
        for part in update:
            torchs[0](part)
    for name, buffer in torchs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer, msg=name)
    assert ours[0].momentum == 0.2
    assert int(ours[0].num_batches_tracked) == 4


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Group]:
    """A group of one, whose collective calls are real."""
    group = Group(0, 1, torch.device("cpu"), tmp_path / "meeting")
    yield group
    dist.destroy_process_group()


def test_a_group_of_one_hears_its_own_word(alone: Group) -> None:
    assert alone.from_first(b"state") == b"state"
    assert [part.tolist() for part in alone.gathered(torch.tensor([1.0, 2.0]))] == [[1.0, 2.0]]
    assert (alone.halts(), alone.at_rest) == (False, False)
    alone.end_epoch(nn.BatchNorm1d(2))
    assert alone.at_rest
    alone.settle()
    assert alone.halts(lambda: True)
    alone.dismiss()  # has had its last word


def test_a_task_that_wraps_nothing_is_refused(alone: Group) -> None:
    from timm.task import TrainingTask  # here: xvol goes before timm

    with pytest.raises(ValueError, match=r"ranks=1: TrainingTask\.prepare_distributed\(\) does not wrap"):
        alone.wrap(TrainingTask())


def test_ranks_share_out_the_parts_in_turn() -> None:
    ranks = [Ranks() for _ in range(2)]
    for number, each in enumerate(ranks):
        each.rank, each.world = number, 2
    assert [list(each.parts(6)) for each in ranks] == [[0, 2, 4], [1, 3, 5]]
