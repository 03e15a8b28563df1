"""A trial as a Hydra job of its own: its folder, its log, its `HydraConfig`, its callbacks.

Does what `hydra.core.utils.run_job` does, which copies the whole config four times: more than a short trial costs.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, env_override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf._utils import is_float, is_int, yaml_is_bool

from search.study.launching.compose import clone

__all__ = ["run_job"]

_written: dict[Any, tuple[str, str]] = {}  # by key of Hydra's config: what it was last, and that as YAML


def run_job(context: HydraContext, config: DictConfig, task: Callable[[DictConfig], Any]) -> JobReturn:
    """Run `task` in `hydra.sweep.dir`/`hydra.sweep.subdir` of `config`, which belongs to the job from now on.

    The process's `HydraConfig` and working folder are afterwards what they were; its log is still the job's.
    """
    before = HydraConfig.instance().cfg
    folder = Path(os.path.abspath(os.path.join(config.hydra.sweep.dir, config.hydra.sweep.subdir)))
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.runtime.output_dir = str(folder)
    OmegaConf.set_readonly(config.hydra, True)
    HydraConfig.instance().cfg = config  # type: ignore[assignment]
    try:
        mine = clone(config)
        with read_write(mine), open_dict(mine):
            del mine["hydra"]
        job = JobReturn()
        job.cfg, job.hydra_cfg, job.task_name = mine, config, config.hydra.job.name
        folder.mkdir(parents=True, exist_ok=True)
        with _working_in(folder if config.hydra.job.chdir else None):
            job.working_dir = os.getcwd()
            configure_log(config.hydra.job_logging, config.hydra.verbose)
            if config.hydra.output_subdir is not None:
                _dump(config, mine, folder / config.hydra.output_subdir)
            with env_override(dict(config.hydra.job.env_set)):
                context.callbacks.on_job_start(config=config, task_function=task)
                try:
                    job.return_value, job.status = task(mine), JobStatus.COMPLETED
                except Exception as error:
                    job.return_value, job.status = error, JobStatus.FAILED
            for handler in logging.getLogger().handlers:
                handler.flush()
            context.callbacks.on_job_end(config=config, job_return=job)
        return job
    finally:
        HydraConfig.instance().cfg = before


def _dump(config: DictConfig, mine: DictConfig, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"config": mine, "hydra": config.hydra, "overrides": config.hydra.overrides.task}
    for name, part in parts.items():
        plain = OmegaConf.to_container(part, resolve=False, enum_to_str=True)
        text = _hydra_yaml(plain) if name == "hydra" else _yaml(plain)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


@functools.cache
def _dumper() -> type:
    """OmegaConf's own way of writing YAML, by libyaml where PyYAML has it: ten times as fast."""
    import yaml

    ours: type = type("_Dumper", (getattr(yaml, "CSafeDumper", yaml.SafeDumper),), {})
    ours.add_representer(str, _str_representer)  # type: ignore[attr-defined]
    return ours


def _str_representer(dumper: Any, text: str) -> Any:
    """What `OmegaConfDumper.str_representer` makes of a text."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if _is_quoted(text) else None)


@functools.lru_cache(maxsize=4096)  # most texts of a config are in each trial's, and to try them as numbers is dear
def _is_quoted(text: str) -> bool:
    return bool(yaml_is_bool(text) or is_int(text) or is_float(text))


def _hydra_yaml(plain: Any) -> str:
    """The YAML of Hydra's own config, key by key: most of them are the same in each trial, and not written anew."""
    if not plain:
        return _yaml({"hydra": plain})
    for key, value in plain.items():
        seen = repr(value)  # not the value itself: 1 equals True
        if _written.get(key, ("",))[0] != seen:
            _written[key] = seen, _yaml({"hydra": {key: value}}).removeprefix("hydra:\n")
    return "hydra:\n" + "".join(_written[key][1] for key in plain)


def _yaml(plain: Any) -> str:
    import yaml

    text: str = yaml.dump(plain, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=_dumper())
    return text


@contextlib.contextmanager
def _working_in(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
