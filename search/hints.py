"""What Hydra's errors leave out: which keys and types are allowed where the user went wrong."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra.errors import OverrideParseException

from search.refusals import RefusedError
from xvol.suggest import meant

__all__ = ["explain"]

_BY_NAME = ("hydra.sweeper.sampler", "hydra.sweeper.pruner")  # a class of Optuna's and any of its arguments
_HYDRA_KEY = re.compile(r"^hydra\.(sweeper|launcher)(?:\.|$)")


def explain(error: BaseException) -> str:
    """The error's own message, and where it is about a config key, what stands there."""
    if isinstance(error, RefusedError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    noise = ("HYDRA_FULL_ERROR", "To append to your config use")  # a typed schema takes no further keys
    message = "\n".join(line for line in str(error).splitlines() if not line.startswith(noise) and noise[0] not in line)
    message = message.strip()
    cause = error.__cause__
    if cause is not None and str(cause) and str(cause) not in message:
        message += f"\n{str(cause).splitlines()[0]}"
    twice = re.match(r"Multiple values for (\S+)\. To override a value use 'override [^']*'", message)
    if twice:
        return f"{twice[1]} is given twice, or with a + although the configuration has it: write {twice[1]}=NAME, once"
    if isinstance(error, OverrideParseException) and error.override not in message:
        message = f"{error.override}: {message}"
    key = _key_of(error, message)
    message = re.sub(r"\n\s*(full_key: |reference_type=|object_type=).*", "", message)
    hint = _about(key) if key else ""
    return f"{message}\n{hint}" if hint else message


def _key_of(error: BaseException, message: str) -> str | None:
    for source in (error.__cause__, error):
        key = getattr(source, "full_key", None)
        if key:
            return str(key)
    match = re.search(r"[Cc]ould not override '([^']+)'", message) or re.search(r"full_key: (\S+)", message)
    return match[1].lstrip("+~") if match else None


def _about(key: str) -> str:
    """A sentence on the keys beside `key`, or on the type that `key` takes."""
    from search.config import Config
    from search.study.launching.slots import LocalLauncherOptions
    from search.study.options import SweeperOptions

    match = _HYDRA_KEY.match(key)
    if key.startswith("hydra.") and not match:
        return ""  # Hydra's own: nothing of ours stands there
    root: type = {"sweeper": SweeperOptions, "launcher": LocalLauncherOptions}[match[1]] if match else Config
    path = _HYDRA_KEY.sub("", key).split(".") if match else key.split(".")
    prefix = f"hydra.{match[1]}." if match else ""
    node: Any = root
    for depth, name in enumerate(path):
        names = [field.name for field in fields(node) if not field.name.startswith("_")]
        if name not in names:
            where = prefix + ".".join(path[:depth])
            near = meant(name, names).removeprefix("; did")
            return f"{f'Did{near} ' if near else ''}Allowed {'in ' + where.rstrip('.') if where else 'at the top'}: {', '.join(names)}"
        hint = get_type_hints(node)[name]
        chosen = prefix + ".".join(path[: depth + 1])
        if chosen in _BY_NAME and len(path) > depth + 1:
            return f"To give {path[-1]} to what {chosen} names, write +{key}=..."
        if not is_dataclass(hint):
            default = next(field for field in fields(node) if field.name == name)
            shown = default.default
            return f"{prefix}{'.'.join(path[: depth + 1])} takes {_type_name(hint)}" + (
                f"; the default is {shown}" if _plain(shown) else ""
            )
        node = hint
    return ""


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _type_name(hint: Any) -> str:
    return str(hint).replace("<class '", "").replace("'>", "").replace("None", "null").replace("typing.", "")
