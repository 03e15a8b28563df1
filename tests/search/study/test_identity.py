"""Two commands are one study where nothing differs that changes what it finds."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.space.parameters import Parameter, parse_space
from search.study.identity import METRIC_NAMES, SUCCESSOR, claim_identity, current_name, flatten, grow
from search.study.sampling.samplers import make_sampler
from search.study.storage.opening import open_storage

CONFIG = {"train": {"lr": 0.1, "epochs": 2}, "tracker": {"mode": "offline"}, "device": "cpu", "seed": 0}


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1, 2]}) == {"a.b": 1, "a.c": {}, "d": [1, 2]}


def test_where_it_runs_and_who_watches_makes_no_difference() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", CONFIG, {"direction": ["maximize"]})
    changed = {**CONFIG, "tracker": {"mode": "disabled"}, "device": "cuda", "data": {"workers": 8}}
    claim_identity(study, "runs/s", changed, {"direction": ["maximize"]})


def test_a_study_from_before_there_were_tasks_goes_on_and_another_task_is_another_study() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", CONFIG, {})
    study.tell(study.ask(), 1.0)
    assert claim_identity(study, "runs/s", {**CONFIG, "task": "classify"}, {}) is None
    with pytest.raises(ValueError, match=r"task: there \(absent\), now counting"):
        claim_identity(study, "runs/s", {**CONFIG, "task": "counting"}, {})


def test_a_study_from_before_there_was_a_key_goes_on_with_its_default_alone() -> None:
    study = optuna.create_study()
    claim_identity(study, "here", CONFIG, {})
    study.add_trial(optuna.create_trial(value=1.0))
    usual = {**CONFIG, "train": {**CONFIG["train"], "accumulate": 1, "opt_kwargs": {}, "mixup": 0.0}}
    assert claim_identity(study, "here", usual, {}) is None
    with pytest.raises(ValueError, match=r"train\.accumulate: there \(absent\), now 2"):
        claim_identity(study, "here", {**usual, "train": {**CONFIG["train"], "accumulate": 2}}, {})


def test_what_differs_is_named() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", CONFIG, {"direction": ["maximize"]})
    study.tell(study.ask(), 1.0)
    changed = {**CONFIG, "train": {"lr": 0.2, "epochs": 2}, "more": 1}
    with pytest.raises(ValueError, match=r"runs/s holds another study: 3 setting") as caught:
        claim_identity(study, "runs/s", changed, {"direction": ["minimize"]})
    message = str(caught.value)
    assert "train.lr: there 0.1, now 0.2" in message
    assert "more: there (absent), now 1" in message
    assert "hydra.sweeper.direction: there ['maximize'], now ['minimize']" in message
    assert "hydra.sweeper.study_name=s_2" in message


def test_settings_may_change_while_nothing_was_trained() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", CONFIG, {})
    assert claim_identity(study, "runs/s", {**CONFIG, "train": {"lr": 0.2}}, {}) is None
    study.tell(study.ask(), 1.0)
    with pytest.raises(ValueError, match=r"train\.lr: there 0\.2"):
        claim_identity(study, "runs/s", CONFIG, {})


def test_new_parameters_and_choices_are_growth_and_their_old_values_known() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", CONFIG, {"params": {"train.lr": "a"}})
    study.tell(study.ask(), 1.0)
    assert claim_identity(study, "runs/s", CONFIG, {"params": {"train.lr": "ab", "train.epochs": "c"}}) == {
        "train.epochs": 2,
        "train.lr": 0.1,
    }
    with pytest.raises(ValueError, match=r"params\.train\.lr: there a, now \(absent\)"):
        claim_identity(study, "runs/s", CONFIG, {"params": {"train.epochs": "c"}})


def test_a_study_of_another_program_is_refused() -> None:
    study = optuna.create_study(study_name="s")
    study.tell(study.ask(), 1.0)
    with pytest.raises(ValueError, match="another program"):
        claim_identity(study, "runs/s", CONFIG, {})


def test_secrets_are_not_stored() -> None:
    study = optuna.create_study(study_name="s")
    claim_identity(study, "runs/s", {"api_key": "hunter2hunter2"}, {})
    assert "hunter2hunter2" not in str(study.user_attrs)


OLD = ["at.one=choice(conv,pssa)", "depth=range(1,4)", "lr=tag(log,interval(0.001,0.1))"]
NEW = [
    "at.one=choice(conv,pssa,gap)",
    "depth=range(1,9)",
    "lr=tag(log,interval(0.0001,1.0))",
    "at.two=choice(conv,pssa)",
]
HAD = {"at.two": "conv"}


def space(lines: list[str]) -> tuple[Parameter, ...]:
    return parse_space(lines, {}).parameters


@pytest.fixture(params=["journal", "sqlite"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"journal:{tmp_path}/study.journal" if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"


def make(storage: BaseStorage, many: int = 6, directions: tuple[str, ...] = ("maximize",)) -> optuna.Study:
    """A study with trials of every state."""
    study = optuna.create_study(
        study_name="s", storage=storage, directions=directions, sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.set_user_attr("identity", {"a": 1})
    storage.set_study_system_attr(study._study_id, METRIC_NAMES, ["top1", "macs"][: len(directions)])
    for number in range(many):
        trial = study.ask({parameter.name: parameter.distribution for parameter in space(OLD)})
        trial.set_user_attr("run_dir", f"trials/{number}")
        study._storage.set_trial_system_attr(trial._trial_id, "constraints:x", 1.0)
        if len(directions) == 1:
            trial.report(0.5, 1)
        state = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL][number % 3]
        study.tell(trial, [float(number)] * len(directions) if state == TrialState.COMPLETE else None, state=state)
    study.tell(study.ask(), state=TrialState.FAIL)  # died before its first parameter
    running = study.ask({"depth": space(OLD)[1].distribution})
    running.set_user_attr("worker", {"host": "h", "lock": "l"})
    running.set_user_attr("tries", 2)
    if len(directions) == 1:
        running.report(0.1, 1)
    study.enqueue_trial({"at.one": "pssa"}, user_attrs={"cell": "c"})
    study.enqueue_trial({})
    return study


def kept(trial: FrozenTrial) -> Any:
    """What growth may not change; `xvol:` marks are the storage's own."""
    return (
        (trial.number, trial.state, trial.values, trial.datetime_start, trial.datetime_complete),
        {name: value for name, value in trial.params.items() if name not in HAD},
        {name: value for name, value in trial.system_attrs.items() if not name.startswith("xvol:")},
        trial.user_attrs,
        trial.intermediate_values,
    )


@pytest.mark.parametrize("directions", [("maximize",), ("maximize", "minimize")], ids=len)
def test_all_trials_are_kept_under_the_new_distributions(
    spec: str, tmp_path: Path, directions: tuple[str, ...]
) -> None:
    storage = open_storage(spec, tmp_path)
    old = make(storage, directions=directions)
    assert grow(old, storage, space(NEW), HAD) == "s~2"
    new = optuna.load_study(study_name="s~2", storage=open_storage(spec, tmp_path))
    assert [d.name.lower() for d in new.directions] == list(directions)
    assert new.metric_names == old.metric_names == ["top1", "macs"][: len(directions)]
    assert new.user_attrs["identity"] == {"a": 1}
    assert len(new.trials) == len(old.trials) == 10
    for before, after in list(zip(old.trials, new.trials, strict=True))[:7]:
        assert kept(before) == kept(after)
        assert after.params == ({**before.params, "at.two": "conv"} if before.params else {})
        assert all(after.distributions[p.name] == p.distribution for p in space(NEW) if p.name in after.params)
    again, asked, empty = new.trials[7:]
    assert {trial.state for trial in (again, asked, empty)} == {TrialState.WAITING}
    assert again.system_attrs["fixed_params"] == {"depth": old.trials[7].params["depth"], "at.two": "conv"}
    assert again.user_attrs == {"tries": 2}
    assert again.intermediate_values == {}
    assert asked.system_attrs["fixed_params"] == {"at.one": "pssa", "at.two": "conv"}
    assert asked.user_attrs == {"cell": "c"}
    assert empty.system_attrs["fixed_params"] == {}
    assert [trial.state for trial in old.trials][7:] == [TrialState.RUNNING, TrialState.WAITING, TrialState.WAITING]


def test_links_are_followed(spec: str, tmp_path: Path) -> None:
    storage = open_storage(spec, tmp_path)
    assert current_name(storage, "s") == "s"
    study = make(storage, many=1)
    assert current_name(storage, "s") == "s"
    assert grow(study, storage, space(NEW), HAD) == "s~2"
    assert grow(study, storage, space(NEW), HAD) == "s~2"
    wider = [*NEW, "width=range(1,3)"]
    assert grow(study, storage, space(wider), {"width": 2}) == "s~3"  # from a stale study as well
    latest = optuna.load_study(study_name="s~3", storage=storage)
    assert grow(latest, storage, space(wider), {}) == "s~3"
    assert [current_name(storage, name) for name in ("s", "s~2", "s~3")] == ["s~3"] * 3
    assert latest.trials[0].params["width"] == 2
    assert grow(latest, storage, space([*wider, "more=choice(a)"]), {"more": "a"}) == "s~4"


CHILD = """
import sys, time, optuna
from pathlib import Path
sys.path.insert(0, {here!r})
from test_identity import HAD, NEW, grow, open_storage, space
add = optuna.Study.add_trial
def slow(study, trial):
    add(study, trial)
    time.sleep(0.05)
optuna.Study.add_trial = slow
storage = open_storage({spec!r}, Path({folder!r}))
grow(optuna.load_study(study_name="s", storage=storage), storage, space(NEW), HAD)
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_leaves_nothing_behind(spec: str, tmp_path: Path) -> None:
    storage = open_storage(spec, tmp_path)
    old = make(storage, many=15)
    code = CHILD.format(here=str(Path(__file__).parent), spec=spec, folder=str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        end = time.monotonic() + 60
        while _size(open_storage(spec, tmp_path)) < 5:
            assert time.monotonic() < end
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    storage = open_storage(spec, tmp_path)
    assert 5 <= _size(storage) < len(old.trials)
    assert current_name(storage, "s") == "s"
    study = optuna.load_study(study_name="s", storage=storage)
    assert grow(study, storage, space(NEW), HAD) == current_name(storage, "s") == "s~2"
    new = optuna.load_study(study_name="s~2", storage=storage)
    assert [trial.number for trial in new.trials] == list(range(len(old.trials)))
    assert [kept(trial) for trial in new.trials[:15]] == [kept(trial) for trial in old.trials[:15]]


def _size(storage: BaseStorage) -> int:
    try:
        return storage.get_n_trials(storage.get_study_id_from_name("s~2"))
    except KeyError:
        return 0


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3},
        {"_target_": "optuna.samplers.CmaEsSampler", "n_startup_trials": 3, "warn_independent_sampling": False},
        {"_target_": "optuna.samplers.NSGAIISampler", "population_size": 4},
        {"_target_": "optuna.samplers.QMCSampler", "warn_independent_sampling": False},
    ],
    ids=lambda config: config["_target_"].rpartition(".")[2],
)
def test_a_sampler_goes_on_in_the_larger_space(config: dict[str, Any]) -> None:
    sampler = make_sampler({**config, "seed": 0}, 0)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="s", storage=storage, sampler=sampler)
    lines = ["x=interval(0.0,1.0)", "y=interval(0.0,1.0)"]
    for _ in range(12):
        trial = study.ask({p.name: p.distribution for p in space(lines)})
        study.tell(trial, trial.params["x"])
    wider = space([*lines, "z=interval(0.0,1.0)", "at=choice(conv,pssa)"])
    name = grow(study, storage, wider, {"z": 0.5, "at": "conv"})
    new = optuna.load_study(study_name=name, storage=storage, sampler=make_sampler({**config, "seed": 0}, 1))
    for _ in range(8):
        trial = new.ask({p.name: p.distribution for p in wider})
        new.tell(trial, trial.params["z"])
    assert {trial.params["at"] for trial in new.trials[12:]} == {"conv", "pssa"}
    assert len({trial.params["z"] for trial in new.trials[12:]}) > 1  # NSGA-II crosses parents that all had 0.5


@pytest.mark.parametrize(
    ("lines", "defaults", "message"),
    [
        (NEW, {}, r"without at\.two.*hydra\.sweeper\.old_values=\{.*at\.two: VALUE"),
        (NEW, {"at.two": "none"}, r"had at\.two='none'.*choice\(conv, pssa\).*old_values=\{at\.two: VALUE\}"),
        ([*NEW, "n=range(1,3)"], {**HAD, "n": True}, "had n=True"),
        (OLD[:2], {}, "lr is gone"),
        (["at.one=choice(conv,gap)", *OLD[1:]], {}, r"at\.one: choice\(conv, gap\) lacks 'pssa'"),
        ([OLD[0], "depth=range(3,9)", OLD[2]], {}, r"depth: .* lacks 1"),
        ([OLD[0], "depth=choice(1,2,3)", OLD[2]], {}, "depth was Int.* is now choice"),
        ([*OLD[:2], "lr=interval(0.001,0.1)"], {}, "lr was Float"),
    ],
)
def test_what_would_lose_something_is_refused(lines: list[str], defaults: dict[str, Any], message: str) -> None:
    storage = optuna.storages.InMemoryStorage()
    study = make(storage, many=9)
    with pytest.raises(ValueError, match=message):
        grow(study, storage, space(lines), defaults)
    assert [s.study_name for s in storage.get_all_studies()] == ["s"]
    assert SUCCESSOR not in study.user_attrs


def test_a_strangers_study_is_not_deleted() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = make(storage)
    other = optuna.create_study(study_name="s~2", storage=storage)
    other.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(ValueError, match="another study under the name 's~2'"):
        grow(study, storage, space(NEW), HAD)
    assert len(other.trials) == 1


def test_a_study_without_any_parameter_yet_needs_no_defaults() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="s", storage=storage)
    study.enqueue_trial({})
    assert grow(study, storage, space(NEW), {}) == "s~2"


def test_parameters_carry_what_the_tests_mean() -> None:
    kinds = [type(parameter.distribution) for parameter in space(NEW)]
    assert kinds == [CategoricalDistribution, IntDistribution, FloatDistribution, CategoricalDistribution]
