"""The arms of a table: trials grouped by what was built, each seed counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from search.report.declared import Declared, laid_over
from xvol.suggest import nearest

__all__ = ["Arm", "comparable", "find_arm", "list_arms"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of a table.

    Attributes:
        label: name of the architecture; behind it the levels of the design's factors that its recipe depends on, and a
            hash where two arms would otherwise share a name.
        arch_hash: hash of the architecture; None where it failed before one was known.
        recipe_hash: hash of what is held equal between arms; arms of different recipes are not compared, unless the
            design of the study varies the recipe.
        is_baseline: whether the study marked it as its baseline.
        repeats: trials that were left out because their seed had been counted.
        all_cells: the cells of every arm of the table, each arm's behind one another.
        start, stop: where this arm's cells lie in `all_cells`.
        levels: its level of each factor that the study declared; empty where it declared none.
        cell_names: the cells of the design that built it: more than one where they build one network.
        design: set where the arm may be compared with all others of the design, whatever their recipes.
        recipe_factors: factors of the design that its recipe depends on.
        mixed: cells of the design that were trained by more than one recipe, so that `design` is not set.
    """

    label: str
    arch_hash: str | None
    recipe_hash: str | None
    is_baseline: bool
    repeats: int
    all_cells: pd.DataFrame = field(repr=False, compare=False)
    start: int
    stop: int
    levels: Mapping[str, str] = field(default_factory=dict)
    cell_names: tuple[str, ...] = ()
    design: str | None = None
    recipe_factors: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()

    @property
    def cells(self) -> pd.DataFrame:
        """One row for each seed, sorted by seed: the first trial that finished, else the last that did not."""
        return self.all_cells.iloc[self.start : self.stop]

    def values(self, metric: str) -> pd.Series[float]:
        """Return `metric` of the finished trials, indexed by seed; failed, pruned and missing ones are not in it."""
        cells = self.cells
        ok = cells[cells["status"] == "ok"].dropna(subset=[metric])
        return pd.Series(ok[metric].to_numpy(dtype=float), index=pd.Index(ok["seed"].to_numpy(dtype="int64")))


def comparable(one: Arm, other: Arm) -> bool:
    """Tell whether a difference of two arms has a meaning: one recipe, or recipes that a design of theirs varies."""
    return one.recipe_hash == other.recipe_hash or (one.design is not None and one.design == other.design)


def list_arms(frame: pd.DataFrame, declared: Declared | None = None) -> list[Arm]:
    """Group the trials of one phase into arms, in order of first appearance.

    Trials that left neither a hash nor a name (killed, or failed before the network was known) belong to no arm, nor do
    those that were not trained because another worker was training the same.

    Args:
        frame: rows of `load_study`, all of one phase.
        declared: what the study declared to vary; see `declared_by`.

    Raises:
        ValueError: the frame holds several phases, whose numbers must not be averaged together.
    """
    phases = frame["phase"].dropna().unique().tolist()
    if len(phases) > 1:
        raise ValueError(
            f"the frame holds the phases {', '.join(phases)}; keep one: frame[frame.phase == '{phases[-1]}']"
        )
    known = frame[frame["arch_hash"].notna() | frame["arm"].notna()]
    known = known[known["status"] != "duplicate"].reset_index(drop=True)  # another trial is the arm's
    number, what = group_numbers(known)
    if not len(known):
        return []
    ok = (known["status"] == "ok").to_numpy(dtype=bool)
    position = np.arange(len(known))
    # A seed counts once. The first finished trial stands for it, so that nobody picks the luckier of two; where none
    # finished, the last says how it ended.
    seeds = known["seed"].to_numpy(dtype="int64")
    order = np.lexsort((np.where(ok, position, -position), ~ok, seeds, number))
    arm_of, seed_of = number[order], seeds[order]
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = (arm_of[1:] != arm_of[:-1]) | (seed_of[1:] != seed_of[:-1])
    cells = known.take(order[keep])
    stops = np.searchsorted(arm_of[keep], np.arange(what), side="right").tolist()
    trials_of = np.bincount(number, minlength=what).tolist()
    by_arm = known.groupby(number)[["arm", "arch_hash", "recipe_hash"]].first()
    marked = known["is_baseline"].fillna(False).groupby(number).any().tolist()
    facts = zip(*(by_arm[name].tolist() for name in by_arm), strict=True)
    arms = []
    for index, (name, arch, recipe) in enumerate(facts):
        start = stops[index - 1] if index else 0
        arms.append(
            Arm(
                label=str(arch if pd.isna(name) else name),
                arch_hash=None if pd.isna(arch) else str(arch),
                recipe_hash=None if pd.isna(recipe) else str(recipe),
                is_baseline=bool(marked[index]),
                repeats=trials_of[index] - (stops[index] - start),
                all_cells=cells,
                start=start,
                stop=stops[index],
            )
        )
    if declared is not None and declared.design is not None:
        set_by: list[set[str | None]] = [set() for _ in arms]
        for index, text in zip(number.tolist(), known["overrides"].tolist(), strict=True):
            set_by[index].add(None if pd.isna(text) else str(text))
        arms = laid_over(arms, declared, set_by)
    return with_distinct_labels(arms)


def group_numbers(known: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Number the arm of each trial, in order of first appearance.

    A trial that failed before its network was known goes to the arm of its name; one without a recipe to the only
    recipe there is.

    Returns:
        The number of each trial's arm, int64 (trials,), and how many arms there are.
    """
    hash_of_name = (
        known.dropna(subset=["arm", "arch_hash"]).drop_duplicates("arm").set_index("arm")["arch_hash"].to_dict()
    )
    recipes = known["recipe_hash"].dropna().unique().tolist()
    numbers: dict[tuple[str, str], int] = {}
    number = np.empty(len(known), dtype=np.int64)
    columns = (known[name].tolist() for name in ("arm", "arch_hash", "recipe_hash"))
    for position, (name, arch, recipe) in enumerate(zip(*columns, strict=True)):
        what = arch if isinstance(arch, str) else hash_of_name.get(name, f"name:{name}")
        how = recipe if isinstance(recipe, str) else (recipes[0] if len(recipes) == 1 else "")
        number[position] = numbers.setdefault((what, how), len(numbers))
    return number, len(numbers)


def with_distinct_labels(arms: list[Arm]) -> list[Arm]:
    """Put the hash of the architecture, or of the recipe, behind labels that several arms share."""
    by_label, by_network = Counter(arm.label for arm in arms), Counter((arm.label, arm.arch_hash) for arm in arms)
    distinct = []
    for arm in arms:
        extra = []
        if by_label[arm.label] > by_network[arm.label, arm.arch_hash]:
            extra.append(arm.arch_hash or "not built")
        if by_network[arm.label, arm.arch_hash] > 1:
            extra.append(f"recipe {arm.recipe_hash or 'unknown'}")
        distinct.append(replace(arm, label=f"{arm.label} [{', '.join(extra)}]") if extra else arm)
    return distinct


def find_arm(arms: Sequence[Arm], name: str) -> Arm:
    """Return the arm with this label, or with this architecture hash (or the first four or more digits of it).

    Raises:
        ValueError: no arm, or more than one, answers to `name`; the message lists the arms, the near matches first.
    """
    for found in (
        [arm for arm in arms if arm.label == name],
        [arm for arm in arms if arm.arch_hash == name],
        [arm for arm in arms if len(name) >= 4 and (arm.arch_hash or "").startswith(name)],
        [arm for arm in arms if arm.label.startswith((f"{name} [", f"{name}, "))],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"'{arm.label}' ({arm.arch_hash})" for arm in found)
            raise ValueError(f"'{name}' names {len(found)} arms: {listed}. Give the whole label or hash")
    near = nearest(name, [arm.label for arm in arms])
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(f"'{arm.label}' ({arm.arch_hash})" for arm in arms) or "none"
    raise ValueError(f"no arm is called '{name}'.{hint} Arms: {listed}")
