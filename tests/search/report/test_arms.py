"""Trials are grouped by what was built, not by what it was called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.design.kinds import factorial, fractional
from search.ledger.study_files import DESIGN_FILE, Cell, write_design
from search.report.ablation import ablation_table
from search.report.arms import declared_by, find_arm, list_arms, recipe_factors
from search.report.effects import effects_table, is_factorial
from search.report.pivot import pivot_table
from search.report.reading.load import load_study
from search.report.render import render_text, to_latex, to_markdown
from search.report.spec import spec_of
from search.report.values import paired_difference

from .conftest import Add


def test_one_network_under_two_names_is_one_arm(study: Path, add: Add) -> None:
    add("plain", 0, arch_hash="e" * 10)
    add("stage3 at none", 1, arch_hash="e" * 10)
    (arm,) = list_arms(load_study(study))
    assert (arm.label, arm.trials["seed"].tolist(), arm.is_baseline) == ("plain", [0, 1], True)


def test_two_networks_under_one_name_are_told_apart(study: Path, add: Add) -> None:
    add("stage3", 0, arch_hash="0123456789")
    add("stage3", 0, arch_hash="0123999999")
    arms = list_arms(load_study(study))
    assert [arm.label for arm in arms] == ["stage3 [0123456789]", "stage3 [0123999999]"]
    assert find_arm(arms, "01234") is arms[0]
    for name in ("0123", "stage3"):
        with pytest.raises(ValueError, match=f"'{name}' names 2 arms"):
            find_arm(arms, name)


def test_two_recipes_are_never_averaged(study: Path, add: Add) -> None:
    add("plain", 0, recipe_hash="r1")
    add("plain", 1, recipe_hash="r2")
    assert [arm.label for arm in list_arms(load_study(study))] == ["plain [recipe r1]", "plain [recipe r2]"]


def test_a_failure_before_the_network_was_known_goes_to_its_arm_by_name(study: Path, add: Add) -> None:
    add("stage3", 1, arch_hash=None, recipe_hash=None, status="failed")
    add("stage3", 0)
    add(None, 2, status="failed", recipe_hash=None)
    (arm,) = list_arms(load_study(study))
    assert arm.trials["status"].tolist() == ["ok", "failed"]


def test_a_name_alone_makes_an_arm(study: Path, add: Add) -> None:
    add("stage9", 0, arch_hash=None, status="failed")
    (arm,) = list_arms(load_study(study))
    assert (arm.label, arm.arch_hash) == ("stage9", None)


FACTORS = {"where": ["placement=none", "placement=stage3"], "train.lr": ["train.lr=0.1", "train.lr=0.3"]}
EFFECT = {"none": 0.0, "stage3": 2.0, "0.1": 0.0, "0.3": -3.0}
NOISE = [0.1, -0.2, 0.3, -0.1, 0.05, 0.15, -0.25]


def run(study: Path, add: Add, cells: list[Cell], seeds: int = 4, kind: str = "factorial", **changes: Any) -> None:
    """Write what a design of these cells would leave."""
    write_design(study, kind, cells, ["data=digits"])
    for seed in range(seeds):
        for number, cell in enumerate(cells):
            levels = dict(cell.factors)
            value = 60 + seed + sum(EFFECT.get(level, 0.0) for level in levels.values())
            add(
                "plain" if levels.get("where", "none") == "none" else "stage3: conv",
                seed,
                test_top1=value + NOISE[(seed * 3 + number * 2) % 7],
                recipe_hash=f"r{levels.get('train.lr', '')}",
                is_baseline=cell.is_baseline,
                overrides=["data=digits", *cell.overrides, f"seed={seed}"],
                **changes,
            )


@pytest.mark.slow
def test_rows_of_two_recipes_are_compared_and_named(study: Path, add: Add) -> None:
    run(study, add, factorial(FACTORS))
    table = ablation_table(load_study(study))
    verdicts = table.data.set_index("arm")["verdict"]
    assert table.baseline == "plain, train.lr=0.1"
    assert verdicts["plain, train.lr=0.3"] == "worse than the baseline"
    assert verdicts["stage3: conv, train.lr=0.1"] == "better than the baseline"
    assert len(verdicts) == 4
    assert "the design of the study itself varies train.lr (0.1, 0.3)" in "\n".join(table.notes)
    grid = pivot_table(load_study(study), spec_of({"rows": "where", "columns": "train.lr"}))
    assert grid.groups == ["0.1", "0.3"]
    assert all(cell.result is not None for _, _, cell in grid.figures if not cell.arm.is_baseline)
    assert "design of the study itself varies train.lr" in "\n".join(grid.notes)
    assert paired_difference(load_study(study), "stage3: conv, train.lr=0.3", "plain, train.lr=0.1", "test_top1").n == 4


def test_without_the_declaration_recipes_stay_apart(study: Path, add: Add) -> None:
    run(study, add, factorial(FACTORS))
    (study / DESIGN_FILE).unlink()
    data = ablation_table(load_study(study), baseline="plain [recipe r0.1]").data.set_index("arm")
    assert data.loc["plain [recipe r0.3]", "verdict"] == "trained by another recipe: not compared"


def test_a_trial_that_is_no_cell_of_the_design_is_not_compared(study: Path, add: Add) -> None:
    run(study, add, factorial(FACTORS))
    for seed in range(4):
        add("stage4: conv", seed, test_top1=70.0, recipe_hash="rX", overrides=["train.lr=9", f"seed={seed}"])
    data = ablation_table(load_study(study)).data.set_index("arm")
    assert data.loc["stage4: conv", "verdict"] == "trained by another recipe: not compared"
    assert data.loc["stage3: conv, train.lr=0.3", "n_paired"] == 4


def test_a_cell_of_two_recipes_shows_that_something_else_changed(study: Path, add: Add) -> None:
    cells = factorial(FACTORS)
    run(study, add, cells)
    add("plain", 9, test_top1=60.0, recipe_hash="new", overrides=["data=digits", *cells[0].overrides, "seed=9"])
    table = ablation_table(load_study(study), baseline="plain [recipe r0.1]")
    assert set(table.data["verdict"].dropna()) == {
        "trained by another recipe: not compared",
        "better than the baseline",
    }
    assert "Cells of the design were trained by more than one recipe each (baseline)" in "\n".join(table.notes)


def test_a_declaration_that_cannot_be_read_is_said(study: Path, add: Add) -> None:
    run(study, add, factorial(FACTORS))
    (study / DESIGN_FILE).write_text("{")
    frame = load_study(study)
    assert "not a readable design" in declared_by(frame).fault
    table = ablation_table(frame, baseline="plain [recipe r0.1]")
    assert "arms that were trained by different recipes are not compared" in table.notes[-1]


def test_arms_are_found_by_the_first_half_of_their_name(study: Path, add: Add) -> None:
    run(study, add, factorial(FACTORS))
    frame = load_study(study)
    with pytest.raises(ValueError, match=r"'plain' names 2 arms: 'plain, train.lr=0\.1'"):
        find_arm(list_arms(frame, declared_by(frame)), "plain")


def test_which_factors_are_of_the_recipe() -> None:
    cells = factorial({**FACTORS, "opt": {"sgd": ["train.opt=sgd", "train.momentum=0.9"], "adam": "train.opt=adamw"}})
    assert recipe_factors(cells, ["where", "train.lr", "opt"]) == ["train.lr", "opt"]  # type: ignore[arg-type]
    ladder = [
        Cell("a", ("x=1", "train.lr=1"), {"x": "1", "lr": "1"}),
        Cell("b", ("x=2", "train.lr=1"), {"x": "2", "lr": "1"}),
    ]
    ladder.append(Cell("c", ("x=2", "train.lr=3"), {"x": "2", "lr": "3"}))
    assert recipe_factors(ladder, ["x", "lr"]) == ["lr"]  # type: ignore[arg-type]


def test_effects_stand_below_a_factorial(study: Path, add: Add) -> None:
    run(study, add, factorial(FACTORS))
    table = ablation_table(load_study(study))
    (effects,) = table.below
    data = effects.data.set_index("term")
    assert data.loc["where", "estimate"] == pytest.approx(2, abs=0.3)
    assert data.loc["train.lr", "estimate"] == pytest.approx(-3, abs=0.3)
    assert data.loc["train.lr", "reference"] == "0.1"
    assert "depends on where (corrected p" in effects.conclusion
    assert "Effects on test top-1 %" in render_text(table)
    assert "Effects on test top-1 %" in to_markdown(table)
    assert to_latex(table).count(r"\begin{tabular") == 1
    assert max(map(len, render_text(table).splitlines())) <= 120


def test_no_effects_below_what_is_no_factorial(study: Path, add: Add) -> None:
    cells = factorial(FACTORS)
    run(study, add, cells, kind="one_at_a_time")
    frame = load_study(study)
    assert ablation_table(frame).below == ()
    terms = ["where", "train.lr", "where x train.lr", "where (Shapley)", "train.lr (Shapley)"]
    assert effects_table(frame).data["term"].tolist() == terms


def test_two_cells_of_one_network_count_once(study: Path, add: Add) -> None:
    rank = {"where": FACTORS["where"], "rank": ["branch.rank=1", "branch.rank=4"]}
    run(study, add, factorial(rank))
    frame = load_study(study)
    arms = list_arms(frame, declared_by(frame))
    assert [len(arm.cell_names) for arm in arms] == [2, 2]
    assert not is_factorial(arms, declared_by(frame))
    with pytest.raises(ValueError, match=r"too few in rank \(1\)"):
        effects_table(frame, ["where", "rank"])
    notes = effects_table(frame, ["where"]).notes
    assert any("'baseline' and 'rank=4' build one network" in note for note in notes)


def test_a_fraction_names_its_aliases(study: Path, add: Add) -> None:
    factors = {name: [f"{name}=0", f"{name}=1"] for name in ("train.a", "train.b", "train.c")}
    cells, _ = fractional(factors, resolution=3)
    write_design(study, "fractional", cells)
    for seed in range(4):
        for number, cell in enumerate(cells):
            add(
                f"net{number}",
                seed,
                test_top1=60 + seed + NOISE[(seed + number) % 7] + 2 * (cell.factors["train.a"] == "1"),
                recipe_hash=str(number),
                is_baseline=cell.is_baseline,
                overrides=[*cell.overrides, f"seed={seed}"],
            )
    (effects,) = ablation_table(load_study(study)).below
    assert effects.data["term"].tolist() == ["train.a", "train.b", "train.c"]
    notes = "\n".join(effects.notes)
    assert "fraction of a factorial" in notes
    assert "train.a x train.b is aliased with train.c" in notes
