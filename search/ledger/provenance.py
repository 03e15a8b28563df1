"""What a result came from: commit, package versions, machine. Gathered without importing the packages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["checkout_of", "code_commit", "commit_of", "provenance"]

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


@dataclass(frozen=True)
class Checkout:
    """What git says of a folder.

    Attributes:
        folder: resolved.
        head: the commit's hash, twelve digits.
        changed: whether tracked files of the repository differ from it.
        tracked: the files below the folder that git tracks, relative to it.
    """

    folder: Path
    head: str
    changed: bool
    tracked: frozenset[str]

    def holds(self, file: Path) -> bool:
        """Whether git tracks `file`."""
        there = file.resolve()
        return there.is_relative_to(self.folder) and there.relative_to(self.folder).as_posix() in self.tracked

    def commit(self, used: Iterable[Path] = ()) -> str:
        """The commit, with "+changes" where it is not the whole of the code: `used` files that are not tracked count."""
        unknown = any(file.resolve().is_relative_to(self.folder) and not self.holds(file) for file in used)
        return self.head + "+changes" * (self.changed or unknown)


@cache
def checkout_of(folder: Path) -> Checkout | None:
    """What git says of `folder` when it is first asked; None outside of git, or without it."""
    try:
        tracked = _git(folder, "ls-files", "-z").split("\0")
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return Checkout(folder.resolve(), head[:12], bool(changed), frozenset(tracked))


def commit_of(folder: Path, file: str, used: Iterable[Path] = ()) -> str | None:
    """Hash of the commit that `folder/file` is checked out from, with "+changes" where the code differs from it.

    None outside of git, and where git does not track the file: an environment inside of another project's checkout.

    Args:
        used: more files; one below the folder that git does not track is a change too.
    """
    checkout = checkout_of(folder)
    return checkout.commit(used) if checkout is not None and file in checkout.tracked else None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def code_commit(used: Iterable[Path] = ()) -> str | None:
    """The commit of the folder that `search` was imported from; see `commit_of`."""
    return commit_of(Path(__file__).resolve().parents[2], "search/ledger/provenance.py", used)


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
        "commit": code_commit(),
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
