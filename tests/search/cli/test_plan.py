"""`xvol-plan`: the designs of conf/ compose and build, and what is printed is what the study would be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

import xvol
from search.cli.plan import main
from search.cli.planned import earlier_runs, finished_seeds, noise_of, seconds_of
from search.config import config_folder, typed
from search.design.options import KINDS, DesignOptions, check_design, design_of
from search.design.trials import first_seed_of, first_seeds
from search.fingerprint import fingerprint_of, recipe_hash
from search.ledger.result import TrialResult, write_result
from search.ledger.study_files import CONTROL, Cell
from search.space.parameters import parse_space
from search.stats import minimum_detectable_difference
from search.study.options import check_options, read_options
from search.tasks.model import build
from search.trial.check import network_facts, sites_of
from search.trial.forecast import costs_of, judged_costs, measured_seconds
from search.trial.refuse import check_values

FOLDER = config_folder()
DESIGNS = sorted(
    path.relative_to(FOLDER / "design").with_suffix("").as_posix() for path in FOLDER.glob("design/**/*.yaml")
)
PRESETS = [name for name in DESIGNS if name.startswith("paper/")]
OF_THE_PAPER = sorted(f"paper/{path.stem}" for path in (FOLDER / "experiment" / "paper").glob("*.yaml"))
OF_PROXIES = sorted(f"proxy/{path.stem}" for path in (FOLDER / "experiment" / "proxy").glob("*.yaml"))
# those of detectors are composed in tests/search/test_conf.py
ELSEWHERE = re.compile("imagenet|detection|instance|scenes")
EXPERIMENTS = [name for name in (*OF_THE_PAPER, *OF_PROXIES) if not ELSEWHERE.search(name)]
SMALL = "paper/imagenet_stages_small"
IMAGENET = [name for name in OF_THE_PAPER if "imagenet" in name and name != SMALL]


def without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        config.pop("hydra", None)
    return config


def design_options(config: DictConfig) -> DesignOptions:
    options = read_options(config.hydra.sweeper)
    check_options(options)
    return options.design


def facts_of(composed: Any, fixed: Sequence[str], cell: Cell) -> dict[str, Any]:
    return network_facts(composed(*fixed, *cell.overrides))


def test_each_kind_of_design_is_an_option() -> None:
    assert sorted(set(DESIGNS) - set(PRESETS)) == sorted([*KINDS, "none"])
    assert PRESETS
    assert EXPERIMENTS
    assert IMAGENET


@pytest.mark.parametrize("name", DESIGNS)
def test_a_design_composes_and_says_what_it_is(composed: Any, name: str) -> None:
    config = composed(f"design={name}", with_hydra=True)
    assert config.hydra.runtime.choices.design == name
    options = design_options(config)
    check_design(options)
    assert (options.kind is None) == (name == "none")
    assert options.kind == name or name == "none" or name in PRESETS
    lines = (FOLDER / "design" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert re.fullmatch(r"# \S.{4,}", lines[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_the_cells_of_a_preset_are_different_networks_and_the_first_is_plain(composed: Any, name: str) -> None:
    options = design_options(composed(f"design={name}", with_hydra=True))
    cells = design_of(options).cells
    assert [cell.is_baseline for cell in cells] == [True] + [False] * (len(cells) - 1)
    if "resnet" in name:  # the paper's own networks: their first and one of their last rows
        cells = [cells[0], cells[3]]
    facts = [facts_of(composed, ["data=digits", "data.image_size=16"], cell) for cell in cells]
    assert facts[0]["arm"] == "plain"
    assert len({fact["arch_hash"] for fact in facts}) == len(cells)
    assert [bool(fact["chosen"]) for fact in facts] == [False] + [True] * (len(cells) - 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_with_a_design_states_its_command_and_could_start(composed: Any, name: str) -> None:
    header = (FOLDER / "experiment" / f"{name}.yaml").read_text().split("defaults:")[0]
    assert header.startswith("# @package _global_\n")
    assert f"#   python -m search -m experiment={name}" in header.splitlines()
    assert re.search(r"^# Time: +\S", header, re.M)
    assert re.search(r"^# Expect: +\S", header, re.M)
    config = composed(f"experiment={name}", with_hydra=True)
    options = design_options(config)
    assert config.hydra.sweeper.study_name == name.replace("/", "_")
    assert config.data.name == "cifar10"
    kinds = (name.removesuffix("_shared"), "paper/stage_placement", "factorial", "one_at_a_time")
    assert config.hydra.runtime.choices.design in kinds
    assert first_seeds(options) >= 5
    space = parse_space([], config.hydra.sweeper.params or {}, GlobalHydra.instance().config_loader())
    cells = [cell for cell in design_of(options, space).cells if CONTROL not in cell.factors]
    for cell in cells:
        check_values(typed(without_hydra(composed(f"experiment={name}", *cell.overrides))))
    sizes = ["data.probe_size=0", "data.train_size=null", "data.val_size=360", "data.test_size=360"]
    small = [f"experiment={name}", "data=digits", *sizes]
    assert facts_of(composed, small, cells[0])["arm"] == "plain"
    assert facts_of(composed, small, cells[-1])["chosen"]


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGENET)
def test_an_experiment_on_imagenet_states_its_hours_and_could_start(composed: Any, name: str) -> None:
    header = (FOLDER / "experiment" / f"{name}.yaml").read_text().split("defaults:")[0]
    assert f"#   python -m search -m experiment={name} data.path=IMAGENET" in header
    assert re.search(r"^# Time: +.*A100-hours", header, re.M)
    assert re.search(r"^# Expect: +(in the paper|nothing is published)", header, re.M)
    config = composed(f"experiment={name}", with_hydra=True)
    options = design_options(config)
    assert config.hydra.sweeper.study_name == name.replace("/", "_")
    assert (config.data.name, config.data.image_size) == ("folder", 224)
    cells, fixed = design_of(options).cells, [f"experiment={name}", "backbone.pretrained=false"]
    small = ["data=digits", "data.image_size=32", "data.val_size=360", "data.batch_size=64"]
    for cell in cells:
        check_values(typed(without_hydra(composed(*fixed, "data.path=/nowhere", *cell.overrides))))
    facts = [facts_of(composed, [*fixed, *small], cell) for cell in (cells[0], cells[3])]
    assert [fact["arm"] for fact in facts] == ["plain", "stage3: conv+pssa(embed_ratio=0.25)"]


@pytest.mark.slow
def test_the_small_experiment_is_on_pictures_that_the_example_makes_and_could_start(composed: Any) -> None:
    header = (FOLDER / "experiment" / f"{SMALL}.yaml").read_text().split("defaults:")[0].splitlines()
    assert f"#   python -m search -m experiment={SMALL}" in header
    config = composed(f"experiment={SMALL}", with_hydra=True)
    assert f"#   python examples/picture_folder.py {config.data.path}" in header
    assert config.hydra.sweeper.study_name == SMALL.replace("/", "_")
    assert (config.data.name, config.data.image_size, config.data.in_memory_mb) == ("folder", 64, 0)
    assert config.hydra.runtime.choices.train == "paper/imagenet_100ep"
    cells, fixed = design_of(design_options(config)).cells, [f"experiment={SMALL}", "data=digits", "data.path=null"]
    for cell in cells:
        check_values(typed(without_hydra(composed(f"experiment={SMALL}", *cell.overrides))))
    facts = [facts_of(composed, [*fixed, "data.val_size=360"], cell) for cell in (cells[0], cells[3])]
    assert [fact["arm"] for fact in facts] == ["plain", "stage3: conv+pssa(embed_ratio=0.25)"]


def test_facts_are_those_of_the_network_that_a_trial_builds(composed: Any) -> None:
    config = composed("data=digits", "placement=stage3")
    facts = network_facts(config)
    model, architecture = build(typed(config), 1, 10, 16)
    assert facts["arch_hash"] == architecture.hash
    assert facts["chosen"] == ["layer3.0.conv1", "layer3.0.conv2"]
    assert facts["params"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["macs"] == xvol.count_macs(model, (1, 16, 16))
    assert facts["sites"] == [site.fqn for site in sites_of(typed(config))]
    assert set(facts["chosen"]) < set(facts["sites"])
    with pytest.raises(ValueError, match=r"train\.lr=-1"):
        network_facts(composed("train.lr=-1"))


def test_seconds_grow_with_the_epochs(composed: Any) -> None:
    short, long = (measured_seconds(typed(composed("data=digits", f"train.epochs={n}")), steps=3) for n in (1, 20))
    assert 0 < short < long


def write(root: Path, number: int, arch: str, seed: int, test: float | None, **values: Any) -> None:
    folder = root / "earlier" / "final" / f"{number:04d}-s{seed}"
    folder.mkdir(parents=True)
    given: dict[str, Any] = {"status": "ok", "recipe_hash": "r", "provenance": {"device": "cpu"}, **values}
    times = {"started_at": "2026-01-01T00:00:00+00:00", "finished_at": "2026-01-01T00:00:30+00:00"}
    result = TrialResult(
        study="earlier", trial=number, phase="final", seed=seed, arch_hash=arch, metrics={"test_top1": test}, epochs=4,
        epochs_planned=4, **times, **given,
    )  # fmt: skip
    write_result(folder, result)


def test_time_and_noise_are_taken_from_earlier_runs_of_the_recipe(tmp_path: Path) -> None:
    for number, (arch, seed, test) in enumerate(
        [("base", 0, 50.0), ("base", 1, 51.0), ("arm", 0, 51.0), ("arm", 1, 54.0), ("arm", 2, 90.0), ("base", 9, 1.0)]
    ):
        write(tmp_path, number, arch, seed, test)
    for number, values in enumerate(
        [{"status": "failed"}, {"recipe_hash": "other"}, {"reused_from": "x"}, {"provenance": {"device": "H100"}}], 10
    ):
        write(tmp_path, number, "arm", number, 0.0, **values)
    (tmp_path / "earlier" / "final" / "torn").mkdir()
    (tmp_path / "earlier" / "final" / "torn" / "result.json").write_text("{")
    runs = earlier_runs(tmp_path, "r", on_cpu=True)
    assert len(runs) == 6
    assert len(earlier_runs(tmp_path, "r", on_cpu=False)) == 1
    assert seconds_of(runs) == {"base": 30.0, "arm": 30.0}
    noise = noise_of(runs, "base")
    assert noise is not None
    assert (noise.metric, noise.degrees) == ("test_top1", 1)
    assert noise.sd == pytest.approx(2**0.5)  # of the differences 1 and 3
    assert noise_of(runs, "arm") == noise
    assert noise_of(runs, "unknown") is None
    assert noise_of([], "base") is None


FIXED = ("data=digits", "--seconds", "12")


@pytest.mark.slow
def test_the_plan_of_an_experiment(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("statsmodels")
    runs = f"hydra.sweep.dir={tmp_path}/study"
    arguments = ["experiment=paper/stage_placement", *FIXED, "--sd", "0.5", "--workers", "2", runs]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "Sites of xvol_proxy_resnet: 8" in text
    assert "stage3: layer3.0.conv1, layer3.0.conv2" in text
    assert "Cells: 5 (design one_at_a_time)" in text
    assert re.search(r"0 +baseline +plain +77,858 .* 12\.0  as given", text)
    assert re.search(r"3 +stage=stage3 +stage3: conv\+pssa\(embed_ratio=0\.25\)", text)
    assert "Time: 5 networks x 5 seeds = 25 trials, 5.0 min of work, about 2.5 min on 2 worker(s)" in text
    assert re.search(r"5 paired seeds find with power 0\.8: 0\.8\d points", text)
    assert "where all 4 differences to the baseline are corrected for" in text
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_infeasible_cells_and_duplicates_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["design=factorial", *FIXED, "placement=none,stage3", "branch.use=conv+pssa,pssa,conv+pool"]
    assert main([*arguments, f"hydra.sweep.dir={tmp_path}/study", "-m"]) == 1
    text = capsys.readouterr().out
    assert "Cells: 6" in text
    assert re.search(r"infeasible: .*pool", text)
    assert "same network as baseline" in text
    assert "infeasible: 1; duplicates (same network and recipe): 2," in text
    assert "3 networks x 5 seeds = 15 trials" in text
    assert main([*arguments, f"hydra.sweep.dir={tmp_path}/study", "hydra.sweeper.reuse=none"]) == 1
    assert "5 networks x 5 seeds = 25 trials" in capsys.readouterr().out
    assert "unknown (no earlier runs of this recipe" in text
    limit = "hydra.sweeper.constraints={params: '<=78000'}"
    assert main(["design=paper/stage_placement", *FIXED, limit, f"hydra.sweep.dir={tmp_path}/study"]) == 1
    assert re.search(r"stage=stage4 +infeasible: params 83490 is above 78000", capsys.readouterr().out)


@pytest.mark.slow
def test_controls_and_fractions_are_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runs = f"hydra.sweep.dir={tmp_path}/study"
    arguments = ["design=add_one_in", *FIXED, "placement=none,stage4", "hydra.sweeper.design.control=macs", runs]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    found = re.search(
        r"control: placement=stage4 \[control: plain, same macs\]: .* a mismatch of ([+-]\d\.\d\d) %", text
    )
    assert found
    assert abs(float(found[1])) < 0.2
    sweeps = ["placement=none,stage3", "train.lr=0.1,0.2", "train.warmup=0.1,0.2", "branch.gamma=0,1"]
    assert main(["design=fractional", *FIXED, *sweeps, runs]) == 0
    text = capsys.readouterr().out
    assert "2^(4-1) fraction of resolution IV" in text
    assert "aliased: placement*train.lr = train.warmup*branch.gamma" in text
    assert "4 different recipes" in text


@pytest.mark.slow
def test_random_placements_and_measured_seconds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["design=random_matched", "data=digits", "device=cpu", "hydra.sweeper.design.count=2", "--sd=1"]
    assert main([*arguments, "hydra.sweeper.design.seeds=1", f"hydra.sweep.dir={tmp_path}/study"]) == 0
    text = capsys.readouterr().out
    assert "Cells: 4 (design random_matched)" in text
    assert "a few steps, here" in text
    assert "at least 2 seeds are needed" in text


@pytest.mark.slow
def test_a_search_is_planned_by_its_levels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runs = f"hydra.sweep.dir={tmp_path}/study"
    assert main(["space=one_stage", *FIXED, "hydra.sweeper.n_trials=8", "hydra.sweeper.final.seeds=3", runs]) == 0
    text = capsys.readouterr().out
    assert "8 trials of the search and at most 12 of the re-evaluation = 20 trials" in text
    assert main(["data=digits", runs]) == 2
    assert "there is nothing to search" in capsys.readouterr().err
    assert main(["space=one_stage", *FIXED, "hydra.sweeper.final.first_seed=0", runs]) == 2
    assert "would train on seed 0, which the search trains on too" in capsys.readouterr().err


@pytest.mark.slow
def test_looks_are_planned_with_their_hours_and_what_each_resolves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    looks = "hydra.sweeper.design.looks=[3,5,8]"
    arguments = ["design=ladder", *FIXED, "placement=none,stage3,stage4", looks, f"hydra.sweep.dir={tmp_path}/study"]
    assert main([*arguments, "branch.use=conv+pssa,pssa", "--sd", "0.5", "--workers", "2"]) == 0
    text = capsys.readouterr().out
    assert "Time to the first look: 3 networks x 3 seeds = 9 trials, 108 s of work, about 54 s on 2 worker(s)" in text
    assert "Time at most, if every row goes to the last look: 3 networks x 8 seeds = 24 trials, 4.8 min of work" in text
    assert "alpha 0.05 over all looks, hwang_shih_decani; sd of a paired difference 0.50 points, as given" in text
    found = [
        (float(one), float(every))
        for one, every in re.findall(
            r"look \d, at \d seeds: (\S+) points for one row; (\S+) points where all 2 rows", text
        )
    ]
    assert len(found) == 3
    assert found == sorted(found, reverse=True)
    assert all(one < every for one, every in found)
    assert main([*arguments, "hydra.sweeper.design.seeds=5"]) == 2
    assert "leave seeds out" in capsys.readouterr().err


@pytest.mark.slow
def test_a_design_with_roots_costs_them_its_arms_and_its_controls(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    starts = [f"hydra.sweeper.design.{each}" for each in ("start=shared", "roots=4", "gamma=[0]")]
    arguments = ["design=one_at_a_time", *FIXED, "placement=none,stage3", *starts, f"hydra.sweep.dir={tmp_path}/study"]
    assert main([*arguments, "--sd", "0.5", "--workers", "2", "--difference", "0.3"]) == 0
    text = capsys.readouterr().out
    assert "root x 4 + known control from scratch x 4 + 4 networks, controls among them, x 4 roots x 2 orders" in text
    assert "= 40 trials, 8.0 min of work, about 4.0 min on 2 worker(s)" in text
    found = re.search(r"4 root\(s\) x 2 order\(s\) find with power 0\.8: (\S+) points for one comparison", text)
    assert found
    assert float(found[1]) == pytest.approx(minimum_detectable_difference(0.5, 4), abs=0.006)
    assert "Unknown for start scratch, shared, fork" in text
    assert main(arguments) == 0
    assert "unknown (no earlier runs with start=shared tell; give --sd)" in capsys.readouterr().out


@pytest.mark.slow
def test_results_that_are_there_need_no_training(
    composed: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    composition = composed("data=digits")
    facts, config = network_facts(composition), typed(composition)
    plain = OmegaConf.to_container(composition, resolve=True)
    recipe = recipe_hash(plain, anywhere=True)  # type: ignore[arg-type]
    own = first_seed_of("mine", "design")
    for number, seed in enumerate([1000, 1001, 1004, own]):
        mark = fingerprint_of(facts["arch_hash"], recipe, seed, config.train.epochs, "final", facts["content"])
        write(tmp_path, number, facts["arch_hash"], seed, 50.0, recipe_hash=recipe, fingerprint=mark)
        if seed != 1004:  # without its weights a result cannot stand for a trial that keeps them
            (tmp_path / "earlier" / "final" / f"{number:04d}-s{seed}" / "checkpoint.pt").touch()
    study = tmp_path / "study"

    def seeds(folder: Path, reuse: str) -> set[int]:
        return finished_seeds(folder, config, facts, recipe, range(1000, 1005), reuse)

    assert seeds(study, "all") == {1000, 1001}
    assert seeds(study, "study") == set()
    assert seeds(tmp_path / "earlier", "none") == {1000, 1001, 1004}
    finals = finished_seeds(tmp_path / "earlier", config, facts, recipe, range(1000, 1005), "none", looks=True)
    assert finals == set()  # looks take no result that has read the test data
    command = ["design=one_at_a_time", *FIXED, "placement=none,stage3", f"hydra.sweep.dir={study}"]
    assert main([*command, "hydra.sweeper.design.first_seed=1000"]) == 0
    text = capsys.readouterr().out
    assert "2 networks x 5 seeds = 10 results, of which 2 are there and need no training; left = 8 trials, 96 s" in text
    assert main([*command, "hydra.sweeper.study_name=mine"]) == 0  # on the seeds that the study would take
    assert "10 results, of which 1 are there" in capsys.readouterr().out


@pytest.mark.slow
def test_constraints_are_judged_where_no_accelerator_is_needed(
    composed: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = ("params_fused", "latency_ms", "train_memory_mb", "zero_cost.naswot")
    config = typed(composed("data=digits", "device=cpu"))
    assert judged_costs(config, names) == list(names)
    assert judged_costs(typed(composed("data=digits", "device=cuda")), names) == ["params_fused", "zero_cost.naswot"]
    costs = costs_of(config, names)
    assert set(costs) == set(names)
    assert all(value > 0 for value in costs.values())
    given = ["design=one_at_a_time", *FIXED, "placement=none,stage3", f"hydra.sweep.dir={tmp_path}/study"]
    limits = "hydra.sweeper.constraints={params_fused: '<=78000', latency_ms: '<=1e-6', train_memory_mb: '<=1'}"
    assert main([*given, limits, "device=cuda"]) == 1
    text = capsys.readouterr().out
    assert re.search(r"1 +placement=stage3 +infeasible: params_fused \d+ is above 78000", text)
    assert "constraints on latency_ms, train_memory_mb: not judged before running" in text
    assert main([*given, limits, "device=cpu"]) == 1
    assert re.search(
        r"0 +baseline +infeasible: latency_ms \S+ is above 1e-06; train_memory_mb", capsys.readouterr().out
    )
    assert main([*given, "hydra.sweeper.constraints={latency: 3}"]) == 2
    assert "hydra.sweeper.constraints.latency: allowed are params" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["design=factorail"], "factorail"),
        (["design=ladder"], "needs at least one factor"),
        (["design=ladder", "placment=none,stage3"], "placment"),
        (["design=ladder", "--sd", "-1"], "must be above 0"),
        (["design=factorial", "train.lr=interval(0.1,1)"], "is an interval"),
    ],
)
def test_a_wrong_command_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code = main([*arguments, *FIXED])
    told = capsys.readouterr()
    assert code in (1, 2)
    assert message in told.err + told.out
