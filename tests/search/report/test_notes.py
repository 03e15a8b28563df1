"""What stands below a table."""

import re
from pathlib import Path

from search.ledger.changes import note_settings
from search.ledger.metric import NOT_ALONE_MEANS
from search.report.arms import list_arms
from search.report.notes import HOW_TO_READ, gaps, latency_note, trial_counts
from search.report.reading.load import load_study
from search.report.sequential_table import LOOKS_FILE
from search.report.table import ablation_table
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
