"""The truth table: what its arms differ by is told from noise, and a cheap ranking is held against seeds that it has not seen."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import replay
import truth
from truth_page import page

SEEDS = 4


def made(sd_of_arms: float, noise: float = 1.0) -> pd.DataFrame:
    """A table of the plain network, both blocks in each subset of two stages, and a proxy that is right but for its noise."""
    draw, rows = np.random.default_rng(0), []
    names = ["plain", *(f"{block} {where}" for block in ("X-volution", "PSSA alone") for where in ("1", "2", "12"))]
    means = dict(zip(names, 50 + sd_of_arms * draw.standard_normal(len(names)), strict=True))
    for name, mean in means.items():
        for ranking, seed in [*(("", seed) for seed in range(SEEDS)), ("a quarter", 100)]:
            score = mean + seed + noise * draw.standard_normal()
            stages = [name != "plain" and stage in name.split()[-1] for stage in "1234"]
            point = {
                f"placement.at.{stage}": "block" if on else "none"
                for stage, on in zip(truth.STAGES, stages, strict=True)
            }
            branch = "" if name == "plain" else "pssa" if name.startswith("PSSA") else "xvolution"
            row = {
                "ranking": ranking,
                "arm": name,
                **point,
                "branch": branch,
                "arch_hash": name,
                "seed": seed,
                "start": "scratch",
            }
            row |= {
                "val_top1": score,
                "val_p_true": score,
                "test_top1": score,
                "params": 1000 + 10 * sum(stages),
                "macs": 10,
                "epochs": 2,
            }
            row |= {
                "val_top1_after_1": score - 5,
                "val_top1_after_2": score,
                "passes": 2.5 if ranking else 10.0,
                "train_seconds": 1.0,
            }
            rows.append(row | {"commit": "0" * 12})
    return pd.DataFrame(rows)


def trained(table: pd.DataFrame) -> pd.DataFrame:
    """Arms by seeds of the truth's own trainings."""
    return truth.matrix(table[table["ranking"] == ""], "test_top1")


def test_arms_that_differ_are_told_from_noise() -> None:
    loud = truth.spread(trained(made(10.0)))
    assert loud["p"] < 1e-6
    assert loud["reliability"][0] > loud["reliability"][1] > 0.8
    assert loud["noise"] == pytest.approx(1.0, rel=0.5)
    still = truth.spread(trained(made(0.0)))
    assert still["p"] > 0.01
    assert still["reliability"][1] < 0.5


def test_what_a_seed_does_to_all_arms_changes_nothing() -> None:
    values = trained(made(1.0))
    one, two = truth.spread(values), truth.spread(values + 100 * np.arange(SEEDS))
    assert one["f"] == pytest.approx(two["f"])
    assert one["split_tau"] == pytest.approx(two["split_tau"])


def test_proxies_have_their_cost_and_their_tau() -> None:
    found = truth.results(made(10.0))
    rows = {(row["proxy"], row["score"]): row for row in found["proxies"]["all arms"]}
    assert rows["a quarter", "val_top1"]["cost"] == pytest.approx(0.25)
    assert rows["a quarter", "val_top1"]["tau"][0] > 0.5
    assert rows["one training, read after 1 of 2 epochs", "val_top1"]["cost"] == pytest.approx(0.5)
    assert rows["MACs", "macs"]["tau"][0] is None  # all have the same
    text = page(found)
    assert all(f"| {arm} |" in text for arm in found["arms"])


def test_a_training_is_not_held_against_itself() -> None:
    """Of noise alone, one seed against the mean that has it in would agree."""
    values = pd.DataFrame(np.random.default_rng(1).standard_normal((400, 2)))
    assert abs(truth.one_seed(values, values)["tau"][0]) < 0.1


def test_an_arm_that_did_not_finish_on_every_seed_is_left_out_and_named() -> None:
    table = made(10.0).drop(index=0)
    found = truth.results(table)
    assert found["left_out"] == {"plain": SEEDS - 1}
    assert found["spread"]["all arms"]["arms"] == 6
    assert "plain (on 3)" in page(found)
    with pytest.raises(SystemExit, match="1 arms finished on all of 3 seeds"):
        trained(table[table["arm"] == "plain"])


def test_samplers_are_replayed_on_the_arms_of_the_space(tmp_path: Path) -> None:
    table = made(10.0, noise=0.0)
    small = table.drop(columns=["placement.at.stage3", "placement.at.stage4"])
    outside = small[small["arm"] == "plain"].assign(arm="channels_50", arch_hash="narrow", branch=None)
    pd.concat([small, outside]).to_parquet(tmp_path / "t.parquet")
    read = replay.Table.read(tmp_path / "t.parquet")
    assert {len(values) for values in read.values.values()} == {SEEDS}
    assert set(read.values) == set(small["arm"])
    assert read.noise() == pytest.approx(0.0, abs=1e-9)
    best = table.groupby("arm")["test_top1"].mean().idxmax()
    assert read.good()[1] == best


def test_a_replay_leaves_out_a_seed_that_an_arm_did_not_finish(tmp_path: Path) -> None:
    table = made(10.0).drop(columns=["placement.at.stage3", "placement.at.stage4"])
    table.drop(index=table.index[table["ranking"] == ""][0]).to_parquet(tmp_path / "t.parquet")
    values = replay.Table.read(tmp_path / "t.parquet").values
    assert {len(each) for each in values.values()} == {SEEDS - 1}
    assert len(values) == 7
