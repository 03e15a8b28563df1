"""What Hydra is given: the schema of a trial, and the folder of the config groups."""

from __future__ import annotations

from pathlib import Path

from search.trial.config import OPEN_KEYS, Config

__all__ = ["config_folder", "register"]


def register() -> None:
    """Give Hydra the schema under the name that conf/config.yaml starts from."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    node = OmegaConf.structured(Config)
    for key in OPEN_KEYS:
        OmegaConf.set_struct(OmegaConf.select(node, key), False)
    ConfigStore.instance().store(name="schema", node=node, provider="xvol")


def config_folder() -> Path:
    """Folder of the config groups: beside `search/` in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"
