"""The accelerator that a trial runs on."""

from __future__ import annotations

import torch

__all__ = ["device_name", "slot_name", "synchronize", "usable_device"]


def usable_device(name: str) -> torch.device:
    """The device of that name, "auto" for an accelerator where there is one; ValueError where it cannot be used here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"device={name}: not usable here ({first_line}); take auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.cuda.reset_peak_memory_stats(device)
    return device


def slot_name(device: torch.device) -> str:
    """What the workers share whose times would disturb each other: the processors of the machine, or one accelerator."""
    if device.type == "cuda":
        return f"cuda-{torch.cuda.get_device_properties(device).uuid}"
    return device.type


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_name(device: torch.device) -> str:
    """What a figure of time or memory was measured on, e.g. "cpu" or "NVIDIA H100 80GB HBM3"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
