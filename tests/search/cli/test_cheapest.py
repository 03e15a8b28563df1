"""What a stated difference costs: variances and seconds are those of earlier runs, and what these do not tell is not made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from search.cli.cheapest import Asked, Way, alike, cheapest, said, ways_below
from search.ledger.result import TrialResult, write_result
from search.ledger.study_files import Cell, write_design
from search.stats.inference import powers

CONFIG = {
    "task": "classify",
    "backbone": {"name": "net"},
    "data": {"name": "digits", "path": None, "image_size": None, "channels": None, "train_size": 900},
    "train": {"epochs": 4},
}
ASKED = Asked(difference=0.3, alpha=0.05 / 4, power=0.8, cells=5)
GRAFT = Way(
    start="shared",
    epochs=3,
    images=(900, 360),
    total=0.25,
    degrees=12,
    between=0.05,
    within=0.2,
    seconds=6.0,
    root_seconds=10.0,
)


def power_of(way: Way, asked: Asked, roots: int, orders: int) -> float:
    sd = float(way.variance(orders) or 0.0) ** 0.5
    return float(powers(np.array([asked.difference / sd]), np.array([float(roots)]), asked.alpha)[0])


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 1.0), st.floats(0.01, 1.0), st.floats(1, 20), st.floats(1, 40), st.integers(2, 9))
def test_no_other_number_of_orders_is_cheaper_and_one_root_less_is_not_enough(
    between: float, within: float, seconds: float, of_root: float, cells: int
) -> None:
    way = replace(GRAFT, between=between**2, within=within**2, seconds=seconds, root_seconds=of_root)
    asked = ASKED._replace(cells=cells)
    found = cheapest(way, asked)
    if found.roots is None:
        return
    assert power_of(way, asked, found.roots, found.orders) >= asked.power
    assert found.roots == 2 or power_of(way, asked, found.roots - 1, found.orders) < asked.power
    for orders in range(1, 9):
        other = way.cost(cells, found.roots, orders)[1]
        assert (
            power_of(way, asked, found.roots, orders) < asked.power or (other or 0.0) >= (found.seconds or 0.0) - 1e-6
        )


def test_a_design_with_roots_costs_them_its_arms_and_its_controls() -> None:
    trainings, seconds = GRAFT.cost(cells=5, roots=4, orders=2)
    assert trainings == 4 + (5 + 2) * 4 * 2 + 4  # roots, arms and the two controls, the known one from scratch
    assert seconds == 56 * 6.0 + 8 * 10.0
    assert replace(GRAFT, root_seconds=None).cost(5, 4, 2) == (trainings, None)
    assert replace(GRAFT, start="scratch").cost(5, 40, 1) == (200, 1200.0)


def test_orders_are_not_guessed_where_none_were_measured() -> None:
    way = replace(GRAFT, between=None, within=None)
    assert (way.variance(1), way.variance(2)) == (0.25, None)
    assert cheapest(way, ASKED).orders == 1
    assert cheapest(replace(GRAFT, start="scratch", between=None, within=None), ASKED).orders == 1


def write(runs: Path, study: str, arm: str, seed: int, value: float, **more: Any) -> str:
    folder = runs / study / "final" / f"{len(list(runs.glob('*/final/*'))):04d}-s{seed}"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(more.pop("config", CONFIG)))
    given: dict[str, Any] = {
        "recipe_hash": "r",
        "epochs": 4,
        "provenance": {"device": "cpu"},
        "train_seconds": 5.0,
        **more,
    }
    result = TrialResult(
        study=study,
        trial=0,
        phase="final",
        status="ok",
        seed=seed,
        arch_hash=arm,
        is_baseline=arm == "plain" and given.get("start") is not None,
        metrics={"test_top1": value},
        test_images=360,
        **given,
    )
    write_result(folder, result)
    return f"final/{folder.name}"


def test_variances_and_seconds_are_those_of_earlier_runs(tmp_path: Path) -> None:
    deltas = np.array([[0.1, 0.5], [1.1, 0.9], [0.4, 0.2]])
    for root in range(3):
        place = write(tmp_path, "s", "plain", root, 50.0, recipe_hash="root", train_seconds=11.0)
        for order in range(2):
            seed, start = root + 100 * (order + 1), {"start": "shared", "root": place, "root_seed": root, "epochs": 3}
            write(tmp_path, "s", "plain", seed, 60.0, **start)
            write(tmp_path, "s", "arm", seed, 60.0 + deltas[root, order], train_seconds=7.0, **start)
            write(
                tmp_path, "s", "alone", seed, 40.0 - 9 * deltas[root, order], overrides=["a=1", f"seed={seed}"], **start
            )
    known = Cell("known control", ("a=1",), {"control": "known"})
    write_design(tmp_path / "s", "one_at_a_time", [known])
    wanted = alike(CONFIG)
    (way,) = ways_below(tmp_path, wanted, on_cpu=True)
    inside = deltas.var(axis=1, ddof=1).mean()
    assert (way.start, way.epochs, way.images, way.degrees) == ("shared", 3, (900, 360), 2)
    assert way.within == pytest.approx(inside)
    assert way.between == pytest.approx(max(deltas.mean(axis=1).var(ddof=1) - inside / 2, 0.0))
    assert (way.seconds, way.root_seconds) == ((5.0 + 7.0 + 5.0) / 3, 11.0)
    assert ways_below(tmp_path, wanted, on_cpu=False) == []
    assert ways_below(tmp_path, {**wanted, "backbone.name": "other"}, on_cpu=True) == []
    text = "\n".join(said([way], ASKED))
    assert "Unknown for start scratch, fork: no earlier final runs" in text
    assert f"Cheapest: shared, 3 epochs, {cheapest(way, ASKED).roots} roots" in text


def test_from_scratch_seeds_stand_for_roots(tmp_path: Path) -> None:
    for seed, (base, arm) in enumerate([(50.0, 50.5), (52.0, 51.5), (49.0, 50.2)]):
        write(tmp_path, "s", "plain", seed, base, start="scratch")
        write(tmp_path, "s", "arm", seed, arm)
    (way,) = ways_below(tmp_path, alike(CONFIG), on_cpu=True)
    assert way.total == pytest.approx(np.var([0.5, -0.5, 1.2], ddof=1))
    assert (way.start, way.degrees, way.between) == ("scratch", 2, None)
    assert "unknown" not in said([way], ASKED)[2]


def test_without_earlier_runs_all_is_unknown(tmp_path: Path) -> None:
    assert said(ways_below(tmp_path, alike(CONFIG), on_cpu=True), ASKED) == [
        "Unknown for start scratch, shared, fork: no earlier final runs of this data and backbone share two roots, or seeds, with a "
        "baseline."
    ]
