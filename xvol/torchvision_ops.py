"""Let timm be imported beside a torchvision whose compiled operators do not load.

Why this exists: package registries serve one torchvision wheel, built for CUDA. Beside a CPU build of torch its
compiled half cannot be loaded. torchvision itself carries on without it, until it describes the operators
`torchvision::nms` and `torchvision::qnms` to torch's tracer: torch then raises "operator torchvision::nms does not
exist", and with it dies `import timm`, which needs nothing of those operators.

The mend declares the two operators (their names and signatures, no code), so that the import goes through. Calling
one of them still fails, and torchvision's own check for its operators still says that they are absent.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_OPERATORS = ("nms", "qnms")

# A Library takes its operators away when it is collected, so this module holds on to it.
_kept_alive: list[torch.library.Library] = []


def mend() -> bool:
    """Declare torchvision's operators if torchvision is installed and cannot load them; call before importing timm.

    Beside a sound torchvision, or none, nothing is declared. To tell a sound one, its compiled half is loaded as
    torchvision itself would do a moment later; loading it twice has no effect.

    Returns:
        True if operators were declared by this call.
    """
    if "torchvision" in sys.modules or _declared("nms"):
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    if _compiled_half_loads(Path(spec.submodule_search_locations[0])):
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not _declared(name):
            library.define(name + _SIGNATURE)
    _kept_alive.append(library)
    return True


def _declared(operator: str) -> bool:
    return hasattr(torch.ops.torchvision, operator)


def _compiled_half_loads(package: Path) -> bool:
    """Tell whether `package`/_C loads and brings its operators."""
    loader = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    found = importlib.machinery.FileFinder(str(package), loader).find_spec("_C")
    if found is None or found.origin is None:
        return False
    try:
        with _library_folder(package):
            torch.ops.load_library(found.origin)
    except (ImportError, OSError):
        return False
    return _declared("nms")


def _library_folder(package: Path) -> AbstractContextManager[object]:
    """Let Windows look for libraries in `package`, as torchvision does there; elsewhere this is a no-op."""
    if sys.platform == "win32":
        return os.add_dll_directory(str(package))
    return nullcontext()
