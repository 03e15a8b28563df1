"""What a study tells of single places, in numbers that can be checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.report.library import groups_of, options_of, read_library, read_parts, same_seeds
from search.report.reading.load import load_study
from search.report.values import read_arms

from .conftest import Add

SITES = {"stage1": ["a.0", "a.1"], "stage2": ["b.0"], "stage3": ["c.0"]}
X, P = "conv+pssa(embed_ratio=0.25)", "pssa(embed_ratio=0.25)"
PLAIN_LOSS = (1.0, 1.2)
LOSSES = {  # less than that of the plain network, on each root
    f"stage1: {X} gamma=0.3": (0.10, 0.20),
    f"stage1: {P}": (-0.30, -0.20),
    f"stage2: {X} gamma=0.3": (0.04, 0.02),
    f"stage3: {P}": (-0.02, -0.06),
}
MACS = {"stage1": (900, -400), "stage2": (300, -200), "stage3": (100, -80)}


def sites_of(arm: str) -> list[str]:
    """All sites of the places that an arm names."""
    where = [group.partition(": ")[0] for group in arm.split("; ") if ": " in group]
    pieces = [piece for each in where for piece in ([*SITES] if each == "all" else each.split("+"))]
    return sorted(site for piece in pieces for site in SITES.get(piece, [piece]))


def fill(add: Add, **more: Any) -> None:
    """A library over two roots of two orders: the orders add and take 0.01."""
    for root, loss in enumerate(PLAIN_LOSS):
        for order in range(2):
            seed = 100 * (order + 1) + root
            of_root = {
                "start": "shared",
                "root_seed": root,
                "root": f"final/{root}",
                "epochs_planned": 1,
                "epochs": 1,
                **more,
            }
            add("plain", seed, val_loss=loss, params=1000, macs=5000, **of_root)
            for arm, gains in LOSSES.items():
                shift = 0.01 if order else -0.01
                macs = 5000 + MACS[arm[:6]][P in arm and X not in arm]
                add(
                    arm,
                    seed,
                    val_loss=loss - gains[root] + shift,
                    sites=sites_of(arm),
                    params=1010,
                    macs=macs,
                    **of_root,
                )


def test_gains_are_of_each_root_and_costs_those_above_the_plain_network(study: Path, add: Add) -> None:
    fill(add)
    library = read_library(load_study(study), "val_loss")
    assert [option.words for option in library.options] == [name.removesuffix(" gamma=0.3") for name in LOSSES]
    assert library.gains.T.tolist() == [pytest.approx(gains) for gains in LOSSES.values()]
    assert (library.unit, library.plain) == ("root", {"params": 1000.0, "macs": 5000.0})
    assert [option.costs["macs"] for option in library.options] == [900, -400, 300, -80]
    assert library.options[0].sites == {"a.0", "a.1"}
    problem = library.problem({"params": 1020, "macs": 5000})
    assert problem.costs.tolist() == [[10] * 4, [900, -400, 300, -80]]
    assert problem.limits.tolist() == [20, 0]
    assert problem.covers.sum(axis=1).tolist() == [2, 2, 1, 1]


def test_what_did_not_finish_everywhere(study: Path, add: Add) -> None:
    fill(add)
    for seed in (100, 200):
        add(f"stage2: {P}", seed, status="failed", sites=["b.0"], start="shared", root_seed=0, root="final/0")
    add(f"stage3: {X} gamma=0.3", 100, val_loss=0.9, sites=["c.0"], start="shared", root_seed=0, root="final/0")
    library = read_library(load_study(study), "val_loss")
    assert len(library.options) == 5
    assert library.gains.tolist() == [pytest.approx([0.1, -0.3, 0.04, 0.1, -0.02])]  # of the root that all have
    assert any("1 root left out" in note for note in library.notes)
    assert any(f"stage2: {P}" in note for note in library.notes)


def test_an_arm_of_all_places_may_have_been_trained_in_several_ways(study: Path, add: Add) -> None:
    fill(add)
    of_root = {"start": "shared", "root_seed": 0, "root": "final/0"}
    for arm in (f"stage2: {P}", f"all: {P}", f"all: {P} gamma=0.3"):
        add(arm, 100, val_loss=0.9, sites=sites_of(arm), **of_root)
    options = read_library(load_study(study), "val_loss").options
    assert {option.place for option in options} == {"stage1", "stage2", "stage3"}


def test_combinations_are_no_places(study: Path, add: Add) -> None:
    fill(add)
    for arm in (f"stage1+stage2: {X} gamma=0.3", f"stage1: {P}; stage2: {X} gamma=0.3"):
        add(arm, 100, val_loss=0.5, sites=sites_of(arm), start="shared", root_seed=0, root="final/0")
    library = read_library(load_study(study), "val_loss")
    assert len(library.options) == len(LOSSES)
    assert any("arms of several places" in note and "stage1+stage2" in note for note in library.notes)


def test_from_scratch_units_are_seeds(study: Path, add: Add) -> None:
    for seed in (0, 1, 2):
        add("plain", seed, val_top1=50.0, params=10)
        add(f"stage2: {X}", seed, val_top1=50.0 + seed, sites=["b.0"], params=12)
    library = read_library(load_study(study), "val_top1")
    assert library.unit == "seed"
    assert library.gains.tolist() == [[0.0], [1.0], [2.0]]  # of a metric that is to be large
    with pytest.raises(ValueError, match="latency_repeats"):
        library.problem({"latency_ms": 1.0})


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (["plain"], "no finished arm has blocks at one place alone"),
        ([f"stage1: {X}", f"stage2: {X}"], "give a study whose baseline has no blocks"),
        (["plain", f"stage1: {X}", f"stage1: {X} gamma=0.3"], "trained in several ways"),
    ],
)
def test_what_is_no_library_is_told(study: Path, add: Add, arms: list[str], said: str) -> None:
    for arm in arms:
        add(arm, 0, val_loss=1.0, sites=sites_of(arm))
    with pytest.raises(ValueError, match=said):
        read_library(load_study(study), "val_loss")


def test_places_that_share_no_root_cannot_be_added(study: Path, add: Add) -> None:
    for seed in (0, 1):
        add("plain", seed, val_loss=1.0)
    add(f"stage1: {X}", 0, val_loss=1.0, sites=["a"])
    add(f"stage2: {X}", 1, val_loss=1.0, sites=["b"])
    with pytest.raises(ValueError, match="no seed was finished by every place"):
        read_library(load_study(study), "val_loss")


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        (f"stage1: {X}", [0]),
        (f"stage1+stage2: {X} gamma=0.3", [0, 2]),
        (f"stage1: {X}; stage3: {P}", [0, 3]),
        (f"stage1: {P}; stage2: {X}", [1, 2]),
        (f"stage1+stage3: {P}", [1, 3]),
        (f"stage2+stage3: {X}", None),  # no such use of stage 3
        ("stage1: conv+pssa(rank=2)", None),
        (f"a.0: {X}", None),
        (f"all: {X}", None),  # stage 3 lacks it
    ],
)
def test_an_arm_is_a_sum_of_places(study: Path, add: Add, arm: str, expected: list[int] | None) -> None:
    fill(add)
    options = read_library(load_study(study), "val_loss").options
    other = study.parent / "other"
    (study / "final").rename(other)
    add(arm, 7, val_loss=1.0, sites=sites_of(arm))
    found = options_of(read_arms(load_study(study)).arms[0], options)
    assert (None if found is None else found.nonzero()[0].tolist()) == expected


def test_all_places_together(study: Path, add: Add) -> None:
    for arm in ("plain", *(f"{place}: {X}" for place in SITES), f"all: {X}"):
        add(arm, 0, val_loss=1.0 if arm == "plain" else 0.9, sites=sites_of(arm))
    frame = load_study(study)
    library = read_library(frame, "val_loss")
    assert [option.place for option in library.options] == [*SITES]
    _, parts = read_parts(frame, library)
    assert [each.tolist() for each in parts.taken] == [[True] * 3]  # of the library's own study those of several places
    assert parts.left_out == []


def test_of_several_weights_the_usual_one_is_compared(study: Path, add: Add) -> None:
    fill(add)
    frame = load_study(study)
    library = read_library(frame, "val_loss")
    (study / "final").rename(study.parent / "library")
    fill(add, study="other")
    for arm in (f"stage1+stage2: {X} gamma=0.3", f"stage1+stage2: {X} gamma=0", f"stage3: {X} gamma=0.3"):
        add(arm, 100, study="other", val_loss=0.5, sites=sites_of(arm), start="shared", root_seed=0, root="final/0")
    read, parts = read_parts(load_study(study), library)
    assert [arm.label for arm in parts.arms] == [*LOSSES, f"stage1+stage2: {X} gamma=0.3"]
    assert sorted(parts.left_out) == [f"stage1+stage2: {X} gamma=0", f"stage3: {X} gamma=0.3"]
    assert parts.measured[:, -1].tolist()[0] == pytest.approx(0.5)
    assert groups_of(parts.arms[-1]) == [("stage1+stage2", X, "0.3")]
    assert same_seeds(library.read, read) == [0, 1, 100, 101, 200, 201]
