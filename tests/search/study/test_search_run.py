"""The file of the best point: the official sweeper's keys, and the truth about the value."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from search.design.trials import first_seed_of
from search.space.parameters import parse_space
from search.study.options import FinalOptions
from search.study.search_run import RESULTS_FILE, best_arms, final_cells, write_best

from .conftest import Toy, count

Run = Callable[..., "subprocess.CompletedProcess[str]"]
GRID = ["x=range(0,4)", "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}", "hydra.sweeper.n_trials=4"]
FINAL = ["hydra.sweeper.final.top_k=2", "hydra.sweeper.final.seeds=3", "hydra.sweeper.final.baseline=['x=0']"]
TWO = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.sweeper.n_jobs=2"],
    "local": ["hydra/launcher=local", "hydra.launcher.device=cpu", "hydra.launcher.workers=2"],
}

optuna.logging.set_verbosity(optuna.logging.WARNING)


def ended_study(values: list[tuple[float, ...]], *directions: Any) -> optuna.Study:
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=0))
    for value in values:
        trial = study.ask()
        trial.suggest_float("lr", 0, 1)
        trial.suggest_categorical("where", ["none", "stage3", True, 2])
        study.tell(trial, value)
    return study


@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=6), direction=st.sampled_from(["minimize", "maximize"]))
def test_one_objective_gives_the_best_point(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], direction: str
) -> None:
    study = ended_study([(value,) for value in values], direction)
    text = write_best(study, tmp_path_factory.mktemp("best")).read_text()
    found = yaml.safe_load(text)
    assert found == {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
    assert f"among {len(values)} finished trials" in text


def test_several_objectives_give_the_front(tmp_path: Path) -> None:
    study = ended_study([(1, 1), (2, 0), (0, 2), (0.5, 0.5)], "maximize", "maximize")
    failed = study.ask()
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    found = yaml.safe_load(write_best(study, tmp_path).read_text())
    assert [each["values"] for each in found["solutions"]] == [[1, 1], [2, 0], [0, 2]]
    assert [each["params"] for each in found["solutions"]] == [study.trials[n].params for n in (0, 1, 2)]


def test_a_password_among_the_choices_is_masked(tmp_path: Path) -> None:
    study = optuna.create_study()
    trial = study.ask()
    trial.suggest_categorical("storage", ["postgresql://me:geheim@host/name"])
    study.tell(trial, 1.0)
    assert "geheim" not in write_best(study, tmp_path).read_text()
    assert (tmp_path / RESULTS_FILE).exists()


SPACE = parse_space(["x=choice(1,2,3,4)", "fixed=9"], {})


def study_of(rows: list[tuple[int, float]], direction: str = "maximize") -> optuna.Study:
    study = optuna.create_study(direction=direction)
    for x, value in rows:
        parameter = SPACE.parameters[0]
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": x},
                distributions={"x": parameter.distribution},
                value=value,
                user_attrs={"arch_hash": f"h{x}"},
            )
        )
    return study


def test_one_architecture_counts_once_by_its_mean() -> None:
    study = study_of([(1, 90.0), (2, 99.0), (2, 80.0), (3, 91.0), (4, 10.0)])
    assert [trial.params["x"] for trial in best_arms(study, 3)] == [3, 1, 2]
    assert [trial.params["x"] for trial in best_arms(study_of([(1, 2.0), (2, 1.0)], "minimize"), 1)] == [2]


def test_the_pareto_front_of_several_objectives() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for x, values in ((1, [1.0, 5.0]), (2, [2.0, 4.0]), (3, [3.0, 6.0])):
        dist = {"x": SPACE.parameters[0].distribution}
        study.add_trial(optuna.trial.create_trial(params={"x": x}, distributions=dist, values=values))
    assert [trial.params["x"] for trial in best_arms(study, 9)] == [2, 3]


def test_an_arm_is_on_the_front_by_its_mean_and_not_by_its_luckiest_trial() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    for x, values in ((1, [3.0, 1.0]), (2, [4.0, 1.0]), (2, [1.0, 1.0]), (3, [2.0, 0.5])):
        dist = {"x": SPACE.parameters[0].distribution}
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": x}, distributions=dist, values=values, user_attrs={"arch_hash": f"h{x}"}
            )
        )
    assert [trial.params["x"] for trial in best_arms(study, 9)] == [1, 3]
    assert [trial.params["x"] for trial in best_arms(study, 1)] == [1]
    assert best_arms(optuna.create_study(directions=["maximize", "minimize"]), 3) == []


def test_cells_go_seed_by_seed_and_a_baseline_among_the_best_is_not_trained_twice() -> None:
    arms = best_arms(study_of([(1, 3.0), (2, 2.0), (3, 1.0)]), 2)
    options = FinalOptions(top_k=2, seeds=2, first_seed=50, baseline=["x=2"], overrides=["epochs=7"])
    cells = final_cells(arms, SPACE, options, baseline_hash="h2")
    assert [cell["cell"] for cell in cells] == ["baseline/50", "h1/50", "baseline/51", "h1/51"]
    assert cells[0]["overrides"] == ["fixed=9", "x=2", "epochs=7", "seed=50"]
    assert cells[3]["overrides"] == ["fixed=9", "x=1", "epochs=7", "seed=51"]
    assert [cell["is_baseline"] for cell in cells] == [True, False, True, False]


def test_a_baseline_among_the_best_takes_nobodys_place() -> None:
    study = study_of([(1, 3.0), (2, 9.0), (3, 1.0)])
    assert [trial.params["x"] for trial in best_arms(study, 1, "h2")] == [1]
    several = optuna.create_study(directions=["maximize", "minimize"])
    for x, values in ((1, [3.0, 4.0]), (2, [9.0, 1.0]), (3, [1.0, 2.0]), (4, [1.0, 5.0])):
        dist = {"x": SPACE.parameters[0].distribution}
        attributes = {"arch_hash": f"h{x}"}
        several.add_trial(
            optuna.trial.create_trial(params={"x": x}, distributions=dist, values=values, user_attrs=attributes)
        )
    assert [trial.params["x"] for trial in best_arms(several, 9)] == [2]
    assert [trial.params["x"] for trial in best_arms(several, 9, "h2")] == [1, 3]


@pytest.mark.parametrize("known", [None, "h9"])
def test_without_a_known_equal_all_arms_are_trained(known: str | None) -> None:
    arms = best_arms(study_of([(1, 3.0), (2, 2.0)]), 5)
    assert len(final_cells(arms, SPACE, FinalOptions(top_k=5, seeds=1, first_seed=50), known)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("launcher", TWO)
def test_the_workers_of_the_search_go_on_with_the_re_evaluation(toy: Toy, run: Run, launcher: str) -> None:
    run(*GRID, *FINAL, *TWO[launcher], "seconds=0.2")
    pids = {phase: {line[4] for line in toy.trace if line[0] == phase} for phase in ("search", "final")}
    assert pids["search"] == pids["final"]
    assert len(pids["final"]) == (1 if launcher == "basic" else 2)
    finals = [(int(line[2]), int(line[3])) for line in toy.trace if line[0] == "final"]
    assert Counter(x for x, _ in finals) == {0: 3, 2: 3, 3: 3}
    assert len(set(finals)) == 9
    # the first cell of the re-evaluation stands behind the last of the search
    assert [line[0] for line in toy.trace] == ["search"] * 4 + ["final"] * 9
    assert (toy.study_dir() / RESULTS_FILE).exists()


@pytest.mark.slow
def test_there_are_workers_for_the_re_evaluation_though_the_search_has_work_for_one(toy: Toy, run: Run) -> None:
    run(*GRID[:2], "hydra.sweeper.n_trials=1", *FINAL, *TWO["local"], "seconds=0.5")
    assert len({line[4] for line in toy.trace if line[0] == "final"}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "local"])
def test_a_worker_that_is_killed_in_the_re_evaluation_loses_nothing(toy: Toy, run: Run, launcher: str) -> None:
    first = first_seed_of("toy", "final")
    run(*GRID, *FINAL, *TWO[launcher], "seconds=0.2", f"kill_at=[3,{first + 1}]")
    finals = Counter((int(line[2]), int(line[3])) for line in toy.trace if line[0] == "final")
    assert set(finals) == {(x, seed) for x in (0, 2, 3) for seed in range(first, first + 3)}
    assert finals[3, first + 1] == 2
    assert sum(finals.values()) <= 11  # joblib ends the other worker as well
    assert count(toy.study("toy.final").trials).complete == 9


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_cell_that_fails_is_run_again_by_the_next_command_alone(toy: Toy, run: Run, launcher: str) -> None:
    first = first_seed_of("toy", "final")
    command = [*GRID, *FINAL, *TWO[launcher], "fault=raise", "faulty=[2]", f"unlucky=[{first}]"]
    run(*command)
    finals = [trial.state.name for trial in toy.study("toy.final").trials]
    assert Counter(finals) == {"COMPLETE": 8, "FAIL": 1}
    run(*command)
    assert Counter(trial.state.name for trial in toy.study("toy.final").trials) == {"COMPLETE": 8, "FAIL": 2}
    assert len([line for line in toy.trace if line[0] == "search"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill -9"])
def test_a_command_that_ends_in_the_re_evaluation_goes_on_there(toy: Toy, how: signal.Signals) -> None:
    command = [*GRID, *FINAL, *TWO["local"], "seconds=1"]
    process = toy.start(*command)
    end = time.monotonic() + 60
    while len([line for line in toy.trace if line[0] == "final"]) < 3:
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, how)
    process.communicate(timeout=60)
    done = toy.run(*command)
    assert done.returncode == 0, done.stderr
    finals = toy.study("toy.final").trials
    assert vars(count(finals)) == {**vars(count([])), "complete": 9}
    assert len({trial.user_attrs["cell"] for trial in finals}) == 9
    assert len([line for line in toy.trace if line[0] == "search"]) == 4


@pytest.mark.slow
def test_where_the_search_finds_nothing_there_is_no_re_evaluation(toy: Toy) -> None:
    done = toy.run(*GRID, *FINAL, *TWO["local"], "fault=raise", "faulty=[0,1,2,3]", "hydra.sweeper.max_failure_rate=1")
    assert done.returncode != 0
    assert "so there is nothing to compare" in done.stderr
    assert {line[0] for line in toy.trace} == {"search"}
