"""What a result came from: commit, package versions, machine, and the source that made it, as digests.

Nothing is imported to learn it. Comments, docstrings and layout do not change the digest of a module.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any, NamedTuple

from search.ledger import STARTED

log = logging.getLogger("xvol")
_INSTALLED = ("site-packages", "dist-packages")
_NO_CODE = ("ctx", "kind", "type_comment", "type_ignores")
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
PACKAGES = (
    *("xvol", "torch", "torchvision", "timm", "optuna", "hydra-core", "wandb"),
    *("pandas", "numpy", "scipy", "statsmodels"),
)


class Checkout(NamedTuple):
    """What git says of a folder, resolved: the commit, whether tracked files differ from it, and which those below it are."""

    folder: Path
    head: str
    changed: bool
    tracked: frozenset[str]


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

    None outside of git, and where git does not track the file: an environment inside of another project's checkout. Of more files that
    are `used`, one below the folder that git does not track is a change too.
    """
    checkout = checkout_of(folder)
    if checkout is None or file not in checkout.tracked:
        return None
    places = [each.resolve() for each in used]
    below = {each.relative_to(checkout.folder).as_posix() for each in places if each.is_relative_to(checkout.folder)}
    return checkout.head + "+changes" * (checkout.changed or not below <= checkout.tracked)


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


@dataclass(frozen=True)
class _Source:
    """One module as read from its file.

    Attributes:
        digest: of its code; None where it cannot be known. `as_parent` is without imports and `__all__`: of a package that is
            merely passed through.
        imports: (module, name taken from it, or None for the module itself), absolute.
        gives: what a name of a package is an import of: (module, name there).
        stars: modules whose names the package takes over whole.
    """

    digest: str | None
    as_parent: str | None
    imports: tuple[tuple[str, str | None], ...] = ()
    gives: dict[str, tuple[str, str]] = field(default_factory=dict)
    stars: tuple[str, ...] = ()


class Sources:
    """Reads each module once; so what it tells is what this process runs, whatever is edited meanwhile.

    What a module reads besides Python source, and what is patched into it from elsewhere, is not seen; a file that was changed after
    `started` (seconds since the epoch) is of unknown content.
    """

    def __init__(self, started: float = STARTED) -> None:
        self._started = started
        self._read: dict[str, _Source | None] = {}

    def digests(self, roots: Iterable[str], follow: Callable[[str], bool]) -> dict[str, str | None]:
        """Digests of the modules `roots` and of all that they import, by name; None for what cannot be known.

        Imports inside functions count. A name that a package hands on leads to the module that it is from, so that
        `from xvol import convert` is not an import of every branch. `follow` tells whether a module counts, by its name.
        """
        found: dict[str, str | None] = {}
        waiting = list(roots)
        found |= {name: None for name in waiting if self._source(name) is None}
        while waiting:
            name = waiting.pop()
            source = self._source(name)
            if source is None or name in found:
                continue
            found[name] = source.digest
            for parent in itertools.islice(itertools.accumulate(name.split("."), "{}.{}".format), name.count(".")):
                passed = self._source(parent) if follow(parent) else None
                if passed is not None:
                    found.setdefault(f"{parent}.__init__", passed.as_parent)
            for module, taken in source.imports:
                waiting += [other for other in self._origins(module, taken, follow) if follow(other)]
        return found

    def _origins(self, module: str, taken: str | None, follow: Callable[[str], bool], depth: int = 0) -> Iterator[str]:
        """The modules that `from module import taken` is about."""
        if not _may_follow(module, follow) or depth > 9:  # packages that hand a name on in a circle
            return
        spec = _find(module)
        if spec is None or taken is None or spec.submodule_search_locations is None:
            yield module
            return
        if _find(f"{module}.{taken}") is not None:
            yield f"{module}.{taken}"
            return
        source = self._source(module)
        if source is not None and taken in source.gives:
            yield from self._origins(*source.gives[taken], follow, depth + 1)
            return
        yield module
        made_in = _made_in(module, taken)
        if made_in is not None:
            yield made_in
        for star in source.stars if source is not None else ():
            yield from self._origins(star, None, follow, depth + 1)

    def _source(self, name: str) -> _Source | None:
        if name not in self._read:
            spec = _find(name)
            self._read[name] = None if spec is None else self._parse(name, spec)
        return self._read[name]

    def _parse(self, name: str, spec: ModuleSpec) -> _Source:
        file = file_of(name)
        if file is None:
            if spec.submodule_search_locations is not None:  # a package without a file of its own
                return _Source("-", "-")
            return _unknown(name, "has no source")
        try:
            content = file.read_bytes()
            if file.stat().st_mtime > self._started:
                return _unknown(name, "was changed since this process began")
        except OSError as error:
            return _unknown(name, f"cannot be read ({error.strerror})")
        try:
            is_package = spec.submodule_search_locations is not None
            return _described(ast.parse(content), name if is_package else name.rpartition(".")[0], is_package)
        except (SyntaxError, ValueError, RecursionError):  # compiled, or beyond this reader: its bytes count
            plain = hashlib.sha256(content).hexdigest()
            return _Source(plain, plain)


def file_of(name: str) -> Path | None:
    """The file of a module; None where it has none."""
    spec = _find(name)
    return Path(spec.origin) if spec is not None and spec.origin and os.path.isfile(spec.origin) else None


@cache
def is_installed(name: str) -> bool:
    """Whether a module is part of Python, or was installed as a package and not as a checkout (`pip install -e`)."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names and top != "__main__":
        return True
    spec = _find(top)
    if spec is None:
        return True
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any(part in _INSTALLED for place in places for part in Path(place).parts)


def _may_follow(module: str, follow: Callable[[str], bool]) -> bool:
    """Whether `module`, or what it hands on, may count: a package of which nothing counts itself may hand on."""
    return follow(module) or follow(f"{module}.x")


@cache
def _find(name: str) -> ModuleSpec | None:
    """Find a module without importing anything."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is not None and spec is None:  # a script, a notebook, or made by hand
        spec = ModuleSpec(name, None, origin=getattr(module, "__file__", None))
    if spec is not None:
        return spec
    parent = name.rpartition(".")[0]
    try:
        if not parent:
            return find_spec(name)
        package = _find(parent)
        places = None if package is None else package.submodule_search_locations
        return None if places is None else PathFinder.find_spec(name, places)
    except (ImportError, ValueError, AttributeError):
        return None


def _made_in(package: str, name: str) -> str | None:
    """The module of a class or function that a package loads when it is asked for; None where that cannot be told."""
    try:
        found = getattr(getattr(sys.modules.get(package), name, None), "__module__", None)
    except Exception:  # whatever keeps a package from loading what this process does not use
        return None
    return found if isinstance(found, str) else None


def _unknown(name: str, why: str) -> _Source:
    log.warning("module %s %s: no result that it has a part in will be taken over", name, why)
    return _Source(None, None)


def _described(tree: ast.Module, package: str, is_package: bool) -> _Source:
    """A module as its tree says; `as_parent` is worked out for packages alone."""
    imports: dict[tuple[str, str | None], None] = {}
    gives: dict[str, tuple[str, str]] = {}
    stars: list[str] = []
    bound: dict[str, str] = {}  # name in the file: the package or module it stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imports[alias.name, None] = None
                top = alias.name.partition(".")[0]
                bound[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                if alias.name == "*":
                    stars.append(base)
                    imports[base, None] = None
                else:
                    imports[base, alias.name] = None
                    gives[alias.asname or alias.name] = (base, alias.name)
                    bound.setdefault(alias.asname or alias.name, f"{base}.{alias.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            imports |= dict.fromkeys(_uses(node, bound))
    whole, as_parent = _digest(tree), ""
    if is_package:
        tree.body = [node for node in tree.body if not _only_names(node)]
        as_parent = _digest(tree)
    return _Source(whole, as_parent, tuple(imports), gives, tuple(stars))


def _digest(tree: ast.Module) -> str:
    text: list[str] = []
    _write(tree, text.append)
    return hashlib.sha256("".join(text).encode("utf-8", "backslashreplace")).hexdigest()


def _write(node: ast.AST, take: Callable[[str], None]) -> None:
    """Write a tree down such that equal code is equal text, whatever version of Python parses it."""
    take(f"({type(node).__name__}")
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or value == [] or name in _NO_CODE:
            continue
        take(f" {name}=")
        if isinstance(value, ast.AST):
            _write(value, take)
        elif isinstance(value, list):
            documented = name == "body" and isinstance(node, _DOCUMENTED) and _is_docstring(value[0])
            for part in value[1:] if documented else value:
                if isinstance(part, ast.AST):
                    _write(part, take)
                else:
                    take(f"{part!r},")
        else:
            take(f"{type(value).__name__} {value!r}")
    take(")")


def _uses(node: ast.Attribute, bound: dict[str, str]) -> list[tuple[str, str]]:
    """`xvol.convert` after `import xvol` is an import of `convert` from `xvol`."""
    if isinstance(node.value, ast.Name):
        return [(bound[node.value.id], node.attr)] if node.value.id in bound else []
    if isinstance(node.value, ast.Attribute):
        return [(f"{module}.{name}", node.attr) for module, name in _uses(node.value, bound)]
    return []


def _only_names(node: ast.stmt) -> bool:
    """Imports, and `__all__`: of no effect on who imports something else from the package."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    named = (target.id == "__all__" for target in targets if isinstance(target, ast.Name))
    return isinstance(node, ast.Import | ast.ImportFrom) or any(named)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
