"""Refusals that several branches share: each names the branch, the option, what was given and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from xvol.branches.norm import NORMS

__all__ = ["check_among", "check_flag", "check_norm", "check_odd", "check_ratio", "check_whole"]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def check_whole(branch: str, options: Mapping[str, Any], *names: str, otherwise: str = "") -> None:
    """Refuse all but whole numbers of at least 1; where `otherwise` says what it stands for, None is allowed too.

    Raises:
        ValueError: one of `options` is something else. What `options` lacks is not looked at.
    """
    for name in names:
        if name in options and not (_is_whole(options[name]) or (otherwise and options[name] is None)):
            or_none = f", or None for {otherwise}" if otherwise else ""
            raise ValueError(f"{branch}: {name}={options[name]!r} must be a whole number of at least 1{or_none}")


def check_odd(branch: str, options: Mapping[str, Any], *names: str, otherwise: str = "") -> None:
    """Refuse all but odd whole numbers; where `otherwise` says what it stands for, None is allowed too.

    Raises:
        ValueError: one of `options` is something else.
    """
    for name in names:
        value = options.get(name, 1)
        if not ((_is_whole(value) and value % 2) or (otherwise and value is None)):
            or_none = f", or None for {otherwise}" if otherwise else ""
            raise ValueError(f"{branch}: {name}={value!r} must be an odd whole number of at least 1{or_none}")


def check_ratio(branch: str, options: Mapping[str, Any], *names: str, otherwise: str = "") -> None:
    """Refuse all but finite numbers above 0; where `otherwise` says what it stands for, None is allowed too.

    Raises:
        ValueError: one of `options` is something else.
    """
    for name in names:
        value = options.get(name, 1.0)
        if otherwise and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            or_none = f", or None for {otherwise}" if otherwise else ""
            raise ValueError(f"{branch}: {name}={value!r} must be a number above 0, such as 0.25{or_none}")


def check_among(branch: str, options: Mapping[str, Any], name: str, allowed: Iterable[object]) -> None:
    """Refuse all but the values in `allowed`.

    Raises:
        ValueError: the option has another value.
    """
    values = tuple(allowed)
    if name in options and (isinstance(options[name], bool) or options[name] not in values):
        raise ValueError(f"{branch}: {name}={options[name]!r} must be one of {', '.join(map(repr, values))}")


def check_flag(branch: str, options: Mapping[str, Any], *names: str) -> None:
    """Refuse all but True and False.

    Raises:
        ValueError: one of `options` is something else.
    """
    for name in names:
        if not isinstance(options.get(name, False), bool):
            raise ValueError(f"{branch}: {name}={options[name]!r} must be True or False")


def check_norm(branch: str, options: Mapping[str, Any]) -> None:
    """Refuse all norms but those that fold exactly.

    Raises:
        ValueError: with the reason: a norm over each sample ("layer", "group", "instance") is no fixed map at rest.
    """
    if "norm" in options and options["norm"] not in NORMS:
        raise ValueError(
            f"{branch}: norm={options['norm']!r} must be one of {', '.join(map(repr, NORMS))}: a norm whose statistics "
            "are those of the sample at hand is no fixed map in eval mode, so it folds into no convolution"
        )
