"""What a model costs: parameters, and multiply-accumulates (MACs) of one image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from xvol.branches.base import Branch
from xvol.probe import run_blank_image

__all__ = ["count_macs", "count_params"]


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


# torch counts the attention kernels of accelerators, and not that of the CPU.
_UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def count_params(model: nn.Module) -> int:
    """Number of parameters, shared ones once; buffers, such as running statistics, are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, int, int]) -> int:
    """MACs of one image in eval mode: convolutions, matrix products, and the branches' element-wise products.

    Norms, activations, pooling and additions count nothing, as is the custom. The model's modes are restored.

    Args:
        model: takes (1, C, H, W).
        input_size: (C, H, W).

    Raises:
        ValueError: such an image does not go through the model.
    """
    corrections: list[int] = []

    def correct(branch: nn.Module, _: Any, y_BCHW: Tensor) -> None:
        assert isinstance(branch, Branch)
        corrections.append(branch.elementwise_macs((y_BCHW.shape[2], y_BCHW.shape[3])))

    hooks = [module.register_forward_hook(correct) for module in model.modules() if isinstance(module, Branch)]
    try:
        with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
            run_blank_image(model, input_size)
    finally:
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops() // 2 + sum(corrections)
