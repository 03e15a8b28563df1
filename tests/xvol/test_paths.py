"""A supernet: its alternatives take turns fairly, and each path of it is the network that was built for it alone."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import xvol
from xvol import BlockSpec, PathBlock, Paths
from xvol.paths import alternative_at

SIZE = (3, 32, 32)
BLOCKS = [BlockSpec.make(["conv"]), BlockSpec.make(["conv", "pssa"]), BlockSpec.make(["pssa"])]


@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    seed=st.integers(0, 2**63 - 1),
    turn=st.integers(0, 10**6),
)
def test_each_alternative_of_each_group_comes_equally_often_in_each_period(
    counts: list[int], seed: int, turn: int
) -> None:
    period = math.lcm(*counts)
    for group, choices in enumerate(counts):
        passes = range(turn * period, (turn + 1) * period)
        taken = Counter(alternative_at(count, choices, period, seed, f"stage{group}") for count in passes)
        assert taken == dict.fromkeys(range(choices), period // choices)


def test_groups_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, group: str) -> tuple[int, ...]:
        return tuple(alternative_at(count, 3, 3, seed, group) for count in range(60))

    assert len({order(seed, group) for seed in range(4) for group in ("stage1", "stage2")}) == 8
    pairs = Counter(zip(order(0, "stage1"), order(0, "stage2"), strict=True))
    assert set(pairs) == set(itertools.product(range(3), repeat=2))


def plain(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("xvol_proxy_resnet", num_classes=10, channels=(8, 8, 16, 16)).train()


def supernet(model: nn.Module, *stages: int, seed: int = 3, gamma: float = 1.0) -> nn.Module:
    chosen = {
        site.fqn: Paths.of(BLOCKS, f"stage{site.stage}", gamma=gamma, seed=seed)
        for site in xvol.sites(model, SIZE)
        if site.stage in stages
    }
    return xvol.convert(model, chosen, SIZE)


def blocks(model: nn.Module) -> list[PathBlock]:
    return [module for module in model.modules() if isinstance(module, PathBlock)]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("at", range(3))
def test_a_path_is_the_network_that_was_built_for_it_alone(at: int, images: Tensor) -> None:
    whole = supernet(plain(), 2, 3)
    for block in blocks(whole):
        block.path = at
    alone = plain()
    chosen = {site.fqn: BLOCKS[at] for site in xvol.sites(alone, SIZE) if site.stage in (2, 3)}
    if at:
        gamma = {name: BlockSpec(block.branches, block.options, 1.0) for name, block in chosen.items()}
        xvol.convert(alone, gamma, SIZE)
    assert torch.equal(whole.eval()(images), alone.eval()(images))
    assert xvol.count_macs(whole, SIZE) == xvol.count_macs(alone, SIZE)
    fused = xvol.fuse(whole, SIZE)
    assert torch.equal(fused(images), xvol.fuse(alone, SIZE)(images))
    assert {each is None for each in xvol.doses(whole, images).values()} == {at != 1}


def test_in_training_a_block_sums_the_branches_of_its_turn_and_counts_it(images: Tensor) -> None:
    whole, ran = supernet(plain(), 2, 3, seed=11), set[str]()
    for name, module in whole.named_modules():
        if ".norms." in name:
            module.register_forward_hook(lambda *_, name=name: ran.add(name))
    for count in range(6):
        ran.clear()
        with torch.no_grad():
            whole(images)
        expected = set()
        for name, block in whole.named_modules():
            if isinstance(block, PathBlock):
                assert int(block.forwards) == count + 1
                spec = block.spec
                took = spec.alternatives[alternative_at(count, 3, 3, 11, spec.group)]
                expected |= {f"{name}.norms.{branch}" for branch in took}
        assert ran == expected


def test_whose_turn_it_is_lies_in_the_state_and_in_copies(images: Tensor) -> None:
    whole = supernet(plain(), 3).train()
    whole(images)
    other = supernet(plain(seed=9), 3).train()
    other.load_state_dict(whole.state_dict())
    twin = copy.deepcopy(whole)
    for _ in range(2):
        ours = whole(images)
        assert torch.equal(ours, other(images))
        assert torch.equal(ours, twin(images))
    whole.eval()(images)
    assert int(blocks(whole)[0].forwards) == 3


def test_the_branches_of_a_supernet_are_drawn_as_those_of_a_block() -> None:
    whole, alone = supernet(plain(), 3), plain()
    chosen = {site.fqn: BLOCKS[1] for site in xvol.sites(alone, SIZE) if site.stage == 3}
    xvol.convert(alone, chosen, SIZE)
    ours, theirs = whole.state_dict(), alone.state_dict()
    assert set(ours) - set(theirs) == {name for name in ours if name.endswith(".forwards")}
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value) and "norms" not in name] == []


def test_the_value_of_a_choice() -> None:
    spec = Paths.of(BLOCKS, "stage3", gamma=1.0)
    assert str(spec) == "none|conv+pssa|pssa gamma=1"
    assert spec.blocks == BLOCKS
    assert spec == Paths.of(BLOCKS, "stage3", gamma=1.0, period=3)
    assert spec != Paths.of(BLOCKS[::-1], "stage3", gamma=1.0)
    ranked = Paths.of([BLOCKS[0], BlockSpec.make(["conv", "pssa"], {"pssa": {"rank": 2}})], "all")
    assert str(ranked) == "none|conv+pssa(rank=2)"
    kinds = [spec.canonical(), ranked.canonical(), BlockSpec.make(["conv", "pssa"]).canonical()]
    assert len({str(kind) for kind in kinds}) == 3


@pytest.mark.parametrize(
    ("given", "period", "said"),
    [
        (BLOCKS[:1], None, "two or more alternatives that differ, got none"),
        ([BLOCKS[1], BLOCKS[1]], None, "differ, got conv\\+pssa, conv\\+pssa"),
        (BLOCKS, 4, "period=4 must be a multiple of its 3 alternatives"),
        ([BLOCKS[2], BlockSpec.make(["conv", "pssa"], {"pssa": {"rank": 2}})], None, "branch 'pssa' has the options"),
    ],
)
def test_alternatives_that_cannot_stand_in_one_block_are_told(
    given: list[BlockSpec], period: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=f"group 'stage3': .*{said}"):
        Paths.of(given, "stage3", period=period)
