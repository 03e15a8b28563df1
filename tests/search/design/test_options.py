"""What `hydra.sweeper.design` takes: kinds, factors, seeds, looks, and what does not fit."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from search.design.factors import factors_of_space
from search.design.kinds import (
    Cell,
)
from search.design.options import KINDS, DesignOptions, check_design, design_of
from search.design.trials import BLOCK, first_seed_of, first_seeds, written_trials
from search.space.parameters import parse_space

from .test_kinds import SITES, check_cells, of_sizes


def test_what_the_command_line_sweeps_are_factors() -> None:
    space = parse_space(["placement=none,stage3", "rank=choice(1,2)", "fixed=1"], {"gamma": [None, 1.0]})
    assert factors_of_space(space) == {
        "gamma": ["gamma=null", "gamma=1.0"],
        "placement": ["placement=none", "placement=stage3"],
        "rank": ["rank=1", "rank=2"],
    }
    cells = design_of(DesignOptions(kind="add_one_in", factors={"x": ["a=1", "a=2"]}, overrides=["b=0"]), space).cells
    assert len(cells) == 5
    assert cells[0].overrides == ("b=0", "a=1", "gamma=null", "placement=none", "rank=1")
    with pytest.raises(ValueError, match="lr is an interval"):
        factors_of_space(parse_space(["lr=interval(0,1)"], {}))
    with pytest.raises(ValueError, match="rank is swept, and is a factor"):
        design_of(DesignOptions(kind="factorial", factors={"rank": ["rank=1", "rank=2"]}), space)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_cells_of_options(kind: str) -> None:
    factors = {} if kind == "random_matched" else dict(of_sizes([2, 2, 2]))
    arm = ["placement.policy=stage3"] if kind == "random_matched" else []
    options = DesignOptions(kind=kind, factors=factors, arm=arm, count=3 if arm else 10)
    facts = lambda lines: {"sites": SITES, "chosen": SITES[:2]}  # noqa: E731
    design = design_of(options, facts=facts)
    check_cells(design.cells)
    assert (design.fraction is not None) == (kind == "fractional")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "factorail"}, r"did you mean factorial\?"),
        ({"factors": {"x": ["a=1", "a=2"]}}, "factors is given without a kind"),
        ({"kind": "ladder", "runs": 8}, "runs is for fractional"),
        ({"kind": "factorial", "full": {"x": "1"}}, "full is for leave_one_out"),
        ({"kind": "factorial", "control": "flops"}, "allowed are none, params, macs"),
        ({"kind": "factorial", "seeds": 0}, "seeds=0: at least 1"),
        ({"kind": "random_matched"}, "needs the overrides of an arm"),
        ({"kind": "random_matched", "arm": ["a=1"], "factors": {"x": []}}, "takes an arm and no factors"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_design(DesignOptions(**options))


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ("a=3", r"^a=3 has no effect: every cell of the design sets a itself; leave it out, or change the levels"),
        ("+a=3", r"every cell of the design sets a itself"),
        ("b=1", r"sets b=0 in every cell.*write it there: \"hydra\.sweeper\.design\.overrides=\['b=1', 'c=2'\]\"$"),
        ("train.seed=4", r"same seeds, 7 and the following; leave it out, or give hydra\.sweeper\.design\.first_seed"),
    ],
)
def test_what_the_design_would_silently_override_is_refused(fixed: str, message: str) -> None:
    factors = {"x": ["a=1", "a=2"], "y": [[], "d=1"]}
    options = DesignOptions(kind="factorial", factors=factors, overrides=["b=0", "c=2"], first_seed=7)
    with pytest.raises(ValueError, match=message):
        design_of(options, parse_space([fixed], {}), seed_key="train.seed")


def test_what_is_told_to_write_can_be_written() -> None:
    shared = ["b=0", "branch.use='conv+pssa'", "placement.at={stage3: pssa}"]
    options = DesignOptions(kind="factorial", factors={"x": ["a=1", "a=2"]}, overrides=shared)
    with pytest.raises(ValueError, match="write it there") as caught:
        design_of(options, parse_space(["b=1"], {}))
    line = str(caught.value).partition("write it there: ")[2]
    (read,) = shlex.split(line)
    value = OverridesParser.create().parse_override(read).value()
    assert [str(getattr(each, "text", each)) for each in value] == ["b=1", *shared[1:]]


def test_what_some_cell_takes_as_it_is_may_be_given() -> None:
    """The level "as is" of y is d=5 then; and a choice of a group is another key than one below it."""
    options = DesignOptions(kind="factorial", factors={"x": ["a.p=1", "a.p=2"], "y": [[], "d=1"]})
    for fixed in ("d=5", "a=group", "seeds=1", "~d"):
        assert len(design_of(options, parse_space([fixed], {})).cells) == 4


def test_a_search_has_no_cells_and_sites_are_asked_for() -> None:
    check_design(DesignOptions())
    with pytest.raises(ValueError, match="kind is null, which is a search"):
        design_of(DesignOptions())
    with pytest.raises(ValueError, match="this application does not tell them"):
        design_of(DesignOptions(kind="random_matched", arm=["a=1"]))
    with pytest.raises(ValueError, match="this application does not tell it"):
        design_of(DesignOptions(kind="factorial", factors=of_sizes([2]), control="params"))  # type: ignore[arg-type]


def test_trials_are_written_down_block_by_block() -> None:
    options = DesignOptions(kind="factorial", factors=dict(of_sizes([2, 2])), seeds=3, first_seed=7)
    written = written_trials(design_of(options).cells, options, ["fixed=1"], "train.seed")
    assert len({row["cell"] for row in written}) == len(written) == 12
    assert [row["overrides"][-1] for row in written] == [f"train.seed={seed}" for seed in (7, 8, 9) for _ in range(4)]
    assert all(row["overrides"][0] == "fixed=1" for row in written)
    assert [row["cell"] for row in written if row["is_baseline"]] == ["baseline/7", "baseline/8", "baseline/9"]
    assert {tuple(sorted(row)) for row in written} == {("cell", "is_baseline", "overrides")}


def test_looks_say_how_many_seeds_there_are() -> None:
    assert first_seeds(DesignOptions(kind="ladder")) == 5
    assert first_seeds(DesignOptions(kind="ladder", seeds=7)) == 7
    for seeds in (None, 4):
        options = DesignOptions(kind="ladder", looks=[4, 9], seeds=seeds)
        check_design(options)
        assert first_seeds(options) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DesignOptions(looks=[5, 8]), "looks is given without a kind"),
        (DesignOptions(kind="ladder", looks=[8, 5]), r"hydra\.sweeper\.design: looks must be ascending"),
        (DesignOptions(kind="ladder", looks=[1, 5]), "from 2 on"),
        (DesignOptions(kind="ladder", looks=[5, 8], seeds=6), r"seeds=6 and .*looks=\[5, 8\].*or give 5"),
        (DesignOptions(kind="ladder", looks=[5, 8], alpha=5.0), "alpha must lie between 0 and 1"),
        (DesignOptions(kind="ladder", looks=[5, 8], spending="linear"), "unknown spending function 'linear'"),
        (DesignOptions(kind="ladder", alpha=0.1), "belong to looks, and none are given"),
        (DesignOptions(kind="ladder", seeds=0), "seeds=0: at least 1"),
    ],
)
def test_wrong_looks_are_told(options: DesignOptions, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_design(options)


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(0, 3))
def test_cells_with_more_seeds_keep_the_order_of_the_others(numbers: list[int], order_seed: int) -> None:
    cells = [Cell(f"c{i}", (f"c={i}",), is_baseline=not i) for i in range(len(numbers))]
    options = DesignOptions(kind="ladder", seeds=max(numbers), order_seed=order_seed, first_seed=1000)
    counts = {cell.name: number for cell, number in zip(cells, numbers, strict=True)}
    some = written_trials(cells, options, counts=counts)
    assert Counter(each["cell"].partition("/")[0] for each in some) == counts
    everything = [each["cell"] for each in written_trials(cells, options)]
    assert [name for name in everything if name in {each["cell"] for each in some}] == [each["cell"] for each in some]


def test_a_study_has_seeds_of_its_own_and_always_the_same() -> None:
    assert first_seed_of("toy", "final") == 601_537_000
    firsts = {first_seed_of(name, phase) for name in map(str, range(50)) for phase in ("final", "design")}
    assert len(firsts) == 100
    assert all(first % BLOCK == 0 and 1_000_000 <= first < 2**31 for first in firsts)


def test_what_was_begun_goes_on() -> None:
    assert first_seed_of("toy", "final", there=[1004, 1000, 1002]) == 1000


@given(st.sets(st.integers(0, 3000), max_size=40))
def test_no_seed_is_one_of_the_search(near: set[int]) -> None:
    searched = {first_seed_of("toy", "final") + offset for offset in near}
    first = first_seed_of("toy", "final", (), searched)
    assert not searched & set(range(first, first + BLOCK))
