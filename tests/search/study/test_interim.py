"""The looks of a design: who goes on, what is made up for, and that nobody changes the plan on the way."""

from __future__ import annotations

import json
import math
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import create_trial

from search.design.options import DesignOptions
from search.ledger.study_files import LOOKS_FILE, Cell
from search.report.interim import read_looks
from search.report.reading.load import load_study
from search.space.parameters import Space
from search.stats.sequential import FINISHED, FOUND, GIVEN_UP, LookPlan, plan_looks, sequential_verdicts
from search.study.interim import Standing, _seeds_until, claim_looks, next_step, spare_seeds
from search.study.queue import Budget, TrialQueue
from search.study.spec import StudySpec, open_queue

from .conftest import Toy

PLAN = plan_looks([4, 6, 12], spending="pocock")
FIRST = 1000


def stand(
    effects: dict[str, float], n: int, lost: dict[str, list[int]] | None = None, seed: int = 0, plan: LookPlan = PLAN
) -> Standing:
    """Rows on n seeds each, with normal noise of sd 1; `lost` seeds ended without a value."""
    rng = np.random.default_rng(seed)
    base = rng.normal(60, 3, n)
    values = pd.DataFrame(
        {"plain": base} | {name: base + e + rng.normal(0, 1, n) for name, e in effects.items()},
        index=range(FIRST, FIRST + n),
    )
    for name, seeds in (lost or {}).items():
        values.loc[seeds, name] = np.nan
    tried = {name: frozenset(values.index) for name in values}
    verdicts = sequential_verdicts(plan, values, "plain")
    return Standing(verdicts, values, "plain", {name: f"cell {name}" for name in values}, tried)


def test_undecided_rows_and_the_baseline_go_on() -> None:
    step = next_step(PLAN, stand({"large": 9.0, "none": 0.0, "small": 0.2}, 4), FIRST)
    assert step.counts == {"cell none": 6, "cell small": 6, "cell plain": 6}
    assert step.text == "look 1 of 3, at 4 seeds: 1 of 3 rows settled; 2 more seeds for none, small and the baseline"


def test_a_row_that_is_given_up_gets_no_more_seeds() -> None:
    plan = plan_looks([4, 6, 12], margin=0.1)
    now = stand({"large": 9.0, "none": 0.0}, 4, seed=6, plan=plan)
    assert now.verdicts["verdict"].to_dict() == {"large": FOUND, "none": GIVEN_UP}
    step = next_step(plan, now, FIRST)
    assert step.counts == {}
    assert step.text == "look 1 of 3, at 4 seeds: 1 of 2 rows settled, 1 given up; no more seeds"


def test_a_lost_seed_is_made_up_for_before_the_look_is_taken() -> None:
    step = next_step(PLAN, stand({"large": 9.0, "none": 0.0}, 4, {"none": [1001]}), FIRST)
    assert step.counts == {"cell none": 5, "cell plain": 5}
    assert step.text.startswith("look 1 of 3 waits: 1 more seed for none and the baseline, in place of lost ones")
    everyone = next_step(PLAN, stand({"large": 9.0, "none": 0.0}, 4, {"plain": [1000]}), FIRST)
    assert everyone.counts == {"cell large": 5, "cell none": 5, "cell plain": 5}


def test_a_row_that_loses_more_than_the_spare_seeds_stops() -> None:
    assert spare_seeds(PLAN.looks) == 3
    lost = [1000, 1001, 1002, 1003]
    step = next_step(PLAN, stand({"late": 0.0, "none": 0.0}, 7, {"late": lost}), FIRST)
    assert step.counts == {"cell none": 12, "cell plain": 12}
    assert "late has lost more seeds than the 3 that are spare" in step.text
    alone = next_step(PLAN, stand({"late": 0.0}, 7, {"late": lost}), FIRST)
    assert alone.counts == {}
    assert alone.text.startswith("no row came to the first look, at 4 seeds; late has lost")


def test_a_design_ends_at_its_last_look_or_where_all_is_settled() -> None:
    assert next_step(PLAN, stand({"large": 9.0}, 4), FIRST).counts == {}
    step = next_step(PLAN, stand({"none": 0.0}, 12), FIRST)
    assert step.counts == {}
    assert step.text == "look 3 of 3, at 12 seeds: 0 of 1 row settled, 1 undecided at the last look; no more seeds"
    nobody = stand({"none": 0.0}, 4)
    step = next_step(PLAN, Standing(nobody.verdicts, nobody.values, None, {}, {}), FIRST)
    assert step.counts == {}
    assert "the baseline finished no seed" in step.text


@given(st.integers(2, 30), st.integers(1, 8), st.sets(st.integers(0, 40)))
def test_so_many_seeds_hold_what_is_wanted_and_one_fewer_does_not(wanted: int, spare: int, lost: set[int]) -> None:
    def kept(count: int) -> int:
        return sum(seed not in lost for seed in range(count))

    count = _seeds_until(wanted, spare, lost, 0)
    if count is None:
        assert kept(wanted + spare) < wanted
    else:
        assert kept(count) == wanted
        assert kept(count - 1) < wanted
        assert count <= wanted + spare


CELLS = [Cell("baseline", (), is_baseline=True), Cell("x=3", ("x=3",))]


def options(**given: Any) -> DesignOptions:
    return DesignOptions(**{"kind": "ladder", "first_seed": 1000} | given)


def opened(folder: Path) -> TrialQueue:
    plan = StudySpec(
        study_name="s", optuna_name="s.final", study_dir=str(folder), phase="final", space=Space((), ()),
        directions=("maximize",), sampler=None, pruner=None, budget=Budget(3, sampled=False), stop_file=str(folder / "stop"),
    )  # fmt: skip
    return open_queue(plan)


def test_what_was_planned_stands_from_the_first_trial_on(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    first, other = options(looks=[3, 9]), options(looks=[3, 5, 8])
    assert claim_looks(queue, [], tmp_path, first, CELLS, 2, "val_top1") == plan_looks([3, 9])
    assert claim_looks(queue, [], tmp_path, options(), CELLS, 2, "val_top1") is None  # nothing was trained yet
    assert not (tmp_path / LOOKS_FILE).exists()
    assert claim_looks(queue, [], tmp_path, other, CELLS, 2, "val_top1") == plan_looks([3, 5, 8])
    assert read_looks(tmp_path) == (plan_looks([3, 5, 8]), "val_top1")
    looked = [create_trial(value=1.0, user_attrs={"cell": "baseline/1000"})]
    assert claim_looks(queue, looked, tmp_path, other, list(reversed(CELLS)), 2, "val_top1") == plan_looks([3, 5, 8])
    for changed, cells, retries, message in (
        (first, CELLS, 2, r"looks: there \[3, 5, 8\], now \[3, 9\]"),
        (options(looks=[3, 5, 8, 12]), CELLS, 2, r"now \[3, 5, 8, 12\]"),
        (options(looks=[3, 5, 8], alpha=0.1), CELLS, 2, r"alpha: there 0\.05, now 0\.1"),
        (options(looks=[3, 5, 8], margin=0.5), CELLS, 2, r"margin: there None, now 0\.5"),
        (options(looks=[3, 5, 8], first_seed=7), CELLS, 2, "first_seed: there 1000, now 7"),
        (other, [*CELLS, Cell("x=4", ("x=4",))], 2, "cells: new x=4; gone none"),
        (other, CELLS, 5, "max_retries: there 2, now 5"),
        (options(seeds=20), CELLS, 2, "looks: none are given now"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            claim_looks(queue, looked, tmp_path, changed, cells, retries, "val_top1")
        assert "hydra.sweeper.study_name=s_2, without hydra.sweeper.design.first_seed" in str(caught.value)
    assert json.loads((tmp_path / LOOKS_FILE).read_text())["looks"] == [3, 5, 8]


def test_looks_are_not_chosen_after_the_fact(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    queue.write([{"cell": "baseline/1000", "overrides": [], "is_baseline": True}])
    with pytest.raises(ValueError, match="was begun without looks"):
        claim_looks(queue, [], tmp_path, options(looks=[3, 9]), CELLS, 2, "val_top1")


def test_looks_that_read_test_are_refused_in_words(tmp_path: Path) -> None:
    queue = opened(tmp_path)
    queue.study.set_user_attr("looks", {"looks": [3, 9], "metric": "test_top1", "spending": "obrien_fleming"})
    queue.write([{"cell": "baseline/1000", "overrides": [], "is_baseline": True}])
    with pytest.raises(ValueError, match=r"whose looks read the test images.*study_name=s_2"):
        claim_looks(queue, [], tmp_path, options(looks=[3, 9]), CELLS, 2, "val_top1")


def test_a_search_is_no_design(tmp_path: Path) -> None:
    looked = [create_trial(value=1.0)]
    with pytest.raises(ValueError, match="holds a search; give the design another"):
        claim_looks(opened(tmp_path), looked, tmp_path, options(looks=[3, 9]), CELLS, 2, "val_top1")


DESIGN = [
    *("admit=true", "jitter=0.2", "fault=raise", "faulty=[5]", "unlucky=[1001]", "kill_at=[1,1004]"),
    *(
        f"hydra.sweeper.design.{line}"
        for line in ("kind=one_at_a_time", "looks=[3,5]", "spending=pocock", "first_seed=1000")
    ),
    "+hydra.sweeper.design.factors.x=['x=5','x=3','x=2','x=1']",
]


def expected() -> pd.DataFrame:
    """The verdicts that the toy's scores lead to; its baseline, x=5, has none on seed 1001."""
    scores = {
        f"x={x}": {seed: -((x - 3) ** 2) + 0.2 * math.sin(11 * x + 7 * seed) for seed in range(1000, 1006)}
        for x in (5, 3, 2, 1)
    }
    scores["x=5"][1001] = math.nan
    return sequential_verdicts(plan_looks([3, 5], spending="pocock"), pd.DataFrame(scores), "x=5")


@pytest.mark.slow
def test_a_design_in_looks_resumes_to_the_same_verdicts_and_refuses_another_plan(toy: Toy) -> None:
    assert toy.run(*DESIGN).returncode == -signal.SIGKILL  # between the first look and the second
    assert not (toy.study_dir() / "tables").exists()
    assert load_study(toy.study_dir())["test_top1"].isna().all()  # no test score before the last look is over
    done = toy.run(*DESIGN)
    assert done.returncode == 0, done.stdout + done.stderr
    table = expected()
    assert table["verdict"].to_dict() == {"x=3": FOUND, "x=2": FOUND, "x=1": FINISHED}
    assert table["n"].to_dict() == {"x=3": 3, "x=2": 3, "x=1": 5}
    # seed 1001 of the baseline failed, was run again before the look, and is made up for by seed 1003 in every row
    numbers = {"5": 6, "3": 4, "2": 4, "1": 6}
    trained = Counter((x, str(1000 + place)) for x, number in numbers.items() for place in range(number))
    again = Counter([("5", "1001"), ("1", "1004")])
    assert Counter((line[2], line[3]) for line in toy.trace) == trained + again
    written = pd.read_csv(toy.study_dir() / "tables" / "sequential.csv", index_col="arm")
    assert written["verdict"].to_dict() == table["verdict"].to_dict()
    assert written["p_value"].to_dict() == pytest.approx(table["p_value"].to_dict())
    assert "look 2 of 2, at 5 seeds: 2 of 3 rows settled, 1 undecided at the last look; no more seeds" in done.stdout
    assert "These are the figures to report" in " ".join(done.stdout.split())
    # seed 1001 of the baseline failed twice, so what was found holds for the seeds that it survived
    assert "ahead of the baseline on the 3 of 4 seeds" in (toy.study_dir() / "tables" / "sequential.md").read_text()
    frame = load_study(toy.study_dir())
    looked, read = (frame[(frame["phase"] == phase) & (frame["status"] == "ok")] for phase in ("search", "final"))
    assert looked["test_top1"].isna().all()
    assert read["test_top1"].notna().all()
    pairs = [sorted(zip(part["arm"], part["seed"], strict=True)) for part in (looked, read)]
    assert pairs[0] == pairs[1]  # each network that was trained, and none twice
    assert "final" not in {line[0] for line in toy.trace}  # they were only read
    other = toy.run(*DESIGN, "hydra.sweeper.design.looks=[3,5,8]")
    assert other.returncode != 0
    assert "looks: there [3, 5], now [3, 5, 8]" in other.stderr
    assert len(toy.trace) == sum(trained.values()) + 2
