"""The parts of a variance, on simulated studies whose parts are known."""

from __future__ import annotations

import numpy as np
import pytest

from search.stats.budget import Components, Prices, components, next_hour, pooled

TRUTH = Components(root=0.5, order=0.3, image=20.0, root_image=15.0, order_image=30.0)
SCRATCH = Components(root=0.5, order=0.0, image=20.0, root_image=15.0, order_image=0.0)


def study(
    truth: Components, orders: list[int], images: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of one study with so many orders on each root."""
    roots = np.repeat(np.arange(len(orders)), orders)

    def drawn(variance: float, *shape: int) -> np.ndarray:
        return random.normal(0, np.sqrt(variance), shape)

    per_root = drawn(truth.root, len(orders), 1) + drawn(truth.root_image, len(orders), images)
    per_order = drawn(truth.order, len(roots), 1) + drawn(truth.order_image, len(roots), images)
    return 3.0 + drawn(truth.image, 1, images) + per_root[roots] + per_order, roots


@pytest.mark.parametrize(
    ("truth", "orders"),
    [(SCRATCH, [1] * 8), (TRUTH, [3] * 8), (TRUTH, [1, 2, 3, 3, 2, 4, 2, 3])],
    ids=["scratch", "nested", "unbalanced"],
)
def test_known_parts_are_recovered_without_bias(truth: Components, orders: list[int]) -> None:
    random = np.random.default_rng(1)
    found = [components(*study(truth, orders, 150, random)) for _ in range(200)]
    for name in ("root", "order", "image", "root_image", "order_image"):
        values = np.array([getattr(each, name) for each in found])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - getattr(truth, name)) <= 4 * error + 1e-12, name
        assert error < 0.07 * max(getattr(truth, name), 1.0), name  # so that the line above says something


def test_one_large_study_is_enough() -> None:
    found = components(*study(TRUTH, [4] * 60, 1500, np.random.default_rng(2)))
    assert vars(found) == pytest.approx(vars(TRUTH), rel=0.35)


def test_from_scratch_it_is_the_two_way_analysis_of_variance() -> None:
    differences, roots = study(SCRATCH, [1] * 5, 40, np.random.default_rng(3))
    n, m = differences.shape
    of_rows, of_columns, grand = differences.mean(1), differences.mean(0), differences.mean()
    rest = differences - of_rows[:, None] - of_columns + grand
    error = (rest**2).sum() / ((n - 1) * (m - 1))
    found = components(differences, roots)
    assert found.root_image == pytest.approx(error)
    assert found.root == pytest.approx(of_rows.var(ddof=1) - error / m)
    assert found.image == pytest.approx(of_columns.var(ddof=1) - error / n)


def test_a_shift_changes_nothing_and_a_factor_its_square() -> None:
    differences, roots = study(TRUTH, [2] * 4, 50, np.random.default_rng(4))
    once = vars(components(differences, roots))
    assert vars(components(differences + 1e3, roots)) == pytest.approx(once, rel=1e-6)
    assert vars(components(10 * differences, roots)) == pytest.approx({name: 100 * part for name, part in once.items()})


def test_the_variance_of_a_mean_is_what_studies_show() -> None:
    random = np.random.default_rng(5)
    means = [study(TRUTH, [2] * 5, 30, random)[0].mean() for _ in range(3000)]
    assert TRUTH.of_mean(5, 2, 30) == pytest.approx(np.var(means), rel=0.1)


def test_too_little_to_take_apart() -> None:
    with pytest.raises(ValueError, match="two images and two roots"):
        components(np.ones((3, 5)), np.zeros(3))
    with pytest.raises(ValueError, match="1 images of 3 trainings"):
        components(np.ones((3, 1)), np.arange(3))


def test_parts_below_zero_count_as_none_after_pooling_alone() -> None:
    low = Components(root=-1.0, order=0.0, image=2.0, root_image=1.0, order_image=0.0)
    high = Components(root=2.0, order=0.0, image=4.0, root_image=1.0, order_image=0.0)
    both = pooled([low, high], [3, 1])
    assert (both.root, both.image) == (-0.25, 2.5)
    assert both.parts(1, 1, 10) == {"root": 0, "order": 0, "image": 0.25, "root_image": 0.1, "order_image": 0}
    assert pooled([low, high], [1, 1]).root == 0.5


def test_an_hour_buys_what_it_pays_for() -> None:
    bought = next_hour(TRUTH, 5, 2, 1000, Prices(training=60.0, root=240.0, image=0.01))
    assert {name: more for name, (more, _) in bought.items()} == {"root": 10.0, "order": 12.0, "image": 36_000.0}
    assert bought["root"][1] == TRUTH.of_mean(15, 2, 1000)
    assert bought["order"][1] == TRUTH.of_mean(5, 14, 1000)
    assert bought["image"][1] == TRUTH.of_mean(5, 2, 37_000)
    assert all(after < TRUTH.of_mean(5, 2, 1000) for _, after in bought.values())


def test_what_has_no_price_or_is_no_part_is_not_bought() -> None:
    assert set(next_hour(SCRATCH, 8, 1, 1000, Prices(training=60.0))) == {"root"}
    assert set(next_hour(TRUTH, 8, 2, 1000, Prices(training=60.0, root=None))) == {"order"}
