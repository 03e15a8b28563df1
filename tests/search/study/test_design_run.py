"""Designs as real processes: each cell on each seed, cells that fail, and what a design would pass over."""

import subprocess
from collections import Counter
from collections.abc import Callable

import pytest

from search.design.trials import first_seed_of
from search.ledger.study_files import read_changes

from .conftest import Toy, count

Run = Callable[..., "subprocess.CompletedProcess[str]"]
NOTHING = {"complete": 0, "pruned": 0, "failed": 0, "running": 0, "waiting": 0, "skipped": 0}
DESIGN = [
    *(f"hydra.sweeper.design.{line}" for line in ("kind=one_at_a_time", "seeds=2", "first_seed=5")),
    "+hydra.sweeper.design.factors.x=['x=5','x=3','x=4']",
]


def test_a_design_trains_each_cell_on_each_seed_and_takes_more_of_both(toy: Toy, run: Run) -> None:
    run(*DESIGN)
    assert {line[0] for line in toy.trace} == {"final"}
    assert Counter((line[2], line[3]) for line in toy.trace) == {(x, seed): 1 for x in "534" for seed in "56"}
    assert [line[3] for line in toy.trace] == ["5"] * 3 + ["6"] * 3  # seed by seed: balanced if it is interrupted
    run(*DESIGN[:-1], "hydra.sweeper.design.seeds=3", "+hydra.sweeper.design.factors.x=['x=5','x=3','x=4','x=7']")
    assert len(toy.trace) == 4 * 3
    (change,) = read_changes(toy.study_dir())
    assert change.changed == {"design.seeds": (2, 3)}
    trials = toy.study("toy.final").trials
    assert {"x=5" in trial.user_attrs["overrides"] for trial in trials if trial.user_attrs["is_baseline"]} == {True}


@pytest.mark.slow
def test_each_design_has_seeds_of_its_own_and_keeps_them(toy: Toy, run: Run) -> None:
    lines = [line for line in DESIGN if "first_seed" not in line]
    for name in ("one", "two"):
        run(*lines, f"hydra.sweeper.study_name={name}", "admit=true")
    run(*lines, "hydra.sweeper.study_name=one", "admit=true", "hydra.sweeper.design.seeds=3")
    firsts = [first_seed_of(name, "design") for name in ("one", "two")]
    seeds = Counter(int(line[3]) for line in toy.trace)
    assert seeds == Counter({firsts[0] + n: 3 for n in range(3)} | {firsts[1] + n: 3 for n in range(2)})


@pytest.mark.slow
def test_a_cell_that_fails_is_told_and_the_others_go_on(toy: Toy, run: Run) -> None:
    run(*DESIGN, "fault=raise", "faulty=[3]")
    assert vars(count(toy.study("toy.final").get_trials())) == {**NOTHING, "complete": 4, "failed": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.design.kind=one_at_time"], "did you mean one_at_a_time?"),
        ([*DESIGN, "hydra.sweeper.pruner={_target_:optuna.pruners.MedianPruner}"], "take pruner=none"),
        ([*DESIGN, "hydra.sweeper.seeds_per_trial=2"], "hydra.sweeper.design.seeds"),
        ([*DESIGN, "x=7"], "x=7 has no effect: every cell of the design sets x itself"),
        ([*DESIGN, "seed=7"], "leave it out, or give hydra.sweeper.design.first_seed"),
        (
            [*DESIGN[:-1], "+hydra.sweeper.design.factors.y=[[],'y=1','y=2']", "y=2"],
            "cells baseline and y=2 of the design are the same configuration: what sets them apart (y=2)",
        ),
    ],
)
def test_what_a_design_would_pass_over_is_refused(toy: Toy, overrides: list[str], message: str) -> None:
    done = toy.run(*overrides)
    assert done.returncode != 0
    assert message in done.stderr
    assert toy.trace == []
