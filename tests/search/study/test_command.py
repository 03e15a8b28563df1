"""What `python -m search -m` and xvol-plan refuse before Optuna is loaded, by composing as they do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from search.app import application
from search.channel import Application
from search.config import config_folder, register
from search.space.parameters import Space, parse_space
from search.study.command import (
    MAX_CHECKS,
    check_objectives,
    read_command,
    refuse_seeds_of_the_search,
    refuse_unknown_keys,
    refuse_wrong_values,
)
from search.study.launching.compose import Composer
from search.study.options import FinalOptions, SweeperOptions


class Watched(Application):
    """Hands each config that it is to check to `look`."""

    def __init__(self, look: Callable[[DictConfig], object]) -> None:
        self._look = look

    def check_values(self, config: DictConfig) -> None:
        self._look(config)


@pytest.fixture
def asked(composed: Any) -> Any:
    def read(*lines: str) -> tuple[SweeperOptions, Space]:
        swept = [line for line in lines if "," in line.partition("=")[2] and "[" not in line and "{" not in line]
        config = composed(*(line for line in lines if line not in swept), with_hydra=True)
        own = [line for line in lines if not line.startswith(("hydra", "~hydra"))]
        composer = Composer(GlobalHydra.instance().config_loader(), config)
        return read_command(config, own, config.hydra.sweeper, composer, application)

    return read


SWEEP = "placement=none,stage3"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["train.epochs=2"], "there is nothing to search"),
        ([SWEEP, "hydra.sweeper.warm_start.score=synflo"], "warm_start.score=synflo: .*did you mean synflow"),
        ([SWEEP, "hydra.sweeper.final.seed_key=sed"], "seed_key=sed: .*did you mean seed"),
        ([SWEEP, "hydra.sweeper.final.seed_key=train.lr"], "seed_key=train.lr: .*a whole number"),
        ([SWEEP, "+hydra.sweeper.old_values={train.lr: 0.1}"], "train.lr is no parameter of this study; .*placement"),
        ([SWEEP, "hydra.launcher.device=cuda"], "hydra.launcher.device=cuda"),
        (
            [SWEEP, "hydra.launcher.gpus_per_trial=2"],
            "train.accumulate=1: write train.accumulate=2, which is another recipe",
        ),
        ([SWEEP, "ranks=2", "train.accumulate=2"], "leave ranks out, and write hydra.launcher.gpus_per_trial=2"),
        (["ranks=1,2", "train.accumulate=2"], "ranks has no effect: it changes nothing that is trained"),
        ([SWEEP, "hydra.sweep.dir=/dev/null"], "hydra.sweep.dir.*/dev/null is a file"),
        ([SWEEP, "sampler=cmaes"], "sampler=cmaes is for numbers"),
        ([SWEEP, "hydra.sweeper.constraints={param: 3}"], "did you mean params"),
        (["train.lr=0.1,-1"], "train.lr=-1.0: must be above 0"),
        (["design=factorial", SWEEP, "train.lr=0.1,-1"], "train.lr=-1.0: must be above 0"),
        (["design=factorial", SWEEP, "hydra.sweeper.n_trials=3"], "n_trials=3 has no effect"),
        (["design=factorial", SWEEP, "seed=7,8"], "seed is varied, and a design trains"),
        (["experiment=paper/branch_ablation", "hydra.sweeper.final.seeds=9"], "final.seeds=9 has no effect"),
        (["experiment=digits_demo", "placement=stage3"], "placement=stage3 has no effect: placement.policy is varied"),
        ([SWEEP, "branch.options.acmix.kernel_att=3,5"], "branch.use has no acmix"),
        (["placement=none", "branch.use=conv+pssa,pssa"], "no block is placed"),
    ],
)
def test_a_mistake_is_told_at_once(asked: Any, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(*lines)


@pytest.mark.parametrize(
    "lines",
    [
        ["experiment=digits_demo"],
        ["experiment=digits_demo", "branch=pssa"],
        ["experiment=fashion_mnist_branches", "train=long"],
        ["experiment=paper/stage_placement", "hydra.sweeper.design.seeds=3"],
        [SWEEP, "branch.options.pssa.rank=1,2"],  # at the first placement, none, it has no effect
        [SWEEP, "hydra.launcher.gpus_per_trial=2", "train.accumulate=4"],
        [SWEEP, "branch=conv,xvolution", "branch.options.pssa.rank=1,2"],
        ["placement=stage3", "branch.use=conv,conv+acmix", "branch.options.acmix.kernel_att=3,5"],
        [SWEEP, "train.lr=0.1,0.2", "+hydra.sweeper.old_values={train.lr: 0.1}"],
    ],
)
def test_what_is_right_passes(asked: Any, lines: list[str]) -> None:
    options, space = asked(*lines)
    assert space.parameters or options.design.kind


@dataclass
class Inner:
    size: int = 1
    table: dict[str, Any] = field(default_factory=dict)


@dataclass
class Whole:
    inner: Inner = field(default_factory=Inner)
    loose: dict[str, Any] = field(default_factory=dict)


def config() -> DictConfig:
    made = OmegaConf.structured(Whole)
    assert isinstance(made, DictConfig)
    return made


@pytest.mark.parametrize(
    "line",
    [
        "inner.size=1,2",
        "inner.table.a=choice(1,2)",
        "loose.a.b=range(1,3)",
        "+inner.siz=1,2",
        "inner@there=a,b",
        "inner/size=a,b",
        "group=a,b",
        "hydra.launcher.nosuch=1,2",
        "~inner.siz",
    ],
)
def test_what_may_be_right_is_left_to_hydra(line: str) -> None:
    refuse_unknown_keys(config(), [line])


@pytest.mark.parametrize(
    ("line", "name", "kind"), [("inner.siz=1,2", "siz", "Inner"), ("iner.size=1", "iner", "Whole")]
)
def test_a_key_that_the_dataclass_lacks_is_refused(line: str, name: str, kind: str) -> None:
    with pytest.raises(ConfigCompositionException, match=rf"Could not override .*\nKey '{name}' not in '{kind}'"):
        refuse_unknown_keys(config(), ["inner.size=1,2", line])


def told_by(command: list[str], folder: Path) -> str:
    """What `python -m search` says to a mistake, having loaded nothing heavy and written nothing."""
    code = (
        "import sys\nfrom search.__main__ import main\nsys.argv = ['search', *sys.argv[1:]]\n"
        "try: main()\nfinally: print(sorted({'optuna', 'torch', 'pandas'} & set(sys.modules)))"
    )
    full = [sys.executable, "-c", code, "-m", *command, f"hydra.sweep.dir={folder}"]
    done = subprocess.run(full, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "[]\n"), done.stderr
    assert not list(folder.iterdir())
    return done.stderr


def test_the_command_tells_a_wrong_key_before_it_loads_optuna(tmp_path: Path) -> None:
    told = told_by(["placement.polcy=choice(none,stage3)"], tmp_path)
    assert "Key 'polcy' not in 'PlacementConfig'\nDid you mean policy?" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["placement.policy=choice(none,stage9)"], "'stage9' selects nothing"),
        (["experiment=cifar10_stages", "placement.policy=none,stage9"], "'stage9' selects nothing"),
        (["branch=pssa,conv", "placement.policy=none,stage9"], "'stage9' selects nothing"),
        (["placement=stage2,stage3", "train.lr=-1"], "train.lr=-1.0: must be above 0"),
        (["+hydra.sweeper.params={train.lr: 'interval(-1, 0.1)'}"], "train.lr"),
        (["train.lr=0.1,0.2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: at least 1"),
        (["train.lr=glob(*)"], "is not searched"),
    ],
)
def test_the_command_tells_a_wrong_value_before_it_loads_optuna(
    tmp_path: Path, command: list[str], message: str
) -> None:
    assert message in told_by(command, tmp_path)


Master = Callable[[list[str]], tuple[ConfigLoader, DictConfig]]


@pytest.fixture
def master() -> Iterator[Master]:
    """Hydra's loader, and the config of a sweep with such overrides."""
    register()

    def made(lines: list[str]) -> tuple[ConfigLoader, DictConfig]:
        loader = GlobalHydra.instance().config_loader()
        return loader, loader.load_configuration("config", ["hydra.sweeper.study_name=toy", *lines], RunMode.MULTIRUN)

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="xvol"):
        yield made


@pytest.mark.parametrize(
    ("lines", "params"),
    [
        (["placement.policy=choice(none,stage3)"], {}),
        (["data=digits", "seed=7", "train.lr=tag(log,interval(0.01,0.1))", "train.epochs=range(1,4)"], {}),
        (["experiment=cifar10_stages", "placement.policy=none,stage2"], {"train.lr": 0.25, "seed": "choice(1,2)"}),
        (["++branch.options.pssa.rank=1,2", "placement.at={stage3: pssa},{}"], {"~placement.at": ""}),
        (["train.weight_decay=${train.lr},0"], {}),
        (["seed=1"], {}),
    ],
)
def test_what_is_checked_is_what_hydra_composes(master: Master, lines: list[str], params: dict[str, Any]) -> None:
    loader, config = master(lines)
    space = parse_space(lines, params, loader)
    seen: list[DictConfig] = []
    refuse_wrong_values(config, space, Composer(loader, config), Watched(seen.append))
    composed = [loader.load_sweep_config(config, space.overrides(point)) for point in space.variations()]
    assert [OmegaConf.to_yaml(each) for each in seen] == [
        OmegaConf.to_yaml(OmegaConf.masked_copy(each, [str(key) for key in each if key != "hydra"]))
        for each in composed
    ]


def test_with_groups_hydra_composes_the_first_choices_and_the_other_values(master: Master) -> None:
    lines = ["placement=stage2,stage3", "train.lr=0.1,0.2,0.3", "branch=pssa,conv"]
    loader, config = master(lines)
    space = parse_space(lines, {"data": "digits"}, loader)
    seen: list[DictConfig] = []
    refuse_wrong_values(config, space, Composer(loader, config), Watched(seen.append))
    assert [(trial.placement.policy, trial.train.lr) for trial in seen] == [("stage2", lr) for lr in (0.1, 0.2, 0.3)]
    assert all("hydra" not in trial and trial.data.name == "digits" for trial in seen)
    assert {trial.branch.use for trial in seen} == {"pssa"}


def test_what_cannot_be_composed_is_left_to_hydra(master: Master) -> None:
    loader, config = master(["train.lr=a,b"])
    space = parse_space(["train.lr=a,b"], {}, loader)
    refuse_wrong_values(config, space, Composer(loader, config), Watched(lambda _: pytest.fail("was checked")))


def test_what_cannot_be_resolved_here_is_left_to_the_full_check(
    master: Master,
) -> None:
    loader, config = master([])
    space = parse_space(["data.root=a,'${no.such}'"], {}, loader)
    refuse_wrong_values(config, space, Composer(loader, config), Watched(OmegaConf.resolve))


def test_only_so_many_levels_are_looked_at(
    master: Master,
) -> None:
    loader, config = master([])
    seen: list[DictConfig] = []
    refuse_wrong_values(
        config, parse_space(["seed=range(0,1000)"], {}, loader), Composer(loader, config), Watched(seen.append)
    )
    assert [trial.seed for trial in seen] == list(range(MAX_CHECKS))


@pytest.mark.parametrize(
    ("lines", "params", "first_seed", "per_trial", "shared"),
    [
        ([], {}, 0, 1, "train on seed 0, which"),
        (["seed=3"], {}, 5, 4, r"seeds 5-6, which the search trains on too \(seed 3-6\)"),
        ([], {"seed": "1000"}, 998, 1, "seed 1000, which"),
        (["seed=1,8,9"], {}, 7, 1, r"seeds 8-9, .*first_seed=10"),
        (["seed=range(0,2000)"], {}, 1000, 1, "first_seed=2000"),
        ([], {}, 1, 1, None),
        (["seed=3"], {}, 7, 4, None),
        (["seed=3"], {}, 0, 1, None),
    ],
)
def test_final_seeds_that_the_search_trains_on_are_refused(
    master: Master, lines: list[str], params: dict[str, Any], first_seed: int, per_trial: int, shared: str | None
) -> None:
    loader, config = master([line for line in lines if "," not in line])
    space = parse_space(lines, params, loader)
    final = FinalOptions(top_k=2, seeds=3, first_seed=first_seed)
    if shared is None:
        refuse_seeds_of_the_search(config, space, final, per_trial)
        return
    refuse_seeds_of_the_search(config, space, FinalOptions(first_seed=first_seed), per_trial)  # no re-evaluation
    refuse_seeds_of_the_search(config, space, FinalOptions(top_k=2, seeds=3), per_trial)  # seeds of its own
    with pytest.raises(ValueError, match=shared):
        refuse_seeds_of_the_search(config, space, final, per_trial)


@pytest.mark.slow
def test_a_parameter_that_something_fixed_goes_over_is_refused(tmp_path: Path) -> None:
    """A single key wins over the choice of its group, so every trial would be the same."""
    fixed = ["placement.policy=stage1", "data=digits", f"hydra.sweep.dir={tmp_path / 'study'}"]
    done = subprocess.run(
        [sys.executable, "-m", "search", "-m", "placement=none,stage2", "train.lr=0.1,0.2", *fixed],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "placement has no effect: each of its values gives the same configuration" in done.stderr
    assert not (tmp_path / "study").exists()


def test_an_objective_is_not_driven_the_wrong_way() -> None:
    check_objectives(
        {"objectives": 2, "senses": {"val_top1": "maximize", "macs": "minimize"}}, ["maximize", "minimize"]
    )
    with pytest.raises(ValueError, match=r"give hydra\.sweeper\.direction=minimize"):
        check_objectives({"objectives": 1, "senses": {"val_loss": "minimize"}}, ["maximize"])


def test_each_objective_has_a_direction() -> None:
    with pytest.raises(ValueError, match=r"names 2 metric\(s\), hydra.sweeper.direction 1"):
        check_objectives({"objectives": 2}, ["maximize"])


def test_an_application_without_facts_is_taken_at_its_word() -> None:
    check_objectives({}, ["minimize"])
