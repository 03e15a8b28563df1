"""The rivals of the engine: Hydra's official Optuna sweeper, released and in pre-release, each in an environment of its own.

    python benchmarks/engine.py --rivals DIR      # makes DIR/official-1.3.0, DIR/official-1.4.0rc3 and DIR/ours where missing

Ours has one as well, with the versions of this one: Optuna loads the drivers of all storages that it finds, which takes a
third of a start, and the rivals have none. All need packages from PyPI. What cannot be installed is said, and left out of the tables.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

__all__ = ["OURS", "RIVALS", "Rival", "environment", "installed_versions"]


CHECK = "import optuna, hydra, hydra_plugins.hydra_optuna_sweeper.config, hydra_plugins.hydra_joblib_launcher.config"


@dataclass(frozen=True)
class Rival:
    """A rival: its name, what pip is to install, why something is pinned, and what must import."""

    name: str
    requirements: tuple[str, ...]
    note: str = ""
    check: str = CHECK


PACKAGES = ("hydra-core", "omegaconf", "hydra-joblib-launcher", "optuna", "cloudpickle", "numpy")
OURS = Rival("ours", tuple(f"{name}=={version(name)}" for name in PACKAGES), check="import optuna, hydra, cloudpickle")


RIVALS = (
    Rival(
        "official-1.3.0",
        (
            "hydra-core>=1.3.2,<1.4",
            "hydra-optuna-sweeper==1.3.0",
            "hydra-joblib-launcher==1.2.0",
            "optuna<3",
            "sqlalchemy<2",
            "alembic<1.15",
        ),
        "Optuna 2.10 is the newest that it takes; that one does not start beside SQLAlchemy 2",
    ),
    Rival(
        "official-1.4.0rc3",
        ("hydra-core==1.4.0rc3", "hydra-optuna-sweeper==1.4.0rc3", "hydra-joblib-launcher==1.4.0rc3"),
        "pre-releases, with the joblib launcher of the same pre-release",
    ),
)
SHOWN = ("hydra-core", "hydra-optuna-sweeper", "hydra-joblib-launcher", "optuna", "sqlalchemy", "joblib", "numpy")


def environment(rival: Rival, folder: Path) -> Path:
    """The Python of the rival's environment below `folder`, which is made where it is missing.

    Raises:
        RuntimeError: it cannot be made, or does not import; the message holds the end of what pip said.
    """
    place = folder.absolute() / rival.name
    python = place / "bin" / "python"
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(place)], f"cannot make a virtual environment in {place}")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *rival.requirements]
        _run(pip, f"pip cannot install {rival.name} ({', '.join(rival.requirements)})")
    _run(
        [str(python), "-c", rival.check], f"{rival.name} in {place} does not import; remove that folder to make it anew"
    )
    return python


def installed_versions(python: Path) -> dict[str, str]:
    """Package -> version of what matters in the environment of `python`."""
    code = (
        "import json, sys\nfrom importlib import metadata\n"
        "found = {d.metadata['Name'].lower().replace('_', '-'): d.version for d in metadata.distributions()}\n"
        f"print(json.dumps({{name: found[name] for name in {SHOWN!r} if name in found}}))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise RuntimeError(f"{failure}:\n  " + "\n  ".join(lines[-6:]))
