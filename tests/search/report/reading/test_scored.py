"""Scores from samples, wherever a metric is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from search.cli.table import main
from search.report.ablation import ablation_table
from search.report.diff import diff_studies
from search.report.pivot import pivot_table
from search.report.reading.load import load_study
from search.report.reading.scored import with_scores
from search.report.spec import TableSpec
from search.report.trust import trust_table
from search.report.values import paired_difference
from search.stats.scores import image_scores

from ..conftest import Add, keep_samples

PARTS = ["val"] * 4 + ["train"] * 3 + ["test"] * 5
TARGET = np.arange(len(PARTS)) % 3


def logits_of(arm: str, seed: int) -> np.ndarray:
    random = np.random.default_rng([seed, len(arm)])
    logits = random.normal(0, 2, (len(PARTS), 3)).astype(np.float16)
    logits[np.arange(len(PARTS)), TARGET] += np.float16(0.5 * len(arm) / 5)
    return logits


def expected(name: str, arm: str, seed: int, parts: set[str]) -> float:
    keep = np.isin(PARTS, list(parts))
    return float(image_scores(logits_of(arm, seed)[keep], TARGET[keep], [name])[name].mean())


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    """Three arms searched and re-evaluated on other seeds; each trial kept what it put out."""
    for phase, seeds in (("search", (0, 1)), ("final", (2, 3, 4))):
        for seed in seeds:
            for arm in ("plain", "stage3", "stage3+4"):
                run = add(
                    arm, seed, phase=phase, val_top1=50.0 + seed, **({"test_top1": 50.0} if phase == "final" else {})
                )
                keep = [at for at, part in enumerate(PARTS) if phase == "final" or part != "test"]
                keep_samples(run, logits_of(arm, seed)[keep], TARGET[keep], [PARTS[at] for at in keep])
    return study


@pytest.mark.parametrize("name", ["p_true", "margin", "nll", "brier", "calibrated_nll"])
@pytest.mark.parametrize(("split", "parts"), [("val", {"val"}), ("probe", {"val", "train"}), ("test", {"test"})])
def test_a_column_is_the_mean_over_the_images_of_its_split(
    filled: Path, name: str, split: str, parts: set[str]
) -> None:
    frame = with_scores(load_study(filled), [f"{split}_{name}", "val_top1", "params", None])
    assert str(frame[f"{split}_{name}"].dtype) == "Float64"
    for row in frame.itertuples():
        value = getattr(row, f"{split}_{name}")
        if split == "test" and row.phase == "search":
            assert pd.isna(value)
        else:
            assert value == pytest.approx(expected(name, str(row.arm), int(row.seed), parts), abs=1e-12)  # type: ignore[arg-type]
    assert with_scores(frame, [f"{split}_{name}"]) is frame


def test_every_table_takes_them(filled: Path) -> None:
    frame = load_study(filled)
    means = {arm: np.mean([expected("nll", arm, seed, {"test"}) for seed in (2, 3, 4)]) for arm in ("plain", "stage3")}
    table = ablation_table(frame, "test_nll").data.set_index("arm")
    assert table.loc["stage3", "mean"] == pytest.approx(means["stage3"])
    assert table.loc["stage3", "diff"] == pytest.approx(means["stage3"] - means["plain"])
    pivot = pivot_table(frame, TableSpec(metrics=("test_nll", "val_brier", "params", "test_top1")[:2]))
    assert {figure.metric.column: figure.mean for _, _, figure in pivot.figures if figure.arm.label == "plain"} == {
        "test_nll": pytest.approx(means["plain"]),
        "val_brier": pytest.approx(np.mean([expected("brier", "plain", seed, {"val"}) for seed in (2, 3, 4)])),
    }
    diff = diff_studies(filled, filled, metric="probe_p_true").data
    assert diff["mean_a"].notna().all()
    final = frame[frame["phase"] == "final"]
    final.attrs = frame.attrs
    assert paired_difference(final, "stage3", "plain", "test_nll").mean == pytest.approx(
        means["stage3"] - means["plain"]
    )


def test_trust_ranks_the_search_by_its_validation_images(filled: Path) -> None:
    (row,) = trust_table([filled], "test_p_true").data.itertuples()
    assert (row.metric_cheap, row.metric_expensive, row.n) == ("val_p_true", "test_p_true", 3)
    (row,) = trust_table([filled], "probe_p_true").data.itertuples()
    assert (row.metric_cheap, row.metric_expensive) == ("probe_p_true", "probe_p_true")
    (row,) = trust_table([filled, filled], "probe_p_true").data.itertuples()
    assert row.metric_cheap == "probe_p_true"


def test_the_command_line_takes_them_and_its_trials_make_the_table_again(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(filled), "--metric", "test_nll"]) == 0
    printed = capsys.readouterr().out
    assert "test NLL" in printed
    assert "val NLL" in printed  # by which the search is ranked, in the note on proxy trust
    trials = filled / "tables" / "trials.csv"
    for run in filled.glob("*/*/samples.npz"):
        run.unlink()
    here, there = load_study(trials), (filled / "tables" / "ablation.csv")
    again = ablation_table(here, "test_nll").data
    assert again["mean"].tolist() == pytest.approx(pd.read_csv(there)["mean"].tolist(), rel=1e-12)


def test_who_kept_nothing_is_missing_and_did_not_fail(filled: Path) -> None:
    (filled / "final").joinpath("0001-s2", "samples.npz").unlink()  # stage3's first seed
    row = ablation_table(load_study(filled), "test_p_true").data.set_index("arm").loc["stage3"]
    assert (row["n"], row["n_lost"], row["missing"]) == (2, 0, "1 without test_p_true")
    assert pd.isna(row["worst_diff"])


def test_a_damaged_file_is_named_and_left_out(filled: Path) -> None:
    path = filled / "final" / "0001-s2" / "samples.npz"
    path.write_bytes(path.read_bytes()[:-30])
    table = ablation_table(load_study(filled), "test_p_true")
    assert table.data.set_index("arm").loc["stage3", "n"] == 2
    assert any(str(path) in note for note in table.notes)


def test_a_study_that_kept_nothing_says_how_to(study: Path, add: Add) -> None:
    for seed in range(2):
        add("plain", seed, test_top1=50.0, val_top1=50.0)
    frame = load_study(study)
    for name in ("test_p_true", "probe_nll"):
        with pytest.raises(ValueError, match=rf"has {name}.*data\.probe_size=5000"):
            ablation_table(frame, name)
        with pytest.raises(ValueError, match=rf"has {name}.*data\.probe_size=5000"):
            pivot_table(frame, TableSpec(metrics=(name,)))
    with pytest.raises(ValueError, match=r"^((?!probe_size).)*$"):
        ablation_table(frame, "val_loss")
