"""A study as a library of blocks: what each (place, use) brings alone and costs, and which of them another study's arms are made of.

Read off the names of arms, which are policies that select their sites again, e.g. "stage3: conv+pssa(rank=2) gamma=0.3". The weight that
a norm begins with is no part of a use: it says how a training begins, not what stands there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from search.report.arms import Arm, comparable
from search.report.starts import is_continued
from search.report.values import Reading, arm_values, names_of_roots, read_arms
from search.report.words import counted, joined_few, one_line
from search.stats.nested import root_means
from search.stats.paired import ArmValues, shared
from search.stats.placing import Problem

PLAIN, EVERYWHERE = "plain", "all"
COSTS = ("params", "macs", "latency_ms")
PER_UNIT = {"latency_ms": 1_000_000}  # whole numbers to search with: of latency nanoseconds
SHOWN = 3  # names in a note


@dataclass(frozen=True)
class Option:
    """One use of one place.

    Attributes:
        place: a policy that selects it. use: names of branches, with their options in brackets.
        sites: that it takes up.
        costs: what it adds to the plain network by name, those of `COSTS` that are known.
    """

    place: str
    use: str
    sites: frozenset[str]
    costs: Mapping[str, float]

    @property
    def words(self) -> str:
        """As arms are named."""
        return f"{self.place}: {self.use}"


@dataclass(frozen=True, kw_only=True)
class Library:
    """What a study tells of single places.

    Attributes:
        gains: float64 (R, N), how much better than the plain network each option is on each root, in the unit of the metric.
        unit: what the rows of `gains` are: "root", "seed" or "order".
        plain: costs of the plain network by name.
        alone: whether latencies were measured in an exclusive slot; None without any.
        notes: what was left out, and why.
    """

    read: Reading
    options: list[Option]
    gains: np.ndarray
    unit: str
    plain: Mapping[str, float]
    alone: bool | None
    notes: list[str]

    def problem(self, budgets: Mapping[str, float]) -> Problem:
        """What may be taken within absolute budgets; ValueError where a cost is not known, or nothing fits."""
        for name in budgets:
            if name not in self.plain or any(name not in option.costs for option in self.options):
                how = "; train with measure.latency_repeats=20" if name == "latency_ms" else ""
                raise ValueError(f"--budget {name}: the study has no {name} of every place{how}")
        known = [name for name in ("macs", "params", "latency_ms") if all(name in each.costs for each in self.options)]
        names = list(dict.fromkeys((*budgets, *known)))
        sites = sorted(set[str]().union(*(option.sites for option in self.options)))
        scale = [PER_UNIT.get(name, 1) for name in names]
        added = [[round(each.costs[name] * by) for each in self.options] for name, by in zip(names, scale, strict=True)]
        left = [
            (budgets[name] - self.plain[name]) * by if name in budgets else np.inf
            for name, by in zip(names, scale, strict=True)
        ]
        covers = np.array([[site in option.sites for site in sites] for option in self.options], dtype=bool)
        return Problem(covers, np.array(added, dtype=np.int64).reshape(len(names), len(self.options)), np.array(left))


@dataclass
class Parts:
    """Arms of another study as sums of options.

    Attributes:
        arms: those with a block. taken: for each, bool (N,), its options.
        measured: float64 (units, A), how much better than the plain network each is, NaN where it did not finish.
        left_out: names of arms that are no sum of options, or whose norms began with another weight than those of most arms.
    """

    arms: list[Arm] = field(default_factory=list)
    taken: list[np.ndarray] = field(default_factory=list)
    measured: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    left_out: list[str] = field(default_factory=list)


def read_library(frame: pd.DataFrame, metric: str) -> Library:
    """Read what each place brings alone.

    ValueError where there is no plain arm, no arm of one place, one of several weights, or no root or seed that all have.
    """
    read = read_arms(frame, metric=metric)
    values = arm_values(read.arms, read.metric.column)
    reference, base = _plain_of(read, values)
    found: dict[tuple[str, str], tuple[Arm, ArmValues]] = {}
    twice: dict[tuple[str, str], str] = {}
    for arm, its in zip(read.arms, values, strict=True):
        groups = groups_of(arm)
        if len(groups) != 1 or not comparable(arm, reference):
            continue
        where, what, _ = groups[0]
        if (where, what) in found:
            twice[where, what] = f"'{found[where, what][0].label}' and '{arm.label}'"
        found[where, what] = arm, its
    joint = {key for key in found if _is_joint(key, found)}
    for (where, what), names in twice.items():
        if (where, what) not in joint:
            raise ValueError(
                f"{where}: {what} was trained in several ways ({names}), and a placement takes one of them; train the library with one "
                "weight of its norms, hydra.sweeper.design.gamma=[0.3], and one recipe"
            )
    notes = _left_out(
        "arms of several places",
        [name_of(a) for a in read.arms if len(groups_of(a)) > 1] + [f"{p}: {u}" for p, u in joint],
    )
    sense = 1.0 if read.metric.higher_is_better else -1.0
    by_unit = {key: _by_unit(found[key][1], base) for key in found if key not in joint}
    notes += _left_out(
        "places that share no finished seed with the plain network",
        [": ".join(key) for key, had in by_unit.items() if not had],
    )
    by_unit = {key: had for key, had in sorted(by_unit.items()) if had}
    if not by_unit:
        raise ValueError(
            f"{read.studies}: no finished arm has blocks at one place alone; train a library, e.g. python -m search -m "
            "experiment=proxy/library (docs/designs.md)"
        )
    units = sorted(set.intersection(*(set(had) for had in by_unit.values())))
    every = set[int]().union(*by_unit.values())
    unit = "seed" if not is_continued(read) else "root" if base.roots is not None else "order"
    if not units:
        raise ValueError(
            f"{read.studies}: no {unit} was finished by every place, so that their gains cannot be added up"
        )
    if len(units) < len(every):
        notes.append(f"{counted(len(every) - len(units), unit)} left out, on which a place did not finish.")
    plain, alone = _costs(base), base.latency_exclusive
    options = []
    for where, what in by_unit:
        arm, its = found[where, what]
        own = _costs(its)
        costs = {name: own[name] - plain[name] for name in COSTS if name in own and name in plain}
        options.append(Option(where, what, _sites(arm), costs))
        alone = alone and its.latency_exclusive
    gains = sense * np.array([[had[unit] for had in by_unit.values()] for unit in units])
    return Library(read=read, options=options, gains=gains, unit=unit, plain=plain, alone=alone, notes=notes)


def read_parts(frame: pd.DataFrame, library: Library) -> tuple[Reading, Parts]:
    """Read the arms of a study as sums of the options of a library; of the library's own study those of several places.

    ValueError as `read_library`.
    """
    read = read_arms(frame, metric=library.read.metric.column)
    values = arm_values(read.arms, read.metric.column)
    reference, base = _plain_of(read, values)
    is_own = read.studies == library.read.studies and bool(same_seeds(read, library.read))
    parts, rows = Parts(), []
    # what began with another weight than most is another arm, and no library tells of it
    began = Counter((use, gamma) for arm in read.arms for _, use, gamma in groups_of(arm))
    usual = dict(use_and_gamma for use_and_gamma, _ in reversed(began.most_common()))
    for arm, its in zip(read.arms, values, strict=True):
        groups = groups_of(arm)
        if not groups:
            continue
        taken, had = options_of(arm, library.options), _by_unit(its, base)
        is_usual = all(usual[use] == gamma for _, use, gamma in groups)
        if taken is None or not had or not is_usual or not comparable(arm, reference):
            parts.left_out.append(name_of(arm))
            continue
        if is_own and taken.sum() == 1:
            continue
        parts.arms.append(arm)
        parts.taken.append(taken)
        rows.append(had)
    sense = 1.0 if read.metric.higher_is_better else -1.0
    units = sorted(set[int]().union(*rows))
    measured = np.full((len(units), len(rows)), np.nan)
    for at, had in enumerate(rows):
        measured[np.isin(units, [*had]), at] = [had[unit] for unit in sorted(had)]
    parts.measured = sense * measured
    return read, parts


def name_of(arm: Arm) -> str:
    """The name of its network, without the levels and hashes that set apart arms of one name; "" where none was built."""
    names = arm.trials["arm"].dropna()
    return str(names.iloc[0]) if len(names) else ""


def groups_of(arm: Arm) -> list[tuple[str, str, str]]:
    """Where blocks stand, what stands there, and the weight its norms began with, as written; none of a plain network."""
    groups = []
    for group in name_of(arm).split("; "):
        where, colon, what = group.partition(": ")
        use, _, gamma = what.partition(" gamma=")
        if colon:
            groups.append((where, use, gamma))
    return groups


def options_of(arm: Arm, options: Sequence[Option]) -> np.ndarray | None:
    """Which options an arm is made of, bool (N,); None where it is no sum of them."""
    taken = np.zeros(len(options), dtype=bool)
    for where, use, _ in groups_of(arm):
        whole = [at for at, option in enumerate(options) if (option.place, option.use) == (where, use)]
        for piece in [] if whole else where.split("+"):
            inside = (
                at
                for at, option in enumerate(options)
                if option.use == use and (piece in (option.place, EVERYWHERE) or option.place.startswith(f"{piece}."))
            )
            whole += inside
        taken[whole] = True
    covered = [site for at in np.flatnonzero(taken).tolist() for site in options[at].sites]
    exact = len(covered) == len(set(covered)) and set(covered) == _sites(arm)
    return taken if exact and covered else None


def few(names: Sequence[str]) -> str:
    """A few of the arms that are left out."""
    return joined_few([one_line(name, 60) for name in names], SHOWN)


def same_seeds(one: Reading, other: Reading) -> list[int]:
    """Seeds on which both studies trained something, or started from something."""
    found = []
    for read in (one, other):
        roots = pd.to_numeric(names_of_roots(read.trials), errors="coerce") if "root" in read.trials else pd.Series()
        found.append({int(seed) for seed in [*read.trials["seed"].dropna(), *roots.dropna()]})
    return sorted(found[0] & found[1])


def _plain_of(read: Reading, values: Sequence[ArmValues]) -> tuple[Arm, ArmValues]:
    """The plain network: what the study marks, or what is called so."""
    plain = [at for at, arm in enumerate(read.arms) if not groups_of(arm)]
    marked = [at for at in plain if read.arms[at] is read.reference] or plain
    if len(marked) != 1:
        there = ", ".join(f"'{read.arms[at].label}'" for at in plain) or "none of its arms is"
        raise ValueError(
            f"{read.studies}: gains are differences to the plain network, and {there} {'marked as the baseline' if plain else 'one'}; "
            "give a study whose baseline has no blocks"
        )
    return read.arms[marked[0]], values[marked[0]]


def _is_joint(key: tuple[str, str], found: Mapping[tuple[str, str], tuple[Arm, ArmValues]]) -> bool:
    """Whether an arm's sites are those of other arms with the same use, put together."""
    sites = _sites(found[key][0])
    parts = [its for other, (arm, _) in found.items() if other[1] == key[1] and (its := _sites(arm)) < sites]
    return len(parts) > 1 and set[str]().union(*parts) == sites


def _by_unit(its: ArmValues, base: ArmValues) -> dict[int, float]:
    """Arm minus plain network, by root, or by seed where there are no roots."""
    seeds, ours, theirs = shared(its, base)
    roots = base.roots_at(seeds)
    if roots is None:
        return dict(zip(seeds.tolist(), (ours - theirs).tolist(), strict=True))
    return dict(zip(np.unique(roots).tolist(), root_means((ours - theirs)[None], roots)[0].tolist(), strict=True))


def _costs(its: ArmValues) -> dict[str, float]:
    return {name: float(value) for name in COSTS if (value := getattr(its, name)) is not None}


def _sites(arm: Arm) -> frozenset[str]:
    names = arm.trials["sites"].dropna()
    return frozenset(str(names.iloc[0]).split("; ")) if len(names) else frozenset()


def _left_out(what: str, names: Sequence[str]) -> list[str]:
    return [f"Left out, {what}: {few(names)}."] if names else []
