"""The X-volution block: what it is made of, as a frozen value; the sum of branches, each with its own norm; and how that folds.

B = batch, C = channels (I = in, O = out), H, W = height, width, g = groups, k = kernel size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from xvol.allowed import suggest
from xvol.branches import branch_class, branch_options
from xvol.branches.base import Branch, Geometry
from xvol.deploy_form import Form, FusedXVolution2d, add_to, as_conv, refuse_dynamic
from xvol.fold import Kernel, NoNorm2d, Norm, bias_only, norm_at_rest, sum_parallel

CONV = "conv"  # the branch that holds the host convolution

Options = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]


@dataclass(frozen=True)
class BlockSpec:
    """Which branches a block sums. Equal specs build equal blocks: order and spelt-out defaults make no difference.

    Attributes:
        branches: registered names, each once; kept with "conv" first, the others sorted.
        options: what differs from the branches' defaults, as sorted tuples, so that a spec can be hashed; may be given as
            nested mappings.
        gamma: initial weight of the BN after each branch but "conv". None stands for 0 where a "conv" branch is
            present, so that converting a trained model preserves its function, and for 1 where there is none.
        keeps_norm: the norm behind the host convolution stays behind the block, which sums the bare convolution and the other branches
            with a norm each. False, the paper's form: a batch norm there becomes that of the "conv" branch; where there is none
            that the block could take (`Site.norm_fqn`), what follows the convolution stays whatever stands here.

    Raises:
        ValueError: an unknown branch, one named twice, an unknown option, or a value its branch does not allow.

    Example:
        >>> BlockSpec.make(["conv", "pssa"], {"pssa": {"rank": 2}}).canonical()["options"]["pssa"]["rank"]
        2
    """

    branches: tuple[str, ...] = (CONV, "pssa")
    options: Options = ()
    gamma: float | None = None
    keeps_norm: bool = False

    @classmethod
    def make(
        cls,
        branches: Sequence[str] = (CONV, "pssa"),
        options: Mapping[str, Mapping[str, Any]] | None = None,
        gamma: float | None = None,
        *,
        keeps_norm: bool = False,
    ) -> BlockSpec:
        """Build a spec from what a config holds: lists and mappings."""
        names = [branches] if isinstance(branches, str) else branches
        return cls(tuple(names), options or (), gamma, keeps_norm)  # type: ignore[arg-type]  # brought into normal form

    def __post_init__(self) -> None:
        given = self.options.items() if isinstance(self.options, Mapping) else self.options
        branches = _ordered(self.branches)
        options = {branch: dict(values) for branch, values in given}
        for branch in options:
            if branch not in branches:
                raise ValueError(
                    f"options are given for branch {branch!r}, which the block lacks: {suggest(branch, branches)}"
                )
        normal = [(branch, _changed(branch, options.get(branch, {}))) for branch in branches]
        object.__setattr__(self, "branches", branches)
        object.__setattr__(self, "options", tuple(entry for entry in normal if entry[1]))
        object.__setattr__(self, "gamma", _gamma(self.gamma, branches))

    @property
    def initial_gamma(self) -> float:
        """The weight that the BN after each branch but "conv" starts with."""
        return float(CONV not in self.branches) if self.gamma is None else self.gamma

    def branch_options(self, branch: str) -> dict[str, Any]:
        """All options of one of the block's branches, defaults included."""
        return branch_options(branch) | dict(dict(self.options).get(branch, ()))

    def canonical(self) -> dict[str, Any]:
        """The spec with its defaults spelt out, in JSON's types: equal if and only if the specs are equal.

        A branch's `later_options` are left out at their defaults, and `keeps_norm` too, so that a spec stored before they came still
        is itself.
        """

        def spelt_out(branch: str) -> dict[str, Any]:
            defaults, later = branch_options(branch), branch_class(branch).later_options
            options = self.branch_options(branch)
            return {name: value for name, value in options.items() if name not in later or value != defaults[name]}

        return {
            "branches": list(self.branches),
            "options": {branch: spelt_out(branch) for branch in self.branches},
            "gamma": self.initial_gamma,
            **({"keeps_norm": True} if self.keeps_norm else {}),
        }

    def __str__(self) -> str:
        changed = {branch: ", ".join(f"{key}={value}" for key, value in values) for branch, values in self.options}
        label = "+".join(f"{branch}({changed[branch]})" if branch in changed else branch for branch in self.branches)
        label += " keeps_norm=True" if self.keeps_norm else ""
        return label if self.gamma is None else f"{label} gamma={self.gamma:g}"


def _ordered(branches: Sequence[str]) -> tuple[str, ...]:
    if not branches:
        raise ValueError("a block needs at least one branch, such as branches=('conv', 'pssa')")
    for name in branches:
        branch_class(name)
        if list(branches).count(name) > 1:
            raise ValueError(f"branch {name!r} is named twice in {tuple(branches)}: name each branch once")
    return tuple(sorted(branches, key=lambda name: (name != CONV, name)))


def _changed(branch: str, given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Check the options of one branch; return, sorted, those that differ from its defaults."""
    defaults = branch_options(branch)
    values = {}
    for option, value in given.items():
        if option not in defaults:
            raise ValueError(f"branch {branch!r} has no option {option!r}: {suggest(option, defaults)}")
        default = defaults[option]
        whole = isinstance(value, int) and not isinstance(value, bool)
        values[option] = float(value) if isinstance(default, float) and whole else value
    branch_class(branch).check_options(**(defaults | values))
    return tuple(sorted((option, value) for option, value in values.items() if value != defaults[option]))


def _gamma(given: float | None, branches: Sequence[str]) -> float | None:
    """None where it is the default or no branch would use it."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not math.isfinite(given):
        raise ValueError(f"gamma={given!r} must be a finite number, such as 0 or 1, or None for the default")
    unused = tuple(branches) == (CONV,)
    return None if unused or given == float(CONV not in branches) else float(given)


class XVolution2d(Form):
    """sum_b norm_b(branch_b(x)): (B, I, H, W) -> (B, O, H', W'), H' = floor((H - 1) / stride) + 1.

    The paper's training form is the default spec: [conv -> BN] + [PSSA -> BN]. The padding centres the window. Arguments are those
    of the convolution it stands in for, as in `nn.Conv2d`; `eps` and `momentum` are of each BatchNorm2d. With the
    spec's `keeps_norm` the conv branch has no norm: the host's, if it has one, stands behind the block.

    Raises:
        ValueError: one of the branches cannot stand in for such a convolution; the message says which and why.
    """

    form = "train"
    host: tuple[str, str | None] | None = None  # names of what `convert` put it in the place of

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
            if name == CONV and spec.keeps_norm:
                norm: Norm = NoNorm2d(out_chs, device=device, dtype=dtype)
            else:
                norm = branch.new_norm(eps=eps, momentum=momentum, device=device, dtype=dtype)
            if name != CONV:
                nn.init.constant_(cast(Tensor, norm.weight), spec.initial_gamma)
            self.branches[name], self.norms[name] = branch, norm

    def parts(self) -> Iterable[tuple[str, Branch, Norm]]:
        """Each branch with its name and its norm, in the order in which they are summed."""
        for name, branch in self.branches.items():
            yield name, cast(Branch, branch), cast(Norm, self.norms[name])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Sum the normed branches, in the memory of the first: a hook that keeps what its norm gave must copy it."""
        terms = [norm(branch(x_BCHW)) for branch, norm in zip(self.branches.values(), self.norms.values(), strict=True)]
        return add_to(terms[0], terms[1:])  # no norm's backward pass needs what it gave

    def take_over(self, conv: nn.Conv2d, norm: nn.Module | None = None) -> None:
        """Make `conv` and `norm` themselves, not copies, the block's conv branch and its norm, where it has such a branch.

        `norm` is None where the spec `keeps_norm`.

        A branch with a kernel of another size keeps its own fresh weights: the norm comes over with its affine part, and
        its running statistics start anew. A frozen norm's cannot, so that such a branch keeps its own norm too.
        """
        if CONV not in self.branches:
            return
        taken = cast(Branch, self.branches[CONV]).take_over(conv)
        if norm is None:
            return
        if taken or isinstance(norm, nn.BatchNorm2d):
            self.norms[CONV] = norm
        if not taken and isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()

    def fuse(self) -> nn.Module:
        """The exact deploy twin of the block in eval mode, which is left as it is: a plain `nn.Conv2d` if all of it is static.

        The paper's deploy form: all that is static becomes one convolution, what depends on x stays beside it without
        norms. The form depends on the kind of the branches alone, not on their weights: a branch that was switched off
        stays (`to_conv` looks at the weights). ValueError where a norm keeps no running statistics.
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
            strict: a branch that depends on the input is refused with a ValueError that says by how much; False gives the
                static part of any block.
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
        """The convolution that the block is at each output pixel, in eval mode; ValueError where it is none of a fixed size.

        An oracle for tests, the paper's deploy equation: y(x_0) = sum_i (w_i^C + w_i^A(x_0, x_i)) x_i + b.

        Returns:
            kernel_BHWOIkk: (B, H', W', O, I / g, k, k), of dilation 1, for a zero border and the block's stride.
            bias_O: (O,).
        """
        return self._summed([branch.dynamic_kernel(x_BCHW) for _, branch, _ in self.parts()])

    def sample_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The one standard convolution that the block is for each sample, in eval mode (ours).

        For blocks whose branches are static or see the input through a sum over all pixels, such as `linear_global`;
        ValueError names a branch that changes from pixel to pixel.

        Returns:
            kernel_BOIkk: (B, O, I / g, k, k), of dilation 1, for a zero border and the block's stride.
            bias_O: (O,).
        """
        for name, branch, _ in self.parts():
            if not branch.has_sample_kernel:
                raise ValueError(
                    f"branch {name!r} is another convolution at each pixel, so the block is no single one for a sample: "
                    "dynamic_kernel(x) gives them all, fuse() the deploy form"
                )
        return self._summed([branch.sample_kernel(x_BCHW) for _, branch, _ in self.parts()])

    def _summed(self, kernels: Sequence[Kernel]) -> Kernel:
        """Of the branches' (..., O, I / g, k, k) and (O,), each with its norm folded in."""
        places, scaled = kernels[0][0].shape[:-3], []
        for (kernel, bias_O), (*_, norm) in zip(kernels, self.parts(), strict=True):
            scale_O, shift_O = norm_at_rest(norm)
            scaled.append(((kernel * scale_O[:, None, None, None]).flatten(0, -4), bias_O * scale_O + shift_O))
        total, bias_O = sum_parallel(*scaled)
        return total.unflatten(0, places), bias_O
