"""Scores of images against torch's own functions and SciPy's optimiser, and the laws they obey."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize_scalar

from search.stats.scores import COLDEST, HOTTEST, calibrated_nll, image_scores, temperature

NAMES = ["top1", "p_true", "margin", "nll", "brier"]
HALF = st.floats(-65504, 65504, width=16)


def some(images: int = 500, classes: int = 10, spread: float = 3.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float16 logits whose true class stands out a little."""
    random = np.random.default_rng(seed)
    target = random.integers(classes, size=images)
    logits = random.normal(0, spread, (images, classes))
    logits[np.arange(images), target] += spread
    return logits.astype(np.float16), target


@pytest.mark.parametrize("spread", [0.01, 1.0, 30.0, 10_000.0])
def test_as_torch_has_them(spread: float) -> None:
    logits, target = some(spread=spread)
    found = image_scores(logits, target, NAMES)
    z, t = torch.from_numpy(logits).double(), torch.from_numpy(target)
    p = F.softmax(z, 1)
    own = p.gather(1, t[:, None])[:, 0]
    others = p.scatter(1, t[:, None], -1).amax(1)
    expected = {
        "top1": 100.0 * (z.argmax(1) == t),
        "p_true": 100 * own,
        "margin": 100 * (own - others),
        "nll": F.cross_entropy(z, t, reduction="none"),
        "brier": F.mse_loss(p, F.one_hot(t, 10).double(), reduction="none").sum(1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.numpy(), rtol=1e-6, atol=1e-9, err_msg=name)
        assert found[name].dtype == np.float64


@st.composite
def drawn(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    images, classes = draw(st.integers(2, 12)), draw(st.integers(2, 6))
    logits = draw(arrays(np.float16, (images, classes), elements=HALF))
    return logits, draw(arrays(np.int64, images, elements=st.integers(0, classes - 1)))


@given(drawn())
def test_whatever_float16_holds_has_scores_within_their_ranges(given_: tuple[np.ndarray, np.ndarray]) -> None:
    logits, target = given_
    found = image_scores(logits, target, [*NAMES, "calibrated_nll"])
    assert all(np.isfinite(values).all() for values in found.values())
    for name, low, high in (("p_true", 0, 100), ("margin", -100, 100), ("brier", 0, 2), ("nll", 0, np.inf)):
        assert (found[name] >= low - 1e-9).all()
        assert (found[name] <= high + 1e-9).all()
    np.testing.assert_allclose(found["p_true"], 100 * np.exp(-found["nll"]), atol=1e-9)
    # right by more than a tie means ahead of every other class, and the other way round
    assert (found["top1"][found["margin"] > 1e-9] == 100).all()
    assert (found["margin"][found["top1"] == 100] >= -1e-9).all()


@given(drawn(), st.integers(-1000, 1000), st.randoms(use_true_random=False))
def test_neither_a_shift_nor_the_order_of_the_classes_matters(
    given_: tuple[np.ndarray, np.ndarray], shift: int, random: object
) -> None:
    logits, target = given_[0].astype(np.float64), given_[1]
    order = np.arange(logits.shape[1])
    random.shuffle(order)  # type: ignore[attr-defined]
    moved = (logits + shift)[:, order]
    where = np.argsort(order)[target]
    names = ["p_true", "margin", "nll", "brier"]
    one, other = image_scores(logits, target, names), image_scores(moved, where, names)
    for name in names:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("heat", [0.1, 0.2, 1.0, 7.0, 15.0])
def test_the_temperature_is_that_of_the_largest_likelihood(heat: float) -> None:
    logits, target = some(spread=1.0)
    z, t = torch.from_numpy(heat * logits.astype(np.float64)), torch.from_numpy(target)
    best = minimize_scalar(lambda beta: float(F.cross_entropy(beta * z, t)), bounds=(1e-3, 100), method="bounded")
    assert 1 / temperature(z.numpy(), target) == pytest.approx(best.x, rel=1e-4)


def test_a_temperature_stays_within_its_ends() -> None:
    target = np.array([0, 1, 0, 1])
    right = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    assert temperature(right, target) == pytest.approx(COLDEST)
    assert temperature(-right, target) == pytest.approx(HOTTEST)
    assert temperature(0 * right, target) == 1


def test_no_image_is_scored_by_a_temperature_fitted_to_itself() -> None:
    """What else is true of an image does not change what the network is charged for its half."""
    logits, target = some(images=60, spread=1.0)
    scores = calibrated_nll(logits, target)
    changed = target.copy()
    changed[10] = (changed[10] + 3) % 10
    again = calibrated_nll(logits, changed)
    own_half = np.arange(0, 60, 2)
    kept = own_half[own_half != 10]
    np.testing.assert_array_equal(again[kept], scores[kept])
    assert (again[1::2] != scores[1::2]).all()
    other = temperature(logits[1::2], target[1::2])
    expected = F.cross_entropy(torch.from_numpy(logits[10:11]).double() / other, torch.from_numpy(target[10:11]))
    assert scores[10] == pytest.approx(float(expected), abs=1e-9)


def test_calibration_undoes_a_factor() -> None:
    logits, target = some(images=2000, spread=1.0)
    cool, hot = (calibrated_nll(factor * logits.astype(np.float64), target) for factor in (0.3, 3.0))
    np.testing.assert_allclose(cool, hot, rtol=1e-8)
    assert hot.mean() < image_scores(3.0 * logits.astype(np.float64), target, ["nll"])["nll"].mean()


def test_what_cannot_be_scored() -> None:
    logits, target = some(images=1)
    with pytest.raises(ValueError, match="two images"):
        calibrated_nll(logits, target)
    with pytest.raises(ValueError, match="'auc' is no score"):
        image_scores(logits, target, ["auc"])
