"""The application as Hydra, its launchers and a study see it: how a trial is run, and what it can tell beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

import xvol
from search import trial  # which loads torch with the first trial that is built
from search.channel import Application, current
from search.command_line import told_compactly
from search.config import config_folder, typed
from search.data.sources import source_names, source_of
from search.ledger.secrets import mask_logs, masked_tree, note_variables
from search.ledger.study_files import refuse_blocked
from search.objectives import COSTS, ZERO_COST
from search.trial.refuse import check_values, refuse_moot

__all__ = ["Trainings", "application", "check_single"]


class Trainings(Application):
    """The application of this package: each trial trains and measures one network, see `search.trial.run`."""

    checks = True
    costs = COSTS
    scores = ZERO_COST

    def train(self, config: DictConfig) -> float | tuple[float, ...]:
        """Run one trial in the folder that Hydra gave it; return its objectives."""
        note_variables([OmegaConf.to_container(config, resolve=False), _overrides()])
        mask_logs()  # Hydra has configured logging anew for this job
        single = current().phase == "single"
        with told_compactly() if single else nullcontext():  # a study's worker tells and records what fails by itself
            if single:  # told in half a second; a study has checked already
                check_values(typed(config))
            folder = Path(HydraConfig.get().runtime.output_dir)
            _write_config(config, folder)
            return trial.run_trial(config, folder, _overrides())

    def preloads(self, config: DictConfig) -> Sequence[str]:
        """torch, timm and what runs a trial; what its data are read by; what `wandb.init` loads with its first run.

        That goes first: its pydantic looks through all modules that are there for the docstring of each of its classes.
        """
        modules, name = ["search.trial.run", "xvol.surgery"], str(OmegaConf.select(config, "data.name"))
        if name in source_names():
            modules.append(source_of(name).module)
        logged = OmegaConf.select(config, "tracker.mode") != "disabled"
        return ["wandb.apis.public", *modules] if logged else modules

    def check_values(self, config: DictConfig) -> None:
        """Raise ValueError for what is wrong with a config on the face of it, without building the network."""
        check_values(typed(config))

    def check(self, config: DictConfig) -> dict[str, Any]:
        """Facts of a config that can run; raises ValueError for one that cannot."""
        return trial.check_trial(config)

    def refuse_moot(self, keys: Sequence[str], configs: Sequence[DictConfig]) -> None:
        """Raise ValueError for a swept key that changes nothing that is trained, in any of the configs."""
        refuse_moot(keys, [typed(config) for config in configs], swept=True)

    def default_of(self, key: str, config: DictConfig) -> Any:
        """What a key stands for that a config leaves out: a branch's default option, no block where nothing is placed."""
        parts = key.split(".")
        if parts[:2] == ["branch", "options"] and len(parts) == 4:
            return xvol.branch_options(parts[2]).get(parts[3]) if parts[2] in xvol.branch_names() else None
        return "none" if parts[:2] == ["placement", "at"] and config.placement.policy == "none" else None

    def facts(self, config: DictConfig) -> dict[str, Any]:
        """Cost and sites of the network of `config`, for the controls of a design."""
        return trial.network_facts(config)

    def score(self, config: DictConfig, names: Sequence[str]) -> dict[str, float]:
        """Zero-cost scores of the untrained network of `config`, by name, for a study's warm start."""
        return trial.score(config, names)


application = Trainings()


def check_single(words: Sequence[str]) -> None:
    """Raise ValueError for a single training that cannot run as it is asked for, before Hydra makes a folder for it.

    Args:
        words: of the command line; where flags are among them, or Hydra itself is asked, the trial's own check must do.
    """
    if any(word.startswith("-") or "${hydra:" in word for word in words):
        return
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", list(words), return_hydra_config=True)
    refuse_blocked(Path(config.hydra.run.dir), "hydra.run.dir")
    with open_dict(config):
        del config["hydra"]
    trained = typed(config)
    check_values(trained)
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    plain = trained.placement.policy == "none" and not trained.placement.at
    if not (plain and any(key.partition(".")[0] == "placement" for key in keys)):  # a baseline that is asked for
        refuse_moot(keys, [trained], swept=False)
    trial.check_network(trained)


def _overrides() -> list[str]:
    """The task's overrides as they were written: resolving them would put `${oc.env:...}`'s value into the record."""
    lines = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(lines, list)
    return [str(line) for line in lines]


def _write_config(config: DictConfig, folder: Path) -> None:
    """Write `.hydra/` as Hydra does, with secrets masked; Hydra's own dump is switched off in conf/config.yaml."""
    hydra = HydraConfig.instance().cfg
    dumps = {"config": config, "hydra": hydra, "overrides": HydraConfig.get().overrides.task}
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    for name, value in dumps.items():
        plain = masked_tree(OmegaConf.to_container(value, resolve=False))
        (folder / ".hydra" / f"{name}.yaml").write_text(OmegaConf.to_yaml(plain), encoding="utf-8")
