"""What a study declared to vary, read from the `design.json` in its folder and laid over its arms.

Arms of different recipes are not compared, with one exception: a design may vary the recipe, the data or the backbone itself.
Its cells are written down before they are run, each trial records what it set, and so it is known which difference of recipe
is a level of a factor and which is an accident.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from search.ledger.design_file import DeclaredCell, DeclaredDesign, read_design
from search.report.reading.settings import RECIPE_PARTS

if TYPE_CHECKING:
    from search.report.arms import Arm

__all__ = ["CONTROL", "Declared", "declared_by"]

CONTROL = "control"  # factor of a cell that stands beside the design: a plain network of the same cost
GROUP = "the design"


@dataclass(frozen=True)
class Declared:
    """The design of a study.

    Attributes:
        design: None where the study declared none.
        fault: why a design is there and cannot be used; "" otherwise.
    """

    design: DeclaredDesign | None = None
    fault: str = ""

    @cached_property
    def cells(self) -> dict[str, int]:
        """Position of each cell by what its trials set, but for the seed, as the tidy frame has it."""
        listed = self.design.cells if self.design else ()
        return {"; ".join(cell.overrides): position for position, cell in enumerate(listed)}

    def cell_at(self, overrides: str | None) -> int | None:
        """Return the position of the cell that a trial with these overrides belongs to; None where it is of none."""
        if self.design is None or overrides is None:
            return None
        head, _, last = overrides.rpartition("; ")
        return self.cells.get(head) if last.startswith(f"{self.design.seed_key}=") else None


@dataclass(frozen=True)
class Placed:
    """Where the arms of a table stand in a design.

    Attributes:
        cells: positions of each arm's cells, in the order of the design; empty for an arm that is not of it.
        recipe_factors: factors that set something of the recipe.
        mixed: names of cells that were trained by more than one recipe.
    """

    cells: list[list[int]]
    recipe_factors: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)


def declared_by(frame: pd.DataFrame) -> Declared:
    """Read what the study of a frame declared; a study run before designs were written down has declared nothing.

    Args:
        frame: rows of `load_study`, whose `attrs["path"]` is the study's folder.
    """
    path = frame.attrs.get("path")
    if path is None:
        return Declared()
    try:
        return Declared(read_design(Path(str(path))))
    except ValueError as error:
        return Declared(fault=f"{error}: arms that were trained by different recipes are not compared")


def laid_over(arms: Sequence[Arm], declared: Declared, set_by: Sequence[Collection[str | None]]) -> list[Arm]:
    """Give each arm the levels of its cell, and let arms whose recipes differ by the design's own factors be compared.

    An arm of several cells (a branch argument where nothing is placed builds one network) has the levels of the first.
    Where a cell was trained by more than one recipe, something else than the design changed it, and recipes are held
    apart as anywhere.

    Args:
        arms: of one phase.
        declared: the study's design, which is there.
        set_by: the overrides of each arm's trials, all of them, as the tidy frame has them.
    """
    assert declared.design is not None
    placed = place(arms, declared, set_by)
    listed = declared.design.cells
    found = []
    for arm, positions in zip(arms, placed.cells, strict=True):
        if not positions:
            found.append(arm)
            continue
        cell = listed[positions[0]]
        named = [f"{name}={cell.factors[name]}" for name in placed.recipe_factors if name in cell.factors]
        found.append(
            replace(
                arm,
                label=", ".join((arm.label, *named)),
                levels=cell.factors,
                cell_names=tuple(listed[position].name for position in positions),
                design=None if placed.mixed else GROUP,
                recipe_factors=tuple(placed.recipe_factors),
                mixed=tuple(placed.mixed),
            )
        )
    return found


def place(arms: Sequence[Arm], declared: Declared, set_by: Sequence[Collection[str | None]]) -> Placed:
    """Find the cells of each arm, and the factors that its recipe depends on."""
    assert declared.design is not None
    placed: list[list[int]] = []
    recipes: dict[int, set[str]] = {}
    for arm, texts in zip(arms, set_by, strict=True):
        positions = [declared.cell_at(text) for text in texts]
        known = sorted({position for position in positions if position is not None})
        placed.append(known if None not in positions else [])
        for position in known:
            if arm.recipe_hash is not None:
                recipes.setdefault(position, set()).add(arm.recipe_hash)
    cells = declared.design.cells
    mixed = [cells[position].name for position, found in sorted(recipes.items()) if len(found) > 1]
    several = len(set().union(*recipes.values())) > 1 if recipes else False
    factors = recipe_factors(cells, list(declared.design.factors)) if several and not mixed else []
    return Placed(placed, factors, mixed)


def recipe_factors(cells: Sequence[DeclaredCell], factors: Sequence[str]) -> list[str]:
    """Return the factors that set something of the recipe; all of them where no key tells which.

    A factor sets a key where each of its levels goes with one value of it, in every cell.
    """
    set_by = [values(cell.overrides) for cell in cells]
    keys = [key for key in dict.fromkeys(key for each in set_by for key in each) if key.split(".")[0] in RECIPE_PARTS]
    varying = [key for key in keys if len({each.get(key) for each in set_by}) > 1]
    found = []
    for factor in factors:
        for key in varying:
            goes_with: dict[str | None, set[str | None]] = {}
            for cell, each in zip(cells, set_by, strict=True):
                goes_with.setdefault(cell.factors.get(factor), set()).add(each.get(key))
            if all(len(those) == 1 for those in goes_with.values()):
                found.append(factor)
                break
    return found or [name for name in factors if name != CONTROL]


def values(overrides: Sequence[str]) -> Mapping[str, str]:
    """Return what overrides set, by key; a later one goes before an earlier one."""
    found = {}
    for line in overrides:
        key, _, value = line.partition("=")
        found[key.lstrip("+~")] = value
    return found
