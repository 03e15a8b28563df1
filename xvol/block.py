"""The X-volution block: a sum of branches, each with its own norm, and how it folds.

B = batch, C = channels (I = in, O = out), H, W = height, width, g = groups, k = kernel size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from xvol.branches import branch_class
from xvol.branches.base import Branch, Geometry
from xvol.deploy_form import FusedXVolution2d, add_to, as_conv, refuse_dynamic, refuse_other_form
from xvol.fold import Kernel, Norm, bias_only, norm_at_rest, sum_parallel
from xvol.spec import CONV, BlockSpec


class XVolution2d(nn.Module):
    """sum_b norm_b(branch_b(x)): (B, I, H, W) -> (B, O, H', W'), H' = floor((H - 1) / stride) + 1.

    The paper's training form is the default spec: [conv -> BN] + [PSSA -> BN]. The padding centres the window.

    Args:
        in_chs, out_chs, kernel_size, stride, dilation, groups: as in `nn.Conv2d`, of the convolution it stands in for.
        spec: which branches are summed.
        eps, momentum: of each BatchNorm2d.

    Raises:
        ValueError: one of the branches cannot stand in for such a convolution; the message says which and why.
    """

    form: ClassVar[str] = "train"

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        spec: BlockSpec | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec = spec or BlockSpec()
        self.geometry = Geometry(
            in_chs=in_chs, out_chs=out_chs, kernel_size=kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        self.branches = nn.ModuleDict()
        self.norms = nn.ModuleDict()
        for name in spec.branches:
            options = spec.branch_options(name) | self.geometry.window
            branch = branch_class(name)(in_chs, out_chs, device=device, dtype=dtype, **options)
            norm = branch.new_norm(eps=eps, momentum=momentum, device=device, dtype=dtype)
            if name != CONV:
                nn.init.constant_(norm.weight, spec.initial_gamma)
            self.branches[name], self.norms[name] = branch, norm

    def parts(self) -> Iterable[tuple[str, Branch, Norm]]:
        """Each branch with its name and its norm, in the order in which they are summed."""
        for name, branch in self.branches.items():
            yield name, cast(Branch, branch), cast(Norm, self.norms[name])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Sum the normed branches, in the memory of the first: a hook that keeps what its norm gave must copy it."""
        terms = [norm(branch(x_BCHW)) for branch, norm in zip(self.branches.values(), self.norms.values(), strict=True)]
        return add_to(terms[0], terms[1:])  # no norm's backward pass needs what it gave

    def take_over(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        """Make `conv` and `norm` themselves, not copies, the block's conv branch and its norm.

        Does nothing in a block without conv branch. Where the branch has a kernel of another size it keeps its own
        fresh weights: the norm comes over with its affine part, and its running statistics start anew.
        """
        if CONV not in self.branches:
            return
        taken = cast(Branch, self.branches[CONV]).take_over(conv)
        self.norms[CONV] = norm
        if not taken:
            norm.reset_running_stats()

    def fuse(self) -> nn.Module:
        """The exact deploy twin of the block in eval mode; the block itself is left as it is.

        The paper's deploy form: all that is static becomes one convolution, what depends on x stays beside it without
        norms. The form depends on the kind of the branches alone, not on their weights: a branch that was switched off
        stays (`to_conv` looks at the weights).

        Returns:
            a plain `nn.Conv2d` if the whole block is static, else a `FusedXVolution2d`.

        Raises:
            ValueError: a norm keeps no running statistics.
        """
        static: Kernel | None = None
        dynamic: list[Branch] = []
        for _, branch, norm in self.parts():
            room = None if static is None else replace(self.geometry, kernel_size=static[0].shape[-1])
            folded = branch.fold(norm, room)
            if folded.static is not None:
                static = folded.static if static is None else sum_parallel(static, folded.static)
            if folded.dynamic is not None:
                dynamic.append(folded.dynamic)
        conv = None if static is None else as_conv(static, self.geometry)
        fused = FusedXVolution2d(conv, dynamic) if dynamic or conv is None else conv
        return fused.train(self.training)

    def to_conv(self, strict: bool = True) -> nn.Conv2d:
        """The one standard convolution that the block is in eval mode, if it is one; the block is left as it is.

        The paper calls its deploy form "conditionally" one standard convolution. The condition: no branch depends on
        the input. That is so without attention, with a BN weight of 0 after it, or with Q = 0; a query bias then is
        static too, where the convolution's window can take it.

        Args:
            strict: False gives the static part of any block, and leaves out what depends on the input.

        Raises:
            ValueError: strict, and a branch depends on the input; the message says by how much. Or a norm keeps no
                running statistics.
        """
        static, dynamic = self._static_and_dynamic()
        conv = as_conv(static, self.geometry).train(self.training)
        if strict:
            refuse_dynamic(dynamic, conv)
        return conv

    def _static_and_dynamic(self) -> tuple[Kernel, dict[str, Branch]]:
        """All that a convolution of any size can hold of the block, and the rest by name of branch, without norms."""
        geo = self.geometry
        kernels = [
            bias_only(torch.zeros_like(norm_at_rest(norm)[1]), geo.in_chs // geo.groups) for *_, norm in self.parts()
        ]
        dynamic: dict[str, Branch] = {}
        for name, branch, norm in self.parts():
            reach = -(-branch.reach // geo.dilation)
            folded = branch.fold(norm, replace(geo, kernel_size=max(geo.kernel_size, 2 * reach + 1)))
            scale_O, shift_O = norm_at_rest(norm)
            if folded.dynamic is not None and not scale_O.any():  # whatever the branch gives, the norm gives its shift
                kernels.append(bias_only(shift_O, geo.in_chs // geo.groups))
                continue
            if folded.static is not None:
                kernels.append(folded.static)
            if folded.dynamic is not None:
                dynamic[name] = folded.dynamic
        return sum_parallel(*kernels), dynamic

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The one convolution that the block is at each output pixel, in eval mode; an oracle for tests.

        The paper's deploy equation: y(x_0) = sum_i (w_i^C + w_i^A(x_0, x_i)) x_i + b. Costs taps * O * I for each
        pixel.

        Returns:
            kernel_BHWOIkk: (B, H', W', O, I / g, k, k), of dilation 1, for a zero border and the block's stride.
            bias_O: (O,).

        Raises:
            ValueError: a branch is no convolution of a fixed size.
        """
        return self._summed([branch.dynamic_kernel(x_BCHW) for _, branch, _ in self.parts()])

    def sample_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The one standard convolution that the block is for each sample, in eval mode (ours).

        For blocks whose branches are static or see the input through a sum over all pixels, such as `linear_global`.

        Returns:
            kernel_BOIkk: (B, O, I / g, k, k), of dilation 1, for a zero border and the block's stride.
            bias_O: (O,).

        Raises:
            ValueError: a branch changes from pixel to pixel; the message names it.
        """
        for name, branch, _ in self.parts():
            if not branch.has_sample_kernel:
                raise ValueError(
                    f"branch {name!r} is another convolution at each pixel, so the block is no single one for a sample: "
                    "dynamic_kernel(x) gives them all, fuse() the deploy form"
                )
        return self._summed([branch.sample_kernel(x_BCHW) for _, branch, _ in self.parts()])

    def _summed(self, kernels: Sequence[Kernel]) -> Kernel:
        """The sum over the branches of (..., O, I / g, k, k) and (O,), each with its norm folded in."""
        places = kernels[0][0].shape[:-3]
        scaled = []
        for (kernel, bias_O), (*_, norm) in zip(kernels, self.parts(), strict=True):
            scale_O, shift_O = norm_at_rest(norm)
            scaled.append(((kernel * scale_O[:, None, None, None]).flatten(0, -4), bias_O * scale_O + shift_O))
        total, bias_O = sum_parallel(*scaled)
        return total.unflatten(0, places), bias_O

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        refuse_other_form(self.form, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
