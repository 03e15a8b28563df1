"""Designs whose arms all start from trained plain networks, the roots: what is trained, from which root, on which seed.

A difference from scratch is mostly the luck of two whole runs. Arms that go on from one root share what it has seen, and what is
left is the block's doing and the order of the batches. Roots differ more than orders do, so they are what is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from search.ledger.study_files import CONTROL, KNOWN, NULL, Cell
from xvol.allowed import check_choice, check_number

STARTS = ("scratch", "shared", "fork")
TRAINS = ("all", "blocks")  # of the trial that goes on from a root
OF_STARTS = ("roots", "orders", "root_epochs", "graft_epochs", "gamma", "fork_at", "trains")
MOST_ROOTS, MOST_ORDERS = 100, 9  # so that adding to one changes no seed of the other, within a study's thousand
PLAIN, OF_STUDY = "placement.policy=none", "start.root=study"
ROOT, OF_NULL, OF_KNOWN = "root", "null control", "known control"
FROM_SCRATCH = "known control from scratch"


Facts = Callable[[Sequence[str]], Mapping[str, Any]]
"""Overrides (behind those that all cells share) -> facts of the network they build: "params", "macs" of one image, "arch_hash",
"sites" (names of all), "chosen" (names of those with branches), "branches" (names of those in use). ValueError where they build none."""


@dataclass
class StartOptions:
    """Keys of `hydra.sweeper.design` that say what its arms start from.

    Attributes:
        start: "scratch"; "shared": every arm, and the plain network, is trained on from one trained plain network, the root, whose
            convolutions were converted; "fork": from a plain training that was stopped at a share of its recipe, whose rest is
            trained in each arm. `docs/designs.md` says when to use which, and what each cannot tell.
        roots: of shared and fork: how many plain networks are trained for that, each with a seed of its own; of shared also
            files of plain networks' weights, e.g. [a.pth, b.pth].
        orders: of shared and fork: how often every arm is trained on from each root, each time with other batches.
        root_epochs, graft_epochs: of shared: epochs of a root (null: those of the recipe), and of what goes on from it.
        fork_at: of fork: share of the recipe's epochs that the root takes, above 0 and below 1.
        gamma: of shared and fork: weights that the norms of added branches start with; every arm that keeps its convolution
            is trained with each of them.
        trains: of shared: "all"; "blocks": what goes on trains its blocks alone, and the root stays as it is around them
            (`start.trains`).
    """

    start: str = "scratch"
    roots: Any = 5
    orders: int = 2
    root_epochs: int | None = None
    graft_epochs: int = 3
    fork_at: float = 0.75
    gamma: list[float] = field(default_factory=lambda: [0.0, 0.3])
    trains: str = "all"


@dataclass(frozen=True)
class Starts:
    """What a design with roots trains.

    Attributes:
        cells: of the table: baseline, arms by dose, then the controls.
        root: the plain network that is trained from scratch, or up to where forks begin; None where files are given.
        scratch: cells that are trained from scratch on the roots' seeds.
    """

    cells: list[Cell]
    root: Cell | None
    scratch: list[Cell]

    @property
    def beside(self) -> list[Cell]:
        """The cells that are no rows of the table."""
        return [cell for cell in (self.root, *self.scratch) if cell is not None]


def check_starts(options: StartOptions, where: str, given: Sequence[str]) -> None:
    """Raise ValueError where what is said of starts is out of its range, or of no effect; `given` are the keys that were given."""
    check_choice(f"{where}.start", options.start, STARTS)
    if options.start == "scratch":
        for name in OF_STARTS:
            if name in given:
                raise ValueError(
                    f"{where}.{name} is of no effect from scratch; add {where}.start=shared or fork, or leave it out"
                )
        return
    other = {"shared": ("fork_at",), "fork": ("root_epochs", "graft_epochs", "trains")}[options.start]
    for name in other:
        if name in given:
            raise ValueError(f"{where}.{name} is of no effect with start={options.start}; leave it out")
    check_number(f"{where}.orders", options.orders, low=1, high=MOST_ORDERS)
    check_number(f"{where}.root_epochs", options.root_epochs, low=1, null="those of the recipe")
    check_number(f"{where}.graft_epochs", options.graft_epochs, low=1)
    check_choice(f"{where}.trains", options.trains, TRAINS)
    check_number(f"{where}.fork_at", options.fork_at, above=0, below=1)
    if not options.gamma or len(set(options.gamma)) < len(options.gamma):
        raise ValueError(f"{where}.gamma={list(options.gamma)}: give one or more weights that differ, e.g. [0, 0.3]")
    _check_roots(options, where)


def _check_roots(options: StartOptions, where: str) -> None:
    if isinstance(options.roots, int) and not isinstance(options.roots, bool):
        check_number(f"{where}.roots", options.roots, low=1, high=MOST_ROOTS)
        return
    if not isinstance(options.roots, Sequence) or isinstance(options.roots, str) or not options.roots:
        raise ValueError(
            f"{where}.roots={options.roots}: give how many are trained, e.g. 5, or files of weights, e.g. [a.pth, b.pth]"
        )
    if options.start == "fork":
        raise ValueError(
            f"{where}.roots={list(options.roots)}: a fork needs the optimiser's state, which no file of weights has; take start=shared"
        )
    if len(options.roots) > MOST_ROOTS:
        raise ValueError(f"{where}.roots: {len(options.roots)} files, allowed are {MOST_ROOTS}")
    for file in map(str, options.roots):
        if not Path(file).is_file():
            raise ValueError(f"{where}.roots: there is no file {file}")


def number_of_roots(options: StartOptions) -> int:
    """How many there are."""
    return options.roots if isinstance(options.roots, int) else len(options.roots)


def starts_of(
    options: StartOptions, cells: Sequence[Cell], recipe: Mapping[str, Any], facts: Facts | None, shared: Sequence[str]
) -> Starts:
    """The cells of a design as they start from roots, with their controls.

    Args:
        cells: the baseline first.
        recipe: the resolved values of `train`, before the cells set anything.
        facts: of a network by its overrides: "chosen" sites, and the "branches" in them; None where they are not told, so that
            there are no doses and no known control.
        shared: overrides of all cells, which stand in `cells` already.
    """
    lines, of_root = _lines(options, recipe)
    arms = [_dosed(cell, options.gamma, facts) for cell in cells]
    if len(arms[0]) > 1:
        raise ValueError(
            f"hydra.sweeper.design.gamma={list(options.gamma)}: the baseline has blocks itself, and differences are taken against one; "
            "give one weight"
        )
    found = [replace(each, overrides=(*each.overrides, *lines)) for dosed in arms for each in dosed]
    base, scratch = cells[0], list[Cell]()
    if facts is None or not facts(base.overrides)["chosen"]:
        null = (*base.overrides, *lines, "start.init_stream=1")
        found.append(Cell(OF_NULL, null, {**base.factors, CONTROL: NULL}))
    known = _known(cells, facts)
    if known is not None and facts is not None:
        there = _same(known, cells, facts)
        if there is None:
            found.append(replace(known, overrides=(*known.overrides, *lines)))
        else:  # an arm of the design is it
            at = next(at for at, cell in enumerate(found) if cell.name == there.name)
            found[at] = replace(found[at], factors={**there.factors, CONTROL: KNOWN})
        if not isinstance(options.roots, int):
            return Starts(found, None, [])
        whole = [line for line in of_root if not line.startswith("start.stop_epoch=")]
        scratch.append(replace(known, name=FROM_SCRATCH, overrides=(*known.overrides, *whole)))
    root = Cell(ROOT, (*shared, PLAIN, *of_root)) if isinstance(options.roots, int) else None
    return Starts(found, root, scratch)


def _lines(options: StartOptions, recipe: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What sets apart all trials that start from a root, and the roots."""
    if options.start == "fork":
        epochs = int(recipe.get("epochs", 0))
        stop = min(max(1, round(options.fork_at * epochs)), epochs - 1)
        if stop < 1:
            raise ValueError(
                f"hydra.sweeper.design.start=fork: train.epochs={epochs} leaves no epoch on either side of the fork; take 2 or more"
            )
        return ["start.kind=fork", OF_STUDY], [f"start.stop_epoch={stop}"]
    lines = ["start.kind=shared", OF_STUDY, f"train.epochs={options.graft_epochs}"]
    if options.trains != "all":
        lines.append(f"start.trains={options.trains}")
    if recipe.get("low_res") is not None:  # made for the first steps of a network, which a root has behind it
        lines += ["train.low_res=null", "train.low_res_epochs=0"]
    if recipe.get("warmup_epochs"):
        lines += ["train.warmup_epochs=null"]
    return lines, [] if options.root_epochs is None else [f"train.epochs={options.root_epochs}"]


def _dosed(cell: Cell, gammas: Sequence[float], facts: Facts | None) -> list[Cell]:
    """A cell whose blocks have a convolution, once for each weight that its other branches start with."""
    known = None if facts is None else _facts(cell, facts)
    if known is None or not known["chosen"] or "conv" not in known["branches"] or len(known["branches"]) == 1:
        return [cell]
    several = len(gammas) > 1
    return [
        replace(
            cell,
            name=f"{cell.name}, gamma={gamma:g}" if several else cell.name,
            overrides=(*cell.overrides, f"branch.gamma={gamma:g}"),
            factors={**cell.factors, **({"gamma": f"{gamma:g}"} if several else {})},
        )
        for gamma in gammas
    ]


def _known(cells: Sequence[Cell], facts: Facts | None) -> Cell | None:
    """The middle one of the arms that have a convolution and something beside it, without its convolution: known to be worse."""
    told = [(cell, _facts(cell, facts)) for cell in cells] if facts is not None else []
    both = [
        (cell, its) for cell, its in told if its is not None and "conv" in its["branches"] and len(its["branches"]) > 1
    ]
    if not both:
        return None
    cell, its = both[len(both) // 2]
    alone = "+".join(name for name in its["branches"] if name != "conv")
    use = f"placement.at={{{'+'.join(its['chosen'])}:{alone}}}"
    return Cell(OF_KNOWN, (*cell.overrides, use), {**cell.factors, CONTROL: KNOWN})


def _same(known: Cell, cells: Sequence[Cell], facts: Facts) -> Cell | None:
    """The cell that builds the same network."""
    own = facts(known.overrides)["arch_hash"]
    told = ((cell, _facts(cell, facts)) for cell in cells)
    return next((cell for cell, its in told if its is not None and its["arch_hash"] == own), None)


def _facts(cell: Cell, facts: Facts | None) -> Mapping[str, Any] | None:
    """What the network of a cell is; None where it cannot be built, as it will be told."""
    assert facts is not None
    try:
        return facts(cell.overrides)
    except ValueError:
        return None
