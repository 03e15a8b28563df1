"""What tables say of detectors: intervals over pictures beside those over seeds, and precision by class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search.cli.table import main
from search.ledger.matches import ARRAYS, FILES, Matches, read_matches, write_matches
from search.report.ablation import DATA_COLUMNS, AblationTable, ablation_table
from search.report.detections import CLASS_COLUMNS, PICTURES, class_table
from search.report.reading.load import load_study
from search.report.render import RENDERERS
from search.stats.precision import Judged, average_precision, drawn, mean_precision

from .conftest import Add

P, CLASSES = 60, ("cap", "boot", "glove")
SKILL = {"plain": 0.5, "stage3": 0.8}


def matches(seed: int, skill: float, first: int = 0) -> Matches:
    """Each object is found with a chance of `skill` at the least overlap; of the third class there is none. A false alarm a picture."""
    objects = np.tile(np.random.default_rng(0).integers(0, 3, (P, 1)), (1, 3)) * [1, 1, 0]
    draw = np.random.default_rng([seed, int(100 * skill)])
    category, picture = np.indices((2, P)).reshape(2, -1)
    found = objects[picture, category]
    category, picture = np.repeat(category, found + 1), np.repeat(picture, found + 1)
    n = len(picture)
    first_of = np.r_[True, (np.diff(picture) != 0) | (np.diff(category) != 0)]  # the false alarm
    matched = ~first_of & (draw.random(n) < np.linspace(skill, 0.1, 10)[:, None])
    return Matches(
        pictures=np.arange(first, first + P),
        categories=np.array(CLASSES),
        picture=picture,
        category=category,
        score=draw.random(n),
        matched=np.maximum.accumulate(matched[::-1])[::-1],
        ignored=np.zeros((10, n), dtype=bool),
        objects=objects,
    )


def judged(found: Matches) -> Judged:
    return Judged(**{name: getattr(found, name) for name in ARRAYS})


def keep(add: Add, arm: str, seed: int, first: int = 0) -> Path:
    """A finished trial with its matches; returns their file."""
    found = matches(seed, SKILL[arm], first)
    ap = float(np.nanmean(average_precision(judged(found))))
    folder = add(arm, seed, "search", val_box_ap=ap, val_box_ap50=ap, val_box_ap_large=None)
    write_matches(folder / FILES["val"], {"box": found})
    return folder / FILES["val"]


@pytest.fixture
def files(study: Path, add: Add) -> dict[tuple[str, int], Path]:
    return {(arm, seed): keep(add, arm, seed) for arm in SKILL for seed in range(3)}


def table_of(study: Path) -> AblationTable:
    return ablation_table(load_study(study))


def test_matches_come_back(files: dict[tuple[str, int], Path]) -> None:
    back = read_matches(files["plain", 1], "box")
    assert back is not None
    for name in ("pictures", "categories", *ARRAYS):
        assert np.array_equal(getattr(back, name), getattr(matches(1, SKILL["plain"]), name))


def test_the_table_says_both_spreads(study: Path, files: dict[tuple[str, int], Path]) -> None:
    table = table_of(study)
    assert table.metric.column == "val_box_ap"
    row = table.data.set_index("arm").loc["stage3"]
    weights = drawn(P)
    each = {arm: [mean_precision(judged(matches(s, SKILL[arm])), weights) for s in range(3)] for arm in SKILL}
    deltas = np.mean(each["stage3"], axis=0) - np.mean(each["plain"], axis=0)
    assert row["diff"] == pytest.approx(deltas[0])
    assert row["pictures_sd"] == pytest.approx(deltas[1:].std(ddof=1))
    assert row["pictures_low"] < row["diff"] < row["pictures_high"]
    assert list(table.data) == [*DATA_COLUMNS, *PICTURES]
    text, markdown = RENDERERS["txt"](table), RENDERERS["md"](table)
    assert "over pictures [+" in text
    assert "| 95% over pictures |" in markdown
    assert (
        sum(note.startswith("Over pictures: 95% of 200 resamples of the validation images") for note in table.notes)
        == 1
    )


def test_what_is_not_whole_is_told(study: Path, add: Add, files: dict[tuple[str, int], Path]) -> None:
    files["stage3", 1].write_bytes(files["stage3", 1].read_bytes()[:-50])
    table = table_of(study)
    assert list(table.data) == list(DATA_COLUMNS)
    assert any("No intervals over pictures" in note and "cannot be read" in note for note in table.notes)
    files["stage3", 1].unlink()
    said = "No intervals over pictures: not every trial of the arms has its matches.npz."
    assert said in table_of(study).notes
    write_matches(files["stage3", 1], {"box": matches(1, 0.8, first=5)})
    assert said in table_of(study).notes


def test_other_metrics_say_nothing(study: Path, add: Add) -> None:
    for arm in SKILL:
        for seed in range(2):
            add(arm, seed, "search", val_top1=50.0 + seed)
    assert not any("over pictures" in note for note in table_of(study).notes)


def test_precision_by_class(
    study: Path, files: dict[tuple[str, int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    table = class_table(load_study(study))
    assert {name: str(dtype) for name, dtype in table.data.dtypes.items()} == CLASS_COLUMNS
    rows = table.data.set_index(["arm", "class"])
    values = np.array([average_precision(judged(matches(seed, 0.8)))[0] for seed in range(3)])
    assert rows.loc[("stage3", "boot"), ["mean", "sd"]].tolist() == pytest.approx(
        [values[:, 1].mean(), values[:, 1].std(ddof=1)]
    )
    assert rows.loc[("stage3", "all classes"), "mean"] == pytest.approx(values[:, :2].mean())
    assert [column.title for column in table.columns] == ["class", "objects", "plain", "stage3"]
    assert [row.cells[0].text for row in table.rows] == [*CLASSES, "all classes"]
    assert [cell.text for cell in table.rows[2].cells] == ["glove", "0", "-", "-"]
    assert main([str(study), "--classes"]) == 0
    assert "val box AP by class" in capsys.readouterr().out
    assert sorted(path.name for path in (study / "tables").iterdir()) == ["classes.csv", "classes.md", "classes.tex"]


def test_wrong_uses_are_told(
    study: Path, add: Add, files: dict[tuple[str, int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert main([*arguments, "--classes"]) == 2
        return capsys.readouterr().err

    assert main([str(study)]) == 0
    again = load_study(study / "tables" / "trials.csv")
    assert again["val_box_ap"].tolist() == load_study(study)["val_box_ap"].tolist()
    assert "give the study's folder" in refused(str(study / "tables" / "trials.csv"))
    assert "--classes takes --phase, --metric" in refused(str(study), "--margin", "1")
    assert "test_box_ap, val_box_ap" in refused(str(study), "--metric", "val_box_ap50")
    files["plain", 0].unlink()
    write_matches(files["plain", 0], {"box": matches(0, 0.5, first=5)})
    assert "different pictures or classes" in refused(str(study))
