"""Ablation designs: which cells a study trains, and in which order. Pure functions of factors; no torch, no Optuna.

A cell is one configuration; a replicate is every cell once, all with one seed. Sources: Montgomery, Design and Analysis of
Experiments, chapters 4 (blocking), 5 (factorials) and 8 (fractions); Williams 1949 for the order inside a replicate.

A capacity-matched control is a plain-convolution network that costs what an arm with attention costs: at the arm's own sites its
branches give way to a second convolution (`second_conv`), whose width is chosen so that the network has the arm's parameters
or multiply-accumulates. What that brings, attention has to beat.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from search.design.factors import Factor, Factors, Level, chosen_labels, read_factors
from search.design.fraction import Fraction, find_fraction
from search.ledger.study_files import Cell

BASELINE = "baseline"
MAX_CELLS = 10_000
Labels = Mapping[str, str] | None
MATCHES = ("params", "macs")
Cost = Callable[[Sequence[str]], Mapping[str, float]]
"""Overrides -> {"params", "macs"} of the network they build; ValueError where they build none."""
Figure = Callable[[Sequence[str]], float]
Width = tuple[float, float, list[str]]  # distance from the target, cost, overrides
USES = ("conv+second_conv", "second_conv")  # the second: for an arm that costs less than the plain network
KERNELS = (None, 1)  # of the second convolution; None is the host's
STEPS = 11  # of the bisection: a width to a part in two thousand of the host's
MOST = 64.0  # times as wide as the host, at the most
CLOSE = 0.01  # a mismatch, as a share of what the arm adds, that nothing else is tried to better


def one_at_a_time(factors: Factors, baseline: Labels = None) -> list[Cell]:
    """The baseline, and each other level of each factor alone: 1 + sum(levels - 1) cells.

    Args:
        factors: see `read_factors`, whose ValueError all designs raise.
        baseline: label of the baseline's level by factor; the first level of those not named.
    """
    read = read_factors(factors)
    base = chosen_labels(read, baseline, 0, "design baseline")
    points = [{**base, factor.name: level} for factor in read for level in factor.levels]
    return _cells(read, base, points)


def leave_one_out(factors: Factors, full: Labels = None, off: Labels = None) -> list[Cell]:
    """The full model, which is the baseline, and the full model without each factor: 1 + factors cells.

    Args:
        full: label of each factor's level in the full model; the last level of those not named.
        off: label of the level that leaves the factor out; the first level of those not named.
    """
    read, whole, without = _on_and_off(factors, full, off)
    return _cells(read, whole, [{**whole, factor.name: without[factor.name]} for factor in read])


def add_one_in(factors: Factors, full: Labels = None, off: Labels = None) -> list[Cell]:
    """The model without any factor, which is the baseline, and with each factor alone: 1 + factors cells."""
    read, whole, without = _on_and_off(factors, full, off)
    return _cells(read, without, [{**without, factor.name: whole[factor.name]} for factor in read])


def ladder(factors: Factors, full: Labels = None, off: Labels = None) -> list[Cell]:
    """The model without any factor, which is the baseline, then one factor more in each row, in their order."""
    read, whole, without = _on_and_off(factors, full, off)
    points = itertools.accumulate(
        read, lambda point, factor: {**point, factor.name: whole[factor.name]}, initial=without
    )
    return _cells(read, without, points)


def factorial(factors: Factors, baseline: Labels = None) -> list[Cell]:
    """Every combination of levels, the baseline first, else in the order of nested loops: at most `MAX_CELLS`."""
    read = read_factors(factors)
    size = math.prod(len(factor.levels) for factor in read)
    if size > MAX_CELLS:
        raise ValueError(
            f"design factorial: {size} cells, allowed are {MAX_CELLS}; leave levels out, or take fractional"
        )
    base = chosen_labels(read, baseline, 0, "design baseline")
    names = [factor.name for factor in read]
    products = itertools.product(*(factor.levels for factor in read))
    return _cells(read, base, [dict(zip(names, levels, strict=True)) for levels in products])


def fractional(
    factors: Factors,
    baseline: Labels = None,
    *,
    runs: int | None = None,
    resolution: int | None = None,
    generators: Sequence[str] = (),
) -> tuple[list[Cell], Fraction]:
    """A regular fraction, see `find_fraction`, of a factorial of two-level factors, the baseline among its cells; and what it is."""
    read = read_factors(factors)
    for factor in read:
        if len(factor.levels) != 2:
            raise ValueError(
                f"design fractional: factor {factor.name} has {len(factor.levels)} levels, and fractions are of two-level "
                "factors; leave levels out, or take factorial"
            )
    base = chosen_labels(read, baseline, 0, "design baseline")
    fraction = find_fraction([factor.name for factor in read], runs=runs, resolution=resolution, generators=generators)
    other = {factor.name: next(level for level in factor.levels if level != base[factor.name]) for factor in read}
    points = [
        {f.name: other[f.name] if bit else base[f.name] for f, bit in zip(read, bits, strict=True)}
        for bits in fraction.rows()
    ]
    return _cells(read, base, points), fraction


def random_matched(
    arm: Sequence[str], sites: Sequence[str], chosen: Sequence[str], *, count: int = 10, seed: int = 0
) -> list[Cell]:
    """An arm, and random placements of its branches at as many sites: the null that its choice of sites has to beat.

    Args:
        arm: its overrides. It must place by `placement.policy`, with nothing in `placement.at`.
        sites, chosen: names of all sites of its backbone, and of those where the arm places its branches.
        count: how many random placements: all different, none the arm's own.
        seed: of the draw; a larger count keeps the placements of a smaller one.

    Returns:
        The plain network (the baseline), the arm, the random placements.
    """
    overrides = tuple(arm)
    unknown = [site for site in chosen if site not in sites]
    if unknown or not chosen:
        raise ValueError(
            f"design random_matched: {f'{unknown[0]} is no site of the backbone' if unknown else 'the arm places nothing'}; "
            "give hydra.sweeper.design.arm the overrides of an arm with blocks, e.g. [placement=stage3]"
        )
    own, unique = frozenset(chosen), list(dict.fromkeys(sites))
    possible = math.comb(len(unique), len(own)) - 1
    if not 1 <= count <= possible:
        raise ValueError(
            f"design random_matched: count={count}, allowed are 1 to {possible}: {len(unique)} sites have {possible} other "
            f"placements at {len(own)} of them"
        )
    drawn: dict[frozenset[str], None] = {own: None}
    generator = random.Random(seed)
    while len(drawn) <= count:
        drawn[frozenset(generator.sample(unique, len(own)))] = None
    cells = [
        Cell(BASELINE, (*overrides, "placement.policy=none"), {"placement": "none"}, is_baseline=True),
        Cell("the arm", overrides, {"placement": "the arm's"}),
    ]
    for number, sample in enumerate([*drawn][1:], start=1):
        policy, label = "+".join(site for site in unique if site in sample), f"random {number}"
        cells.append(Cell(label, (*overrides, f"placement.policy={policy}"), {"placement": label}))
    return cells


def replicates(cells: Sequence[Cell], seeds: Sequence[int], order_seed: int = 0) -> list[tuple[Cell, int]]:
    """Every cell on every seed, seed by seed, the cells of each replicate in another order.

    The orders are rows of a Williams square: over as many seeds as there are cells each cell stands at each place once
    (and, for an even number of cells, behind each other one once). So a slow drift of the machine falls on no arm, and
    whatever was finished when a study is interrupted, no cell was begun more than once more often than another.

    Args:
        order_seed: which square, and which of its rows comes first.
    """
    count = len(cells)
    generator = random.Random(order_seed)
    shuffled = generator.sample(list(cells), count)
    starts = generator.sample(range(count), count)
    zigzag = [(place + 1) // 2 if place % 2 else (count - place // 2) % count for place in range(count)]
    order = []
    for number, seed in enumerate(seeds):
        start = starts[number % count] if count else 0
        order += [(shuffled[(start + step) % count], seed) for step in zigzag]
    return order


@dataclass(frozen=True)
class Control:
    """A control and how well it matches: in `match` ("params" or "macs") the arm has `target`, the control `got`, and the network
    with a plain convolution at those sites `plain`. Its `cell` has the arm's factors, and puts plain convolutions in the place of
    its branches.
    """

    cell: Cell
    match: str
    target: float
    got: float
    plain: float

    @property
    def mismatch(self) -> float:
        """Percent of the arm's whole network by which the control is larger."""
        return 100.0 * (self.got - self.target) / self.target

    @property
    def mismatch_of_added(self) -> float | None:
        """Percent of what the arm adds to the plain network; None where it adds nothing."""
        added = self.target - self.plain
        return 100.0 * (self.got - self.target) / added if added else None

    def __str__(self) -> str:
        """Both figures and the mismatch, in words."""
        of_added = self.mismatch_of_added
        share = "" if of_added is None else f", {of_added:+.1f} % of what the arm adds to the plain network"
        return f"{self.cell.name}: {self.got:,.0f} {self.match}, the arm {self.target:,.0f}, a mismatch of {self.mismatch:+.2f} %{share}"


def matched_control(arm: Cell, sites: Sequence[str], cost: Cost, match: str = "params") -> Control:
    """Find the plain-convolution network nearest to `arm` in `match`.

    Tried are a second convolution beside the first and, for arms that cost less than the plain network, a narrow one
    alone; with the host's kernel and with a 1x1 one; of every width. A kernel or use is preferred in this order where
    the match is as good. `cost` is asked a few dozen times; `sites` are those where the arm places branches.
    """
    if match not in MATCHES:
        raise ValueError(f"design control={match}: allowed are none, {', '.join(MATCHES)}")
    if not sites:
        raise ValueError(f"design control: the cell {arm.name!r} places nothing, so there is nothing to match")

    def asked(lines: Sequence[str]) -> float:
        return float(cost([*arm.overrides, *lines])[match])

    # a new last key of `placement.at` goes before whatever chose the sites
    conv, *instead = (f"placement.at={{{'+'.join(sites)}:{use}}}" for use in ("conv", *USES))
    target, plain = asked([]), asked([conv])
    close = CLOSE * abs(target - plain)
    best: Width | None = None
    refusals = []
    for use, kernel in itertools.product(instead[:1] if target >= plain else instead[::-1], KERNELS):
        try:
            found = min(_widths(asked, target, close, use, kernel), key=lambda width: width[0])
        except ValueError as error:
            refusals.append(str(error))
            continue
        if best is None or found[0] < best[0]:
            best = found
        if best[0] <= close:
            break
    if best is None:
        raise ValueError(f"design control: no second convolution can stand at the sites of {arm.name!r}: {refusals[0]}")
    name = f"{arm.name} [control: plain, same {match}]"
    cell = Cell(name, (*arm.overrides, *best[2]), {**arm.factors, "control": match}, is_baseline=False)
    return Control(cell, match, target, best[1], plain)


def _on_and_off(
    factors: Factors, full: Labels, off: Labels
) -> tuple[tuple[Factor, ...], dict[str, Level], dict[str, Level]]:
    read = read_factors(factors)
    whole = chosen_labels(read, full, -1, "design full")
    without = chosen_labels(read, off, 0, "design baseline")
    for name, level in whole.items():
        if level == without[name]:
            raise ValueError(
                f"design: factor {name} is {level.label!r} in the full model and when it is left out; name another level in "
                f"hydra.sweeper.design.full.{name} or hydra.sweeper.design.baseline.{name}"
            )
    return read, whole, without


def _cells(factors: Sequence[Factor], base: dict[str, Level], points: Iterable[dict[str, Level]]) -> list[Cell]:
    """The baseline, then `points` in their order, each once."""
    cells: dict[tuple[tuple[str, str], ...], Cell] = {}
    for point in [base, *points]:
        overrides = tuple(line for factor in factors for line in point[factor.name].overrides)
        differs = [f"{name}={level.label}" for name, level in point.items() if level != base[name]]
        labels = {name: level.label for name, level in point.items()}
        cell = Cell(", ".join(differs) or BASELINE, overrides, labels, is_baseline=not cells)
        last = {key.lstrip("+"): value for key, _, value in (line.partition("=") for line in overrides)}
        cells.setdefault(tuple(sorted(last.items())), cell)  # a later override of a key goes before an earlier one
    return list(cells.values())


def _widths(cost: Figure, target: float, close: float, use: str, kernel: int | None) -> Iterator[Width]:
    """Networks by the width of their second convolution: cost grows with it, in steps of a channel, so it is bisected."""

    def at(ratio: float | None) -> Width:
        options = {"kernel": kernel, "width_ratio": None if ratio is None else f"{ratio:.6g}"}
        values = [f"{name}={'null' if value is None else value}" for name, value in options.items()]
        lines = [use, *(f"branch.options.second_conv.{value}" for value in values)]
        got = cost(lines)
        return abs(got - target), got, lines

    yield at(None)
    low, high = 0.0, 1.0
    while (found := at(high))[1] < target and high < MOST:
        yield found
        low, high = high, 2 * high
    yield found
    for _ in range(STEPS):
        middle = (low + high) / 2
        found = at(middle)
        yield found
        if found[0] <= close:
            return
        low, high = (middle, high) if found[1] < target else (low, middle)
