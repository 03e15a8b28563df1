"""What has to happen around `import timm`, however little `import xvol` has loaded: a mend before, our models after.

Beside a CPU build of torch, timm cannot be imported before torchvision is mended (`xvol/torchvision_ops.py`); and timm knows
`xvol_resnet50` and its like only once they are registered (`xvol/zoo.py`). Both need torch, so neither can be done when xvol is
imported, which is cheap. They are done when torchvision, or timm, is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pkgutil import resolve_name
from types import ModuleType
from typing import Any


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
            from xvol.torchvision_ops import mend  # torch

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
