"""What a user may say about a design, and the cells and written-down trials that it comes to."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from search.space import designs
from search.space.design_control import MATCHES, Control, matched_control
from search.space.design_factors import factors_of_space
from search.space.design_fraction import Fraction
from search.space.designs import Cell, blocks
from search.space.parameters import Space

__all__ = ["KINDS", "Design", "DesignOptions", "Facts", "cells_of", "check_design", "design_of", "written_trials"]

KINDS = ("one_at_a_time", "leave_one_out", "add_one_in", "ladder", "factorial", "fractional", "random_matched")
CONTROLS = ("none", *MATCHES)
Facts = Callable[[Sequence[str]], Mapping[str, Any]]
"""Overrides (behind those that all cells share) -> facts of the network they build: "params", "macs" of one image, "sites"
(names of all), "chosen" (names of those with branches). ValueError where they build none."""


@dataclass
class DesignOptions:
    """Keys of `hydra.sweeper.design`: which cells a study trains, instead of a search.

    Attributes:
        kind: one_at_a_time, leave_one_out, add_one_in, ladder, factorial, fractional or random_matched; null for a
            search.
        factors: name -> levels; a level is an override such as 'placement=stage3', a list of them, or an empty list; or
            a mapping from labels to levels. What is swept on the command line or in hydra.sweeper.params are factors
            too, after these.
        baseline: label of the level that a factor has in the baseline (leave_one_out, add_one_in, ladder: when it is
            left out); the first level of those not named.
        full: leave_one_out, add_one_in, ladder: label of the level that a factor has in the full model; the last level
            of those not named.
        runs: fractional: cells, a power of two; null takes the fewest that reach `resolution`.
        resolution: fractional: at least this one; with `runs` and `resolution` null, 4.
        generators: fractional: e.g. ["D=ABC"]; found by search where none are given.
        arm: random_matched: overrides of the arm whose number of sites is matched.
        count: random_matched: random placements.
        draw_seed: random_matched: of the draw.
        control: "params" or "macs": every cell with blocks also gets a plain-convolution network of the same cost.
        overrides: of every cell, before its own.
        seeds: how many; seed i of one cell is paired with seed i of every other.
        first_seed: the first of them.
        order_seed: of the order of cells inside each seed's block.
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
    seeds: int = 5
    first_seed: int = 1000
    order_seed: int = 0


ONLY: dict[str, tuple[str, ...]] = {
    "full": ("leave_one_out", "add_one_in", "ladder"),
    "runs": ("fractional",),
    "resolution": ("fractional",),
    "generators": ("fractional",),
    "arm": ("random_matched",),
}
"""Options that other kinds would pass over in silence."""


@dataclass(frozen=True)
class Design:
    """A design that was made.

    Attributes:
        cells: the baseline first, each control behind its arm.
        controls: how well each control matches.
        fraction: of a fractional design.
    """

    cells: list[Cell]
    controls: list[Control]
    fraction: Fraction | None = None


def check_design(options: DesignOptions) -> None:
    """Raise ValueError where a value is out of its range, or is of another kind of design."""
    where = "hydra.sweeper.design"
    if options.kind is None:
        for name in ("factors", "baseline", *ONLY):
            if getattr(options, name):
                raise ValueError(
                    f"{where}.{name} is given without a kind; choose design=one_at_a_time, or {', '.join(KINDS[1:])}"
                )
        return
    if options.kind not in KINDS:
        near = difflib.get_close_matches(str(options.kind), KINDS, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{where}.kind={options.kind}: allowed are {', '.join(KINDS)}{meant}")
    for name, kinds in ONLY.items():
        if getattr(options, name) and options.kind not in kinds:
            raise ValueError(
                f"{where}.{name} is for {', '.join(kinds)}, and the design is {options.kind}; leave it out"
            )
    if options.control not in CONTROLS:
        raise ValueError(f"{where}.control={options.control}: allowed are {', '.join(CONTROLS)}")
    for name, low in (("seeds", 1), ("first_seed", 0), ("count", 1)):
        if getattr(options, name) < low:
            raise ValueError(f"{where}.{name}={getattr(options, name)}: at least {low}")
    if options.kind == "random_matched":
        if options.factors or options.baseline:
            raise ValueError(
                f"{where}: random_matched takes an arm and no factors; give {where}.arm, e.g. [placement=stage3]"
            )
        if not options.arm:
            raise ValueError(f"{where}.arm: random_matched needs the overrides of an arm, e.g. ['placement=stage3']")


def design_of(options: DesignOptions, space: Space | None = None, facts: Facts | None = None) -> Design:
    """The cells of a design, and what is to be told about it.

    Args:
        space: what the command line and `hydra.sweeper.params` sweep: each of its parameters becomes a factor.
        facts: asked by random_matched, and where controls are wanted.

    Raises:
        ValueError: what was given, what is allowed, how to mend it.
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
        cells = _random_matched(options, factors, asked)
    elif options.kind == "fractional":
        cells, fraction = designs.fractional(
            factors,
            options.baseline,
            runs=options.runs,
            resolution=options.resolution,
            generators=options.generators,
        )
    elif options.kind in ("one_at_a_time", "factorial"):
        cells = getattr(designs, options.kind)(factors, options.baseline)
    else:
        cells = getattr(designs, options.kind)(factors, options.full, options.baseline)
    cells, controls = _with_controls(cells, options.control, asked)
    cells = [replace(cell, overrides=(*shared, *cell.overrides)) for cell in cells]
    return Design(cells, controls, fraction)


def cells_of(options: DesignOptions, space: Space | None = None, facts: Facts | None = None) -> list[Cell]:
    """The cells of a design, the baseline first; arguments and errors as `design_of`."""
    return design_of(options, space, facts).cells


def written_trials(
    cells: Sequence[Cell], options: DesignOptions, fixed: Sequence[str] = (), seed_key: str = "seed"
) -> list[dict[str, Any]]:
    """Cells x seeds as user attributes for `Desk.write`, in the order of `blocks`.

    Args:
        fixed: overrides that all trials of the study share; they go first.
        seed_key: the config key that takes the seed.

    Returns:
        "cell" (unique: its name and seed), "overrides" and "is_baseline" of each.
    """
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    return [
        {
            "cell": f"{cell.name}/{seed}",
            "overrides": [*fixed, *cell.overrides, f"{seed_key}={seed}"],
            "is_baseline": cell.is_baseline,
        }
        for cell, seed in blocks(cells, seeds, options.order_seed)
    ]


def _random_matched(options: DesignOptions, swept: Mapping[str, Any], facts: Facts | None) -> list[Cell]:
    if swept:
        raise ValueError(
            f"design random_matched takes an arm and no factors, and {next(iter(swept))} is swept; give it one value"
        )
    if facts is None:
        raise ValueError(
            "design random_matched needs the sites of the backbone, and this application does not tell them"
        )
    known = facts(options.arm)
    return designs.random_matched(
        options.arm, known["sites"], known["chosen"], count=options.count, seed=options.draw_seed
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
