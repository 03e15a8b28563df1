"""Write docs/tree.md: every module with the first line of its docstring. Run it after a module comes, goes or changes its purpose."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tree.md"
HEAD = """# The tree

Every module, with the first line of its docstring; `make tree` writes this page, and a test compares it. Folders:
[README.md](../README.md#the-tree).
"""
FOLDERS = ("xvol", "search", "hydra_plugins", "benchmarks", "examples")


def page() -> str:
    """The page as it has to be."""
    return "\n".join([HEAD, *(line for folder in FOLDERS for line in _lines(ROOT / folder))]) + "\n"


def _lines(folder: Path) -> Iterator[str]:
    """A heading for each folder, and a line for each module in it."""
    modules = sorted(folder.glob("*.py"), key=lambda path: (path.stem != "__init__", path.stem))
    if modules:
        yield f"\n## {folder.relative_to(ROOT)}\n"
        yield from (f"- `{path.name}`: {_purpose(path)}" for path in modules if _purpose(path))
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield from _lines(inner)


def _purpose(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
