"""The arms of a table: trials grouped by what was built, each seed counted once."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

__all__ = ["Arm", "find_arm", "list_arms"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of a table.

    Attributes:
        label: name of the architecture, with a hash behind it where two arms would otherwise share a name.
        arch_hash: hash of the architecture; None where it failed before one was known.
        recipe_hash: hash of what is held equal between arms; arms of different recipes are never compared.
        is_baseline: whether the study marked it as its baseline.
        cells: one row for each seed, sorted by seed: the first trial that finished, else the last that did not.
        repeats: trials that were left out because their seed had been counted.
    """

    label: str
    arch_hash: str | None
    recipe_hash: str | None
    is_baseline: bool
    cells: pd.DataFrame
    repeats: int

    def values(self, metric: str) -> pd.Series[float]:
        """Return `metric` of the finished trials, indexed by seed; failed, pruned and missing ones are not in it."""
        ok = self.cells[self.cells["status"] == "ok"].dropna(subset=[metric])
        return pd.Series(ok[metric].to_numpy(dtype=float), index=pd.Index(ok["seed"].to_numpy(dtype="int64")))


def list_arms(frame: pd.DataFrame) -> list[Arm]:
    """Group the trials of one phase into arms, in order of first appearance.

    Trials that left neither a hash nor a name (killed, or failed before the network was known) belong to no arm.

    Args:
        frame: rows of `load_study`, all of one phase.

    Raises:
        ValueError: the frame holds several phases, whose numbers must not be averaged together.
    """
    phases = frame["phase"].dropna().unique().tolist()
    if len(phases) > 1:
        raise ValueError(
            f"the frame holds the phases {', '.join(phases)}; keep one: frame[frame.phase == '{phases[-1]}']"
        )
    known = frame[frame["arch_hash"].notna() | frame["arm"].notna()]
    groups: dict[tuple[str, str], list[int]] = {}
    hash_of_name = (
        known.dropna(subset=["arm", "arch_hash"]).drop_duplicates("arm").set_index("arm")["arch_hash"].to_dict()
    )
    recipes = known["recipe_hash"].dropna().unique().tolist()
    for position, (name, arch, recipe) in enumerate(
        zip(known["arm"], known["arch_hash"], known["recipe_hash"], strict=True)
    ):
        what = arch if pd.notna(arch) else hash_of_name.get(name, f"name:{name}")
        how = recipe if pd.notna(recipe) else (recipes[0] if len(recipes) == 1 else "")
        groups.setdefault((what, how), []).append(position)
    return with_distinct_labels([arm_of(known.iloc[rows]) for rows in groups.values()])


def arm_of(trials: pd.DataFrame) -> Arm:
    """Make an arm of the trials of one architecture under one recipe."""
    ok = trials["status"] == "ok"
    # A seed counts once. The first finished trial stands for it, so that nobody picks the luckier of two.
    finished = trials[ok].drop_duplicates("seed", keep="first")
    others = trials[~ok & ~trials["seed"].isin(finished["seed"])].drop_duplicates("seed", keep="last")
    cells = pd.concat([finished, others]).sort_values("seed")
    names, hashes, recipes = (trials[name].dropna() for name in ("arm", "arch_hash", "recipe_hash"))
    return Arm(
        label=str(names.iloc[0]) if len(names) else str(hashes.iloc[0]),
        arch_hash=str(hashes.iloc[0]) if len(hashes) else None,
        recipe_hash=str(recipes.iloc[0]) if len(recipes) else None,
        is_baseline=bool(trials["is_baseline"].fillna(False).any()),
        cells=cells,
        repeats=len(trials) - len(cells),
    )


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
        [arm for arm in arms if arm.label.startswith(f"{name} [")],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            listed = ", ".join(f"'{arm.label}' ({arm.arch_hash})" for arm in found)
            raise ValueError(f"'{name}' names {len(found)} arms: {listed}. Give the whole label or hash")
    near = difflib.get_close_matches(name, [arm.label for arm in arms], n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(f"'{arm.label}' ({arm.arch_hash})" for arm in arms) or "none"
    raise ValueError(f"no arm is called '{name}'.{hint} Arms: {listed}")
