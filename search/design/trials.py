"""What a design writes down for its study: which cell is trained on which seed, in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.design.kinds import replicates
from search.design.options import SEEDS, Design, DesignOptions
from search.design.start import MOST_ROOTS, Starts, number_of_roots
from search.ledger.study_files import Cell

BLOCK = 1000  # seeds that belong to one study and phase
BLOCKS = 1_000_000
SMALLEST = 1_000_000  # below lie the seeds that people write


def first_seeds(options: DesignOptions) -> int:
    """How many seeds every cell is trained on: all of them, or those before the first look."""
    return options.looks[0] if options.looks else SEEDS if options.seeds is None else options.seeds


def first_seed_of(study: str, phase: str, there: Iterable[int] = (), searched: Collection[int] = ()) -> int:
    """The first seed of a study's phase ("final", "design"): the first of those that it stands on already, else its name's own.

    Args:
        study: the study's name; two names share a seed once in a million.
        there: seeds that the phase stands on already.
        searched: seeds that the search trains on; the block that is returned holds none of them.
    """
    if (begun := min(there, default=None)) is not None:
        return begun
    digest = hashlib.blake2b(f"{study}\0{phase}".encode(), digest_size=8).digest()
    block = int.from_bytes(digest, "big") % BLOCKS
    while any(0 <= seed - (SMALLEST + BLOCK * block) < BLOCK for seed in searched):
        block = (block + 1) % BLOCKS
    return SMALLEST + BLOCK * block


def written_trials(
    cells: Sequence[Cell],
    options: DesignOptions,
    fixed: Sequence[str] = (),
    seed_key: str = "seed",
    counts: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Cells x seeds as user attributes of a study's trials, in the order of `replicates`.

    Args:
        options: with `first_seed`, see `first_seed_of`.
        fixed: overrides that all trials of the study share; they go first.
        counts: seeds of each cell by its name, where cells differ; by default `first_seeds` of each.
    """
    first = options.first_seed
    assert first is not None
    number = counts or {cell.name: first_seeds(options) for cell in cells}
    seeds = range(first, first + max(number.values(), default=0))
    return [
        {
            "cell": cell_at(cell, seed),
            "overrides": [*fixed, *cell.overrides, f"{seed_key}={seed}"],
            "is_baseline": cell.is_baseline,
        }
        for cell, seed in replicates(cells, seeds, options.order_seed)
        if seed - first < number[cell.name]
    ]


def trained_on(options: DesignOptions) -> dict[str, Any]:
    """The options that say on how many seeds cells are trained, and on which."""
    of_starts = {"roots": options.roots, "orders": options.orders}
    counted = {"seeds": first_seeds(options)} if options.start == "scratch" else of_starts
    return {**counted, "first_seed": options.first_seed}


def number_of_trials(design: Design, options: DesignOptions) -> int:
    """How many trials a design has, before any look."""
    if design.starts is None:
        return len(design.cells) * first_seeds(options)
    roots = number_of_roots(options)
    each = len(design.cells) * options.orders + len(design.starts.scratch) + (design.starts.root is not None)
    return roots * each


def starts_in_words(options: DesignOptions) -> str:
    """What each cell of a design with roots is trained on."""
    roots = number_of_roots(options)
    return f"{roots} root{'s' * (roots > 1)} x {options.orders} order{'s' * (options.orders > 1)} of the batches, seeds"


def start_trials(starts: Starts, options: DesignOptions, fixed: Sequence[str], seed_key: str) -> list[dict[str, Any]]:
    """The trials as user attributes of a study's: roots, then all cells from each root, order by order, then what is from scratch.

    Root r has the seed `first_seed` + r, and order o of it that plus 100 o; the orders of a graft count from 1, so that no batch
    is seen in the order of the root's own training, and those of a fork from 0, which goes on with it.
    """
    first = options.first_seed
    assert first is not None
    roots = range(number_of_roots(options))
    begin = int(options.start == "shared" and starts.root is not None)

    def trial(cell: Cell, seed: int, **more: Any) -> dict[str, Any]:
        lines = [*fixed, *cell.overrides, f"{seed_key}={seed}"]
        return {"cell": f"{cell.name}/{seed}", "overrides": lines, "is_baseline": cell.is_baseline, **more}

    written = [trial(starts.root, first + root, is_root=True) for root in roots] if starts.root is not None else []
    pairs = [(root, order) for order in range(begin, begin + options.orders) for root in roots]
    of_seed = {first + MOST_ROOTS * order + root: root for root, order in pairs}
    for cell, seed in replicates(starts.cells, list(of_seed), options.order_seed):
        root = of_seed[seed]
        if starts.root is None:
            written.append(trial(cell, seed, root_file=str(Path(str(options.roots[root])).absolute())))
        else:
            written.append(trial(cell, seed, root=f"{starts.root.name}/{first + root}"))
    return written + [trial(cell, first + root) for root in roots for cell in starts.scratch]


def cell_at(cell: Cell, seed: int) -> str:
    """The name under which a cell on one seed stands in a study."""
    return f"{cell.name}/{seed}"
