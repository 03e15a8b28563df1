"""xvol is a library of its own: it imports the standard library, torch, timm and itself."""

import ast
import sys
from pathlib import Path

import pytest

import xvol

ROOT = Path(xvol.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level packages that a file names in import statements."""
    packages: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            packages.add((node.module or "").split(".")[0])
    return packages


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    own = {"triton_kernels.py": {"triton"}, "torchvision_ops.py": {"torchvision"}}  # loaded by whom they are for alone
    allowed = {"torch", "timm", "xvol"} | own.get(path.name, set())
    assert imported(path) - set(sys.stdlib_module_names) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_public_face() -> None:
    assert all(hasattr(xvol, name) for name in xvol.__all__)
    assert sorted(xvol.__all__) == list(xvol.__all__)


def test_each_public_name_is_where_the_table_and_the_types_say() -> None:
    """`__init__` says it twice: for whoever runs it, and for whoever reads its types."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        name.name: (node.module or "").removeprefix("xvol.")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert typed == xvol._MODULES
    assert sorted(typed) == xvol.__all__
    with pytest.raises(AttributeError, match="no attribute 'sitess'"):
        xvol.sitess  # noqa: B018


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_hides_a_module(path: Path) -> None:
    assert path.stem not in xvol.__all__
