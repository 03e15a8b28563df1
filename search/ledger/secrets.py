"""Keeping API keys and storage passwords out of everything that is written down."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["MASK", "find_secret", "mask", "masked_tree"]

MASK = "***"
_NAMES = r"(?:api[_-]?key|access[_-]?key|private[_-]?key|passw(?:or)?d|passphrase|secret|credential|token)s?"
# user:password@host in a URL; an interpolation such as ${oc.env:PGPASSWORD} is no secret
_URL_PASSWORD = re.compile(
    r"(?P<head>[a-zA-Z][\w+.-]*://(?:\$\{[^\s}]*\}|[^\s/:])*:)(?P<secret>(?!\$\{)(?!\*\*\*@)[^\s]+)(?=@[^\s@]*)"
)
_QUERY_SECRET = re.compile(
    r"(?P<head>[?&](?:password|passwd|token|api_?key|secret)=)(?P<secret>(?!\$\{)(?!\*\*\*)[^&\s'\"]+)", re.I
)
_KEY_NAME = re.compile(rf"{_NAMES}$", re.I)
_ASSIGNMENT = re.compile(
    rf"(?P<head>[\w.-]*(?P<name>{_NAMES})['\"]?\s*[=:]\s*)"
    r"(?:(?P<quote>['\"])(?P<quoted>(?!\$\{)(?!\*\*\*)[^'\"]+)(?P=quote)|(?P<open>['\"]?)(?P<secret>(?!\$\{)(?!\*\*\*)[^\s,'\"}]+))",
    re.I,
)
_COUNT_OR_SWITCH = re.compile(
    r"[\d.]+|true|false|null|none", re.I
)  # `class_token=false`, `reg_tokens=4`: timm's arguments
_SECRET_VARIABLES = ("WANDB_API_KEY", "PGPASSWORD", "HF_TOKEN")


def mask(text: str, variables: Iterable[str] = _SECRET_VARIABLES) -> str:
    """`text` with each password in a URL, each `...key=value` and each value of a secret variable replaced."""
    for name in variables:
        value = os.environ.get(name, "")
        if len(value) >= 6:
            text = text.replace(value, MASK)
    for pattern in (_URL_PASSWORD, _QUERY_SECRET):
        text = pattern.sub(lambda match: match["head"] + MASK, text)
    return _ASSIGNMENT.sub(_masked_assignment, text)


def _masked_assignment(match: re.Match[str]) -> str:
    if match["secret"] and "token" in match["name"].lower() and _COUNT_OR_SWITCH.fullmatch(match["secret"]):
        return match[0]
    quote = match["quote"]
    return f"{match['head']}{quote}{MASK}{quote}" if quote else f"{match['head']}{match['open']}{MASK}"


def find_secret(text: str) -> bool:
    """Whether `text` holds something that `mask` would replace."""
    return mask(text) != text


def masked_tree(value: Any, key: str = "") -> Any:
    """A copy of nested containers in which every secret is masked, by the look of a text or by its key's name."""
    if isinstance(value, dict):
        return {name: masked_tree(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_tree(item, key) for item in value]
    if isinstance(value, str):
        if value and _KEY_NAME.search(key) and not value.startswith("${"):
            return MASK
        return mask(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and _is_password(key):
        return MASK
    return value


def _is_password(key: str) -> bool:
    return bool(_KEY_NAME.search(key)) and "token" not in key.lower()
