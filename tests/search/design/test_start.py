"""Cells and trials of designs whose arms start from trained plain networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.design.options import Design, DesignOptions, check_design, design_of
from search.design.start import MOST_ROOTS
from search.design.trials import number_of_trials, start_trials

RECIPE = {"epochs": 8, "low_res": None}
FACTORS = {"where": ["placement=none", "placement=stage3", "placement=stage4"]}


def facts(lines: Sequence[str]) -> Mapping[str, Any]:
    """Of networks whose sites are named after their stages."""
    chosen = next((line.partition("=")[2] for line in lines if line.startswith("placement=")), "none")
    use = next((line.partition("=")[2] for line in lines if line.startswith("branch.use=")), "conv+pssa")
    placed = [] if chosen == "none" else [f"{chosen}.0"]
    at = next((line.rpartition(":")[2].rstrip("}") for line in lines if line.startswith("placement.at=")), use)
    return {"chosen": placed, "branches": at.split("+") if placed else [], "arch_hash": f"{placed} {at}"}


def options(**more: Any) -> DesignOptions:
    return DesignOptions(kind="one_at_a_time", factors=FACTORS, first_seed=1000, **{"start": "shared", **more})


def made(given: DesignOptions, recipe: Mapping[str, Any] = RECIPE, asked: Any = facts) -> Design:
    return design_of(given, facts=asked, recipe=recipe)


def trials(given: DesignOptions) -> list[dict[str, Any]]:
    design = made(given)
    assert design.starts is not None
    written = start_trials(design.starts, given, ["data=digits"], "seed")
    assert len(written) == number_of_trials(design, given)
    return written


def test_the_rest_of_a_network_stays_as_it_is_in_what_goes_on_and_not_in_the_roots() -> None:
    written = trials(options(trains="blocks"))
    frozen = {trial["cell"] for trial in written if "start.trains=blocks" in trial["overrides"]}
    assert frozen == {trial["cell"] for trial in written if "root" in trial}
    assert len(frozen) < len(written)


def test_arms_stand_at_each_dose_beside_their_controls() -> None:
    cells = {cell.name: cell for cell in made(options()).cells}
    assert list(cells) == [
        "baseline",
        *("where=stage3, gamma=0", "where=stage3, gamma=0.3"),
        *("where=stage4, gamma=0", "where=stage4, gamma=0.3"),
        *("null control", "known control"),
    ]
    lines = ("start.kind=shared", "start.root=study", "train.epochs=3")
    assert cells["baseline"].overrides == ("placement=none", *lines)
    assert cells["null control"].overrides == ("placement=none", *lines, "start.init_stream=1")
    assert cells["known control"].overrides == ("placement=stage4", "placement.at={stage4.0:pssa}", *lines)
    assert [cell.name for cell in cells.values() if cell.is_baseline] == ["baseline"]
    alone = made(options(gamma=[0.3])).cells[1]
    assert (alone.name, alone.overrides) == ("where=stage3", ("placement=stage3", "branch.gamma=0.3", *lines))


def test_roots_are_plain_and_whole_and_the_known_control_is_trained_from_scratch_beside_them() -> None:
    starts = made(options(root_epochs=5)).starts
    assert starts is not None
    assert starts.root is not None
    assert starts.root.overrides == ("placement.policy=none", "train.epochs=5")
    (scratch,) = starts.scratch
    assert scratch.overrides == ("placement=stage4", "placement.at={stage4.0:pssa}", "train.epochs=5")


def test_a_fork_stops_its_trunk_at_a_share_of_the_recipe() -> None:
    starts = made(options(start="fork", fork_at=0.7)).starts
    assert starts is not None
    assert starts.root is not None
    assert starts.root.overrides == ("placement.policy=none", "start.stop_epoch=6")
    assert starts.cells[0].overrides == ("placement=none", "start.kind=fork", "start.root=study")
    assert starts.scratch[0].overrides == ("placement=stage4", "placement.at={stage4.0:pssa}")
    with pytest.raises(ValueError, match="leaves no epoch"):
        made(options(start="fork"), {"epochs": 1})


def test_a_graft_sees_no_smaller_images() -> None:
    cells = made(options(), {"epochs": 8, "low_res": 0.75, "low_res_epochs": 2}).cells
    assert cells[0].overrides[-2:] == ("train.low_res=null", "train.low_res_epochs=0")


def test_nothing_is_dosed_or_known_where_networks_are_not_told() -> None:
    starts = made(options(), asked=None).starts
    assert starts is not None
    assert [cell.name for cell in starts.cells][1:] == [
        *("where=stage3", "where=stage4", "null control"),
    ]
    assert starts.scratch == []


def test_attention_alone_has_no_dose() -> None:
    given = options()
    given.factors = {"use": {"none": "placement=none", "alone": ["placement=stage3", "branch.use=pssa"]}}
    assert [cell.name for cell in made(given).cells] == ["baseline", "use=alone", "null control"]


def test_an_arm_that_is_the_known_control_is_not_trained_twice() -> None:
    given = options()
    alone = ["placement=stage3", "branch.use=pssa"]
    given.factors = {"use": {"none": "placement=none", "both": "placement=stage3", "alone": alone}}
    starts = made(given).starts
    assert starts is not None
    known = {cell.name: cell.factors for cell in starts.cells if cell.factors.get("control") == "known"}
    assert known == {"use=alone": {"use": "alone", "control": "known"}}
    assert [cell.name for cell in starts.scratch] == ["known control from scratch"]


def test_trials_wait_for_their_roots_in_balanced_order() -> None:
    written = trials(options(roots=3, orders=2))
    assert [(each["cell"], each["is_root"]) for each in written[:3]] == [(f"root/{1000 + n}", True) for n in range(3)]
    arms = [each for each in written if "root" in each]
    assert len(arms) == 7 * 3 * 2
    for each in arms:
        seed = int(each["cell"].rpartition("/")[2])
        assert each["root"] == f"root/{1000 + (seed - 1000) % MOST_ROOTS}"
        assert each["overrides"][0] == "data=digits"
        assert each["overrides"][-1] == f"seed={seed}"
    seeds = [int(each["cell"].rpartition("/")[2]) for each in arms]
    assert seeds[: 7 * 3] == sorted([1100, 1101, 1102] * 7)  # every root once before any twice
    assert [each["cell"] for each in written[-3:]] == [f"known control from scratch/{1000 + n}" for n in range(3)]


def test_a_fork_goes_on_in_its_roots_own_order_first() -> None:
    written = trials(options(start="fork", roots=2, orders=1))
    assert {each["cell"].rpartition("/")[2] for each in written} == {"1000", "1001"}


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 5), st.integers(0, 4), st.sampled_from(["shared", "fork"]))
def test_more_roots_and_orders_keep_what_is_there(roots: int, orders: int, more: int, other: int, start: str) -> None:
    before = {each["cell"]: each["overrides"] for each in trials(options(start=start, roots=roots, orders=orders))}
    after = trials(options(start=start, roots=roots + more, orders=orders + other))
    cells = {each["cell"]: each["overrides"] for each in after}
    assert len(cells) == len(after)
    assert before.items() <= cells.items()


def test_files_are_roots(tmp_path: Path) -> None:
    files = [tmp_path / "a.pth", tmp_path / "it's.pth"]
    for file in files:
        file.touch()
    given = options(roots=[str(file) for file in files], orders=1)
    check_design(given)
    written = trials(given)
    assert {each["root_file"] for each in written} == {str(file) for file in files}
    assert not any("root" in each for each in written)
    assert made(given).starts.scratch == []  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"start": "sharde"}, "did you mean shared"),
        ({"start": "scratch", "roots": 3}, "roots is of no effect from scratch"),
        ({"start": "fork", "graft_epochs": 2}, "graft_epochs is of no effect with start=fork"),
        ({"fork_at": 0.5}, "fork_at is of no effect with start=shared"),
        ({"start": "fork", "trains": "blocks"}, "trains is of no effect with start=fork"),
        ({"start": "scratch", "trains": "blocks"}, "trains is of no effect from scratch"),
        ({"trains": "block"}, "did you mean blocks"),
        ({"start": "fork", "fork_at": 1.0}, "fork_at"),
        ({"roots": 0}, "roots"),
        ({"roots": 101}, "roots"),
        ({"roots": "a.pth"}, "files of weights"),
        ({"roots": ["nowhere.pth"]}, "there is no file nowhere.pth"),
        ({"start": "fork", "roots": ["nowhere.pth"]}, "take start=shared"),
        ({"orders": 0}, "orders"),
        ({"gamma": []}, "gamma"),
        ({"gamma": [0.0, 0.0]}, "gamma"),
        ({"seeds": 5}, "write hydra.sweeper.design.seeds=null"),
        ({"looks": [2, 4]}, "write hydra.sweeper.design.looks="),
    ],
)
def test_what_is_of_no_use_is_told(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_design(options(**given))


def test_a_baseline_with_blocks_takes_one_dose() -> None:
    given = options()
    given.factors = {"where": ["placement=stage3", "placement=stage4"]}
    with pytest.raises(ValueError, match="give one weight"):
        made(given)
    given.gamma = [0.3]
    assert "null control" not in [cell.name for cell in made(given).cells]  # it would be no network that must be equal
