"""A table of arms that went on from trained networks: which trials are its rows, over what they are judged, and what its controls say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from search.report.ablation import DATA_COLUMNS, AblationTable, ablation_table
from search.report.diff import diff_studies
from search.report.effects import effects_table
from search.report.judging import ROOTS, Judging
from search.report.pivot import pivot_table
from search.report.reading.load import load_study
from search.report.render import render_text, to_csv, to_html, to_latex, to_markdown
from search.report.spec import spec_of
from search.report.values import paired_difference
from search.report.write import write_tables

from .conftest import Add

BASES = (50.0, 52.0, 47.5, 51.0)
SHIFTS = {  # of each root and order: the roots differ more than the orders of one
    "stage3: pssa": ((-2.0, -2.2), (-1.5, -1.4), (-1.9, -1.6), (-2.4, -2.2)),
    "stage4: conv+pssa": ((0.1, -0.1), (0.5, 0.4), (-0.3, -0.1), (0.2, 0.4)),
}
SCRATCH = (-3.0, -1.0, -2.5, 0.5)


def fill(add: Add, kind: str = "shared", null: float = 0.0, roots: int = 4, file: str | None = None) -> None:
    """A study of two arms, both controls and their roots; `null` is by how much the null control misses the baseline once."""
    epochs = {"shared": 3, "fork": 8}[kind]
    for root, base in enumerate(BASES[:roots]):
        seed = 1000 + root
        trunk = {"epochs": 6, "epochs_planned": 6} if kind == "fork" else {"epochs": 8, "epochs_planned": 8}
        place: Any = add("plain", seed, recipe_hash="roots", is_baseline=False, test_top1=base, **trunk).parts[-2:]
        added = {"is_baseline": False, "epochs": 8, "epochs_planned": 8, "recipe_hash": "scratch"}
        add("stage3: pssa", seed, test_top1=base + SCRATCH[root], **added)
        of_root = {"root": "/".join(place), "root_seed": seed} if file is None else {"root": file}
        of_root |= {"start": kind, "epochs": epochs, "epochs_planned": epochs}
        for order in range(2):
            own = seed + 100 * (order + (kind == "shared"))
            level = base + 1.0 + order / 4 if kind == "shared" or order else base
            add("plain", own, test_top1=level, **of_root)
            for arm, shifts in SHIFTS.items():
                add(arm, own, test_top1=level + shifts[root][order], **of_root)
            drawn = ["placement=none", "start.init_stream=1", f"seed={own}"]
            level += null if (root, order) == (1, 1) else 0.0
            add("plain", own, test_top1=level, recipe_hash="null", overrides=drawn, is_baseline=False, **of_root)


def table_of(study: Path, **options: Any) -> AblationTable:
    return ablation_table(load_study(study), **options)


def test_paths_of_a_supernet_are_said_to_share_their_weights(study: Path, add: Add) -> None:
    for arm in ("plain", "stage3: pssa"):
        add(arm, 0, phase="search", start="path", root="../net/0000-s5", val_top1=60.0, epochs=0, epochs_planned=0)
        add(arm, 1000, test_top1=60.0)
    said = "The networks are paths of ../net/0000-s5, which share their weights"
    assert [note.startswith(said) for note in table_of(study, phase="search").notes].count(True) == 1
    assert not any(said in note for note in table_of(study).notes)


def test_rows_are_judged_by_the_means_of_roots(study: Path, add: Add) -> None:
    fill(add)
    table = table_of(study)
    assert {name: str(dtype) for name, dtype in table.data.dtypes.items()} == DATA_COLUMNS | ROOTS
    data = table.data.set_index("arm")
    assert table.data["arm"].tolist() == ["plain", "stage4: conv+pssa", "stage3: pssa"]
    for arm, shifts in SHIFTS.items():
        means = np.mean(shifts, axis=1)
        row = data.loc[arm]
        test = stats.ttest_1samp(means, 0.0)
        assert (row["roots"], row["orders"], row["n"], row["n_paired"]) == (4, 2.0, 8, 8)
        assert row["diff"] == pytest.approx(means.mean())
        assert row["p_value"] == pytest.approx(test.pvalue)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(test.confidence_interval()))
        assert row["sd_within"] == pytest.approx(np.mean(np.var(shifts, axis=1, ddof=1)) ** 0.5)
        assert row["sd_within_low"] < row["sd_within"] < row["sd_within_high"]
        assert row["sd_between_low"] <= row["sd_between"] <= row["sd_between_high"]
        assert row["mixed_diff"] == pytest.approx(row["diff"])
    assert pd.isna(data.loc["plain", "roots"])
    assert "worse than the baseline" in data.loc["stage3: pssa", "verdict"]
    assert "4 roots) is worse than the baseline (plain)" in table.conclusion
    assert "4 roots find a true difference" in table.conclusion
    assert not any("seeds find" in said for said in (table.conclusion, *table.notes))


def test_second_opinions_and_seeds_needed_are_of_roots(study: Path, add: Add) -> None:
    fill(add)
    table = table_of(study, judging=Judging(margin=0.5, test="wilcoxon", interval="bootstrap"))
    row = table.data.set_index("arm").loc["stage4: conv+pssa"]
    means = np.mean(SHIFTS["stage4: conv+pssa"], axis=1)
    assert row["wilcoxon_p"] == stats.wilcoxon(means).pvalue
    upper = stats.ttest_1samp(means, 0.5, alternative="less").pvalue
    assert row["equivalence_p"] == pytest.approx(upper)
    assert means.min() <= row["boot_low"] <= row["boot_high"] <= means.max()
    assert f"{row['seeds_needed']} (" in table.conclusion
    assert ") roots for stage4: conv+pssa" in table.conclusion
    assert "with 4 roots" in "\n".join(table.notes)


def test_the_title_says_that_the_rest_stays_as_it_is(study: Path, add: Add) -> None:
    for seed in (101, 102):
        kept: dict[str, Any] = {
            "start": "shared",
            "root": "final/0",
            "root_seed": seed - 100,
            "overrides": ["start.trains=blocks"],
        }
        add("plain", seed, val_top1=50.0, epochs=0, epochs_planned=0, **kept)  # which has nothing to train
        add("stage3: pssa", seed, val_top1=49.0, epochs=2, epochs_planned=2, **kept)
    assert "that stays as it is around it, and trained alone for 2 epochs" in table_of(study).title


@pytest.mark.parametrize(
    ("kind", "words"), [("shared", "trained on for 3 epochs"), ("fork", "from 75 % of the schedule on")]
)
def test_the_title_says_what_is_estimated(study: Path, add: Add, kind: str, words: str) -> None:
    fill(add, kind)
    write_tables(study)
    for form in ("ablation.md", "ablation.html", "ablation.tex", "ablation_paper.tex", "ablation.notes.txt"):
        text = " ".join((study / "tables" / form).read_text().replace("%\n", "").replace("\\%", "%").split())
        assert words in text, form


@pytest.mark.parametrize(("kind", "effect"), [("shared", np.mean(SCRATCH)), ("fork", np.mean(SCRATCH))])
def test_controls_are_lines_below_and_no_rows(study: Path, add: Add, kind: str, effect: float) -> None:
    """From scratch the known control is paired with roots, of forks with the plain network that went on in the root's own order."""
    fill(add, kind)
    table = table_of(study)
    null, known = table.notes[:2]
    assert null.endswith(": 0 on each of 8 pairs.")
    assert known.startswith("Known control: stage3: pssa -1.9")
    assert f"{effect:+.1f} points (4 seeds, 95% interval " in known
    assert known.endswith("from scratch.")
    assert "NOT 0" not in render_text(table)


def test_a_null_control_that_is_not_exactly_0_is_said_before_all_else(study: Path, add: Add) -> None:
    fill(add, null=1e-9)
    table = table_of(study)
    assert table.conclusion.startswith("NULL CONTROL IS NOT 0: ")
    assert "seed 1201)" in table.conclusion
    assert "NOT 0, on 1 of 8 pairs" in table.notes[0]
    for form in (render_text(table), to_markdown(table), to_html(table), to_latex(table)):
        assert "NULL CONTROL IS NOT 0" in form


def test_controls_are_of_the_plain_network_whatever_the_table_is_read_against(study: Path, add: Add) -> None:
    fill(add)
    table = table_of(study, baseline="stage4: conv+pssa")
    null, known = table.notes[:2]
    assert null.startswith("Null control (plain again, ")
    assert null.endswith(": 0 on each of 8 pairs.")
    assert known.startswith("Known control: stage3: pssa -2.0")
    assert "plain" not in known, "which was trained from scratch too, as the roots"
    assert not table.conclusion.startswith("NULL CONTROL")


def test_the_null_control_repeats_the_baseline_and_not_its_architecture_by_another_recipe(
    study: Path, add: Add
) -> None:
    for root in range(4):
        of_root: dict[str, Any] = {"start": "shared", "root": f"final/{root}", "root_seed": 1000 + root, "epochs": 3}
        add("plain", 1100 + root, recipe_hash="other", is_baseline=False, test_top1=90.0, epochs_planned=3, **of_root)
    fill(add)
    for baseline in (None, "stage4: conv+pssa"):
        assert "0 on each of 8 pairs." in table_of(study, baseline=baseline).notes[0]


def test_controls_that_were_not_run_are_missed(study: Path, add: Add) -> None:
    fill(add)
    frame = load_study(study)
    rows = frame[frame["start"].eq("shared") & frame["recipe_hash"].ne("null")].reset_index(drop=True)
    rows.attrs = frame.attrs
    assert [note.rsplit(": ", 1)[1] for note in ablation_table(rows).notes[:2]] == ["none was run.", "none was run."]


def test_one_network_speaks_for_itself_alone(study: Path, add: Add) -> None:
    """Of a user's own checkpoint there is one: orders are then what is judged over."""
    fill(add, roots=1, file="/data/mine.pth")
    table = table_of(study)
    assert table.conclusion.startswith("All trainings went on from one network, /data/mine.pth: ")
    assert {name: str(dtype) for name, dtype in table.data.dtypes.items()} == DATA_COLUMNS
    row = table.data.set_index("arm").loc["stage3: pssa"]
    assert (row["n_paired"], row["p_value"]) == (2, pytest.approx(stats.ttest_1samp([-2.0, -2.2], 0).pvalue))


def test_every_form_shows_roots_and_both_spreads(study: Path, add: Add) -> None:
    fill(add)
    table = table_of(study)
    shown = [column.title for column in table.columns]
    assert [each in shown for each in ("roots", "orders", "sd between roots", "sd within roots", "mixed model")] == [
        True
    ] * 5
    for form in (to_markdown(table), to_html(table), to_latex(table)):
        assert "sd between roots" in " ".join(form.split())
    assert "sd between  sd within" in render_text(table)  # whose heading takes two lines
    assert set(ROOTS) <= set(to_csv(table).splitlines()[0].split(","))


def test_other_readers_keep_to_the_rows(study: Path, add: Add) -> None:
    fill(add)
    frame = load_study(study)
    pivot = pivot_table(frame, spec_of({"name": "grid"}))
    assert [line.name for line in pivot.lines] == ["plain", "stage4: conv+pssa", "stage3: pssa"]
    assert "t tests of the roots' mean differences" in " ".join(pivot.notes)
    result = paired_difference(frame, "stage3: pssa", "plain", "test_top1")
    assert (result.n, result.unit) == (4, "root")
    diff = diff_studies(study, study).data.set_index("arm")
    assert diff["n_paired"].to_dict() == dict.fromkeys(["plain", *SHIFTS], 4)


def test_effects_are_judged_over_roots(study: Path, add: Add) -> None:
    for root in range(3):
        for order in range(2):
            for at, (where, what) in enumerate((where, what) for where in "ab" for what in "xy"):
                value = 50 + root + order + at + (root * at) / 10 + order * at
                start = {
                    "start": "shared",
                    "root": f"final/{root}",
                    "root_seed": root,
                    "overrides": [f"p={where}", f"q={what}"],
                }
                add(f"{where}: {what}", 100 * order + root, test_top1=value, is_baseline=at == 0, **start)
    table = effects_table(load_study(study), ["p", "q"])
    of_terms = table.data[table.data["kind"] != "shapley"]
    assert of_terms["df_error"].tolist() == [2, 2, 2]
    assert "on 3 roots, t tests of 2 degrees" in table.notes[0]
