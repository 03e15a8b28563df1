"""Laws of the designs: sizes, balance, one factor at a time, orthogonal fractions, aliases, order, and controls."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.design.factors import read_factors
from search.design.fraction import Fraction, find_fraction
from search.design.kinds import (
    Cell,
    add_one_in,
    factorial,
    fractional,
    ladder,
    leave_one_out,
    matched_control,
    one_at_a_time,
    random_matched,
    replicates,
)
from search.design.options import DesignOptions, design_of

Factors = dict[str, list[str]]


def of_sizes(sizes: Sequence[int]) -> Factors:
    return {f"f{i}": [f"k{i}={level}" for level in range(size)] for i, size in enumerate(sizes)}


many = st.lists(st.integers(2, 4), min_size=1, max_size=4).map(of_sizes)
SITES = [f"layer{stage}.0.conv{conv}" for stage in (1, 2, 3) for conv in (1, 2)]


def check_cells(cells: list[Cell]) -> None:
    assert [cell.is_baseline for cell in cells] == [True] + [False] * (len(cells) - 1)
    assert len({cell.name for cell in cells}) == len({cell.overrides for cell in cells}) == len(cells)


def differing(cell: Cell, other: Cell) -> list[str]:
    return [name for name, label in cell.factors.items() if other.factors[name] != label]


@given(many, st.data())
def test_one_at_a_time_changes_one_factor_to_each_other_level(factors: Factors, data: st.DataObject) -> None:
    labels = {name: data.draw(st.integers(0, len(levels) - 1)) for name, levels in factors.items()}
    cells = one_at_a_time(factors, {name: str(label) for name, label in labels.items()})
    check_cells(cells)
    assert len(cells) == 1 + sum(len(levels) - 1 for levels in factors.values())
    assert cells[0].overrides == tuple(f"k{name[1:]}={label}" for name, label in labels.items())
    assert all(len(differing(cell, cells[0])) == 1 for cell in cells[1:])


@given(many)
def test_factorial_has_every_combination_once_and_is_balanced(factors: Factors) -> None:
    cells = factorial(factors)
    check_cells(cells)
    assert {cell.overrides for cell in cells} == set(itertools.product(*factors.values()))
    for name, levels in factors.items():
        assert set(Counter(cell.factors[name] for cell in cells).values()) == {len(cells) // len(levels)}


@given(many)
def test_leaving_out_adding_in_and_climbing(factors: Factors) -> None:
    out, added, rungs = leave_one_out(factors), add_one_in(factors), ladder(factors)
    first, last = (tuple(levels[end] for levels in factors.values()) for end in (0, -1))
    for cells in (out, added, rungs):
        check_cells(cells)
        assert len(cells) == 1 + len(factors)
    assert out[0].overrides == last
    assert added[0].overrides == rungs[0].overrides == first
    for cells in (out, added):
        assert [differing(cell, cells[0]) for cell in cells[1:]] == [[name] for name in factors]
    assert rungs[-1].overrides == last
    assert [differing(b, a) for a, b in itertools.pairwise(rungs)] == [[name] for name in factors]


def test_the_full_model_and_what_is_left_out_can_be_named() -> None:
    factors = of_sizes([3, 2])
    cells = leave_one_out(factors, full={"f0": "1"}, off={"f0": "2"})
    assert [cell.overrides for cell in cells] == [("k0=1", "k1=1"), ("k0=2", "k1=1"), ("k0=1", "k1=0")]
    with pytest.raises(ValueError, match=r"f0 is '0' in the full model and when it is left out"):
        ladder(factors, full={"f0": "0"})


def test_names_and_labels_are_those_of_the_user_and_equal_cells_are_left_out() -> None:
    cells = factorial({"where": ["placement=none", "placement=stage3"], "what": {"thin": [], "wide": ["a=1", "b=2"]}})
    assert [cell.name for cell in cells] == ["baseline", "what=wide", "where=stage3", "where=stage3, what=wide"]
    assert cells[3].overrides == ("placement=stage3", "a=1", "b=2")
    assert cells[3].factors == {"where": "stage3", "what": "wide"}
    # the second factor decides `a` whatever the first says, so two of four cells are the others again
    twins = factorial({"x": ["a=1", "a=2"], "y": ["a=3", "a=4"]})
    assert [cell.overrides for cell in twins] == [("a=1", "a=3"), ("a=1", "a=4")]
    (shared,) = read_factors({"f": ["a=1", "b=1"]})
    assert [level.label for level in shared.levels] == ["a=1", "b=1"]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), st.data())
def test_a_fraction_is_orthogonal_holds_the_baseline_and_has_the_resolution_it_states(
    count: int, data: st.DataObject
) -> None:
    base = data.draw(st.integers(count.bit_length(), count) if count > 2 else st.just(2))
    cells, fraction = fractional(of_sizes([2] * count), runs=2**base)
    check_cells(cells)
    assert len(cells) == 2**base
    assert set(cells[0].factors.values()) == {"0"}
    columns = [[1 if cell.factors[f"f{i}"] == "1" else -1 for cell in cells] for i in range(count)]
    assert all(sum(column) == 0 for column in columns)
    for a, b in itertools.combinations(columns, 2):
        assert sum(x * y for x, y in zip(a, b, strict=True)) == 0
    assert fraction.resolution == brute_resolution(columns)


def brute_resolution(columns: list[list[int]]) -> int | None:
    """Fewest columns whose product is constant: the length of the shortest word."""
    for size in range(1, len(columns) + 1):
        for chosen in itertools.combinations(columns, size):
            if len({math.prod(row) for row in zip(*chosen, strict=True)}) == 1:
                return size
    return None


@pytest.mark.parametrize(("count", "runs"), [(3, 4), (4, 8), (5, 8), (6, 16), (7, 8), (7, 32), (8, 16)])
def test_aliases_are_the_effects_whose_columns_are_equal(count: int, runs: int) -> None:
    names = list("ABCDEFGH"[:count])
    fraction = find_fraction(names, runs=runs)
    rows = [[1 if bit else -1 for bit in row] for row in fraction.rows()]
    groups: dict[Any, list[tuple[str, ...]]] = {}
    for size in range(3):
        for effect in itertools.combinations(range(count), size):
            column = [math.prod(row[i] for i in effect) for row in rows]
            groups.setdefault(tuple(column[0] * value for value in column), []).append(tuple(names[i] for i in effect))
    expected = {frozenset(group) for group in groups.values() if len(group) > 1}
    assert {frozenset(group) for group in fraction.aliases()} == expected
    for word in fraction.words:  # the signs that `describe` prints
        products = {math.prod(row[i] for i in range(count) if word >> i & 1) for row in rows}
        assert products == {-1 if word.bit_count() % 2 else 1}


# highest resolutions: Montgomery, Design and Analysis of Experiments, table 8.14; NIST handbook 5.3.3.4.7
PUBLISHED = {
    (3, 4): 3, (4, 8): 4, (5, 8): 3, (5, 16): 5, (6, 8): 3, (6, 16): 4, (6, 32): 6, (7, 8): 3, (7, 16): 4, (7, 32): 4,
    (7, 64): 7, (8, 16): 4, (8, 32): 4, (8, 64): 5, (8, 128): 8, (9, 16): 3, (9, 32): 4, (9, 64): 4, (9, 128): 6,
    (10, 16): 3, (10, 32): 4, (10, 64): 4, (10, 128): 5, (11, 16): 3, (11, 32): 4, (11, 64): 4, (11, 128): 5, (15, 16): 3,
}  # fmt: skip


@pytest.mark.parametrize(("count", "runs"), PUBLISHED)
def test_generators_reach_the_published_resolutions(count: int, runs: int) -> None:
    assert find_fraction(list("ABCDEFGHJKLMNOP"[:count]), runs=runs).resolution == PUBLISHED[count, runs]


def test_a_fraction_has_as_few_shortest_words_as_the_published_one() -> None:
    words = find_fraction(list("ABCDEFG"), runs=32).words  # 2^(7-2), minimum aberration: lengths 4, 5, 5
    assert sorted(word.bit_count() for word in words) == [4, 5, 5]
    text = find_fraction(list("ABCD"), runs=8).describe()
    assert "2^(4-1) fraction of resolution IV: 8 of 16 runs" in text
    assert "I = +A*B*C*D" in text
    assert "aliased: A*B = C*D" in text
    assert "nothing is aliased" in find_fraction(["A", "B"]).describe()


def test_generators_can_be_given_by_letter_or_by_name() -> None:
    names = ["where", "what", "lr", "rank"]
    assert find_fraction(names, generators=["D=ABC"]) == find_fraction(names, generators=["rank=where*what*lr"])
    assert find_fraction(names, generators=["D=AB"]) == Fraction(tuple(names), 3, (0b011,))
    for texts, message in (
        (["D=AD"], "right side names some of where, what, lr"),
        (["C=AB"], "expected rank"),
        (["D"], "expected rank"),
        (["D=AA"], "each at most once"),
        (["D=A"] * 4, "4 of them for 4 factors"),
    ):
        with pytest.raises(ValueError, match=message):
            find_fraction(names, generators=texts)
    with pytest.raises(ValueError, match="reach resolution 3, design resolution=4"):
        find_fraction(names, generators=["D=AB"], resolution=4)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (16, {}, "16 factors, allowed are 1 to 15"),
        (4, {"runs": 6}, "power of two, e.g. 4"),
        (4, {"runs": 4}, "allowed for 4 factors are powers of two from 8"),
        (3, {"runs": 16}, "have only 8 combinations"),
        (5, {"resolution": 2}, "at least 3"),
        (5, {"runs": 8, "resolution": 4}, "reaches resolution 3 at most.*runs=16"),
        (12, {"resolution": 5}, "takes more than 128 runs"),
    ],
)
def test_a_fraction_that_does_not_exist_is_refused(count: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_fraction([f"f{i}" for i in range(count)], **options)  # type: ignore[arg-type]


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 99), st.data())
def test_any_prefix_of_the_blocks_is_balanced(count: int, seeds: int, order: int, data: st.DataObject) -> None:
    cells = [Cell(f"c{i}", (f"k={i}",)) for i in range(count)]
    written = replicates(cells, range(seeds), order)
    assert [seed for _, seed in written] == [seed for seed in range(seeds) for _ in range(count)]
    prefix = Counter(cell.name for cell, _ in written[: data.draw(st.integers(0, len(written)))])
    counts = [prefix[cell.name] for cell in cells]
    assert max(counts) - min(counts) <= 1
    assert written == replicates(cells, range(seeds), order)


@given(st.integers(2, 9), st.integers(0, 99))
def test_over_as_many_blocks_as_cells_each_cell_stands_everywhere_once(count: int, order: int) -> None:
    cells = [Cell(f"c{i}", (f"k={i}",)) for i in range(count)]
    written = [cell.name for cell, _ in replicates(cells, range(count), order)]
    rows = [written[start : start + count] for start in range(0, count * count, count)]
    assert all(len(set(column)) == count for column in zip(*rows, strict=True))
    if count % 2 == 0:  # and behind each other cell once
        pairs = Counter(pair for row in rows for pair in itertools.pairwise(row))
        assert set(pairs.values()) == {1}
        assert len(pairs) == count * (count - 1)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_random_placements_are_different_ones_at_the_same_count(chosen: int, count: int, seed: int) -> None:
    arm = ("placement.policy=x", "branch.use=pssa")
    cells = random_matched(arm, SITES, SITES[:chosen], count=count, seed=seed)
    check_cells(cells)
    assert cells[0].overrides[-1] == "placement.policy=none"
    assert cells[1].overrides == arm
    drawn = [frozenset(cell.overrides[-1].removeprefix("placement.policy=").split("+")) for cell in cells[2:]]
    assert len(set(drawn)) == count
    assert frozenset(SITES[:chosen]) not in drawn
    assert all(len(sites) == chosen and sites <= set(SITES) for sites in drawn)
    assert random_matched(arm, SITES, SITES[:chosen], count=count + 1, seed=seed)[:-1] == cells


def test_random_placements_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="allowed are 1 to 5: 6 sites have 5 other placements at 1"):
        random_matched(["a=1"], SITES, SITES[:1], count=6)
    with pytest.raises(ValueError, match="the arm places nothing"):
        random_matched(["a=1"], SITES, [])
    with pytest.raises(ValueError, match="nowhere is no site"):
        random_matched(["a=1"], SITES, ["nowhere"])


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({}, "needs at least one factor"),
        ({"x": ["a=1"]}, "x has 1 level"),
        ({"x": "a=1"}, "takes a list of levels"),
        ({"x": ["a=1", "a=1"]}, "twice"),
        ({"x": {"p": "a=1", "q": "a=1"}}, "twice"),
        ({"x": ["a=1", "nothing"]}, "'nothing' is no override"),
        ({"x": ["a=1", "a=2,3"]}, "sweeps"),
        ({"x": ["a=1", "a=[1"]}, "Hydra cannot read"),
        ({"x": ["a=1", {"a": 2}]}, "a level is an override"),
    ],
)
def test_factors_that_cannot_be_read_are_refused(factors: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one_at_a_time(factors)


def test_labels_that_are_not_there_are_refused_with_the_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no level 'stage33'; its levels are none, stage3; did you mean stage3\?"):
        one_at_a_time({"where": ["p=none", "p=stage3"]}, {"where": "stage33"})
    with pytest.raises(ValueError, match=r"no factor is called 'were'.*did you mean where\?"):
        one_at_a_time({"where": ["p=none", "p=stage3"]}, {"were": "none"})
    with pytest.raises(ValueError, match="f0 has 3 levels"):
        fractional(of_sizes([3, 2]))


CHANNELS, KERNEL, HOSTS = 32, 3, 2


def toy_cost(adds: int) -> Any:
    """Costs of a toy network: two hosts of 3x3 convolutions and a head; the arm's own branches add `adds`."""

    def cost(overrides: Sequence[str]) -> Mapping[str, float]:
        said = {key: value for key, _, value in (line.partition("=") for line in overrides)}
        use = said.get("placement.at", "{s:conv+pssa}").strip("{}").partition(":")[2]
        host = KERNEL**2 * CHANNELS * CHANNELS
        each = host if "conv" in use.split("+") else 0
        if "second_conv" in use:
            kernel = said["branch.options.second_conv.kernel"]
            size = KERNEL if kernel == "null" else int(kernel)
            ratio = said["branch.options.second_conv.width_ratio"]
            middle = max(1, round(float(ratio) * CHANNELS)) if ratio != "null" else None
            each += size**2 * CHANNELS * CHANNELS if middle is None else (size**2 + 1) * CHANNELS * middle
        params = 1000 + HOSTS * each + (adds if "pssa" in use else 0)
        return {"params": params, "macs": 64 * params}

    return cost


@given(st.integers(1, 60_000), st.sampled_from(["params", "macs"]))
def test_a_control_is_within_half_a_channel_of_its_arm(adds: int, match: str) -> None:
    arm = Cell("where=stage3", ("placement=stage3",), {"where": "stage3"})
    control = matched_control(arm, ["s1", "s2"], toy_cost(adds), match)
    scale = 64 if match == "macs" else 1
    assert control.target == scale * (1000 + HOSTS * 9 * 32 * 32 + adds)
    channel = scale * HOSTS * 2 * 32  # of the 1x1 form, which has the finest steps
    assert abs(control.got - control.target) <= max(channel / 2, 0.01 * scale * adds) or adds < channel
    assert control.got == toy_cost(adds)(control.cell.overrides)[match]
    assert control.mismatch == pytest.approx(100 * (control.got - control.target) / control.target)
    assert control.cell.overrides[1] == "placement.at={s1+s2:conv+second_conv}"
    assert control.cell.factors == {"where": "stage3", "control": match}
    assert "%" in str(control)


def test_an_arm_that_costs_less_than_the_plain_network_gets_a_narrow_convolution_alone() -> None:
    def cost(overrides: Sequence[str]) -> Mapping[str, float]:
        found = toy_cost(0)(overrides)
        return found if any("placement.at" in line for line in overrides) else {"params": 8000, "macs": 1}

    control = matched_control(Cell("pssa", ("branch.use=pssa",)), ["s1"], cost)
    assert "placement.at={s1:second_conv}" in control.cell.overrides
    assert abs(control.mismatch) < 4
    with pytest.raises(ValueError, match="allowed are none, params, macs"):
        matched_control(Cell("a", ()), ["s1"], cost, "flops")
    with pytest.raises(ValueError, match="places nothing"):
        matched_control(Cell("a", ()), [], cost)


def test_each_cell_with_blocks_is_followed_by_its_control() -> None:
    def facts(overrides: Sequence[str]) -> Mapping[str, Any]:
        if any("broken" in line for line in overrides):
            raise ValueError("cannot be built")
        chosen = [] if "placement=none" in overrides else ["s1", "s2"]
        return {**toy_cost(5000)(overrides), "chosen": chosen, "sites": ["s1", "s2", "s3"]}

    factors = {"where": ["placement=none", "placement=stage3", "placement=broken"]}
    design = design_of(DesignOptions(kind="one_at_a_time", factors=factors, control="params"), facts=facts)
    names = ["baseline", "where=stage3", "where=stage3 [control: plain, same params]", "where=broken"]
    assert [cell.name for cell in design.cells] == names
    assert len(design.controls) == 1
