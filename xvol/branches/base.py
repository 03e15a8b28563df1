"""What every branch of an X-volution block can do.

B = batch, C = channels (I = in, O = out), H, W = height, width, g = groups, k = kernel size.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypedDict

import torch
from torch import Tensor, nn

from xvol.allowed import OF_A_TYPE, Rule
from xvol.fold import NORMS, Kernel, Norm, bias_only, new_norm, norm_at_rest


class Host(TypedDict, total=False):
    """Constructor arguments that the host convolution fixes: its shape, and where its weights live."""

    kernel_size: int
    stride: int
    dilation: int
    groups: int
    device: torch.device | str | None
    dtype: torch.dtype | None


# Every other keyword-only argument of a branch is an option.
GEOMETRY_ARGUMENTS = frozenset(Host.__annotations__)


def factory_of(host: Mapping[str, object]) -> dict[str, Any]:
    """Where the weights live, as torch's layers take it."""
    return {"device": host.get("device"), "dtype": host.get("dtype")}


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Shape of the convolution that a branch stands in for; windows are square, `padding` None stands for `same_padding`."""

    in_chs: int
    out_chs: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    padding_mode: str = "zeros"

    @property
    def same_padding(self) -> int:
        """Padding that puts output (i, j) over input (stride * i, stride * j)."""
        return self.dilation * (self.kernel_size - 1) // 2

    @property
    def window(self) -> dict[str, Any]:
        """What convolutions, branches and blocks take beside the channels, by name."""
        return {name: getattr(self, name) for name in ("kernel_size", "stride", "dilation", "groups")}

    def check(self) -> None:
        """Raise ValueError for what no branch can stand in for: impossible channels, groups, stride or dilation, an even kernel, a
        padding that does not centre the window, a border that is not zero.
        """
        for name in ("in_chs", "out_chs", "kernel_size", "stride", "dilation", "groups"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1")
        if self.in_chs % self.groups or self.out_chs % self.groups:
            raise ValueError(f"groups={self.groups} must divide in_chs={self.in_chs} and out_chs={self.out_chs}")
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size={self.kernel_size} is even: a branch needs a window with a centre, so an odd one"
            )
        if self.padding is not None and self.padding != self.same_padding:
            raise ValueError(
                f"padding={self.padding} does not centre the window: kernel_size={self.kernel_size} with "
                f"dilation={self.dilation} needs padding={self.same_padding}"
            )
        if self.padding_mode != "zeros":
            raise ValueError(
                f"padding_mode={self.padding_mode!r}: branches stand in for convolutions padded with 'zeros'"
            )


@dataclass(frozen=True)
class Folded:
    """A branch and its norm at rest, split in two parts whose sum is exactly norm(branch(x)); None where there is no such part.

    `static` is one convolution with the branch's stride and groups and the dilation it was folded for, `dynamic` needs no norm.
    """

    static: Kernel | None
    dynamic: Branch | None


NORM = Rule(
    f"one of {', '.join(map(repr, NORMS))}: a norm whose statistics are those of the sample at hand is no fixed map in eval mode, so "
    "it folds into no convolution",
    lambda value: value in NORMS,
)


class Branch(nn.Module, ABC):
    """One summand of an X-volution block, before its norm: (B, I, H, W) -> (B, O, H', W').

    H' = floor((H - 1) / stride) + 1, as for a convolution with centred windows. Subclasses take
    `(in_chs, out_chs, *, OPTION=DEFAULT, ..., **host: Unpack[Host])`, the host being by default a 3x3 convolution, and
    pass all of it on to be checked. They register with `@register_branch(name)` and must pass
    `xvol.testing.check_branch(name)`. `forward` alone makes a branch; `examples/own_branch.py` is one.

    Attributes:
        name: what refusals call it; `register_branch` sets it.
        rules: what values of options must be, where a value of the default's type may be wrong.
        later_options: options that came after results had been stored. At its default such an option is left out of
            `BlockSpec.canonical`, so that the architectures stored before keep their hashes.
        has_dynamic_kernel: the branch is exactly one convolution at each output pixel; `dynamic_kernel` gives it.
        has_sample_kernel: the branch is exactly one convolution for each sample; `sample_kernel` gives it.
    """

    name: ClassVar[str]
    rules: ClassVar[dict[str, Rule]] = {}
    later_options: ClassVar[frozenset[str]] = frozenset()
    has_dynamic_kernel: ClassVar[bool] = False
    has_sample_kernel: ClassVar[bool] = False

    def __init__(
        self,
        in_chs: int,
        out_chs: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        geometry = Geometry(
            in_chs=in_chs, out_chs=out_chs, kernel_size=kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        self._refuse_unknown(options)
        self.check(geometry, **options)
        super().__init__()
        self.geometry = geometry
        self.norm_kind: str = options.get("norm", "batch")

    @classmethod
    def _refuse_unknown(cls, options: dict[str, Any]) -> None:
        """A misspelt argument must not vanish among those that are passed on: TypeError, as any constructor gives."""
        constructors = [vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base)]
        named = (argument for each in constructors for argument in inspect.signature(each).parameters.values())
        known = {argument.name for argument in named if argument.kind is inspect.Parameter.KEYWORD_ONLY}
        for name in options.keys() - known:
            raise TypeError(f"{cls.__name__}.__init__() got an unexpected keyword argument {name!r}")

    @classmethod
    def option_defaults(cls) -> dict[str, Any]:
        """Options and their defaults: the keyword-only arguments but those that the host fixes, in their order."""
        return {
            name: parameter.default
            for name, parameter in inspect.signature(cls).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in GEOMETRY_ARGUMENTS
        }

    @classmethod
    def check(cls, geometry: Geometry, **options: Any) -> None:
        """Refuse a geometry or options that the branch cannot take, before anything is built: ValueError says why."""
        geometry.check()
        cls.check_options(**options)

    @classmethod
    def check_options(cls, **options: Any) -> None:
        """Raise ValueError for values that no geometry allows: by `rules`, and for other options of another type than the default."""
        for option, default in cls.option_defaults().items():
            value, rule = options.get(option, default), cls.rules.get(option) or OF_A_TYPE.get(type(default))
            if rule is not None and not rule.holds(value):
                raise ValueError(f"{cls.name}: {option}={value!r} must be {rule.must}")

    @property
    def reach(self) -> int:
        """Pixels of the input, from the centre, that a static part beside a dynamic one may take."""
        return getattr(self, "shift", 1)

    def _centred(
        self, in_chs: int, out_chs: int, size: int, *, groups: int | None = None, bias: bool = False, **factory: Any
    ) -> nn.Conv2d:
        """A convolution with the host's stride, dilation and groups, centred."""
        geo, padding = self.geometry, self.geometry.dilation * (size - 1) // 2
        shape: dict[str, Any] = {"stride": geo.stride, "padding": padding, "dilation": geo.dilation}
        groups = geo.groups if groups is None else groups
        return nn.Conv2d(in_chs, out_chs, size, groups=groups, bias=bias, **shape, **factory)

    def new_norm(self, **how: Any) -> Norm:
        """The norm that a block puts after this branch, as its option `norm` says, else a BatchNorm2d; `how` as `xvol.fold.new_norm`."""
        return new_norm(self.norm_kind, self.geometry.out_chs, **how)

    @abstractmethod
    def forward(self, x_BCHW: Tensor) -> Tensor:
        """What the branch computes: (B, I, H, W) -> (B, O, H', W')."""

    def reset_parameters(self) -> None:
        """Draw every parameter anew, from torch's default generator; by default as each layer inside does it.

        NotImplementedError where a parameter belongs to no layer that could, so that the branch must say how itself.
        """
        for part in self.children():
            _reset(part)
        _refuse_own_parameters(self)

    def fold(self, norm: Norm, static: Geometry | None) -> Folded:
        """Split norm(self(x)), with the norm at rest (eval mode), into a static and a dynamic part; both are left as they are.

        By default the norm becomes a scale and a shift behind the branch; the shift is static where something else is.

        Args:
            static: the static convolution that the rest of the block folds to: what fits its kernel size and
                dilation costs nothing there. None where there is none yet; then a static part is returned only if
                the branch as a whole is static.
        """
        scale_O, shift_O = norm_at_rest(norm)
        if static is None:
            return Folded(static=None, dynamic=Scaled(copy.deepcopy(self), scale_O, shift_O))
        fixed = bias_only(shift_O, self.geometry.in_chs // self.geometry.groups)
        return Folded(static=fixed, dynamic=Scaled(copy.deepcopy(self), scale_O, None))

    def dynamic_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The convolution that the branch is at each output pixel; an oracle for tests, never a deploy path.

        A branch with a sample kernel need not write its own: it is the same at each pixel. ValueError where the branch is no
        convolution of a fixed size (`has_dynamic_kernel` is False). Returns kernel_BHWOIkk, (B, H', W', O, I / g, k, k), as
        `sample_kernel` its own (`xvol.testing.apply_dynamic_kernel`); and bias_O, (O,).
        """
        if not self.has_sample_kernel:
            raise ValueError(
                f"{type(self).__name__} has no dynamic kernel: it is no convolution of a fixed size, whatever its input"
            )
        kernel_BOIkk, bias_O = self.sample_kernel(x_BCHW)
        height, width = ((size - 1) // self.geometry.stride + 1 for size in x_BCHW.shape[2:])
        return kernel_BOIkk[:, None, None].expand(-1, height, width, -1, -1, -1, -1), bias_O

    def sample_kernel(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The one convolution that the branch is for each sample: exact, and a deploy path where samples are few.

        ValueError where it is not one for each sample (`has_sample_kernel` is False). Returns kernel_BOIkk, (B, O, I / g, k, k), of
        dilation 1, to be applied with a zero border at the branch's stride (`xvol.testing.apply_sample_kernel`); and bias_O, (O,).
        """
        raise ValueError(f"{type(self).__name__} has no sample kernel: it is not one convolution for each sample")

    def take_over(self, host: nn.Conv2d) -> bool:
        """Become the host convolution, if the branch can: True if it now computes exactly what the host did."""
        return False

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """What to add to the multiply-accumulates that torch's counter sees, for one image of `out_size` (H', W').

        torch counts convolutions and matrix products: element-wise products come on top, taps that are zero by construction go.
        """
        return 0


class Scaled(Branch):
    """A branch with the norm behind it folded to scale_O branch(x) + shift_O; shift None where that went elsewhere."""

    def __init__(self, branch: Branch, scale: Tensor, shift: Tensor | None) -> None:
        super().__init__(branch.geometry.in_chs, branch.geometry.out_chs, **branch.geometry.window)
        self.branch = branch
        self.scale = nn.Parameter(scale.detach().clone())
        self.shift = None if shift is None else nn.Parameter(shift.detach().clone())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Scale and shift, in the dtype of what the branch gives."""
        y_BCHW = self.branch(x_BCHW)
        y_BCHW = y_BCHW * self.scale[:, None, None].to(y_BCHW.dtype)
        return y_BCHW if self.shift is None else y_BCHW + self.shift[:, None, None].to(y_BCHW.dtype)

    def elementwise_macs(self, out_size: tuple[int, int]) -> int:
        """Those of the branch: a norm's scale is not counted in the train form either."""
        return self.branch.elementwise_macs(out_size)


def _reset(part: nn.Module) -> None:
    if callable(reset := getattr(part, "reset_parameters", None)):
        reset()
        return
    for child in part.children():
        _reset(child)
    _refuse_own_parameters(part)


def _refuse_own_parameters(part: nn.Module) -> None:
    own = [name for name, _ in part.named_parameters(recurse=False)]
    if own:
        raise NotImplementedError(
            f"{type(part).__name__}: nothing says how {own[0]!r} is drawn; write reset_parameters(self), which draws every "
            "parameter, and call it at the end of __init__"
        )
