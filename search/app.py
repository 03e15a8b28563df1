"""The application as Hydra and its launchers see it: the task function, and what it can tell beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from search.ledger.secrets import mask_logs, masked_tree, note_variables
from search.refusals import told_compactly
from search.trial.recipe import COSTS, ZERO_COST

__all__ = ["check", "check_single", "check_values", "default_of", "facts", "refuse_moot", "score", "task"]


def task(config: DictConfig) -> float | tuple[float, ...]:
    """Run one trial in the folder that Hydra gave it; return its objectives."""
    from search.channel import current
    from search.trial.check import check_values
    from search.trial.config import typed

    note_variables([OmegaConf.to_container(config, resolve=False), _overrides()])
    mask_logs()  # Hydra has configured logging anew for this job
    single = current().phase == "single"
    with told_compactly() if single else nullcontext():  # a study's worker tells and records what fails by itself
        if single:  # told in half a second; a study has checked already
            check_values(typed(config))
        from search.trial.run import run_trial  # torch: not before a trial really runs

        folder = Path(HydraConfig.get().runtime.output_dir)
        _write_config(config, folder)
        return run_trial(config, folder, _overrides())


def check(config: DictConfig) -> dict[str, Any]:
    """Facts of a config that can run; raises ValueError for one that cannot."""
    from search.trial.check import check_trial

    return check_trial(config)


def check_values(config: DictConfig) -> None:
    """Raise ValueError for what is wrong with a config on the face of it, without building the network."""
    from search.trial.check import check_values
    from search.trial.config import typed

    check_values(typed(config))


def refuse_moot(keys: Sequence[str], configs: Sequence[DictConfig]) -> None:
    """Raise ValueError for a swept key that changes nothing that is trained, in any of the configs."""
    from search.trial.config import typed
    from search.trial.moot import refuse_moot

    refuse_moot(keys, [typed(config) for config in configs], swept=True)


def check_single(words: Sequence[str]) -> None:
    """Raise ValueError for a single training that cannot run as it is asked for, before Hydra makes a folder for it.

    Args:
        words: of the command line; where flags are among them, or Hydra itself is asked, the task's own check must do.
    """
    from hydra import compose, initialize_config_dir

    from search.config import config_folder
    from search.ledger.paths import refuse_blocked
    from search.trial.check import check_network
    from search.trial.config import typed
    from search.trial.moot import refuse_moot

    if any(word.startswith("-") or "${hydra:" in word for word in words):
        return
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", list(words), return_hydra_config=True)
    refuse_blocked(Path(config.hydra.run.dir), "hydra.run.dir")
    with open_dict(config):
        del config["hydra"]
    check_values(config)
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    trained = typed(config)
    plain = trained.placement.policy == "none" and not trained.placement.at
    if not (plain and any(key.partition(".")[0] == "placement" for key in keys)):  # a baseline that is asked for
        refuse_moot(keys, [trained], swept=False)
    check_network(trained)


def default_of(key: str, config: DictConfig) -> Any:
    """What a key stands for that a config leaves out: the default of a branch's option, no block where nothing is placed."""
    parts = key.split(".")
    if parts[:2] == ["branch", "options"] and len(parts) == 4:
        import xvol

        return xvol.branch_options(parts[2]).get(parts[3]) if parts[2] in xvol.branch_names() else None
    return "none" if parts[:2] == ["placement", "at"] and config.placement.policy == "none" else None


def score(config: DictConfig, names: Sequence[str]) -> dict[str, float]:
    """Zero-cost scores of the untrained network of `config`, by name, for a study's warm start."""
    from search.trial.check import score

    return score(config, names)


def facts(config: DictConfig) -> dict[str, Any]:
    """Cost and sites of the network of `config`, for the controls of a design."""
    from search.planning import network_facts

    return network_facts(config)


task.check = check  # type: ignore[attr-defined]  # where a study looks for them
task.check_values = check_values  # type: ignore[attr-defined]
task.default_of = default_of  # type: ignore[attr-defined]
task.refuse_moot = refuse_moot  # type: ignore[attr-defined]
task.score = score  # type: ignore[attr-defined]
task.facts = facts  # type: ignore[attr-defined]
task.scores = ZERO_COST  # type: ignore[attr-defined]
task.costs = COSTS  # type: ignore[attr-defined]  # what a trial can state before it trains, for constraints


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
