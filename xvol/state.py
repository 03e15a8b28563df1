"""State dicts of the two forms of a block: which form one was saved from, and what to do where it is the other's.

A block is trained in one form and deployed in another, with other parameters: "train" is an `XVolution2d`, "deploy" a
`FusedXVolution2d` or, where all of it is static, a plain `nn.Conv2d`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from torch import nn

__all__ = ["FORM_KEYS", "load_state_dict", "other_form"]

FORM_KEYS = {"train": ("branches.", "norms."), "deploy": ("static.", "dynamic.")}
_CONV_KEYS = ("weight", "bias")


class _Keys(NamedTuple):
    """How to say what was found, and what to do about it."""

    found: str
    remedy: str


_REMEDIES = {
    ("train", "deploy"): _Keys(
        "the fused (deploy) form",
        "folding cannot be undone: load it into the fused model, xvol.fuse(model), or load the state dict of the train form",
    ),
    ("train", "conv"): _Keys(
        "one plain convolution",
        "is it of the plain backbone, load it before xvol.convert; is it of the fused form, load it into xvol.fuse(model)",
    ),
    ("deploy", "train"): _Keys(
        "the train form",
        "load it into the train form, the model as it was before xvol.fuse, and fuse that",
    ),
    ("deploy", "conv"): _Keys(
        "one plain convolution",
        "build the model with the blocks it was saved with: its own were fused to a convolution, or it had none",
    ),
    ("conv", "train"): _Keys(
        "an X-volution block in the train form",
        "load it into the train form, the model as it was before xvol.fuse (or, is the model plain, after xvol.convert)",
    ),
    ("conv", "deploy"): _Keys(
        "an X-volution block in the fused (deploy) form",
        "build the model with the blocks it was saved with: xvol.convert, then xvol.fuse",
    ),
}


def other_form(form: str, keys: Iterable[str], fqn: str = "") -> str | None:
    """What is wrong with loading `keys` into a module of `form`, in words; None where they are of its own form.

    Args:
        form: "train", "deploy" or "conv".
        keys: all keys of a state dict.
        fqn: name of the module in the model; "" for the model itself.
    """
    prefix = f"{fqn}." if fqn else ""
    mine = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    found = [name for name, starts in FORM_KEYS.items() if any(key.startswith(starts) for key in mine)]
    if not found and any(key in _CONV_KEYS for key in mine):
        found = ["conv"]
    if not found or form in found:
        return None
    told = _REMEDIES[form, found[0]]
    names = {"train": "a block in the train form", "deploy": "a block in the fused (deploy) form", "conv": "a Conv2d"}
    return f"at {fqn or 'the top'!r} stands {names[form]}, the state dict holds {told.found}: {told.remedy}"


def load_state_dict(model: nn.Module, state: Mapping[str, Any], strict: bool = True) -> Any:
    """`model.load_state_dict`, refusing a state dict of the other form before anything is changed.

    A block in either form refuses by itself when `model.load_state_dict` reaches it. What this adds: blocks that were
    fused to a plain `nn.Conv2d`, which knows nothing of blocks, and that no module has been loaded when it refuses.

    Returns:
        what `nn.Module.load_state_dict` returns.

    Raises:
        RuntimeError: a block, or a convolution that may have been one, is of another form than what was saved; the
            message says what to load into what. As torch does, also for keys that are missing or have other shapes.
    """
    starts = tuple(start for group in FORM_KEYS.values() for start in group)
    blocks = [key for key in state if any(f".{start}" in f".{key}" for start in starts)]
    for fqn, module in model.named_modules():
        form = getattr(module, "form", None)
        if form in FORM_KEYS:
            told = other_form(form, state, fqn)
        elif type(module) is nn.Conv2d:
            told = other_form("conv", blocks, fqn)
        else:
            continue
        if told is not None:
            raise RuntimeError(f"{type(model).__name__}: {told}")
    return model.load_state_dict(state, strict=strict)
