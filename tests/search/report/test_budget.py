"""The table of the variance budget, of studies whose trials kept samples with known noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from search.cli.table import main
from search.report.budget import BUDGET_COLUMNS, budget_table
from search.report.reading.load import load_study
from search.report.render import render_text
from search.stats.scores import image_scores

from .conftest import Add, keep_samples

IMAGES = 400
COST = {"train_seconds": 60.0, "latency_ms": 8.0, "latency_batch": 4}


def logits(seed: int, arm: str, luck: float) -> np.ndarray:
    """Two classes, all images of the first: a stream of its own for what all trainings share, and for each of them."""
    image = np.random.default_rng(7).normal(0, 1.0, IMAGES)
    own = np.random.default_rng([seed, len(arm)])
    shift = own.normal(0, luck) if arm != "plain" else 0.0
    return np.stack([image + own.normal(0, 0.5, IMAGES) + shift, np.zeros(IMAGES)], axis=1)


def fill(add: Add, arms: dict[str, float], seeds: range) -> None:
    for seed in seeds:
        for arm, luck in arms.items():
            run = add(arm, seed, test_top1=50.0, val_top1=50.0, **COST)
            keep_samples(run, logits(seed, arm, luck), np.zeros(IMAGES, dtype=int), ["val"] * 300 + ["test"] * 100)


def test_an_arm_of_luck_and_one_of_images_are_told_apart(study: Path, add: Add) -> None:
    fill(add, {"plain": 0, "stage3": 1.0, "stage3+4": 0.0}, range(10))
    table = budget_table(load_study(study), "val_p_true")
    assert {name: str(dtype) for name, dtype in table.data.dtypes.items()} == BUDGET_COLUMNS
    rows = table.data.set_index("arm")
    assert rows.index[0] == "all arms"
    assert (rows[["root", "order", "image", "image_training"]].sum(axis=1) - rows["variance"]).abs().max() < 1e-12
    assert rows.loc["stage3", "root"] > 0.95 * rows.loc["stage3", "variance"]
    assert rows.loc["stage3+4", "image_training"] > 0.5 * rows.loc["stage3+4", "variance"]
    assert rows.loc["all arms", "root"] == pytest.approx(rows.loc[["stage3", "stage3+4"], "root"].mean(), rel=0.05)
    # what an arm's row says of the difference is the mean of its images
    own, other = (
        np.mean(
            [
                image_scores(logits(s, arm, luck)[:300].astype(np.float16), np.zeros(300, int), ["p_true"])["p_true"]
                for s in range(10)
            ]
        )
        for arm, luck in (("stage3", 1.0), ("plain", 0.0))
    )
    assert rows.loc["stage3", "diff"] == pytest.approx(own - other)
    text = render_text(table)
    assert "training luck" in text
    assert " order" not in text.split("Notes")[0]


def test_the_next_hour_is_priced_by_what_trials_took(study: Path, add: Add) -> None:
    fill(add, {"plain": 0, "stage3": 1.0, "stage3+4": 0.0}, range(4))
    (below,) = budget_table(load_study(study), "val_p_true").below
    assert below.data["arm"].unique().tolist() == ["all arms", "stage3", "stage3+4"]
    bought = below.data[below.data["arm"] == "stage3"].set_index("what")["more"]
    assert bought["seeds"] == pytest.approx(3600 / (3 * 60.0))
    assert bought["images"] == pytest.approx(3600 / (4 * 3 * 0.002))


def test_orders_on_roots_are_parts_of_their_own(study: Path, add: Add) -> None:
    fill(add, {"plain": 0, "stage3": 1.0}, range(12))
    frame = load_study(study)
    started = frame.assign(
        start=pd.array(["shared"] * len(frame), dtype="string"),
        root=("roots/" + (frame["seed"] // 3).astype("string")).astype("string"),
        root_seed=(frame["seed"] // 3 + 100).astype("Int64"),
    )
    roots = frame[frame["arm"] == "plain"].head(4)
    roots = roots.assign(
        start="scratch", arm="root", is_baseline=False, arch_hash="e" * 10, seed=range(100, 104), train_seconds=500.0
    )
    both = pd.concat([started, roots.assign(root=pd.NA, root_seed=pd.NA)], ignore_index=True)
    both.attrs = frame.attrs
    table = budget_table(both, "test_p_true")
    (row,) = table.data.itertuples()
    assert (row.arm, row.n, row.roots) == ("stage3", 12, 4)
    assert row.order > row.root
    assert row.images == 100
    bought = table.below[0].data.set_index("what")["more"]
    assert bought["roots"] == pytest.approx(3600 / (500 + 3 * 120))
    assert bought["orders on each root"] == pytest.approx(3600 / (4 * 120))
    # of a file of the user's own no other can be had by training; and one root is no sample of roots
    one = started.assign(root="mine.pt", root_seed=pd.array([pd.NA] * len(started), dtype="Int64"))
    one.attrs = frame.attrs
    table = budget_table(one, "test_p_true")
    assert "roots" not in table.below[0].data["what"].tolist()
    assert table.data["n"].tolist() == [12]
    assert any("one network, mine.pt" in note for note in table.notes)


def test_the_command_line(study: Path, add: Add, capsys: pytest.CaptureFixture[str]) -> None:
    fill(add, {"plain": 0, "stage3": 1.0}, range(3))
    assert main([str(study), "--budget", "--metric", "test_p_true"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("demo: variance budget of a paired difference, test p(true) %")
    assert "An hour for all 2 networks buys 30 seeds or 300 k images: most on seeds" in " ".join(printed.split())
    assert sorted(path.name for path in (study / "tables").iterdir()) == ["budget.csv", "budget.md", "budget.tex"]
    assert pd.read_csv(study / "tables" / "budget.csv").columns.tolist() == list(BUDGET_COLUMNS)
    assert main([str(study), "--budget", "--baseline", "stage3", "--no-write", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("plain,3,3,100,")
    assert main([str(study), "--budget", "--margin", "1"]) == 2
    assert "--budget takes --phase, --metric" in capsys.readouterr().err


def test_arms_that_are_equal_on_every_image_have_no_variance(study: Path, add: Add) -> None:
    for seed in range(3):
        for arm in ("plain", "null"):
            keep_samples(
                add(arm, seed, test_top1=50.0, **COST),
                logits(seed, "plain", 0),
                np.zeros(IMAGES, int),
                ["test"] * IMAGES,
            )
    table = budget_table(load_study(study))
    assert table.data["variance"].tolist() == [0.0]
    assert table.below == ()
    assert "no variance" in render_text(table)


def test_what_has_no_budget(study: Path, add: Add) -> None:
    for seed in range(2):
        for arm in ("plain", "stage3"):
            add(arm, seed, test_top1=50.0, train_seconds=3.0)
    frame = load_study(study)
    with pytest.raises(ValueError, match=r"'plain'.*test images.*data\.probe_size"):
        budget_table(frame)
    with pytest.raises(ValueError, match="train_seconds is no mean over images"):
        budget_table(frame, "train_seconds")
    unmarked = frame.assign(is_baseline=False)
    unmarked.attrs = frame.attrs
    with pytest.raises(ValueError, match="needs a baseline"):
        budget_table(unmarked)
    for at, run in enumerate(sorted((study / "final").iterdir())):
        keep_samples(run, np.zeros((5, 2)), np.zeros(5, int), ["test"] * 5, first=at)
    with pytest.raises(ValueError, match="different images"):
        budget_table(frame)
