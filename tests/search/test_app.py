from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from search.app import application, check_single
from search.channel import Application, Channel, opened
from search.ledger.result import read_result
from search.ledger.secrets import MASK

SMALL = ["tracker=disabled", "train.epochs=1", "data.train_size=128", "data.val_size=50", "measure.latency_repeats=1"]
SECRET = "hunter2horse"


@pytest.fixture
def job(composed: Any, tmp_path: Path) -> Iterator[Any]:
    """The config of a job as Hydra hands it to the task, in a folder of its own."""
    before = HydraConfig.instance().cfg

    def make(*overrides: str, storage: str | None = None) -> DictConfig:
        config = composed(*SMALL, *overrides, with_hydra=True)
        with open_dict(config):
            config.hydra.runtime.output_dir = str(tmp_path)
            config.hydra.overrides.task = [*SMALL, *overrides]
            config.hydra.sweeper.storage = storage
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        return config

    yield make
    HydraConfig.instance().cfg = before


def test_the_task_runs_one_trial_in_its_folder(job: Any, tmp_path: Path) -> None:
    value = application(job("placement=stage3"))
    result = read_result(tmp_path / "result.json")
    assert (result.status, result.metrics.get("val_top1"), result.study) == ("ok", value, "single")
    assert result.overrides[-1] == "placement=stage3"
    written = OmegaConf.load(tmp_path / ".hydra" / "config.yaml")
    assert written.placement.policy == "stage3"
    assert "hydra" in OmegaConf.load(tmp_path / ".hydra" / "hydra.yaml")
    assert "placement=stage3" in OmegaConf.load(tmp_path / ".hydra" / "overrides.yaml")


def test_the_dump_of_a_config_holds_no_secret(job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_STORAGE_PASSWORD", SECRET)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    entity = "tracker.entity=${oc.env:MY_STORAGE_PASSWORD}"
    application(job(entity, f"tracker.tags=['{'0123456789' * 4}']", storage=f"postgresql://me:{SECRET}@host/x"))
    texts = {path.name: path.read_text(errors="ignore") for path in tmp_path.rglob("*") if path.is_file()}
    assert {"config.yaml", "hydra.yaml", "overrides.yaml", "result.json"} <= texts.keys()
    assert not [name for name, text in texts.items() if SECRET in text or "0123456789" * 4 in text]
    assert f"postgresql://me:{MASK}@host/x" in texts["hydra.yaml"]
    assert "${oc.env:MY_STORAGE_PASSWORD}" in texts["config.yaml"]  # as written, not resolved


def test_an_override_is_recorded_as_it_was_written(job: Any, tmp_path: Path) -> None:
    application(job("seed=${train.epochs}"))
    result = read_result(tmp_path / "result.json")
    assert (result.seed, result.overrides[-1]) == (1, "seed=${train.epochs}")


def test_a_single_trial_with_a_wrong_value_leaves_no_folder(job: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.epochs=0"):
        application(job("train.epochs=0"))
    assert list(tmp_path.iterdir()) == []


def test_a_studys_trial_with_a_wrong_value_is_recorded(job: Any, tmp_path: Path) -> None:
    with opened(Channel(study="demo", phase="search")), pytest.raises(ValueError, match=r"train\.epochs=0"):
        application(job("train.epochs=0"))
    assert read_result(tmp_path / "result.json").status == "failed"


def test_a_study_can_ask_what_a_config_comes_to(composed: Any) -> None:
    assert Application.of(application) is application
    check = application.check
    assert check(composed(*SMALL, "placement=stage3"))["arm"].startswith("stage3: conv+pssa")
    with pytest.raises(ValueError, match="resnet50"):
        check(composed(*SMALL, "backbone.name=resnet5"))


def test_a_key_that_the_config_leaves_out_has_a_default_where_one_is_known(composed: Any) -> None:
    config, default_of = composed(), application.default_of
    assert default_of("branch.options.pssa.rank", config) == 1
    assert default_of("placement.at.stage3", config) == "none"
    assert default_of("placement.at.stage3", composed("placement=stage3")) is None
    for key in ("branch.options.pssa.nothing", "branch.options.nothing.rank", "backbone.kwargs.drop_path_rate"):
        assert default_of(key, config) is None


@pytest.fixture
def no_hydra() -> Iterator[None]:
    """A process before Hydra; the instance of `composed`, which others go on with, is put back."""
    held = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().hydra = held


@pytest.mark.usefixtures("no_hydra")
def test_a_single_training_is_checked_before_a_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word, message in (
        ("train.momentum=1", "train.momentum=1.0"),
        ("+train.epoch=2", "Key 'epoch' not in 'TrainConfig'"),
        ("branch=pssa", "branch has no effect: no block is placed"),
        ("train.opt=adamv", "near it: .*adamw"),
        ("hydra.run.dir=/dev/null/x", "/dev/null is a file"),
    ):
        with pytest.raises((ValueError, HydraException), match=message):
            check_single([word])
    check_single(["branch=pssa", "placement=none"])  # a baseline that is asked for
    check_single(["--cfg", "job", "train.momentum=1"])  # Hydra's to show
    assert list(tmp_path.iterdir()) == []


def test_a_study_can_ask_for_scores_and_costs(composed: Any) -> None:
    assert application.score(composed(*SMALL), ["naswot"]).keys() == {"naswot"}
    assert {"params", "latency_ms", "zero_cost.naswot"} <= set(application.costs or ())
    assert "naswot" in application.scores


def test_a_bare_task_function_is_an_application_that_tells_nothing(composed: Any) -> None:
    bare = Application.of(lambda config: float(config.seed))
    config = composed("seed=3")
    assert (bare(config), bare.train(config), bare.checks, bare.costs, bare.check(config)) == (
        3.0,
        3.0,
        False,
        None,
        {},
    )
    bare.check_values(config)
    bare.refuse_moot(["seed"], [config])
    assert bare.default_of("seed", config) is None
    with pytest.raises(ValueError, match="no scores"):
        bare.score(config, ["naswot"])
    with pytest.raises(ValueError, match="nothing of the networks"):
        bare.facts(config)
