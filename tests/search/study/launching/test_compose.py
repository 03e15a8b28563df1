"""A composer gives what Hydra gives, to the last flag, and is quick where only leaves differ."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from search.config import config_folder, register
from search.study.launching import compose
from search.study.launching.compose import Composer

GROUPS = ["data=cifar10", "train=long", "branch=pssa", "backbone=resnet18", "sampler=random"]
MASTER = ["hydra.sweeper.study_name=toy", "hydra.job.env_copy=[XVOL_TEST]", "data=digits", "seed=7"]
GOOD = [
    *("train.lr=0.05", "train.lr=1e-3", "train.lr=${train.weight_decay}", "train.epochs=3", "seed=-2", "seed=1_0"),
    *(
        "placement.policy=stage3",
        "placement.policy='stage[1-2].last'",
        'branch.use="conv+pssa"',
        "tracker.mode=disabled",
    ),
    *("placement.at.stage1=conv+pssa", "placement.at.stage2='1'", "placement.at={stage3: pssa}"),
    *("branch.options.pssa.rank=2", "branch.options.pssa={rank: 4}", "++branch.options.pssa.shift=3"),
    *(
        "objectives=[val_top1,params]",
        "+placement.at.extra=${oc.env:XVOL_TEST}",
        "~placement.at.stage1",
        "data.root=${now:%S}",
    ),
    *("data=cifar10", "train=long", "branch=pssa", "backbone=resnet18", "placement=stage2", "sampler=random"),
    *("hydra.sweep.dir=elsewhere", "hydra.job.name=another", "hydra.job.config.override_dirname.exclude_keys=[seed]"),
]
BAD = [
    *("train.no_such_key=3", "train.epochs=2.5", "+seed=3", "~no.such.key", "data=nothing", "seed@x=3"),
    *("train.lr=choice(1,2)", "seed=1,2", "seed=[1", "backbone.name.deeper=3", "++data=digits"),
    *(
        "train.lr={a: 1}",
        "data@other=digits",
        "hydra.no_such_key=1",
        "~seed=8",
        "objectives.9=x",
        "placement.at.stage2=null",
        "~branch.options",
    ),
]


def plain(config: Any) -> Any:
    """Everything an OmegaConf tree holds: types, values, flags, hints, order."""
    metadata = {name: copy(value) for name, value in vars(config._metadata).items() if name != "resolver_cache"}
    content = vars(config).get("_content")
    if isinstance(content, dict):
        assert all(item._get_parent() is config for item in content.values())
        return type(config), metadata, [(name, plain(item)) for name, item in content.items()]
    if isinstance(content, list):
        assert all(item._get_parent() is config for item in content)
        return type(config), metadata, [plain(item) for item in content]
    return type(config), metadata, content, vars(config).get("_val"), type(vars(config).get("_val"))


def outcome(make: Callable[[list[str]], DictConfig], lines: list[str]) -> Any:
    try:
        config = make(lines)
    except Exception as error:
        return type(error), str(error), str(error.__cause__)
    return plain(config), OmegaConf.get_cache(config)


Both = tuple[Composer, Callable[[list[str]], DictConfig]]


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    register()
    GlobalHydra.instance().clear()
    patch = pytest.MonkeyPatch()
    patch.setenv("XVOL_TEST", "first")
    with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="xvol"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config(
            "config", MASTER, run_mode=RunMode.MULTIRUN, from_shell=False, with_log_configuration=False
        )
        loader = hydra.config_loader
        yield Composer(loader, master), lambda lines: loader.load_sweep_config(master, lines)
    GlobalHydra.instance().clear()
    patch.undo()


@pytest.mark.slow
@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(GOOD), max_size=6, unique=True), st.lists(st.sampled_from(BAD), max_size=1))
def test_it_equals_hydra(both: Both, good: list[str], bad: list[str]) -> None:
    composer, hydra = both
    assert outcome(composer.compose, good + bad) == outcome(hydra, good + bad)


LEAVES = [*GOOD[:9], "placement.at={stage3: pssa}", "objectives=[val_top1,params]", "data.root=${now:%S}"]


@pytest.mark.parametrize(
    "lines",
    [[*LEAVES, *GROUPS], [*GROUPS, "+placement.at.extra=pssa", "~objectives", "hydra.job.name=another", "seed=4"]],
    ids=["leaves", "adding and deleting"],
)
def test_what_does_not_depend_on_its_order_is_quick_and_equal(
    both: Both, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    composer, hydra = both
    expected = outcome(hydra, lines)
    assert outcome(composer.compose, lines) == expected
    calls: list[list[str]] = []
    monkeypatch.setattr(composer.loader, "load_sweep_config", lambda _, given: calls.append(given))
    assert outcome(composer.compose, lines) == expected
    assert calls == []


def test_what_depends_on_its_order_is_hydras(both: Both) -> None:
    composer, hydra = both
    lines = ["branch.options.pssa.rank=2", "++branch.options.pssa.shift=3", "branch.options.pssa={rank: 4}"]
    assert outcome(composer.compose, lines) == outcome(hydra, lines)


def test_a_job_reaches_what_its_config_says_of_the_sweep(both: Both) -> None:
    composer, hydra = both
    of_jobs = Composer(composer.loader, composer._master, for_jobs=True)
    lines = ["seed=3", "hydra.sweep.subdir=here"]
    config, whole = of_jobs.compose(lines), hydra(lines)
    assert config.hydra.sweeper.study_name == "toy"
    assert OmegaConf.to_container(config.hydra.sweeper) == OmegaConf.to_container(whole.hydra.sweeper)
    assert OmegaConf.to_container(config.hydra, resolve=False)["sweeper"] == "${xvol_sweep:sweeper}"  # type: ignore[index]
    assert config.hydra.sweep.dir == whole.hydra.sweep.dir == "runs/toy"
    for each in (config, whole):
        with read_write(each), open_dict(each.hydra.runtime):
            each.hydra.runtime.output_dir = "of the trial"
    logging = [OmegaConf.to_container(each.hydra.job_logging, resolve=True) for each in (config, whole)]
    assert logging[0] == logging[1]
    assert logging[0]["handlers"]["file"]["filename"].startswith("of the trial/")  # type: ignore[call-overload, index]
    assert config.hydra.runtime.choices == whole.hydra.runtime.choices
    with open_dict(config), open_dict(whole):
        del config["hydra"], whole["hydra"]
    assert plain(config) == plain(whole)


@pytest.mark.slow
@pytest.mark.parametrize("line", BAD)
def test_an_error_is_hydras_own(both: Both, line: str) -> None:
    composer, hydra = both
    found = outcome(composer.compose, ["train.epochs=2", line])
    assert found == outcome(hydra, ["train.epochs=2", line])
    assert issubclass(found[0], Exception)


def test_what_a_caller_does_to_a_config_stays_with_it(both: Both) -> None:
    composer, _ = both
    first = composer.compose(["seed=1"])
    before = plain(first)
    OmegaConf.set_struct(first, False)
    OmegaConf.set_readonly(first.hydra, True)
    first.train.epochs = 99
    first.placement.at["stage1"] = "pssa"
    first.objectives.append("params")
    first.hydra.job.env_set._metadata.flags["readonly"] = False
    first.hydra.job.env_set["NEW"] = "1"
    assert plain(composer.compose(["seed=1"])) == before


@pytest.mark.slow
def test_environment_and_folder_are_those_of_the_moment(
    both: Both, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    composer, hydra = both
    composer.compose(["seed=1"])
    monkeypatch.setenv("XVOL_TEST", "second")
    monkeypatch.chdir(tmp_path)
    config = composer.compose(["seed=1", "+placement.at.extra=${oc.env:XVOL_TEST}"])
    assert config.hydra.runtime.cwd == os.getcwd() == str(tmp_path)
    assert config.hydra.job.env_set.XVOL_TEST == "second"
    assert config.placement.at.extra == "second"
    monkeypatch.delenv("XVOL_TEST")
    assert outcome(composer.compose, ["seed=1"]) == outcome(hydra, ["seed=1"])  # a KeyError


def test_a_time_is_the_sweeps(both: Both) -> None:
    composer, hydra = both
    now = composer._master.hydra.run.dir  # resolves and keeps ${now:...}
    assert composer.compose(["seed=1"]).hydra.run.dir == hydra(["seed=1"]).hydra.run.dir == now


def test_bases_that_are_kept_are_few(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    composer, _ = both
    monkeypatch.setattr(compose, "KEPT_BASES", 2)
    fresh = Composer(composer.loader, composer._master)
    for placement in ("stage1", "stage2", "stage3"):
        fresh.compose([f"placement={placement}", "seed=1", "train.epochs=2"])
    assert list(fresh._bases) == [("placement=stage2",), ("placement=stage3",)]


def test_leaves_cost_little(both: Both) -> None:
    composer, hydra = both

    def seconds(make: Callable[[list[str]], DictConfig], times: int) -> float:
        spent = []
        for number in range(times):
            begin = time.process_time()
            make(["data=digits", f"seed={number}", f"train.lr=0.{number + 1}", "placement.at.stage1=conv+pssa"])
            spent.append(time.process_time() - begin)
        return min(spent)

    composer.compose(["data=digits"])
    assert seconds(composer.compose, 50) * 5 < seconds(hydra, 3)
