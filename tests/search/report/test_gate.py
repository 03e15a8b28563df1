"""Tables of networks that were hardly trained say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.ledger.metric import metric_named
from search.report.arms import list_arms
from search.report.gate import gate
from search.report.grid.grid import make_grid
from search.report.reading.load import load_study
from search.report.spec import TableSpec
from search.report.table import ablation_table

from .conftest import Add

TRAINED: dict[str, Any] = {
    "test_images": 400,
    "chance_top1": 10.0,
    "classes": 10,
    "train_loss_first": 2.2,
    "train_loss": 1.1,
}


def lines(study: Path, metric: str = "test_top1") -> list[str]:
    return gate(list_arms(load_study(study)), metric_named(metric))


def two_arms(add: Add, plain: list[float], stage3: list[float], **values: Any) -> None:
    for arm, scores in (("plain", plain), ("stage3", stage3)):
        for seed, score in enumerate(scores):
            add(arm, seed, test_top1=score, **{**TRAINED, **values})


def test_trained_networks_need_no_line(add: Add, study: Path) -> None:
    two_arms(add, [60.0, 61.0], [62.0, 61.0], dose=0.4)
    assert lines(study) == []


def test_results_from_before_these_columns_need_none(add: Add, study: Path) -> None:
    two_arms(add, [10.0, 11.0], [10.5, 10.0], **dict.fromkeys(TRAINED))
    assert lines(study) == []


@pytest.mark.parametrize(("score", "near"), [(9.0, True), (12.9, True), (13.1, False)])
def test_chance_has_the_binomial_error_of_the_test_images(add: Add, study: Path, score: float, near: bool) -> None:
    two_arms(add, [60.0, 61.0], [score, score])  # 10 % of 400 images: 1.5 points, twice that is allowed
    assert lines(study) == (
        [f"Hardly better than guessing: stage3 ({score} %; guessing reaches 10.0 ± 1.5 %)."] if near else []
    )


def test_a_network_that_calls_all_by_the_most_frequent_class_is_near_chance(add: Add, study: Path) -> None:
    two_arms(add, [70.0, 70.5], [95.0, 95.5], chance_top1=70.0, classes=2)
    assert "guessing: plain (" in lines(study)[0]


def test_equal_on_every_seed_is_told_with_why(add: Add, study: Path) -> None:
    two_arms(add, [33.3, 30.0], [33.3, 30.0])
    (line,) = lines(study)
    assert line.startswith("Equal on every seed to the last digit")
    assert "plain and stage3" in line
    assert ablation_table(load_study(study)).conclusion.startswith(line)


@pytest.mark.parametrize("stage3", [[33.3], [33.3, 30.000001], [33.3, 30.0, 31.0]])
def test_one_seed_another_digit_or_other_seeds_are_not_equal(add: Add, study: Path, stage3: list[float]) -> None:
    two_arms(add, [33.3, 30.0][: len(stage3)], stage3)
    assert lines(study) == []


@pytest.mark.parametrize(
    ("last", "epochs", "words"),
    [
        (2.3, 4, "Diverged, so the learning rate is too high for: stage3 on 1 of 2 seeds."),
        (2.19, 4, "The training loss did not fall in: stage3 on 1 of 2 seeds."),
        (2.19, 1, None),  # one epoch has no fall to show
        (2.1, 4, None),
    ],
)
def test_a_training_loss_that_rose_or_stayed(
    add: Add, study: Path, last: float, epochs: int, words: str | None
) -> None:
    two_arms(add, [60.0, 61.0], [62.0])
    add("stage3", 1, test_top1=63.0, **{**TRAINED, "train_loss": last, "epochs": epochs})
    assert lines(study) == ([words] if words else [])


def test_a_training_that_ended_in_no_number_diverged(add: Add, study: Path) -> None:
    two_arms(add, [60.0, 61.0], [62.0])
    add("stage3", 1, status="failed", reason="Diverged: diverged: training loss nan in epoch 1, step 25, at train.lr=9")
    assert lines(study) == ["Diverged, so the learning rate is too high for: stage3 on 1 of 2 seeds."]


def test_a_dose_of_next_to_nothing_is_told_and_shown(add: Add, study: Path) -> None:
    for seed, dose in enumerate((0.01, 0.04)):
        add("plain", seed, test_top1=60.0 + seed, **TRAINED)
        add("stage3", seed, test_top1=61.0 - seed, dose=dose, **TRAINED)
        add("stage4", seed, test_top1=61.5 - seed, dose=10 * dose, **TRAINED)
    table = ablation_table(load_study(study))
    doses = dict(
        zip(table.data["arm"], table.data["dose"].astype(object).where(table.data["dose"].notna(), None), strict=True)
    )
    assert doses == {"plain": None, "stage3": pytest.approx(0.02), "stage4": pytest.approx(0.2)}
    assert lines(study) == [
        "Nearly the plain network, since the added branches give next to nothing: stage3 (dose 0.020)."
    ]


def test_a_table_by_its_spec_has_the_lines_too(add: Add, study: Path) -> None:
    two_arms(add, [10.0, 11.0], [10.0, 11.0])
    legend = make_grid(load_study(study), TableSpec()).legend
    assert [line.startswith(start) for line, start in zip(legend[1:], ("Hardly", "Equal"), strict=False)] == [
        True,
        True,
    ]


def test_many_arms_are_counted(add: Add, study: Path) -> None:
    for number in range(6):
        add(f"arm{number}", 0, test_top1=9.0, **TRAINED)
    assert "arm0, arm1, arm2 and 3 more" in lines(study)[0]
