"""Average precision is COCO's, weights are copies of pictures, and the bootstrap draws the same pictures for both arms."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.data.annotated import Scene, Truth
from search.ledger.matches import ARRAYS, read_matches
from search.stats.precision import Judged, average_precision, drawn, mean_precision, over_pictures

from ..tasks.detections import CATEGORIES, Picture, evaluator, pictures

SEEDS = st.integers(0, 2**32 - 1)


def judged_of(made: list[Picture], kind: str, folder: Path) -> tuple[Judged, float]:
    """What the evaluator wrote, and the average precision that it says."""
    scorer = evaluator(made)
    scorer.write(folder, "val")
    matches = read_matches(folder / "matches.npz", kind)
    assert matches is not None
    return Judged(**{name: getattr(matches, name) for name in ARRAYS}), scorer.compute()[f"{kind}_ap"] or 0.0


def random_judged(seed: int, pictures: int = 6, categories: int = 3) -> Judged:
    """Detections of any kind, no two of one score: at most as many find an object as there are."""
    draw = np.random.default_rng(seed)
    objects = draw.integers(0, 4, (pictures, categories))
    counts = draw.integers(0, 6, (categories, pictures))
    category, picture = (np.repeat(each.ravel(), counts.ravel()) for each in np.indices(counts.shape))
    n = len(picture)
    score = draw.permutation(n).astype(float)
    order = np.lexsort((-score, picture, category))
    matched = np.zeros((2, n), dtype=bool)
    for row in matched:
        left = objects.copy()
        for at in draw.permutation(n):
            if left[picture[at], category[at]] and draw.random() < 0.6:
                row[at], left[picture[at], category[at]] = True, left[picture[at], category[at]] - 1
    ignored = ~matched & (draw.random((2, n)) < 0.1)
    return Judged(picture, category, score[order], matched, ignored, objects)


def without(judged: Judged, at: int) -> Judged:
    names = ("picture", "category", "score", "matched", "ignored")
    return replace(judged, **{name: np.delete(getattr(judged, name), at, axis=-1) for name in names})


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_it_is_that_of_coco(tmp_path: Path, kind: str) -> None:
    """With ties, crowds and pictures of nothing."""
    judged, said = judged_of(pictures(40), kind, tmp_path)
    assert 0 < said < 100
    assert float(np.nanmean(average_precision(judged))) == pytest.approx(said, abs=1e-9)
    assert mean_precision(judged, drawn(40, 3))[0] == pytest.approx(said, abs=1e-9)
    lonely = replace(judged, objects=judged.objects * [1, 0, 1])
    assert np.isnan(average_precision(lonely)).tolist() == [[False, True, False]]


@settings(max_examples=6, deadline=None)
@given(counts=st.lists(st.integers(0, 3), min_size=10, max_size=10).filter(any), seed=st.integers(0, 99))
def test_a_weight_is_so_many_copies(tmp_path_factory: pytest.TempPathFactory, counts: list[int], seed: int) -> None:
    made = pictures(10, seed, ties=False)
    copies = [copied(each, 1000 * at + turn) for at, each in enumerate(made) for turn in range(counts[at])]
    folder = tmp_path_factory.mktemp("judged")
    judged, _ = judged_of(made, "box", folder)
    copied_judged, said = judged_of(copies, "box", folder)
    each = average_precision(judged, np.array([counts, [1] * 10]))
    assert each[0] == pytest.approx(average_precision(copied_judged)[0], abs=1e-9, nan_ok=True)
    if not np.isnan(each[0]).all():
        assert np.nanmean(each[0]) == pytest.approx(said, abs=1e-9)


def copied(picture: Picture, number: int) -> Picture:
    output, truth = picture
    rows = [{**row, "image_id": number} for row in truth.scene.annotations]
    return output, Truth(Scene(number, truth.scene.height, truth.scene.width, rows), CATEGORIES)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS)
def test_it_is_a_percentage_and_no_order_of_pictures_changes_it(seed: int) -> None:
    judged = random_judged(seed)
    each = average_precision(judged)
    known = each[~np.isnan(each)]
    assert ((known >= 0) & (known <= 100 + 1e-9)).all()
    order = np.random.default_rng(seed).permutation(6)
    turned = replace(judged, picture=np.argsort(order)[judged.picture], objects=judged.objects[order])
    assert average_precision(turned) == pytest.approx(each, abs=1e-9, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, which=st.integers(0, 99))
def test_no_false_alarm_raises_it_and_at_the_end_none_lowers_it(seed: int, which: int) -> None:
    judged = random_judged(seed)
    alarms = np.flatnonzero(~judged.matched.any(axis=0))
    if not len(alarms):
        return
    at = alarms[which % len(alarms)]
    before, after = (np.nan_to_num(average_precision(each)) for each in (judged, without(judged, at)))
    assert (after >= before - 1e-9).all()
    if judged.score[at] == judged.score[judged.category == judged.category[at]].min():
        assert after == pytest.approx(before)


def test_both_arms_are_read_on_the_same_pictures() -> None:
    judged = [random_judged(seed, pictures=30) for seed in range(4)]
    weights = drawn(30, 200)
    assert (weights.sum(axis=1) == 30).all()
    assert np.array_equal(weights, drawn(30, 200))
    runs = [mean_precision(each, weights) for each in judged]
    assert runs[0][7] == pytest.approx(mean_precision(judged[0], weights[7:8])[0])
    found, turned = over_pictures(runs[:2], runs[2:]), over_pictures(runs[2:], runs[:2])
    deltas = (runs[0] + runs[1] - runs[2] - runs[3]) / 2
    assert (found.mean, found.sd) == pytest.approx((deltas[0], deltas[1:].std(ddof=1)))
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert found.low < found.mean < found.high
    same = over_pictures(runs[:2], runs[:2])
    assert (same.mean, same.sd, same.low, same.high) == (0, 0, 0, 0)
