"""What a design declared to vary: `design.json` in its study's folder, for whoever reads the results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from search.ledger.files import write_atomic
from search.ledger.secrets import mask
from search.ledger.versions import NewerVersion, refuse_newer

__all__ = ["DESIGN_FILE", "LOOKS_FILE", "DeclaredCell", "DeclaredDesign", "read_design", "write_design"]

LOOKS_FILE = "looks.json"  # written before the first look
DESIGN_FILE = "design.json"
SCHEMA = 1


class _Cell(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def overrides(self) -> Sequence[str]: ...
    @property
    def factors(self) -> Mapping[str, str]: ...
    @property
    def is_baseline(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class DeclaredCell:
    """One cell of a design.

    Attributes:
        name: unique in its design.
        overrides: all that its trials set but for the seed, in the order of `TrialResult.overrides`, secrets masked.
        factors: the level of each factor, in words.
        is_baseline: whether differences are taken against it.
    """

    name: str
    overrides: tuple[str, ...]
    factors: dict[str, str]
    is_baseline: bool


@dataclass(frozen=True, kw_only=True)
class DeclaredDesign:
    """What a study declared before it was run.

    Attributes:
        kind: of the design, e.g. "factorial"; the latest one where a study has grown.
        seed_key: the config key that takes the seed.
        cells: in the order of the design; those of an earlier, smaller design first.
    """

    kind: str
    seed_key: str
    cells: tuple[DeclaredCell, ...]

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
    folder: Path, kind: str, cells: Iterable[_Cell], fixed: Sequence[str] = (), seed_key: str = "seed"
) -> Path:
    """Write `folder/design.json`; cells that an earlier command of the study declared are kept.

    Args:
        folder: the study's, which exists.
        kind: of the design.
        cells: of `search.design.kinds`.
        fixed: overrides that all trials of the study share; they go first.
        seed_key: the config key that takes the seed.
    """
    declared = [
        DeclaredCell(
            name=cell.name,
            overrides=tuple(mask(line) for line in (*fixed, *cell.overrides)),
            factors=dict(cell.factors),
            is_baseline=cell.is_baseline,
        )
        for cell in cells
    ]
    try:
        before = read_design(folder)
    except NewerVersion:
        raise
    except ValueError:
        before = None  # torn or foreign: what is declared now is written whole
    now = {cell.overrides for cell in declared}
    kept = [cell for cell in before.cells if cell.overrides not in now] if before is not None else []
    design = {"schema": SCHEMA, "kind": kind, "seed_key": seed_key, "cells": [asdict(c) for c in (*kept, *declared)]}
    path = folder / DESIGN_FILE
    write_atomic(path, json.dumps(design, indent=1) + "\n")
    return path


def read_design(folder: Path) -> DeclaredDesign | None:
    """Read what the study in `folder` declared; None where it is no design, or was run before designs were written down.

    Raises:
        NewerVersion: it is of a later schema.
        ValueError: the file cannot be read, or is of another schema; the message names it.
    """
    path = folder / DESIGN_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable design ({error})") from None
    try:
        read = json.loads(text)
        refuse_newer(path, "schema", read["schema"], SCHEMA)
        if read["schema"] != SCHEMA:
            raise ValueError(f"schema {read['schema']}, expected {SCHEMA}")
        return DeclaredDesign(
            kind=str(read["kind"]), seed_key=str(read["seed_key"]), cells=tuple(_cell(each) for each in read["cells"])
        )
    except NewerVersion:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable design ({type(error).__name__}: {error})") from None


def _cell(read: Mapping[str, Any]) -> DeclaredCell:
    return DeclaredCell(
        name=str(read["name"]),
        overrides=tuple(map(str, read["overrides"])),
        factors={str(name): str(level) for name, level in read["factors"].items()},
        is_baseline=bool(read["is_baseline"]),
    )
