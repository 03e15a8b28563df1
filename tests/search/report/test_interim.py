"""The table of verdicts: what was planned is read back, and the words agree with the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from search.ledger.study_files import LOOKS_FILE
from search.report.ablation import ablation_table
from search.report.interim import (
    interim_table,
    read_looks,
)
from search.report.reading.load import load_study
from search.report.render import render_text
from search.report.write import write_interim
from search.stats.sequential import FINISHED, FOUND, SEQUENTIAL_COLUMNS, plan_looks, sequential_verdicts

from .conftest import Add

PLAN = {"looks": [3, 5], "alpha": 0.05, "spending": "pocock", "metric": "val_top1"}
PLAIN = [60.0, 61.5, 60.2, 61.0, 59.5]
SCORES = {
    "stage3": [70.0, 71.4, 70.3, None, None],  # settled at the first look
    "stage4": [60.3, 61.2, 60.1, 61.4, 59.3],
    "stage3+4": [50.0, None, None, None, None],
}


def fill(study: Path, add: Add) -> None:
    (study / LOOKS_FILE).write_text(json.dumps(PLAN))
    for arm, scores in {"plain": PLAIN, **SCORES}.items():
        for seed, score in enumerate(scores, start=1000):
            if score is not None:
                add(arm, seed, phase="search", val_top1=score)
    add("broken", 1000, phase="search", status="failed", reason="out of memory")


def test_a_study_without_looks_has_no_such_table(study: Path, add: Add) -> None:
    add("plain", 0, test_top1=60.0)
    assert read_looks(study) is None
    assert interim_table(study) is None
    assert write_interim(study) is None
    assert not (study / "tables").exists()


def test_rows_words_and_files(study: Path, add: Add) -> None:
    fill(study, add)
    table = write_interim(study)
    assert table is not None
    data = table.data.set_index("arm")
    assert data.index.tolist() == ["stage3", "stage4", "stage3+4"]
    values = pd.DataFrame({"plain": PLAIN, **SCORES}, dtype=float)
    same = sequential_verdicts(plan_looks([3, 5], spending="pocock"), values, "plain")
    pd.testing.assert_frame_equal(
        data[list(SEQUENTIAL_COLUMNS)], same.loc[data.index], check_names=False, check_index_type=False
    )
    assert data["verdict"].tolist()[:2] == [FOUND, FINISHED]
    assert data["n"].tolist()[:2] == [3, 5]
    text = render_text(table)
    flat = " ".join(text.split())
    assert "stage3 better than the baseline 1 of 2 3 +10.00" in flat
    assert "stage4 undecided at the last look 2 of 2 5 +0.02" in flat
    assert "stage3+4 waiting for 2 seeds to the first look - -" in flat
    assert "chance of any false finding over all looks and rows is at most 0.05" in flat
    assert "Pocock type alpha-spending function (Lan and DeMets 1983)" in flat
    assert "These are the figures to report" in flat
    assert "Not yet at the next look: stage3+4" in flat
    assert "In no look, since no seed finished or the recipe is another: broken" in flat
    assert max(map(len, text.splitlines())) <= 120
    written = pd.read_csv(study / "tables" / "sequential.csv")
    assert written.columns.tolist() == ["arm", *SEQUENTIAL_COLUMNS]
    assert written["p_value"].tolist()[:2] == pytest.approx(data["p_value"].tolist()[:2])
    lines = (study / "tables" / "sequential.md").read_text().splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert any("| stage3 | better than the baseline | 1 of 2 |" in " ".join(line.split()) for line in lines)


def test_a_lower_loss_is_better_only_where_the_metric_says_so(study: Path, add: Add) -> None:
    (study / LOOKS_FILE).write_text(json.dumps(PLAN | {"metric": "test_loss"}))
    for seed, (plain, arm) in enumerate([(2.0, 1.0), (2.1, 1.12), (1.9, 0.91)]):
        add("plain", seed, test_loss=plain)
        add("stage3", seed, test_loss=arm)
    table = interim_table(study)
    assert table is not None
    assert "better than the baseline" in render_text(table)


def test_an_interim_table_says_what_it_reads_and_holds_no_test_score(study: Path, add: Add) -> None:
    fill(study, add)
    table = ablation_table(load_study(study))
    assert (table.phase, table.metric.column) == ("search", "val_top1")
    said = f"{table.title} {table.conclusion} {' '.join(table.notes)}"
    assert "validation images, as the looks read them" in table.title
    assert "Test images are read once, after the last look" in said
    assert "chose the arms" not in said
    assert "what may be claimed stands in the table of the looks" in table.conclusion
    assert "The looks read validation images" in " ".join(render_text(interim_table(study)).split())  # type: ignore[arg-type]


def test_looks_of_an_earlier_version_are_read_as_they_were(study: Path, add: Add) -> None:
    (study / LOOKS_FILE).write_text(json.dumps(PLAN | {"metric": "test_top1"}))
    for arm, scores in {"plain": PLAIN, **SCORES}.items():
        for seed, score in enumerate(scores, start=1000):
            if score is not None:
                add(arm, seed, test_top1=score)
    table = interim_table(study)
    assert table is not None
    assert table.data["verdict"].tolist()[:2] == [FOUND, FINISHED]
    assert "read the test images each time" in " ".join(table.notes)


def test_a_row_that_was_given_up_says_so(study: Path, add: Add) -> None:
    (study / LOOKS_FILE).write_text(json.dumps(PLAN | {"margin": 0.01}))
    for seed, score in enumerate(PLAIN[:3]):
        add("plain", seed, phase="search", val_top1=score)
        add("stage3", seed, phase="search", val_top1=score + [0.3, -0.3, 0.1][seed])
    table = interim_table(study)
    assert table is not None
    text = " ".join(render_text(table).split())
    assert "given up: 0% chance to be found" in text
    assert "it differed by 0.01 points, the margin stated beforehand" in text


def test_without_a_baseline_nothing_is_judged(study: Path, add: Add) -> None:
    (study / LOOKS_FILE).write_text(json.dumps(PLAN))
    for seed in range(3):
        add("stage3", seed, phase="search", val_top1=60.0 + seed)
        add("plain", seed, phase="search", status="failed", reason="out of memory")
    table = write_interim(study)
    assert table is not None
    assert len(table.data) == 0
    assert "No single baseline finished a seed" in render_text(table)


def test_a_design_that_varies_the_recipe_says_so(study: Path, add: Add) -> None:
    (study / LOOKS_FILE).write_text(json.dumps(PLAN))
    for seed in range(3):
        add("plain", seed, phase="search", val_top1=60.0 + seed % 2)
        add("stage3", seed, phase="search", val_top1=70.0 + seed, recipe_hash="another")
    table = interim_table(study)
    assert table is not None
    assert len(table.data) == 0  # the study declared no design: such arms are not compared
    assert any("recipe is another: stage3" in note for note in table.notes)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", json.dumps(PLAN | {"looks": [5, 3]}), json.dumps(PLAN | {"metric": "luck"})]
)
def test_a_plan_that_cannot_be_read_is_told(study: Path, text: str) -> None:
    (study / LOOKS_FILE).write_text(text)
    with pytest.raises(ValueError, match=r"looks\.json does not say which looks were planned"):
        read_looks(study)


def test_networks_that_guess_are_told_as_such(study: Path, add: Add) -> None:
    (study / LOOKS_FILE).write_text(json.dumps(PLAN))
    for arm in ("plain", "stage3"):
        for seed in (1000, 1001, 1002):
            add(
                arm,
                seed,
                phase="search",
                val_top1=10.0 + seed - 1000 + (arm == "plain"),
                chance_top1=10.0,
                val_images=400,
            )
    table = interim_table(study)
    assert table is not None
    assert table.notes[0].startswith("Hardly better than guessing: plain and stage3")


def test_an_arm_that_failed_on_seeds_is_never_called_better(study: Path, add: Add) -> None:
    fill(study, add)
    add("stage3", 1003, phase="search", status="failed", reason="diverged")
    table = interim_table(study)
    assert table is not None
    assert table.data.set_index("arm").loc["stage3", "verdict"] == FOUND
    assert table.rows[0].cells[1].text == "ahead of the baseline on the 3 of 4 seeds it survived"
    assert "better than" not in render_text(table)
