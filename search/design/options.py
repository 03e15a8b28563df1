"""What a user may say about a design, and the cells and written-down trials that it comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from search import stats
from search.design import kinds
from search.design.factors import factors_of_space
from search.design.fraction import Fraction
from search.design.kinds import MATCHES, Control, matched_control
from search.design.start import Facts, StartOptions, Starts, check_starts, starts_of
from search.ledger.study_files import Cell
from search.space.parameters import Space
from xvol.allowed import check_choice, check_number

KINDS = ("one_at_a_time", "leave_one_out", "add_one_in", "ladder", "factorial", "fractional", "random_matched")
SEEDS = 5  # where neither `seeds` nor `looks` is given
ALPHA, SPENDING = 0.05, "hwang_shih_decani"  # of `looks`


@dataclass
class DesignOptions(StartOptions):
    """Keys of `hydra.sweeper.design`: which cells a study trains, instead of a search; with those of `StartOptions`.

    Attributes:
        kind: one_at_a_time, leave_one_out, add_one_in, ladder, factorial, fractional or random_matched; null for a
            search.
        factors: name -> levels, see `read_factors`. What is swept on the command line or in hydra.sweeper.params are
            factors too, after these.
        baseline: label of the level that a factor has in the baseline (leave_one_out, add_one_in, ladder: when it is
            left out); the first level of those not named.
        full: the same in the full model of leave_one_out, add_one_in and ladder; the last level of those not named.
        runs: fractional: cells, a power of two; null takes the fewest that reach `resolution`.
        resolution: fractional: at least this one; with `runs` and `resolution` null, 4.
        generators: fractional: e.g. ["D=ABC"]; found by search where none are given.
        arm: random_matched: overrides of the arm whose number of sites is matched.
        count: random_matched: random placements.
        draw_seed: random_matched: of the draw.
        control: "params" or "macs": every cell with blocks also gets a plain-convolution network of the same cost.
        overrides: of every cell, before its own.
        seeds: how many, 5 unless said otherwise; seed i of one cell is paired with seed i of every other.
        first_seed: the first of them; null for seeds of the study's own, by its name.
        looks: numbers of seeds at which rows are held against the baseline on validation images, ascending from 2 on,
            e.g. [5, 8, 12, 20]: all cells are trained on the first, and only rows that are undecided go on, with the
            baseline, to the next. None for the same seeds in every cell; `seeds` is left out, or is the first look.
        alpha, spending: of the looks: chance of any false finding, over all looks and rows, and how it is split over the
            looks: hwang_shih_decani, obrien_fleming or pocock.
        margin: of the looks: smallest difference that matters, in the unit of the metric; a row that would hardly be found at
            the last look even if it differed by that much gets no more seeds. None gives no row up.
        order_seed: of the order of cells inside each seed's replicate.
    """

    kind: str | None = None
    factors: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    full: dict[str, Any] = field(default_factory=dict)
    runs: int | None = None
    resolution: int | None = None
    generators: list[str] = field(default_factory=list)
    arm: list[str] = field(default_factory=list)
    count: int = 10
    draw_seed: int = 0
    control: str = "none"
    overrides: list[str] = field(default_factory=list)
    seeds: int | None = None
    first_seed: int | None = None
    looks: list[int] = field(default_factory=list)
    alpha: float = ALPHA
    spending: str = SPENDING
    margin: float | None = None
    order_seed: int = 0


ONLY: dict[str, tuple[str, ...]] = {
    "full": ("leave_one_out", "add_one_in", "ladder"),
    **dict.fromkeys(("runs", "resolution", "generators"), ("fractional",)),
    **dict.fromkeys(("arm", "count"), ("random_matched",)),
}
"""Options that other kinds would pass over in silence."""


@dataclass(frozen=True)
class Design:
    """A design that was made: cells, the baseline first, each control behind its arm; how well controls match; and what its arms
    start from, None from scratch.
    """

    cells: list[Cell]
    controls: list[Control]
    fraction: Fraction | None = None
    starts: Starts | None = None


def check_design(options: DesignOptions) -> None:
    """Raise ValueError where a value is out of its range, or is of another kind of design."""
    where = "hydra.sweeper.design"
    usual = DesignOptions()
    given = [name for name in vars(options) if getattr(options, name) != getattr(usual, name)]
    if options.kind is None:
        if given:
            raise ValueError(
                f"{where}.{given[0]} is given without a kind; choose design=one_at_a_time, or {', '.join(KINDS[1:])}"
            )
        return
    check_choice(f"{where}.kind", options.kind, KINDS)
    for name, wanted in ONLY.items():
        if name in given and options.kind not in wanted:
            raise ValueError(
                f"{where}.{name} is for {', '.join(wanted)}, and the design is {options.kind}; leave it out"
            )
    check_choice(f"{where}.control", options.control, ("none", *MATCHES))
    for name, low in (("seeds", 1), ("first_seed", 0), ("count", 1)):
        check_number(f"{where}.{name}", getattr(options, name), low=low, null="the default")
    _check_looks(options, where)
    check_starts(options, where, given)
    for name, empty in (("seeds", "null"), ("looks", "[]")) if options.start != "scratch" else ():
        if getattr(options, name):
            raise ValueError(
                f"{where}.{name}: with start={options.start} roots and orders say what is trained; write {where}.{name}={empty}"
            )
    if options.kind == "random_matched":
        if options.factors or options.baseline:
            raise ValueError(
                f"{where}: random_matched takes an arm and no factors; give {where}.arm, e.g. [placement=stage3]"
            )
        if not options.arm:
            raise ValueError(f"{where}.arm: random_matched needs the overrides of an arm, e.g. ['placement=stage3']")


def _check_looks(options: DesignOptions, where: str) -> None:
    if not options.looks:
        if (options.alpha, options.spending, options.margin) != (ALPHA, SPENDING, None):
            raise ValueError(
                f"{where}.alpha, .spending and .margin belong to looks, and none are given; add e.g. {where}.looks=[5,8,12,20], "
                "or leave them out"
            )
        return
    try:
        stats.plan_looks(options.looks, alpha=options.alpha, spending=options.spending, margin=options.margin)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if options.seeds not in (None, options.looks[0]):
        raise ValueError(
            f"{where}.seeds={options.seeds} and {where}.looks={list(options.looks)}: the looks say how many seeds there are, "
            f"{options.looks[0]} before the first one; leave seeds out ({where}.seeds=null), or give {options.looks[0]}"
        )


def design_of(
    options: DesignOptions,
    space: Space | None = None,
    facts: Facts | None = None,
    seed_key: str = "seed",
    recipe: Mapping[str, Any] | None = None,
) -> Design:
    """The cells of a design, and what is to be told about it.

    Args:
        space: what the command line and `hydra.sweeper.params` sweep: each of its parameters becomes a factor. What
            they fix must not be set by the design itself.
        facts: asked by random_matched, and where controls are wanted.
        seed_key: the config key that takes the seed.
        recipe: the resolved values of `train`, for arms that start from roots.
    """
    check_design(options)
    if options.kind is None:
        raise ValueError(f"hydra.sweeper.design.kind is null, which is a search; allowed are {', '.join(KINDS)}")
    swept = {} if space is None else factors_of_space(space)
    twice = sorted(set(swept) & set(options.factors))
    if twice:
        raise ValueError(f"{twice[0]} is swept, and is a factor of the design as well; leave one of them out")
    factors = {**options.factors, **swept}
    shared = tuple(options.overrides)
    asked = None if facts is None else (lambda lines: facts([*shared, *lines]))
    fraction: Fraction | None = None
    if options.kind == "random_matched":
        if swept:
            raise ValueError(
                f"design random_matched takes an arm and no factors, and {next(iter(swept))} is swept; give it one value"
            )
        if asked is None:
            raise ValueError(
                "design random_matched needs the sites of the backbone, and this application does not tell them"
            )
        known, draw = asked(options.arm), {"count": options.count, "seed": options.draw_seed}
        cells = kinds.random_matched(options.arm, known["sites"], known["chosen"], **draw)
    elif options.kind == "fractional":
        size: dict[str, Any] = {name: getattr(options, name) for name in ("runs", "resolution", "generators")}
        cells, fraction = kinds.fractional(factors, options.baseline, **size)
    elif options.kind in ("one_at_a_time", "factorial"):
        cells = getattr(kinds, options.kind)(factors, options.baseline)
    else:
        cells = getattr(kinds, options.kind)(factors, options.full, options.baseline)
    if space is not None:
        _refuse_without_effect(space.fixed, options, cells, seed_key)
    cells, controls = _with_controls(cells, options.control, asked)
    cells = [replace(cell, overrides=(*shared, *cell.overrides)) for cell in cells]
    if options.start == "scratch":
        return Design(cells, controls, fraction)
    starts = starts_of(options, cells, recipe or {}, facts, shared)
    return Design(starts.cells, controls, fraction, starts)


def _refuse_without_effect(fixed: Sequence[str], options: DesignOptions, cells: Sequence[Cell], seed_key: str) -> None:
    """The design's own overrides go behind: what was asked for by hand would silently not be what is trained."""
    where = "hydra.sweeper.design"

    def key_of(line: str) -> str:
        return line.lstrip("+~").partition("=")[0]

    shared = {key_of(line): line for line in options.overrides}
    in_all = set.intersection(*({key_of(line) for line in cell.overrides} for cell in cells))
    for line in fixed:
        key = key_of(line)
        if key == seed_key:
            first = "those of its study" if options.first_seed is None else f"{options.first_seed} and the following"
            raise ValueError(
                f"{line} has no effect: a design trains each cell on the same seeds, {first}; leave it out, or give "
                f"{where}.first_seed"
            )
        if key in shared:
            lines = (line if known == key else old for known, old in shared.items())
            quoted = ", ".join("'" + each.replace("'", r"\'") + "'" for each in lines)  # in a shell's double quotes
            raise ValueError(
                f"{line} has no effect: {where}.overrides sets {shared[key]} in every cell; leave it out, or write it there: "
                f'"{where}.overrides=[{quoted}]"'
            )
        if key in in_all:
            raise ValueError(
                f"{line} has no effect: every cell of the design sets {key} itself; leave it out, or change the levels in "
                f"{where}.factors"
            )


def _with_controls(cells: list[Cell], control: str, facts: Facts | None) -> tuple[list[Cell], list[Control]]:
    """Each cell, and behind it the control of one that has blocks."""
    if control == "none":
        return cells, []
    if facts is None:
        raise ValueError(f"design control={control} needs the cost of a network, and this application does not tell it")
    every, controls = [], []
    for cell in cells:
        every.append(cell)
        try:
            chosen = facts(cell.overrides)["chosen"]
        except ValueError:
            continue  # such a cell is shown as infeasible or failed itself, and has nothing to be matched
        if chosen:
            found = matched_control(cell, chosen, facts, control)
            controls.append(found)
            every.append(found.cell)
    return every, controls
