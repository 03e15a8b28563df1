"""What stands below a table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from search.ledger.metric import NOT_ALONE_MEANS, metric_named
from search.ledger.study_files import LOOKS_FILE, note_settings
from search.report.ablation import ablation_table
from search.report.arms import list_arms
from search.report.notes import HOW_TO_READ, gaps, latency_note, trial_counts
from search.report.pivot import pivot_table
from search.report.provenance import gate
from search.report.reading.load import load_study
from search.report.spec import TableSpec
from search.report.write import write_tables

from .conftest import Add


def test_results_that_were_taken_from_elsewhere_are_counted_apart(study: Path, add: Add) -> None:
    add(phase="search", val_top1=1.0)
    add(phase="search", val_top1=1.0, reused_from="demo/trials/0000-s0/result.json")
    add(phase="search", status="infeasible", reason="params 3 is above 2")
    assert trial_counts(load_study(study), "search") == [
        "Phase search: 3 trials (2 ok, 1 infeasible; 1 taken from earlier runs of the same network, recipe and seed)."
    ]


def test_a_trial_that_another_worker_was_training_is_no_loss(study: Path, add: Add) -> None:
    add(phase="search", val_top1=1.0)
    add(phase="search", status="duplicate", reason="trial 0 is training the same network now")
    frame = load_study(study)
    assert trial_counts(frame, "search") == ["Phase search: 2 trials (1 ok, 1 duplicate)."]
    arms = list_arms(frame)
    table = ablation_table(frame)
    assert gaps(frame, arms, table.data) == []
    assert not any("Not averaged" in note for note in table.notes)


def test_trials_that_all_ended_well_are_counted_only_of_another_phase(study: Path, add: Add) -> None:
    add(val_top1=1.0)
    assert trial_counts(load_study(study), "final") == []
    assert trial_counts(load_study(study), "search") == ["Phase final: 1 trial (1 ok)."]


def test_a_normal_table_has_few_words_below(study: Path, add: Add) -> None:
    for seed in range(5):
        for arm, shift in (("plain", 0.0), ("stage3", 0.2 * seed), ("stage4", 3 + 0.1 * seed)):
            add(arm, seed, test_top1=60.0 + 0.3 * seed + shift, params=1000, latency_ms=1.0)
    table = ablation_table(load_study(study))
    assert len(" ".join(table.notes).split()) <= 60
    assert len(table.conclusion.split()) <= 60
    assert table.notes[-1].endswith(HOW_TO_READ)


def test_a_latency_that_was_not_measured_alone_is_marked_and_machines_are_told_apart(study: Path, add: Add) -> None:
    add(val_top1=1.0, latency_ms=2.0, latency_batch=8, latency_exclusive=True)
    (clean,) = latency_note(load_study(study))
    assert "?" not in clean
    add(val_top1=1.0, seed=1, latency_ms=9.0, latency_batch=8)  # older than the column: not known to be alone
    assert latency_note(load_study(study)) == [clean, NOT_ALONE_MEANS]
    add(
        val_top1=1.0, seed=2, latency_ms=1.0, latency_exclusive=True, provenance={"device": "cpu", "processor": "other"}
    )
    assert latency_note(load_study(study))[2].endswith("not to be compared: cpu (other) and cpu (unknown).")


@pytest.mark.slow
def test_what_was_changed_stands_under_the_table_and_marks_its_verdicts(study: Path, add: Add) -> None:
    first = {"design.first_seed": 0, "design.seeds": 3, "sampler._target_": "TPESampler"}
    note_settings(study, first)
    for seed in range(5):
        if seed == 3:
            note_settings(study, first | {"design.seeds": 5})
        for arm, shift in (("plain", 0.0), ("stage3", 0.5 * (seed % 3 - 1)), ("stage4", 3 + 0.1 * seed)):
            add(arm, seed, test_top1=60.0 + 0.3 * seed + shift)
    note_settings(study, first | {"design.seeds": 5, "sampler._target_": "RandomSampler"})
    table = ablation_table(load_study(study))
    changed = [re.sub(r"\d{4}-\d\d-\d\d", "DAY", note) for note in table.notes if note.startswith("Changed on ")]
    assert changed == [
        "Changed on DAY, when 9 final results stood: design.seeds from 3 to 5.",
        "Changed on DAY, when 15 final results stood: sampler._target_ from TPESampler to RandomSampler.",
    ]
    assert table.data["verdict"].dropna().tolist() == [
        "better than the baseline (seeds added)",
        "cannot be told from seed noise (seeds added)",
    ]
    assert "stage4" in table.conclusion.split(" is better than the baseline (plain)")[0]
    assert "Seeds were added when final results stood, which the p-values do not reckon with." in table.conclusion
    copied = ablation_table(load_study(write_tables(study) and study / "tables" / "trials.csv"))
    assert copied.data["verdict"].tolist() == table.data["verdict"].tolist()
    (study / LOOKS_FILE).write_text("{}")  # looks count what is added
    assert "(seeds added)" not in "".join(ablation_table(load_study(study)).data["verdict"].dropna())


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
    legend = pivot_table(load_study(study), TableSpec()).notes
    assert [line.startswith(start) for line, start in zip(legend[1:], ("Hardly", "Equal"), strict=False)] == [
        True,
        True,
    ]


def test_many_arms_are_counted(add: Add, study: Path) -> None:
    for number in range(6):
        add(f"arm{number}", 0, test_top1=9.0, **TRAINED)
    assert "arm0, arm1, arm2 and 3 more" in lines(study)[0]
