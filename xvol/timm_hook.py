"""What has to happen around `import timm`, however little `import xvol` has loaded: a mend before, our models after.

timm knows `xvol_resnet50` and its like only once they are registered (`xvol/zoo.py`). And beside a CPU build of torch timm
cannot be imported: package registries serve one torchvision wheel, built for CUDA, whose compiled half does not load there.
torchvision carries on without it, until it describes the operators `torchvision::nms` and `torchvision::qnms` to torch's
tracer: torch then raises "operator torchvision::nms does not exist", and with it dies `import timm`, which needs nothing of
them. Both need torch, so neither can be done when xvol is imported, which is cheap: they are done when torchvision, or timm, is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec
from importlib.util import find_spec
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")
_kept_alive: list[Any] = []  # a Library takes its operators away when it is collected


class TimmHook(MetaPathFinder):
    """Finds torchvision and timm where they are, and has them loaded with what belongs around it."""

    @classmethod
    def install(cls, finders: list[Any]) -> None:
        """Go before all other finders; where timm is loaded already, our models are registered at once."""
        if not any(isinstance(finder, cls) for finder in finders):
            finders.insert(0, cls())
        if "timm" in sys.modules:
            _register_models()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader around theirs."""
        if name not in ("timm", "torchvision"):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Around(spec.loader)
        return spec


class _Around(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        if spec.name == "torchvision":
            mend()
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if module.__name__ == "timm":
            _register_models()


def _register_models() -> None:
    resolve_name("xvol.zoo")  # by name: it builds models through the package, which imports this module


def mend() -> bool:
    """Declare torchvision's operators if torchvision is installed and cannot load them; call before importing timm.

    They get a name and a signature, no code: to call one still fails, and torchvision's own check says that they are
    absent. Beside a sound torchvision, or none, nothing is declared. To tell a sound one, its compiled half is loaded as
    torchvision itself would do a moment later; loading it twice has no effect. True if operators were declared by this call.
    """
    import torch  # not with xvol itself

    there = torch.ops.torchvision
    spec = None if "torchvision" in sys.modules or hasattr(there, "nms") else find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    package = spec.submodule_search_locations[0]
    compiled = FileFinder(package, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
    if compiled is not None and compiled.origin is not None:
        try:
            with getattr(os, "add_dll_directory", nullcontext)(package):  # Windows alone has it
                torch.ops.load_library(compiled.origin)
        except (ImportError, OSError):
            pass
    missing = [name for name in _OPERATORS if not hasattr(there, name)]
    if "nms" in missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(name + _SIGNATURE)
        _kept_alive.append(library)
    return "nms" in missing
