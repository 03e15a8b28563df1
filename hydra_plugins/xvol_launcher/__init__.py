"""The face of `search.study.launching.launcher` that Hydra finds: plugins are looked for in this namespace alone.

Hydra runs this module at each scan for plugins, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from search.command_line import told_compactly
from search.study.launching.slots import LocalLauncherOptions

ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherOptions, provider="xvol")


class LocalLauncher(Launcher):
    """Runs each job in a fresh process of this machine; see `search.study.launching.launcher`."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._parts: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over until jobs come."""
        self._parts = (hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; return what became of them, in their order. RefusedError for options that do not fit the machine."""
        from search.study.launching.launcher import launch  # Hydra imports every plugin, also for its help

        assert self._parts is not None, "Hydra calls setup() before launch()"
        with told_compactly():
            return launch(self._options, *self._parts, job_overrides, initial_job_idx)
