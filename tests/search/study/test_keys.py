"""Misspelt keys of a sweep: refused at once where no choice of groups could make them right."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from search.study.keys import refuse_unknown_keys


@dataclass
class Inner:
    size: int = 1
    table: dict[str, Any] = field(default_factory=dict)


@dataclass
class Whole:
    inner: Inner = field(default_factory=Inner)
    loose: dict[str, Any] = field(default_factory=dict)


def config() -> DictConfig:
    made = OmegaConf.structured(Whole)
    assert isinstance(made, DictConfig)
    return made


@pytest.mark.parametrize(
    "line",
    [
        "inner.size=1,2",
        "inner.table.a=choice(1,2)",
        "loose.a.b=range(1,3)",
        "+inner.siz=1,2",
        "inner@there=a,b",
        "inner/size=a,b",
        "group=a,b",
        "hydra.launcher.nosuch=1,2",
        "~inner.siz",
    ],
)
def test_what_may_be_right_is_left_to_hydra(line: str) -> None:
    refuse_unknown_keys(config(), [line])


@pytest.mark.parametrize(
    ("line", "name", "kind"), [("inner.siz=1,2", "siz", "Inner"), ("iner.size=1", "iner", "Whole")]
)
def test_a_key_that_the_dataclass_lacks_is_refused(line: str, name: str, kind: str) -> None:
    with pytest.raises(ConfigCompositionException, match=rf"Could not override .*\nKey '{name}' not in '{kind}'"):
        refuse_unknown_keys(config(), ["inner.size=1,2", line])


def test_the_command_says_so_before_it_loads_optuna(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom search.__main__ import main\n"
        "sys.argv = ['search', '-m', 'placement.polcy=choice(none,stage3)', f'hydra.sweep.dir={sys.argv[1]}']\n"
        "try: main()\nfinally: print(sorted({'optuna', 'torch', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Key 'polcy' not in 'PlacementConfig'\nDid you mean policy?" in done.stderr
    assert done.stdout == "[]\n"
    assert not list(tmp_path.iterdir())
