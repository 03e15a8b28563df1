"""The face of `search.study` that Hydra finds: plugins are looked for in this namespace alone.

Hydra runs this module at each scan for plugins, so nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from search.command_line import told_compactly
from search.study.options import SweeperOptions

ConfigStore.instance().store(group="hydra/sweeper", name="xvol", node=SweeperOptions, provider="xvol")


class XvolSweeper(Sweeper):
    """Runs a study through asynchronous workers; see `search.study.sweeper`."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._parts: tuple[HydraContext, TaskFunction, DictConfig] | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over until the sweep starts."""
        self._parts = (hydra_context, task_function, config)

    def sweep(self, arguments: Sequence[str]) -> Any:
        """Run the study that the configuration and `arguments` describe; RefusedError for what cannot be run."""
        with told_compactly():
            return self._sweep(arguments)

    def _sweep(self, arguments: Sequence[str]) -> Any:
        # not where Hydra imports every plugin: for its help, and in each worker
        from search.study.command import read_command
        from search.study.launching.compose import Composer

        assert self._parts is not None, "Hydra calls setup() before sweep()"
        context, task, config = self._parts
        composer = Composer(context.config_loader, config)
        options, space = read_command(config, arguments, self._options, composer, task)
        if options.design.kind is not None:
            from search.study.design_run import DesignRun  # optuna: not before all is right that can be told without

            return DesignRun(options, composer, context, task, config).run(space)
        from search.study.search_run import SearchRun  # optuna, as above

        return SearchRun(options, composer, context, task, config).run(space)
