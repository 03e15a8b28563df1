"""Studies as real processes: budgets, resume, faults, refusals, and the re-evaluation at the end."""

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable

import pytest
from optuna.trial import TrialState

from search.channel import EXIT_HUNG
from search.design.trials import first_seed_of
from search.ledger.result import RESULT_FILE, read_result
from search.ledger.study_files import JOURNAL, read_changes

from .conftest import Toy, count

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SEARCH = "x=range(0,8)"
NOTHING = {"complete": 0, "pruned": 0, "failed": 0, "running": 0, "waiting": 0, "skipped": 0}


def counts(toy: Toy, name: str = "toy", storage: str | None = None) -> object:
    return count(toy.study(name, storage).get_trials())


def test_a_study_runs_its_budget_and_no_more(toy: Toy, run: Run) -> None:
    run(SEARCH)
    assert [trial.state for trial in toy.study().trials] == [TrialState.COMPLETE] * 6
    assert [line[1] for line in toy.trace] == [str(number) for number in range(6)]
    assert all(trial.value == -((trial.params["x"] - 3) ** 2) for trial in toy.study().trials)


def test_the_same_command_adds_nothing_and_a_larger_budget_adds_the_rest(toy: Toy, run: Run) -> None:
    run(SEARCH, "hydra.sweeper.n_trials=3")
    first = [trial.params for trial in toy.study().trials]
    run(SEARCH, "hydra.sweeper.n_trials=3")
    assert len(toy.trace) == 3
    assert read_changes(toy.study_dir()) == []
    run(SEARCH, "hydra.sweeper.n_trials=5", "hydra.sweeper.sampler.seed=1")
    (change,) = read_changes(toy.study_dir())
    assert change.changed == {"n_trials": (3, 5), "sampler.seed": (0, 1)}
    trials = toy.study().trials
    assert [trial.params for trial in trials[:3]] == first
    assert len(trials) == 5
    assert sorted(path.name for path in (toy.study_dir() / "trials").iterdir()) == [f"{n:04d}-s0" for n in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_two_workers_share_the_budget_exactly(toy: Toy, run: Run, storage: str | None) -> None:
    url = f"sqlite:///{toy.folder / 'study.db'}" if storage else None
    extra = [f"hydra.sweeper.storage={url}"] if url else []
    run(SEARCH, "hydra/launcher=joblib", "hydra.sweeper.n_trials=14", "hydra.sweeper.n_jobs=2", "seconds=0.05", *extra)
    assert Counter(line[1] for line in toy.trace) == {str(number): 1 for number in range(14)}
    assert len({line[4] for line in toy.trace}) == 2
    assert vars(counts(toy, storage=url)) == {
        "complete": 14,
        "pruned": 0,
        "failed": 0,
        "running": 0,
        "waiting": 0,
        "skipped": 0,
    }


@pytest.mark.slow
def test_a_grid_visits_every_point_once(toy: Toy, run: Run) -> None:
    run(
        "x=choice(1,2,3)",
        "y=choice(a,'b c')",
        "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}",
        "hydra.sweeper.n_trials=50",
    )
    points = [(trial.params["x"], trial.params["y"]) for trial in toy.study().trials]
    assert points == [(x, y) for x in (1, 2, 3) for y in ("a", "b c")]


def test_a_failed_trial_has_its_reason_and_the_study_goes_on(toy: Toy, run: Run) -> None:
    grid = "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}"
    run("x=choice(1,2,3,4)", grid, "fault=raise", "faulty=[2]")
    trials = toy.study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].user_attrs["reason"] == "RuntimeError: no luck at x=2"


@pytest.mark.slow
def test_nan_is_a_failure_with_a_reason(toy: Toy, run: Run) -> None:
    run(
        "x=choice(1,2)",
        "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}",
        "fault='no number'",
        "faulty=[2]",
    )
    assert toy.study().trials[1].user_attrs["reason"] == "ValueError: the trial returned NaN"


def test_too_many_failures_stop_the_study_and_are_named(toy: Toy) -> None:
    done = toy.run(SEARCH, "fault=raise", f"faulty={list(range(8))}", "hydra.sweeper.max_failure_rate=0.34")
    assert done.returncode != 0
    assert "more than 2 of 6 trials failed" in done.stderr
    assert "no luck at x=" in done.stderr
    assert len(toy.trace) == 3


def test_the_pruner_is_obeyed(toy: Toy, run: Run) -> None:
    run(
        "x=choice(3,4,9)",
        "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}",
        "hydra.sweeper.pruner={_target_:optuna.pruners.ThresholdPruner,lower:-5,n_warmup_steps:2}",
    )
    trials = toy.study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert max(trials[2].intermediate_values) == 2


@pytest.mark.slow
def test_several_objectives(toy: Toy, run: Run) -> None:
    run(SEARCH, "two=true", "hydra.sweeper.direction=[maximize,minimize]")
    assert all(len(trial.values) == 2 for trial in toy.study().trials)


@pytest.mark.slow
def test_a_search_space_in_code_may_be_conditional(toy: Toy, run: Run) -> None:
    run("x=range(0,8)", "hydra.sweeper.n_trials=8", "hydra.sweeper.custom_search_space=spaces.conditional")
    params = [trial.params for trial in toy.study().trials]
    assert {set(p) == {"x", "y"} for p in params if p["x"] % 2 == 0} <= {True}
    assert all(set(p) == {"x"} for p in params if p["x"] % 2)
    assert any("y" in p for p in params)
    assert [line[3] for line in toy.trace] == ["0"] * 8


def test_a_search_space_that_is_not_there_is_told(toy: Toy) -> None:
    done = toy.run("x=range(0,8)", "hydra.sweeper.custom_search_space=spaces.conditionl")
    assert done.returncode != 0
    assert "give package.module.function" in done.stderr
    assert toy.trace == []


@pytest.mark.slow
def test_a_killed_worker_loses_nothing(toy: Toy) -> None:
    grid = ["x=range(0,6)", "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}", "fault=kill", "faulty=[2]"]
    first = toy.run(*grid)
    assert first.returncode == -signal.SIGKILL
    assert [trial.state.name for trial in toy.study().trials][:3] == ["COMPLETE", "COMPLETE", "RUNNING"]
    second = toy.run(*grid)
    assert second.returncode == 0, second.stderr
    finished = [trial for trial in toy.study().trials if trial.state == TrialState.COMPLETE]
    assert sorted(trial.params["x"] for trial in finished) == [0, 1, 2, 3, 4, 5]
    assert toy.study().trials[2].user_attrs["interrupted"]
    assert vars(counts(toy))["complete"] == 6


@pytest.mark.slow
def test_a_journal_that_was_put_back_overwrites_no_finished_folder(toy: Toy, run: Run) -> None:
    command = [SEARCH, "admit=true", "hydra.sweeper.reuse=none"]
    run(*command, "hydra.sweeper.n_trials=2")
    journal = toy.study_dir() / JOURNAL
    backup = journal.read_bytes()
    run(*command, "hydra.sweeper.n_trials=5")
    before = {path: path.read_bytes() for path in toy.study_dir().glob("trials/*/**/*") if path.is_file()}
    assert len([path for path in before if path.name == RESULT_FILE]) == 5
    journal.write_bytes(backup)
    done = run(*command, "hydra.sweeper.n_trials=4")
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(path.name for path in toy.study_dir().glob("trials/000[23]-*")) == [
        *("0002-s0", "0002-s0.2", "0003-s0", "0003-s0.2"),
    ]
    assert "trials/0002-s0: an earlier trial of that number is there already" in done.stderr + done.stdout
    assert [trial.user_attrs["run_dir"] for trial in toy.study().trials[2:]] == ["trials/0002-s0.2", "trials/0003-s0.2"]


@pytest.mark.slow
def test_everything_killed_at_once_resumes_to_the_exact_budget(toy: Toy) -> None:
    command = [SEARCH, "hydra/launcher=joblib", "hydra.sweeper.n_trials=10", "hydra.sweeper.n_jobs=2", "seconds=0.3"]
    process = toy.start(*command)
    _wait_for(lambda: len(toy.trace) >= 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    done = toy.run(*command)
    assert done.returncode == 0, done.stderr
    assert vars(counts(toy)) == {"complete": 10, "pruned": 0, "failed": 0, "running": 0, "waiting": 0, "skipped": 0}
    folders = [trial.user_attrs["run_dir"] for trial in toy.study().trials if "run_dir" in trial.user_attrs]
    assert len(folders) == len(set(folders))


@pytest.mark.slow
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_first_signal_lets_running_trials_save_and_the_same_command_goes_on(
    toy: Toy, launcher: str, signal_: signal.Signals
) -> None:
    command = [SEARCH, "seconds=1", f"hydra/launcher={launcher}"]
    process = toy.start(*command)
    _wait_for(lambda: len(toy.trace) >= 3)
    os.kill(process.pid, signal_)  # the parent alone, as Slurm or `kill` do
    output, _ = process.communicate(timeout=60)
    assert "stopping: running trials save their state first" in output
    trials = toy.study().trials
    assert [trial for trial in trials if trial.state == TrialState.RUNNING] == []
    stopped = [trial for trial in trials if trial.user_attrs.get("interrupted")]
    assert stopped
    assert {trial.user_attrs["reason"] for trial in stopped} == {"stopped; its state is saved"}
    assert toy.run(SEARCH, "seconds=0", f"hydra/launcher={launcher}").returncode != 0  # another study: seconds differ
    assert toy.run(*command).returncode == 0
    assert vars(counts(toy)) == {**NOTHING, "complete": 6}
    assert process.returncode != 0


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once_and_loses_nothing(toy: Toy) -> None:
    command = [SEARCH, "seconds=100", "stops=false"]
    process = toy.start(*command)
    _wait_for(lambda: len(toy.trace) >= 1)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert Counter(trial.state for trial in toy.study().trials) == {TrialState.FAIL: 1, TrialState.WAITING: 1}


@pytest.mark.slow
@pytest.mark.parametrize("soft", ["true", "false"])
def test_a_trial_that_hangs_is_ended_and_the_study_goes_on(toy: Toy, soft: str) -> None:
    grid = [
        "x=range(0,3)",
        "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}",
        "hydra.sweeper.max_retries=0",
    ]
    command = [*grid, "fault=hang", "faulty=[1]", f"soft={soft}", "hydra.sweeper.trial_minutes=0.02"]
    done = toy.run(*command)
    if soft == "false":  # nothing but the end of its process helped
        assert done.returncode == EXIT_HUNG
        done = toy.run(*command)
    assert done.returncode == 0, done.stderr
    trials = toy.study().trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "time limit" in trials[1].user_attrs["reason"]


@pytest.mark.slow
def test_what_was_trained_already_is_reused_and_the_budget_goes_to_new_points(toy: Toy, run: Run) -> None:
    run("x=choice(0,1,2,3)", "admit=true", "hydra.sweeper.n_trials=4")
    trials = toy.study().trials
    trained = [trial for trial in trials if not trial.user_attrs.get("skipped")]
    assert sorted(trial.params["x"] for trial in trained) == [0, 1, 2, 3]
    again = [trial for trial in trials if trial.user_attrs.get("skipped")]
    assert all(trial.value == -((trial.params["x"] - 3) ** 2) for trial in again)
    assert vars(counts(toy)) == {**NOTHING, "complete": 4, "skipped": len(again)}
    assert len(again) > 0


@pytest.mark.slow
@pytest.mark.parametrize("reuse", ["all", "none"])
def test_a_result_that_was_written_before_its_worker_died_counts_once(toy: Toy, reuse: str) -> None:
    command = [
        "x=range(0,8)",
        "admit=true",
        "fault='kill late'",
        f"faulty={list(range(8))}",
        "hydra.sweeper.n_trials=3",
    ]
    command += [f"hydra.sweeper.reuse={reuse}", "hydra.sweeper.sampler.seed=3"]
    assert toy.run(*command).returncode == -signal.SIGKILL
    assert toy.run(*command).returncode == 0
    trials = toy.study().trials
    retry = next(trial for trial in trials if "retry_of" in trial.user_attrs)
    assert retry.state == TrialState.COMPLETE
    assert retry.params == trials[0].params
    assert "skipped" not in retry.user_attrs
    assert vars(counts(toy))["complete"] == 3
    assert read_result(toy.study_dir() / retry.user_attrs["run_dir"] / RESULT_FILE).reused_from is not None


@pytest.mark.slow
def test_a_search_ends_where_the_space_holds_nothing_new(toy: Toy) -> None:
    done = toy.run("x=choice(0,1)", "admit=true", "hydra.sweeper.n_trials=20")
    assert done.returncode == 0, done.stderr
    assert "ended at 2 of 20 trials" in done.stdout + done.stderr
    assert toy.run("x=choice(0,1)", "admit=true", "hydra.sweeper.n_trials=20").returncode == 0


@pytest.mark.slow
def test_an_infeasible_architecture_takes_no_budget_and_keeps_its_reason(toy: Toy, run: Run) -> None:
    run("x=range(0,8)", "admit=true", "hydra.sweeper.n_trials=4", "hydra.sweeper.constraints={params:'<=4'}")
    trials = toy.study().trials
    assert {trial.params["x"] <= 4 for trial in trials if trial.state == TrialState.COMPLETE} == {True}
    refused = [trial for trial in trials if trial.user_attrs.get("skipped") == "infeasible"]
    assert refused
    assert all("is above 4" in trial.user_attrs["reason"] for trial in refused)
    assert vars(counts(toy))["complete"] == 4


def test_seeds_of_a_trial_are_averaged_and_an_arm_that_is_behind_is_stopped(toy: Toy, run: Run) -> None:
    run(
        "x=choice(3,4,9)",
        "noise=true",
        "hydra.sweeper.seeds_per_trial=4",
        "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}",
        "hydra.sweeper.pruner={_target_:optuna.pruners.ThresholdPruner,lower:-5}",
    )
    trials = toy.study().trials
    assert [trial.value for trial in trials[:2]] == [0.5, -0.5]
    assert trials[2].state == TrialState.PRUNED
    assert [line[2:4] for line in toy.trace] == [[x, seed] for x in "34" for seed in "0123"] + [["9", "0"]]


@pytest.mark.slow
def test_a_failed_cell_of_a_design_is_run_again_but_not_for_ever(toy: Toy, run: Run) -> None:
    command = [
        "x=choice(1,2)",
        "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}",
        "fault=raise",
        "faulty=[2]",
    ]
    for _ in range(4):
        run(*command)
    assert [line[2] for line in toy.trace] == ["1", "2", "2"]
    assert vars(counts(toy)) == {**NOTHING, "complete": 1, "failed": 1}


@pytest.mark.slow
def test_a_worker_that_was_stopped_from_outside_is_replaced(toy: Toy) -> None:
    command = [SEARCH, "seconds=0.5", "hydra/launcher=joblib", "hydra.sweeper.n_jobs=2", "hydra.sweeper.n_trials=8"]
    process = toy.start(*command)
    _wait_for(lambda: len({line[4] for line in toy.trace}) == 2)
    os.kill(int(toy.trace[0][4]), signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert vars(counts(toy)) == {**NOTHING, "complete": 8}


@pytest.mark.slow
def test_a_dead_worker_of_joblib_does_not_end_the_study(toy: Toy, run: Run) -> None:
    run(
        SEARCH,
        "hydra/launcher=joblib",
        "hydra.sweeper.n_jobs=2",
        "fault=kill",
        f"faulty={list(range(8))}",
        "seconds=0.1",
    )
    assert vars(counts(toy)) == {**NOTHING, "complete": 6}


@pytest.mark.slow
def test_a_study_grows_by_a_choice_and_by_a_parameter(toy: Toy, run: Run) -> None:
    run("x=choice(1,2)", "hydra.sweeper.n_trials=3")
    run("x=choice(1,2,5)", "y=choice(0,1)", "hydra.sweeper.n_trials=6")
    trials = toy.study("toy~2").trials
    assert [trial.params["y"] for trial in trials[:3]] == [0, 0, 0]
    assert len(trials) == 6
    run("x=choice(1,2,5)", "y=choice(0,1)", "hydra.sweeper.n_trials=6")
    assert len(toy.trace) == 6


@pytest.mark.slow
def test_a_storage_password_comes_from_the_environment_of_each_worker(toy: Toy) -> None:
    url = f"sqlite:///{toy.folder / 'study.db'}?password=${{oc.env:TOY_PASSWORD}}"
    environment = {**toy.environment(), "TOY_PASSWORD": "correct-horse"}
    command = toy.command(SEARCH, f"hydra.sweeper.storage='{url}'", "hydra/launcher=joblib", "hydra.sweeper.n_trials=2")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = [
        path for path in toy.folder.rglob("*") if path.is_file() and "correct-horse" in path.read_text(errors="ignore")
    ]
    assert found == []


@pytest.mark.slow
def test_a_second_command_joins_a_running_study(toy: Toy) -> None:
    command = [SEARCH, "hydra.sweeper.n_trials=12", "seconds=0.6"]
    first = toy.start(*command)
    _wait_for(lambda: len(toy.trace) >= 1)
    second = toy.start(*command)
    assert [first.wait(60), second.wait(60)] == [0, 0]
    assert Counter(line[1] for line in toy.trace) == {str(number): 1 for number in range(12)}
    assert len({line[4] for line in toy.trace}) == 2
    for process in (first, second):
        process.communicate()


@pytest.mark.slow
def test_that_it_waits_for_others_is_told_once(toy: Toy) -> None:
    command = [SEARCH, "hydra.sweeper.n_trials=1", "seconds=8"]
    first = toy.start(*command)
    _wait_for(lambda: len(toy.trace) >= 1)
    second = toy.start(*command)
    told, _ = second.communicate(timeout=60)
    assert told.count("waiting for 1 trial(s) of other workers") == 1
    assert (first.communicate(timeout=60), first.returncode, second.returncode)[1:] == (0, 0)


@pytest.mark.slow
def test_the_best_arms_and_the_baseline_are_trained_again_on_fresh_seeds(toy: Toy, run: Run) -> None:
    final = ["hydra.sweeper.final.top_k=2", "hydra.sweeper.final.seeds=3", "hydra.sweeper.final.baseline=['x=5']"]
    grid = ["x=range(0,6)", "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}"]
    told = run(*grid, *final)
    first = first_seed_of("toy", "final")
    lines = [(int(x), int(seed)) for phase, _, x, seed, _ in toy.trace if phase == "final"]
    assert lines == [(x, seed) for seed in range(first, first + 3) for x in (5, 3, 2)]
    assert f"on 3 seeds from {first} on" in told.stdout + told.stderr
    run(*grid, *final)
    assert len(toy.trace) == 6 + 9
    assert [t.user_attrs["is_baseline"] for t in toy.study("toy.final").trials] == [True, False, False] * 3


@pytest.mark.slow
def test_a_re_evaluation_that_was_begun_goes_on_with_its_seeds(toy: Toy, run: Run) -> None:
    """As older versions began them all, at 1000."""
    final = ["hydra.sweeper.final.top_k=1", "hydra.sweeper.final.baseline=['x=5']", "hydra.sweeper.final.seeds"]
    run(
        "x=range(0,3)", "hydra.sweeper.n_trials=3", f"{final[-1]}=2", *final[:-1], "hydra.sweeper.final.first_seed=1000"
    )
    run("x=range(0,3)", "hydra.sweeper.n_trials=3", f"{final[-1]}=3", *final[:-1])
    assert sorted({line[3] for line in toy.trace if line[0] == "final"}) == ["1000", "1001", "1002"]


@pytest.mark.slow
def test_another_study_in_the_same_folder_is_refused_by_name(toy: Toy, run: Run) -> None:
    run(SEARCH, "hydra.sweeper.n_trials=1")
    done = toy.run(SEARCH, "hydra.sweeper.n_trials=1", "y=7")
    assert done.returncode != 0
    assert "holds another study" in done.stderr
    assert "y: there 0, now 7" in done.stderr
    assert len(toy.trace) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["x=1"], "there is nothing to search"),
        ([SEARCH, "hydra.sweeper.direction=up"], "allowed are minimize, maximize"),
        ([SEARCH, "hydra.sweeper.n_trials=0"], "at least 1"),
        ([SEARCH, "hydra.sweeper.sampler={_target_:os.system}"], "give optuna.samplers.NAME"),
        ([SEARCH, "+hydra.sweeper.sampler.sed=1"], "it takes"),
        ([SEARCH, "hydra.sweeper.pruner={_target_:optuna.pruners.MedianPrunr}"], "did you mean MedianPruner"),
        ([SEARCH, "hydra.sweeper.storage=nosuch://x"], "cannot open the storage nosuch://x"),
        ([SEARCH, "hydra.sweeper.storage=sqlite:////nonexistent/folder/x.db"], "cannot open the storage sqlite:"),
        ([SEARCH, "hydra.sweeper.study_name=a/b"], "plain name"),
        (["x=interval(0,1)", "hydra.sweeper.sampler={_target_:optuna.samplers.GridSampler}"], "cannot be counted"),
        ([SEARCH, "z=1"], "z"),
        ([SEARCH, "hydra.sweeper.final={top_k: 1, first_seed: 0}"], "write hydra.sweeper.final.first_seed=1"),
    ],
)
def test_bad_input_ends_at_once_with_what_is_allowed(toy: Toy, overrides: list[str], message: str) -> None:
    done = toy.run(*overrides)
    assert done.returncode != 0
    assert message in done.stderr
    assert toy.trace == []


@pytest.mark.slow
def test_a_storage_password_is_written_nowhere(toy: Toy) -> None:
    secret = "correct-horse-battery"
    url = f"sqlite:///{toy.folder / 'study.db'}?password={secret}"
    done = toy.run(SEARCH, f"hydra.sweeper.storage='{url}'", "hydra.sweeper.n_trials=2", "hydra.output_subdir=.hydra")
    found = [path for path in toy.folder.rglob("*") if path.is_file() and secret in path.read_text(errors="ignore")]
    assert found == []
    assert secret not in done.stdout + done.stderr


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
