"""What a result came from: commit, package versions, machine. Gathered without importing the packages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["commit_of", "provenance"]

PACKAGES = (
    "xvol",
    "torch",
    "torchvision",
    "timm",
    "optuna",
    "hydra-core",
    "wandb",
    "pandas",
    "numpy",
    "scipy",
    "statsmodels",
)


def commit_of(folder: Path, file: str) -> str | None:
    """Hash of the commit that `folder/file` is checked out from, with "+changes" where tracked files differ.

    None outside of git, and where git does not track the file: an environment inside of another project's checkout.
    """
    try:
        _git(folder, "ls-files", "--error-unmatch", file)
        head = _git(folder, "rev-parse", "HEAD")
        dirty = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head[:12] + ("+changes" if dirty else "")


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


@cache
def provenance() -> dict[str, Any]:
    """Facts of this process, JSON-able; the code's commit is that of the folder `search` was imported from."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "commit": commit_of(Path(__file__).resolve().parents[2], "search/ledger/provenance.py"),
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "host": platform.node(),
        "executable": Path(sys.executable).name,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
