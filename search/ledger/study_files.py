"""What lies below a study's folder and where, and what is written down beside its trials: design, objectives, changes.

Nobody else spells these names. `changes.jsonl` gets one line a command whose settings differ from those of the command
before, and lines are only ever added. More budget or more seeds are allowed, but a reader must know: a study that goes on
until its result pleases finds one by chance.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from search.ledger.files import NewerVersion, refuse_newer, write_atomic
from search.ledger.result import RESULT_FILE, Phase
from search.ledger.secrets import mask, masked_tree

JOURNAL = "study.journal"
WORKERS = "workers"
STATE_FILE = "state.pt"  # in a trial's folder, while it can be continued from there
CHECKPOINT_FILE = "checkpoint.pt"  # the weights that a trial's scores are of
TRUNK_FILE = "trunk.pt"  # the state in which a trunk ended, for forks to go on from
ASIDE = "aside"  # what was damaged, or belongs to nobody: nothing that could be a result is deleted
NO_TRIALS_INSIDE = frozenset({".hydra", ASIDE, WORKERS, "wandb", "tables"})
_PHASE_FOLDER: dict[Phase, str] = {"search": "trials", "final": "final", "single": "single"}
LOOKS_FILE = "looks.json"  # written before the first look
DESIGN_FILE = "design.json"
OBJECTIVES_FILE = "objectives.json"
CONTROL = "control"  # factor of a cell that stands beside the design
NULL, KNOWN = "null", "known"
OF_ROOTS = (NULL, KNOWN)  # its levels where arms start from roots: the plain network again, attention alone
CHANGES_FILE = "changes.jsonl"
SEEDS = ("final.first_seed", "final.seeds", "design.first_seed", "design.seeds", "design.roots", "design.orders")
SCHEMA = 1  # of a design


def phase_folder(phase: Phase) -> str:
    """Name of the folder below a study's that holds the trials of a phase."""
    return _PHASE_FOLDER[phase]


def refuse_blocked(folder: Path, key: str) -> None:
    """Raise ValueError where a folder cannot be made, since a file has its name or that of one above it."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{key}={folder}: {path} is a file, and a folder is needed there; give another name")


def trial_subdir(phase: Phase, number: int, seed: int) -> str:
    """Folder of a trial below its study's folder, e.g. `trials/0007-s0`; numbers are never given twice."""
    return str(Path(_PHASE_FOLDER[phase]) / f"{number:04d}-s{seed}")


def run_in_words(place: str, study_dir: str | None) -> str:
    """The run in a folder relative to that of the studies, as the study in `study_dir` says it: "final trial 1 of study other"."""
    study, _, rest = place.partition("/")
    phase, _, folder = rest.partition("/")
    number = folder.partition("-s")[0]
    if not number.isdigit():  # a run outside of a study, or a folder elsewhere
        return place
    kind = "final trial" if phase == _PHASE_FOLDER["final"] else "trial"
    own = study_dir is not None and study == Path(study_dir).name
    return f"{kind} {int(number)}{'' if own else f' of study {study}'}"


def free_subdir(study_dir: Path, phase: Phase, number: int, seed: int) -> str:
    """`trial_subdir`, or the first of `0007-s0.2`, `0007-s0.3`... that is not there yet.

    A number is given twice only by a storage that was put back to an earlier state; what it has forgotten is kept.
    """
    first = subdir = trial_subdir(phase, number, seed)
    turn = 1
    while (study_dir / subdir).exists():
        turn += 1
        subdir = f"{first}.{turn}"
    return subdir


@dataclass(frozen=True)
class Cell:
    """One cell of a design: one row of an ablation table.

    Attributes:
        name: unique in its design and stable: what differs from the baseline, e.g. "where=stage3, rank=4".
        overrides: what sets it apart, in the order of the factors; they go behind those that all cells share. Of a design
            that was written down: all that its trials set but for the seed, as in `TrialResult.overrides`, secrets masked.
        factors: the level of each factor, in words.
        is_baseline: whether differences are taken against it; true of one cell in a design, the first.
    """

    name: str
    overrides: tuple[str, ...]
    factors: Mapping[str, str] = field(default_factory=dict)
    is_baseline: bool = False


@dataclass(frozen=True, kw_only=True)
class DeclaredDesign:
    """What a study declared before it was run: the latest kind of the design, the config key that takes the seed, and the cells in
    its order; those of an earlier, smaller design first. `beside` it the roots, and what is trained from scratch on their seeds.
    """

    kind: str
    seed_key: str
    cells: tuple[Cell, ...]
    beside: tuple[Cell, ...] = ()

    @property
    def factors(self) -> dict[str, list[str]]:
        """The levels of each factor, both in the order of the cells."""
        found: dict[str, list[str]] = {}
        for cell in self.cells:
            for name, level in cell.factors.items():
                if level not in found.setdefault(name, []):
                    found[name].append(level)
        return found


def write_design(
    folder: Path,
    kind: str,
    cells: Iterable[Cell],
    fixed: Sequence[str] = (),
    seed_key: str = "seed",
    beside: Iterable[Cell] = (),
) -> Path:
    """Write `folder/design.json`; cells that an earlier command of the study declared are kept, `fixed` overrides go first."""
    declared, others = (
        [replace(cell, overrides=tuple(mask(line) for line in (*fixed, *cell.overrides))) for cell in each]
        for each in (cells, beside)
    )
    try:
        before = read_design(folder)
    except NewerVersion:
        raise
    except ValueError:
        before = None  # torn or foreign: what is declared now is written whole
    now = {cell.overrides for cell in declared}
    kept = [cell for cell in before.cells if cell.overrides not in now] if before is not None else []
    design = {"schema": SCHEMA, "kind": kind, "seed_key": seed_key, "cells": [asdict(c) for c in (*kept, *declared)]}
    if others:
        design["beside"] = [asdict(cell) for cell in others]
    path = folder / DESIGN_FILE
    write_atomic(path, json.dumps(design, indent=1) + "\n")
    return path


def read_design(folder: Path) -> DeclaredDesign | None:
    """Read what the study in `folder` declared; None where it is no design, or was run before designs were written down.

    ValueError, which names the file, where it cannot be read or is of another schema; NewerVersion of a later one.
    """
    path = folder / DESIGN_FILE
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        refuse_newer(path, "schema", read["schema"], SCHEMA)
        if read["schema"] != SCHEMA:
            raise ValueError(f"schema {read['schema']}, expected {SCHEMA}")
        cells, beside = (tuple(map(_cell, each)) for each in (read["cells"], read.get("beside", ())))
        return DeclaredDesign(kind=str(read["kind"]), seed_key=str(read["seed_key"]), cells=cells, beside=beside)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NewerVersion:
        raise
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable design ({type(error).__name__}: {error})") from None


def _cell(read: Mapping[str, Any]) -> Cell:
    return Cell(
        name=str(read["name"]),
        overrides=tuple(map(str, read["overrides"])),
        factors={str(name): str(level) for name, level in read["factors"].items()},
        is_baseline=bool(read["is_baseline"]),
    )


def write_objectives(study_dir: Path, senses: Mapping[str, str]) -> None:
    """Write down "maximize" or "minimize" by the column of the tidy frame, in the order of the study."""
    study_dir.mkdir(parents=True, exist_ok=True)
    write_atomic(study_dir / OBJECTIVES_FILE, json.dumps(dict(senses), indent=1) + "\n")


def read_objectives(study_dir: Path) -> dict[str, str]:
    """Read them; empty where none were written down. ValueError where the file cannot be read, or holds something else."""
    path = study_dir / OBJECTIVES_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: not readable ({error}); move it away to read the study without its Pareto front"
        ) from None
    if not isinstance(found, dict) or not set(found.values()) <= {"maximize", "minimize"}:
        raise ValueError(f"{path}: expected maximize or minimize by the name of each objective, found {found!r}")
    return found


@dataclass(frozen=True)
class Change:
    """One command that changed something: when (ISO 8601, UTC), each setting with what it was and is now, how many final results
    were there, and whether it asked for final seeds that the command before had not, while such results were there.
    """

    at: str
    changed: Mapping[str, tuple[Any, Any]]
    results: int
    seeds_added: bool


def note_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Compare settings, plain values under dotted keys, with those of the last command, and add a line where they differ.

    Nobody else writes the file in the study's `folder` meanwhile.
    """
    now: dict[str, Any] = json.loads(json.dumps(masked_tree(dict(settings)), default=str))
    path = folder / CHANGES_FILE
    lines = read_lines(path)
    line: dict[str, Any] = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "settings": now}
    if lines:
        before = lines[-1]["settings"]
        changed = {
            name: [before.get(name), now.get(name)]
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        }
        if not changed:
            return
        results = sum(1 for _ in folder.glob(f"final/*/{RESULT_FILE}"))
        added = results > 0 and any(asked(now, kind) - asked(before, kind) for kind in ("final", "design"))
        line |= {"changed": changed, "results": results, "seeds_added": added}
    with path.open("ab+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the last command died while it wrote
                file.write(b"\n")
        file.write(json.dumps(line, sort_keys=True).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def asked(settings: Mapping[str, Any], kind: str) -> set[tuple[bool, int]]:
    """The final seeds that settings ask for; those that nobody named count from zero, apart from named ones."""
    first, count = settings.get(f"{kind}.first_seed"), settings.get(f"{kind}.seeds")
    return {(first is None, (first or 0) + turn) for turn in range(count or 0)}


def read_changes(folder: Path) -> list[Change]:
    """Read what was changed in the study in `folder`, oldest first; empty where nothing was, or it is too old to tell."""
    return [
        Change(
            at=str(line["at"]),
            changed={name: (old, new) for name, (old, new) in line["changed"].items()},
            results=int(line["results"]),
            seeds_added=bool(line["seeds_added"]),
        )
        for line in read_lines(folder / CHANGES_FILE)
        if "changed" in line
    ]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that can be read: one that was torn by a crash is passed over, its command is compared again."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
            lines += [line] if isinstance(line["settings"], dict) and isinstance(line["at"], str) else []
        except (ValueError, TypeError, KeyError):
            continue
    return lines
