"""A trial as a Hydra job: what Hydra's own `run_job` makes, at less cost."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobStatus
from hydra.core.utils import run_job as hydras_run_job
from hydra.initialize import initialize_config_dir
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from search.study.launching.job import run_job

OVERRIDES = ["x=3", "hydra.sweep.subdir=a/b", "hydra.output_subdir=.hydra", "hydra.job.num=4", "hydra.job.id=toy_4"]


def composed(folder: Path) -> tuple[HydraContext, DictConfig]:
    os.environ["TOY_RUNS"] = str(folder)
    app = Path(__file__).parents[1] / "toy"
    with initialize_config_dir(str(app), version_base="1.3"):
        from hydra.core.global_hydra import GlobalHydra

        hydra = GlobalHydra.instance().hydra
        assert isinstance(hydra, Hydra)
        config = hydra.compose_config("config", [*OVERRIDES, "trace=none"], RunMode.MULTIRUN)
        return HydraContext(hydra.config_loader, Callbacks()), config


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Any:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    monkeypatch.setenv("TOY_RUNS", "")
    yield
    for handler in set(root.handlers) - set(before):
        handler.close()
    root.handlers[:] = before
    root.setLevel(level)


def test_the_job_is_hydras(tmp_path: Path) -> None:
    seen: list[Any] = []

    def task(config: DictConfig) -> float:
        hydra = HydraConfig.get()
        logging.getLogger("job").info("at work")
        seen.append((OmegaConf.to_container(config), hydra.runtime.output_dir, hydra.job.num, hydra.job.id))
        return float(config.x)

    before = HydraConfig.instance().cfg
    results = []
    for name, run in (("hydra", hydras_run_job), ("ours", run_job)):
        context, config = composed(tmp_path / name)
        if run is hydras_run_job:
            results.append(hydras_run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", context))
        else:
            results.append(run_job(context, config, task))
        assert HydraConfig.instance().cfg is before
    theirs, ours = results
    assert ours.return_value == theirs.return_value == 3.0
    assert ours.status == theirs.status == JobStatus.COMPLETED
    assert seen[0][0] == seen[1][0]
    assert seen[0][2:] == seen[1][2:] == (4, "toy_4")
    assert seen[1][1] == str(tmp_path / "ours" / "toy" / "a" / "b")
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        one, other = ((tmp_path / who / "toy/a/b/.hydra" / name).read_text() for who in ("hydra", "ours"))
        assert other == one.replace(str(tmp_path / "hydra"), str(tmp_path / "ours"))


def test_what_was_written_for_one_job_is_not_anothers(tmp_path: Path) -> None:
    """Hydra's own config is written key by key from what the last job left; 1, True and "1" are not one value."""
    for number, value in enumerate((True, 1, "1", 1.0, "no", None)):
        texts = []
        for name, run in (("hydra", hydras_run_job), ("ours", run_job)):
            context, config = composed(tmp_path / name)
            OmegaConf.set_struct(config, False)
            config.hydra.sweep.subdir = f"job{number}"
            config.hydra.launcher = {"value": value}
            config.hydra.verbose = bool(number % 2)
            config.hydra.overrides.task = [f"x={value}"]
            if run is hydras_run_job:
                hydras_run_job(lambda _: 0.0, config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
            else:
                run_job(context, config, lambda _: 0.0)
            folder = tmp_path / name / "toy" / f"job{number}" / ".hydra"
            texts.append((folder / "hydra.yaml").read_text().replace(str(tmp_path / name), ""))
        assert texts[0] == texts[1]


def test_an_error_is_the_jobs_and_nothing_leaks(tmp_path: Path) -> None:
    context, config = composed(tmp_path)
    config.hydra.job.chdir = True
    where = os.getcwd()

    def task(config: DictConfig) -> None:
        assert os.getcwd() == str(tmp_path / "toy" / "a" / "b")
        raise RuntimeError("no luck")

    job = run_job(context, config, task)
    assert job.status == JobStatus.FAILED
    with pytest.raises(RuntimeError, match="no luck"):
        _ = job.return_value
    assert os.getcwd() == where
