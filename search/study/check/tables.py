"""Whether the table in a study's folder is the one that its ledger makes."""

from __future__ import annotations

import csv
import functools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from search.ledger.versions import NewerVersion, refuse_newer
from search.report.write import write_tables
from search.study.check.finding import Finding

__all__ = ["table_findings"]

FACTS = ("arm", "arch_hash", "recipe_hash", "is_baseline", "n", "missing", "mean", "sd", "diff", "params", "macs")
TABLE, SOURCES, SCHEMA = "ablation.csv", "ablation.provenance.json", 1


def table_findings(root: Path) -> Iterator[Finding]:
    """What is wrong with `tables/`; nothing before a study has written them for the first time."""
    folder = root / "tables"
    if not folder.is_dir():
        return
    try:
        refuse_newer(folder, "schema", json.loads((folder / SOURCES).read_text(encoding="utf-8"))["schema"], SCHEMA)
    except NewerVersion as error:
        yield Finding(str(error))
        return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # written anew below, where it is not what it should be
    with tempfile.TemporaryDirectory() as scratch:
        try:
            write_tables(root, Path(scratch))
        except ValueError as error:
            yield Finding(f"tables/: cannot be made anew: {error}")
            return
        same = _agree(_rows(folder / TABLE), _rows(Path(scratch) / TABLE))
    if not same:
        yield Finding(
            f"tables/{TABLE}: not what the ledger makes now",
            "the tables are written anew",
            functools.partial(write_tables, root),
        )


def _rows(path: Path) -> list[dict[str, str]] | None:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None


def _agree(told: list[dict[str, str]] | None, made: list[dict[str, str]] | None) -> bool:
    """Whether two tables agree in what the ledger says; what is reckoned from it may differ between versions."""
    if told is None or made is None or len(told) != len(made):
        return False
    return all(old.get(name) == new.get(name) for old, new in zip(told, made, strict=True) for name in FACTS)
