"""Keeping API keys and storage passwords out of everything that is written down."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

__all__ = ["MASK", "find_secret", "mask", "masked_tree"]

MASK = "***"
# user:password@host in a URL; an interpolation such as ${oc.env:PGPASSWORD} is no secret
_URL_PASSWORD = re.compile(r"(?P<head>[a-zA-Z][\w+.-]*://[^\s/@:]*:)(?P<secret>(?!\$\{)(?!\*\*\*@)[^\s]+)(?=@[^\s@]*)")
_QUERY_SECRET = re.compile(
    r"(?P<head>[?&](?:password|passwd|token|api_?key|secret)=)(?P<secret>(?!\$\{)(?!\*\*\*)[^&\s'\"]+)", re.I
)
_KEY_NAME = re.compile(r"(api_?key|passw(or)?d|passwd|secret|token|credential)s?$", re.I)
_ASSIGNMENT = re.compile(
    r"(?P<head>(?:[\w.]*(?:api_?key|passw(?:or)?d|passwd|secret|token|credential)s?)\s*[=:]\s*['\"]?)"
    r"(?P<secret>(?!\$\{)(?!\*\*\*)[^\s,'\"}]+)",
    re.I,
)
_SECRET_VARIABLES = ("WANDB_API_KEY", "PGPASSWORD", "HF_TOKEN")


def mask(text: str, variables: Iterable[str] = _SECRET_VARIABLES) -> str:
    """`text` with each password in a URL, each `...key=value` and each value of a secret variable replaced."""
    for name in variables:
        value = os.environ.get(name, "")
        if len(value) >= 6:
            text = text.replace(value, MASK)
    for pattern in (_URL_PASSWORD, _QUERY_SECRET, _ASSIGNMENT):
        text = pattern.sub(lambda match: match["head"] + MASK, text)
    return text


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
    return value
