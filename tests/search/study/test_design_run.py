"""Designs as real processes: each cell on each seed, cells that fail, and what a design would pass over."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from search.design.trials import first_seed_of
from search.ledger.study_files import JOURNAL, read_changes
from search.report.ablation import ablation_table
from search.report.reading.load import load_study

from .conftest import Toy, count

Run = Callable[..., "subprocess.CompletedProcess[str]"]
NOTHING = {"complete": 0, "pruned": 0, "failed": 0, "running": 0, "waiting": 0, "skipped": 0}
DESIGN = [
    *(f"hydra.sweeper.design.{line}" for line in ("kind=one_at_a_time", "seeds=2", "first_seed=5")),
    "+hydra.sweeper.design.factors.x=['x=5','x=3','x=4']",
]


def test_a_design_trains_each_cell_on_each_seed_and_takes_more_of_both(toy: Toy, run: Run) -> None:
    run(*DESIGN)
    assert {line[0] for line in toy.trace} == {"final"}
    assert Counter((line[2], line[3]) for line in toy.trace) == {(x, seed): 1 for x in "534" for seed in "56"}
    assert [line[3] for line in toy.trace] == ["5"] * 3 + ["6"] * 3  # seed by seed: balanced if it is interrupted
    run(*DESIGN[:-1], "hydra.sweeper.design.seeds=3", "+hydra.sweeper.design.factors.x=['x=5','x=3','x=4','x=7']")
    assert len(toy.trace) == 4 * 3
    (change,) = read_changes(toy.study_dir())
    assert change.changed == {"design.seeds": (2, 3)}
    trials = toy.study("toy.final").trials
    assert {"x=5" in trial.user_attrs["overrides"] for trial in trials if trial.user_attrs["is_baseline"]} == {True}


@pytest.mark.slow
def test_each_design_has_seeds_of_its_own_and_keeps_them(toy: Toy, run: Run) -> None:
    lines = [line for line in DESIGN if "first_seed" not in line]
    for name in ("one", "two"):
        run(*lines, f"hydra.sweeper.study_name={name}", "admit=true")
    run(*lines, "hydra.sweeper.study_name=one", "admit=true", "hydra.sweeper.design.seeds=3")
    firsts = [first_seed_of(name, "design") for name in ("one", "two")]
    seeds = Counter(int(line[3]) for line in toy.trace)
    assert seeds == Counter({firsts[0] + n: 3 for n in range(3)} | {firsts[1] + n: 3 for n in range(2)})


@pytest.mark.slow
def test_a_cell_that_fails_is_told_and_the_others_go_on(toy: Toy, run: Run) -> None:
    run(*DESIGN, "fault=raise", "faulty=[3]")
    assert vars(count(toy.study("toy.final").get_trials())) == {**NOTHING, "complete": 4, "failed": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["hydra.sweeper.design.kind=one_at_time"], "did you mean one_at_a_time?"),
        ([*DESIGN, "hydra.sweeper.pruner={_target_:optuna.pruners.MedianPruner}"], "take pruner=none"),
        ([*DESIGN, "hydra.sweeper.seeds_per_trial=2"], "hydra.sweeper.design.seeds"),
        ([*DESIGN, "x=7"], "x=7 has no effect: every cell of the design sets x itself"),
        ([*DESIGN, "seed=7"], "leave it out, or give hydra.sweeper.design.first_seed"),
        (
            [*DESIGN[:-1], "+hydra.sweeper.design.factors.y=[[],'y=1','y=2']", "y=2"],
            "cells baseline and y=2 of the design are the same configuration: what sets them apart (y=2)",
        ),
    ],
)
def test_what_a_design_would_pass_over_is_refused(toy: Toy, overrides: list[str], message: str) -> None:
    done = toy.run(*overrides)
    assert done.returncode != 0
    assert message in done.stderr
    assert toy.trace == []


def grafts(tmp_path: Path, name: str, start: str) -> "subprocess.Popen[str]":
    """A small study of digits in a folder of its own, whose arms start from two roots."""
    small = ["train_size=256", "val_size=64", "test_size=64", "batch_size=64", "probe_size=80"]
    design = ["kind=one_at_a_time", f"start={start}", "roots=2", "gamma=[0.3]"]
    design += ["orders=1", *(["graft_epochs=1"] if start == "shared" else ["fork_at=0.5"])]
    command = [
        *(sys.executable, "-m", "search", "-m", "data=digits", "tracker=disabled", "train.epochs=2"),
        *("placement=none,stage3", "pruner=none", "measure.latency_repeats=0", "train.state_every_seconds=0"),
        *(f"data.{line}" for line in small),
        *(f"hydra.sweeper.design.{line}" for line in design),
        *(f"hydra.sweep.dir={tmp_path / name / 'runs' / 'study'}", "hydra.sweeper.study_name=study"),
        *("hydra.launcher.workers=2", "hydra.launcher.device=cpu"),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes)  # type: ignore[call-overload, no-any-return]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("start", ["shared", "fork"])
def test_grafts_of_a_killed_study_are_those_of_one_that_was_not(tmp_path: Path, start: str) -> None:
    whole = grafts(tmp_path, "whole", start)
    out, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, out
    killed = grafts(tmp_path, "killed", start)
    final = tmp_path / "killed" / "runs" / "study" / "final"
    deadline = time.monotonic() + 120
    while not list(final.glob("*/result.json")) and time.monotonic() < deadline:  # a root, while another is trained
        assert killed.poll() is None
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    again = grafts(tmp_path, "killed", start)
    out, _ = again.communicate(timeout=300)
    assert again.returncode == 0, out
    frames = [load_study(tmp_path / name / "runs" / "study") for name in ("whole", "killed")]
    ok = [frame[frame["status"] == "ok"].set_index(["cell", "seed"]).sort_index() for frame in map(named, frames)]
    columns = ["val_loss", "val_top1", "test_loss", "test_top1", "train_loss", "root_seed", "start"]
    pd.testing.assert_frame_equal(ok[0][columns], ok[1][columns])
    assert len(ok[0]) == 2 + 4 * 2 + 2
    plain, null = (ok[0].loc[cell] for cell in ("plain", "plain, null"))
    assert (plain["test_loss"] == null["test_loss"]).all()
    folders = sorted(final.iterdir())
    (final.parent / JOURNAL).unlink()
    mended = subprocess.run(
        [sys.executable, "-m", "search.cli.check", str(final.parent), "--repair"], capture_output=True, text=True
    )
    assert mended.returncode == 0, mended.stdout + mended.stderr
    once_more = grafts(tmp_path, "killed", start)
    out, _ = once_more.communicate(timeout=300)
    assert once_more.returncode == 0, out
    assert sorted(final.iterdir()) == folders  # every root and graft was known again, none was trained anew
    table = ablation_table(frames[0])
    assert [(len(arm.levels or {}), arm.label) for arm in table.arms if arm.is_baseline] == [(1, "plain")]


def named(frame: pd.DataFrame) -> pd.DataFrame:
    """With a column that tells a trial's cell beside its seed."""
    null = frame["overrides"].str.contains("init_stream=1").map({True: ", null", False: ""})
    from_scratch = (frame["start"] == "scratch").map({True: ", from scratch", False: ""})
    return frame.assign(cell=frame["arm"] + null + from_scratch)
