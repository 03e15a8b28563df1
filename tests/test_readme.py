"""README tells the truth about the tree, and its Python example runs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree_files() -> list[str]:
    """Paths in the tree: a name's folder is the last folder line above it."""
    section = README.split("## The tree")[1].split("## Today")[0]
    folder, paths = "", []
    for line in section.splitlines():
        name = line.strip().split("  ")[0]
        if name.endswith("/"):
            folder = name
        elif name.endswith(".py"):
            paths.append(name if "/" in name else folder + name)
    return paths


def test_the_tree_names_every_module_and_no_other() -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for folder in ("xvol", "search", "hydra_plugins")
        for path in (ROOT / folder).rglob("*.py")
    }
    packages = {path for path in modules if path.endswith("/__init__.py") and not path.startswith("hydra_plugins")}
    assert sorted(tree_files()) == sorted(modules - packages)


def test_the_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert 0 <= float(done.stdout) < 1e-3
