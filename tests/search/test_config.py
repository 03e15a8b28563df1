from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from search import config as module
from search.config import config_folder, register
from search.trial.config import Config


def test_the_folder_of_the_groups_is_found() -> None:
    assert (config_folder() / "config.yaml").is_file()
    assert (config_folder() / "experiment").is_dir()


def test_an_installed_wheel_carries_its_own_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "search"
    (package / "conf").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "config.py"))
    assert config_folder() == package / "conf"
    (package / "conf").rmdir()
    assert config_folder() == tmp_path / "site-packages" / "conf"


def test_the_schema_is_typed_and_open_where_it_says() -> None:
    from hydra.core.config_store import ConfigStore

    register()
    register()  # twice does no harm
    node = ConfigStore.instance().load("schema.yaml").node
    assert OmegaConf.get_type(node) is Config
    assert OmegaConf.to_object(node) == Config()
