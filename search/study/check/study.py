"""All checks of one study, in the order in which they can be mended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from search.ledger.result import RESULT_FILE, Phase
from search.study.check.finding import Finding
from search.study.check.leftovers import leftover_findings, living_workers
from search.study.check.recipe import FINAL, named_in, storage_in
from search.study.check.storage import journal_findings, known_findings
from search.study.check.tables import table_findings
from search.study.check.trials import PhaseCheck
from search.study.growth import current_name
from search.study.storage.opening import open_storage

__all__ = ["check_study", "refuse_running"]

PHASES: tuple[tuple[Phase, str], ...] = (("search", ""), ("final", FINAL))


def check_study(root: Path, spec: str | None = None) -> list[Finding]:
    """Everything that is wrong with the study in `root`; what stands in the way of more comes alone.

    Args:
        root: the study's folder, absolute.
        spec: its storage, as `open_storage` takes it; None for the one that its config names.

    Raises:
        ValueError: the folder holds no study, or its storage cannot be reached.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is no folder of a study; give runs/<study>")
    has_ledger = any(root.glob(f"*/*/{RESULT_FILE}")) or any(root.glob("trials/*-s*")) or any(root.glob("final/*-s*"))
    if not has_ledger and not any(root.glob("*.journal")) and not (root / "multirun.yaml").is_file():
        raise ValueError(f"{root} holds no study; give runs/<study>")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec, name = spec or storage_in(root), named_in(root)
    found = list(journal_findings(root, spec, name))
    if not found:
        storage = open_storage(spec, root, patience_seconds=0)
        found = list(known_findings(root, storage, name, has_ledger))
        if not found:
            found = list(_trials(root, storage, name))
    found += leftover_findings(root)
    if not any(finding.repair and not finding.note for finding in found):  # else the table is judged after the repair
        found += table_findings(root)
    return found


def refuse_running(root: Path) -> None:
    """Raise ValueError where a worker of the study lives: nothing is mended beneath it."""
    living = living_workers(root)
    if living:
        raise ValueError(f"{root}: the study is running ({len(living)} worker(s)); stop it, or wait for its end")


def _trials(root: Path, storage: BaseStorage, name: str) -> Iterator[Finding]:
    known = {each.study_name for each in storage.get_all_studies()}
    for phase, suffix in PHASES:
        if name + suffix in known:
            study = optuna.load_study(study_name=current_name(storage, name + suffix), storage=storage)
            yield from PhaseCheck(root, name, phase, study, storage).findings()
