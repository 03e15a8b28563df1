"""The measures of the house: how many rooms and lines, how long a file and a function, what hides in functions, who knows whom.

The goals were 140 modules and 25,000 lines, before a training could start from a trained one. Both have the bound of what was
measured last, 30 November 2026: lower it with the figures; what raises it is named in docs/LOG.md.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
MODULES = 212
LINES = 44_600
IMPORTS_IN_FUNCTIONS = 25
LONGEST_FILE, LONG_FILE = 450, 300  # lines: of any file, and of nine in ten
LONG_FUNCTION, SHARE_OF_LONG_FUNCTIONS = 60, 0.005
FILES = sorted(path for room in ("xvol", "search") for path in (ROOT / room).rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions() -> Iterator[tuple[str, Function]]:
    for path in FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Our own modules that a file imports, also for types alone and in functions."""
    known = {module_name(each) for each in FILES}
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= (inner & known) or {node.module or ""}
            found |= {node.module or ""} if inner - known else set()
    return found & known - {module_name(path)}


def test_rooms_and_lines() -> None:
    assert len([path for path in FILES if path.name != "__init__.py"]) <= MODULES
    assert sum(map(lines, FILES)) <= LINES


def test_imports_stand_at_the_top_of_a_file() -> None:
    """What needs a heavy package is loaded lazily at a package's border; the few others say why beside or above them."""
    hidden = {
        (path, node.lineno)
        for path in FILES
        for function in ast.walk(tree(path))
        if isinstance(function, Function)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert len(hidden) <= IMPORTS_IN_FUNCTIONS, sorted(hidden)
    silent = []
    for path, number in sorted(hidden):
        first = number
        while (path, first - 1) in hidden:  # one reason serves imports that stand together
            first -= 1
        source = path.read_text(encoding="utf-8").splitlines()
        if "#" not in source[first - 1] and not source[first - 2].lstrip().startswith("#"):
            silent.append(f"{path.relative_to(ROOT)}:{number}")
    assert not silent, silent


def test_files_and_functions_can_be_overseen() -> None:
    lengths = sorted((lines(path), str(path.relative_to(ROOT))) for path in FILES)
    assert lengths[-1][0] <= LONGEST_FILE, lengths[-5:]
    assert lengths[int(0.9 * len(lengths))][0] <= LONG_FILE, lengths[int(0.9 * len(lengths)) :]
    every = [(int(node.end_lineno or 0) - node.lineno + 1, name) for name, node in functions()]
    long = [function for function in every if function[0] > LONG_FUNCTION]
    assert len(long) <= SHARE_OF_LONG_FUNCTIONS * len(every), sorted(long)


def test_nobody_imports_in_a_circle() -> None:
    try:
        TopologicalSorter({module_name(path): imported(path) for path in FILES}).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_the_readme_is_read_in_five_minutes() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(readme) < 200
    assert any(line.startswith("    make ") for line in readme[:15])


def test_the_page_of_the_tree_is_current() -> None:
    spec = importlib.util.spec_from_file_location("tree", ROOT / "docs" / "tree.py")
    assert spec is not None
    assert spec.loader is not None
    script: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "make tree writes it"


def test_no_module_is_hidden_by_a_function_of_its_name() -> None:
    """`from room import name` in a room's `__init__` takes the place of the module `room.name`."""
    for path in FILES:
        if path.name == "__init__.py":
            modules = {each.stem for each in path.parent.glob("*.py")} | {
                each.name for each in path.parent.iterdir() if each.is_dir()
            }
            given = {
                alias.asname or alias.name
                for node in ast.walk(tree(path))
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            assert not given & modules, path
