"""Each option of each config group composes, says what it is, and builds; each experiment's study could start."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna.distributions import FloatDistribution

from search.config import config_folder, typed
from search.design.factors import read_factors
from search.design.options import design_of
from search.space.parameters import Space, parse_space
from search.study.options import SweeperOptions, check_options, read_options
from search.study.sampling.samplers import is_grid, make_pruner, make_sampler
from search.trial.check import check_network, check_trial
from search.trial.refuse import check_values
from search.trial.untrained import prepare_cached

FOLDER = config_folder()
OPTIONS = sorted(
    (group.name, path.relative_to(group).with_suffix("").as_posix())
    for group in FOLDER.iterdir()
    for path in group.glob("*.yaml" if group.name == "design" else "**/*.yaml")
    if group.name != "experiment"
)
INSERT = "insert_pretrained"  # of the user's own pictures
EXPERIMENTS = sorted(path.stem for path in (FOLDER / "experiment").glob("*.yaml") if path.stem != INSERT)
OF_THE_STUDY = ("sampler", "pruner", "space")
REQUIRED = {key: ["data.path=/nowhere"] for key in ("folder", "image_folder", "tar", "hfds")}
REQUIRED["small"] = ["task=detection", "data=digit_scenes", "train=proxy/scenes"]
OF_DETECTORS = [f"paper/{data}_{what}" for data in ("coco", "proxy") for what in ("detection", "instance")]
OF_DETECTORS += ["proxy/scenes_demo"]
ANNOTATED = ["task=detection", "train=proxy/scenes"]
REQUIRED["coco"] = ["data.path=/nowhere", "data.train=train.json", *ANNOTATED]
REQUIRED |= dict.fromkeys(("garment_scenes", "stamp_scenes", "digit_scenes"), ANNOTATED)


def options(group: str) -> list[str]:
    return [option for name, option in OPTIONS if name == group]


def without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        config.pop("hydra", None)
    return config


def sweeper(config: DictConfig) -> SweeperOptions:
    return read_options(config.hydra.sweeper)


def space_of(config: DictConfig, *fixed: str) -> Space:
    return parse_space(fixed, sweeper(config).params or {}, GlobalHydra.instance().config_loader())


def test_every_group_of_the_root_has_options() -> None:
    groups = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    named = {
        name for entry in OmegaConf.load(FOLDER / "config.yaml").defaults for name in getattr(entry, "keys", list)()
    }
    assert groups == named - {"override hydra/sweeper", "override hydra/launcher"}
    assert all(options(group) for group in groups - {"experiment"})
    assert EXPERIMENTS


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_composes_to_values_that_are_allowed(composed: Any, group: str, option: str) -> None:
    config = composed(f"{group}={option}", *REQUIRED.get(option, []), with_hydra=True)
    assert config.hydra.runtime.choices[group] == option
    check_options(sweeper(config))
    check_values(typed(without_hydra(config)))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_says_in_its_header_what_it_is(group: str, option: str) -> None:
    lines = (FOLDER / group / f"{option}.yaml").read_text().splitlines()
    package = f"# @package hydra.sweeper{'.params' if group == 'space' else f'.{group}'}"
    if group in OF_THE_STUDY:
        assert lines.pop(0) == package
    assert re.fullmatch(r"# \S.{4,}", lines[0])


@pytest.mark.parametrize("option", options("backbone"))
def test_a_backbone_is_a_model_that_timm_knows(composed: Any, option: str) -> None:
    import xvol  # noqa: F401, I001  # before timm: it mends a CPU torch, and it registers its own models
    import timm

    assert timm.is_model(composed(f"backbone={option}").backbone.name)


@pytest.mark.parametrize(("group", "option"), [(g, o) for g, o in OPTIONS if g in ("placement", "branch", "train")])
def test_an_option_builds_on_the_proxy(composed: Any, group: str, option: str) -> None:
    placement = [] if group == "placement" else ["placement=stage3"]
    decoded = ["train.aa=null", "train.train_interpolation=bilinear"] if option.startswith("timm/") else []
    facts = check_trial(composed("data=digits", f"{group}={option}", *placement, *decoded))
    assert (facts["arm"] == "plain") == (option in ("none", "conv"))


@pytest.mark.parametrize("option", options("space"))
def test_a_space_can_be_searched_and_its_ends_build(composed: Any, option: str) -> None:
    config = composed(f"space={option}", "data=digits", with_hydra=True)
    space = space_of(config, "data=digits")
    points = space.grid()
    assert (len(points) > 1) == (option != "none")
    for point in (points[0], points[-1]):
        check_trial(composed(*space.overrides(point)))


@pytest.mark.parametrize("option", options("sampler"))
def test_a_sampler_suggests(composed: Any, option: str) -> None:
    config = dict(sweeper(composed(f"sampler={option}", with_hydra=True)).sampler)
    assert is_grid(config) == (option in ("grid", "brute_force"))
    study = optuna.create_study(sampler=make_sampler(config, stream=0))
    line = {name: FloatDistribution(0.0, 1.0) for name in "xy"}
    points = set()
    for _ in range(3):
        trial = study.ask(line)
        study.tell(trial, trial.params["x"])
        points.add(tuple(trial.params.values()))
    assert len(points) == 3


@pytest.mark.parametrize("option", options("pruner"))
def test_a_pruner_never_judges_before_half_of_the_proxys_epochs(composed: Any, option: str) -> None:
    config = composed(f"pruner={option}", with_hydra=True)
    study = optuna.create_study(direction="maximize", pruner=make_pruner(sweeper(config).pruner))
    for number in range(8):
        trial = study.ask()
        for epoch in range(1, config.train.epochs + 1):
            trial.report(90.0 - number, epoch)  # each worse than all before
            assert not (trial.should_prune() and epoch < config.train.epochs / 2), epoch
        study.tell(trial, 90.0 - number)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_pruner_goes_with_an_experiment(composed: Any, name: str) -> None:
    for option in options("pruner"):
        config = composed(f"experiment={name}", f"pruner={option}", with_hydra=True)
        given = read_options(config.hydra.sweeper)
        assert (given.pruner is None) == (option == "none")
        make_pruner(given.pruner)


def test_no_pruner_is_none_whatever_stands_beside_it() -> None:
    assert read_options({"pruner": {"_target_": None, "n_warmup_steps": 3}}).pruner is None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_states_its_command_its_time_and_what_to_expect(name: str) -> None:
    path: Path = FOLDER / "experiment" / f"{name}.yaml"
    header = path.read_text().split("defaults:")[0]
    lines = header.splitlines()
    assert lines[0] == "# @package _global_"
    assert all(line.startswith("#") for line in lines)
    assert f"#   python -m search -m experiment={name}" in lines
    assert re.search(r"^# Time: +\S", header, re.M)
    assert re.search(r"^# Expect: +\S", header, re.M)


def test_blocks_are_put_into_a_trained_network_alike(composed: Any) -> None:
    header = (FOLDER / "experiment" / f"{INSERT}.yaml").read_text().split("defaults:")[0]
    assert f"#   python -m search -m experiment={INSERT} data.path=PICTURES" in header.splitlines()
    config = composed(f"experiment={INSERT}", "data.path=/nowhere", with_hydra=True)
    options = sweeper(config)
    check_options(options)
    cells = design_of(options.design).cells
    here = ["data=digits", "data.image_size=32", "backbone.pretrained=false", "train.epochs=3"]
    arms = [check_trial(composed(f"experiment={INSERT}", *here, *cell.overrides))["arm"] for cell in cells]
    assert arms[0] == "plain"
    assert [arm.partition("(")[0] for arm in arms[1:]] == ["stage3: conv+pssa", "stage3: conv+second_conv"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiments_study_could_start(composed: Any, name: str) -> None:
    config = composed(f"experiment={name}", with_hydra=True)
    options = sweeper(config)
    check_options(options)
    assert options.study_name == name
    make_sampler(options.sampler, stream=0)
    make_pruner(options.pruner)
    check_values(typed(without_hydra(config.copy())))
    # its own network and recipe, on images that need no download
    fixed = [f"experiment={name}", "data=digits"]
    space = space_of(config, *fixed)
    point = {parameter.name: (parameter.levels() or [None])[0] for parameter in space.parameters}
    assert point
    first = check_trial(composed(*space.overrides(point)))
    baseline = check_trial(composed(*space.fixed, *options.final.baseline, *options.final.overrides))
    assert baseline["arm"] == "plain"
    assert first["objectives"] == baseline["objectives"] == 1
    last = {parameter.name: (parameter.levels() or [None])[-1] for parameter in space.parameters}
    assert check_trial(composed(*space.overrides(last)))["arch_hash"] != baseline["arch_hash"]


def test_the_paths_of_the_shipped_supernet_are_those_of_its_space(composed: Any, tmp_path: Path) -> None:
    for name in ("supernet", "paths"):
        header = (FOLDER / "experiment" / "one_shot" / f"{name}.yaml").read_text().split("defaults:")[0]
        assert f"#   python -m search {'-m ' * (name == 'paths')}experiment=one_shot/{name}" in header.splitlines()
        assert re.search(r"^# Time: +\S", header, re.M)
        assert re.search(r"^# Expect: +\S", header, re.M)
    whole = composed("experiment=one_shot/supernet", with_hydra=True)
    paths = composed("experiment=one_shot/paths", with_hydra=True)
    assert paths.start.root == whole.hydra.run.dir
    shared = ("backbone", "branch", "data.train_size", "data.val_size", "data.test_size", "data.split_seed")
    assert [key for key in shared if OmegaConf.select(whole, key) != OmegaConf.select(paths, key)] == []
    options = sweeper(paths)
    space = space_of(paths, "experiment=one_shot/paths")
    levels = {parameter.name.rpartition(".")[2]: parameter.levels() for parameter in space.parameters}
    assert levels == {stage: use.split("|") for stage, use in whole.placement.at.items()}
    assert math.prod(map(len, levels.values())) == options.n_trials
    check_values(typed(without_hydra(whole)))
    small = ["data=digits", "data.batch_size=192", "data.probe_size=0", "data.train_size=null", "data.val_size=360"]
    small += ["data.test_size=360"]
    assert check_trial(composed("experiment=one_shot/supernet", *small))["arm"].startswith("one of: ")
    here = [f"start.root={tmp_path}"]
    final = composed("experiment=one_shot/paths", *small, *here, *options.final.overrides)
    assert check_trial(final)["arm"] == "plain"
    # a path, what is trained of it in the end, and the truth table's arm are one
    point = [f"placement.at.stage{stage}=pssa" for stage in (1, 3)]
    arms = [
        ["experiment=one_shot/paths", *small, *here, *point],
        ["experiment=one_shot/paths", *small, *point, *options.final.overrides],
        ["experiment=proxy/truth", *small, "branch=pssa", "placement.policy=stage1+stage3"],
    ]
    assert len({prepare_cached(typed(composed(*arm))).architecture.hash for arm in arms}) == 1
    with pytest.raises(ValueError, match=r"result\.json"):  # the supernet is yet to be trained
        check_trial(composed(*arms[0]))


@pytest.mark.parametrize("name", OF_DETECTORS)
def test_an_experiment_of_detectors_could_start(composed: Any, name: str) -> None:
    header = (FOLDER / "experiment" / f"{name}.yaml").read_text().split("defaults:")[0]
    assert re.search(rf"^#   python -m search -m experiment={name}\b", header, re.M)
    assert re.search(r"^# Time: +\S", header, re.M)
    assert re.search(r"^# Expect: +\S", header, re.M)
    path = ["data.path=/nowhere"] if "coco" in name else []
    config = composed(f"experiment={name}", *path, with_hydra=True)
    options = sweeper(config)
    check_options(options)
    assert options.study_name == name.replace("/", "_")
    design = config.hydra.sweeper.design
    (factor,) = read_factors(OmegaConf.to_container(design.factors))
    arms = set()
    for level in factor.levels:
        arm = typed(composed(f"experiment={name}", *path, *design.get("overrides", []), *level.overrides))
        check_values(arm)
        check_network(arm)
        arms.add(level.label)
        assert arm.objectives == [f"val_{'mask' if arm.task == 'instance_segmentation' else 'box'}_ap"]
    assert len(arms) == len(factor.levels) > 1


def test_the_default_trial_is_the_plain_proxy_on_embedded_data(composed: Any) -> None:
    config = composed(with_hydra=True)
    assert config.tracker.mode == "offline"
    assert config.hydra.output_subdir is None  # the trial writes .hydra/ itself, with secrets masked
    assert check_trial(without_hydra(config))["arm"] == "plain"
