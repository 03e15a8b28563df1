"""What a study's config says of its trials, read again where its storage is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from search.config import config_folder, register
from search.study.check.rebuild import CONFIG, read_recipe


@pytest.mark.parametrize(
    ("overrides", "objectives"),
    [
        ([], ("val_top1",)),
        (["task=instance_segmentation", "data=garment_scenes", "detector=small"], ("val_mask_ap",)),
        (["objectives=[val_loss,macs]", "hydra.sweeper.direction=[minimize,minimize]"], ("val_loss", "macs")),
    ],
)
def test_the_objectives_are_those_of_the_commands_config(
    tmp_path: Path, overrides: list[str], objectives: tuple[str, ...]
) -> None:
    """As the command writes it: not resolved, for it may name secrets of the environment."""
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = compose("config", overrides, return_hydra_config=True)
    plain = OmegaConf.to_container(composed, resolve=False)
    (tmp_path / CONFIG).write_text(OmegaConf.to_yaml(plain))
    assert read_recipe(tmp_path).objectives == objectives
