"""What dead processes left in a study's folder: half-written files and locks. Nothing of it is a result."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from search.ledger.files import is_temporary
from search.ledger.paths import ASIDE, WORKERS
from search.study.check.finding import Finding
from search.study.liveness import GRACE_SECONDS, host_id
from search.study.storage.locks import is_held

__all__ = ["leftover_findings", "living_workers"]


def leftover_findings(root: Path) -> Iterator[Finding]:
    """Temporary files of killed writers anywhere below `root`, and what dead workers left in `workers/`."""
    for folder, inside, names in os.walk(root):
        inside[:] = [name for name in inside if name not in (ASIDE, "wandb")]
        for name in sorted(filter(is_temporary, names)):
            path = Path(folder) / name
            yield Finding(f"{path.relative_to(root)}: a file that was never finished", "removed", path.unlink)
    living = living_workers(root)
    for path in sorted((root / WORKERS).glob("*.lock")):
        if not path.name.startswith(".") and path not in living:
            yield Finding(f"{path.relative_to(root)}: the lock of a worker that is dead", "removed", path.unlink)
    if not living:
        for path in sorted([*(root / WORKERS).glob(".stop-*"), *(root / WORKERS).glob(".probe-*")]):
            yield Finding(f"{path.relative_to(root)}: left by a command that has ended", "removed", path.unlink)


def living_workers(root: Path) -> set[Path]:
    """The lock files of workers that live: held on this machine, or touched of late on another."""
    found = set()
    for path in (root / WORKERS).glob("*.lock"):
        if path.name.startswith("."):
            continue
        here = path.name.startswith(f"{host_id()}-")
        if is_held(path) if here else time.time() - path.stat().st_mtime <= GRACE_SECONDS:
            found.add(path)
    return found
