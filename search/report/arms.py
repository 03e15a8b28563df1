"""The arms of a table: trials grouped by what was built, each seed counted once, and what their study declared to vary.

Arms of different recipes are not compared, with one exception: a design may vary the recipe, the data or the backbone itself.
Its cells are written into `design.json` before they are run, each trial records what it set, and so it is known which difference of
recipe is a level of a factor and which is an accident.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from search.ledger.record import RECIPE_PARTS
from search.ledger.study_files import CONTROL, Cell, DeclaredDesign, read_design
from search.report.words import did_you_mean

CONTINUED = ("shared", "fork")  # starts: a trained network, or the whole state of one that was half trained
INIT_STREAM = "start.init_stream"  # of the null control another one than of the baseline, which it is otherwise
GROUP = "the design"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of a table.

    Attributes:
        label: name of the architecture; behind it the levels of the design's factors that its recipe depends on, and a
            hash where two arms would otherwise share a name.
        arch_hash: hash of the architecture; None where it failed before one was known.
        recipe_hash: of what is held equal between arms; arms of different ones are not compared, unless the design says so.
        repeats: trials that were left out because their seed had been counted.
        all_trials: one trial for each seed of every arm of the table, each arm's behind one another; this arm's from `start`
            to `stop`.
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
    all_trials: pd.DataFrame = field(repr=False, compare=False)
    start: int
    stop: int
    levels: Mapping[str, str] = field(default_factory=dict)
    cell_names: tuple[str, ...] = ()
    design: str | None = None
    recipe_factors: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()

    @property
    def trials(self) -> pd.DataFrame:
        """One row for each seed, sorted by seed: the first trial that finished, else the last that did not."""
        return self.all_trials.iloc[self.start : self.stop]

    def values(self, metric: str) -> pd.Series[float]:
        """Return `metric` of the finished trials, indexed by seed; failed, pruned and missing ones are not in it."""
        trials = self.trials
        ok = trials[trials["status"] == "ok"].dropna(subset=[metric])
        return pd.Series(ok[metric].to_numpy(dtype=float), index=pd.Index(ok["seed"].to_numpy(dtype="int64")))


def compared_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return those trials that the rows of a table are of.

    Where some went on from trained networks these are they, without the null control; the roots, and what was trained from scratch
    beside them, have another question. Else they are all.
    """
    if "start" not in trials or not trials["start"].isin(CONTINUED).any():
        return trials
    continued, scratch = trials["start"].isin(CONTINUED), trials["start"].eq("scratch").fillna(False)
    beside = set(trials.loc[scratch, "seed"].dropna()) - set(trials.loc[continued, "seed"].dropna())
    running = trials["status"].eq("unfinished") & trials["seed"].isin(
        beside
    )  # a root; what it starts from is not on record
    return trials[~scratch & ~running & ~is_null(trials)]


def is_null(trials: pd.DataFrame) -> pd.Series[bool]:
    """Tell which trials are of the null control: the baseline again, whose branches, of which it has none, would be drawn otherwise."""
    texts = trials["overrides"]
    other = {text: values(text.split("; ")).get(INIT_STREAM, "0") != "0" for text in texts.dropna().unique()}
    return pd.Series([other.get(text, False) for text in texts.tolist()], index=trials.index, dtype=bool)


def comparable(one: Arm, other: Arm) -> bool:
    """Tell whether a difference of two arms has a meaning: one recipe, or recipes that a design of theirs varies."""
    return one.recipe_hash == other.recipe_hash or (one.design is not None and one.design == other.design)


def list_arms(frame: pd.DataFrame, declared: Declared | None = None) -> list[Arm]:
    """Group the trials of one phase into arms, in order of first appearance; ValueError for a frame of several phases.

    Trials that left neither a hash nor a name (killed, or failed before the network was known) belong to no arm, nor do
    those that were not trained because another worker was training the same.
    """
    phases = frame["phase"].dropna().unique().tolist()
    if len(phases) > 1:
        raise ValueError(
            f"the frame holds the phases {', '.join(phases)}; keep one: frame[frame.phase == '{phases[-1]}']"
        )
    known = frame[frame["arch_hash"].notna() | frame["arm"].notna()]
    known = known[known["status"] != "duplicate"].reset_index(drop=True)  # another trial is the arm's
    number, what = _group_numbers(known)
    if not len(known):
        return []
    ok, position = (known["status"] == "ok").to_numpy(dtype=bool), np.arange(len(known))
    # A seed counts once. The first finished trial stands for it, so that nobody picks the luckier of two; where none
    # finished, the last says how it ended.
    columns = {"arm": number, "seed": known["seed"], "lost": ~ok, "place": np.where(ok, position, -position)}
    order = pd.DataFrame(columns).sort_values([*columns]).drop_duplicates(["arm", "seed"])
    kept = known.take(order.index.to_numpy())
    counts = np.bincount(order["arm"], minlength=what)
    stops, repeats = np.cumsum(counts).tolist(), (np.bincount(number, minlength=what) - counts).tolist()
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
                repeats=repeats[index],
                all_trials=kept,
                start=start,
                stop=stops[index],
            )
        )
    if declared is not None and declared.design is not None:
        set_by = [set(texts) for _, texts in known["overrides"].fillna("").groupby(number)]
        arms = _laid_over(arms, declared.design, set_by)
    return _with_distinct_labels(arms)


def _group_numbers(known: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Number the arm of each trial, in order of first appearance; return the numbers and how many arms there are.

    A trial that failed before its network was known goes to the arm of its name; one without a recipe to the only
    recipe there is.
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


def _with_distinct_labels(arms: list[Arm]) -> list[Arm]:
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


def marked_baseline(arms: Sequence[Arm]) -> Arm | None:
    """Return the arm the study marked as its baseline; None where none, or more than one, is marked."""
    marked = [arm for arm in arms if arm.is_baseline]
    return marked[0] if len(marked) == 1 else None


def find_arm(arms: Sequence[Arm], name: str) -> Arm:
    """Return the arm with this label, or with this architecture hash (or the first four or more digits of it).

    ValueError where no arm, or more than one, answers to `name`; the message lists the arms, the near matches first.
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
    hint = did_you_mean(name, [arm.label for arm in arms], " ", "'")
    listed = ", ".join(f"'{arm.label}' ({arm.arch_hash})" for arm in arms) or "none"
    raise ValueError(f"no arm is called '{name}'.{hint} Arms: {listed}")


class Declared(NamedTuple):
    """The design of a study, if it declared one, and why one that is there cannot be used ("" otherwise)."""

    design: DeclaredDesign | None = None
    fault: str = ""


def declared_by(frame: pd.DataFrame) -> Declared:
    """Read what the study of a frame declared; a study run before designs were written down has declared nothing."""
    path = frame.attrs.get("path")
    if path is None:
        return Declared()
    try:
        return Declared(read_design(Path(str(path))))
    except ValueError as error:
        return Declared(fault=f"{error}: arms that were trained by different recipes are not compared")


def _laid_over(arms: Sequence[Arm], design: DeclaredDesign, set_by: Sequence[Collection[str]]) -> list[Arm]:
    """Give each arm the levels of its cell, and let arms whose recipes differ by the design's own factors be compared.

    An arm of several cells (a branch argument where nothing is placed builds one network) has the levels of the first.
    Where a cell was trained by more than one recipe, something else than the design changed it, and recipes are held
    apart as anywhere. `set_by` has the overrides of each arm's trials.
    """
    cells = design.cells
    # without the seed, which is last
    numbers = {"; ".join(cell.overrides): number for number, cell in enumerate(cells)}
    placed: list[list[int]] = []
    recipes: dict[int, set[str]] = {}
    for arm, texts in zip(arms, set_by, strict=True):
        split = [text.rpartition("; ") for text in texts]
        found = {numbers.get(head) if last.startswith(f"{design.seed_key}=") else None for head, _, last in split}
        known = sorted(number for number in found if number is not None)
        placed.append(known if len(known) == len(found) else [])
        for number in known if arm.recipe_hash is not None else ():
            recipes.setdefault(number, set()).add(str(arm.recipe_hash))
    mixed = tuple(cells[number].name for number, found_there in sorted(recipes.items()) if len(found_there) > 1)
    several = len(set().union(*recipes.values())) > 1
    varied = tuple(recipe_factors(cells, list(design.factors))) if several and not mixed else ()
    return [
        replace(
            arm,
            label=", ".join((arm.label, *(f"{name}={cell.factors[name]}" for name in varied if name in cell.factors))),
            levels=cell.factors,
            cell_names=tuple(cells[number].name for number in known),
            design=None if mixed else GROUP,
            recipe_factors=varied,
            mixed=mixed,
        )
        if known and (cell := cells[known[0]])
        else arm
        for arm, known in zip(arms, placed, strict=True)
    ]


def recipe_factors(cells: Sequence[Cell], factors: Sequence[str]) -> list[str]:
    """Return the factors that set something of the recipe; all of them where no key tells which.

    A factor sets a key where each of its levels goes with one value of it, in every cell.
    """
    set_by = [values(cell.overrides) for cell in cells]
    keys = {key for each in set_by for key in each if key.split(".")[0] in RECIPE_PARTS}
    varying = [key for key in keys if len({each.get(key) for each in set_by}) > 1]

    def sets(factor: str, key: str) -> bool:
        pairs = {(cell.factors.get(factor), each.get(key)) for cell, each in zip(cells, set_by, strict=True)}
        return len(pairs) == len({level for level, _ in pairs})

    found = [factor for factor in factors if any(sets(factor, key) for key in varying)]
    return found or [name for name in factors if name != CONTROL]


def values(overrides: Sequence[str]) -> Mapping[str, str]:
    """Return what overrides set, by key; a later one goes before an earlier one."""
    found = {}
    for line in overrides:
        key, _, value = line.partition("=")
        found[key.lstrip("+~")] = value
    return found
