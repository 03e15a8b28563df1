"""Keeping API keys and storage passwords out of everything that is written down."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

MASK = "***"
LEAST = 6  # letters of a value that is looked for in texts: a shorter one stands in many words
# user:password@host in a URL; an interpolation such as ${oc.env:PGPASSWORD} is no secret
_URL_PASSWORD = re.compile(
    r"(?P<head>[a-zA-Z][\w+.-]*://(?:\$\{[^\s}]*\}|[^\s/:])*:)(?P<secret>(?!\$\{)(?!\*\*\*@)[^\s]+)(?=@[^\s@]*)"
)
_ASSIGNMENT = re.compile(
    r"(?P<head>(?P<name>[A-Za-z_][\w.-]*)(?P<close>['\"]?)\s*(?P<sign>[=:])\s*)"
    r"(?:(?P<quote>['\"])(?P<quoted>(?!\$\{)(?!\*\*\*)[^'\"]+)(?P=quote)|(?P<open>['\"]?)(?P<secret>(?!\$\{)(?!\*\*\*)[^\s,'\"}]+))"
)
_QUERY = re.compile(r"(?P<head>[?&](?P<name>[\w.-]+)=)(?P<secret>(?!\$\{)(?!\*\*\*)[^&\s'\"]+)")
_KNOWN = re.compile(
    r"(?<![A-Za-z0-9_-])(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}"
    r"|sk-(?=[\w-]*\d)[\w-]{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}|xox[a-z]-[\w-]{10,}|wandb_v\d+_\w{20,})(?![A-Za-z0-9])"
)
_HEX40 = re.compile(r"(?<![\w@/.-])[0-9a-f]{40}(?![\w/-])")  # W&B's keys of old; after @ or / it is a revision
_OF_A_HASH = re.compile(r"(?<![A-Za-z])(?:commit|revision|rev|sha1?|hash|digest|checksum)\W{0,4}$", re.I)
_STRONG = re.compile(r"\w*(?:passw(?:or)?d|passphrase|secret|credential|apikey)s?", re.I)
_WEAK = re.compile(r"\w*tokens?|pass|(?:pg|db|my|user|ssh|smtp|ftp|root|admin|http)pass|pwd|pat|auth", re.I)
# of which there are keys
_KEYS = re.compile("api|access|private|secret|auth|signing|encryption|ssh|wandb|openai|hf|aws|azure")
# `class_token=false`, `reg_tokens=4`: timm's arguments
_COUNT_OR_SWITCH = re.compile(r"[\d.]{1,5}|true|false|null|none|basic|default|auto", re.I)
# what these hold is told in every table, wherever it comes from
_TOLD = re.compile(
    r"(?:backbone\.(?:name|pretrained)|placement|branch\.(?:use|gamma)|data|train|measure|seed|device|threads|checkpoint|objectives"
    r"|hydra\.(?:run|sweep|job|runtime|launcher|searchpath)|hydra\.sweeper\.(?:study_name|n_\w+|direction))\b"
)
_INNOCENT = re.compile(
    r"(?:HOME|USER|LOGNAME|PWD|OLDPWD|SHELL|LANG|PATH|HOSTNAME|TMP\w*|TEMP\w*|SLURM_\w+|CUDA_\w+|XDG_\w+)$"
)
_VARIABLE = re.compile(r"\$\{oc\.env:\s*([A-Za-z_]\w*)")
_noted: set[str] = set()


def note_variables(value: Any, key: str = "") -> None:
    """Remember the environment variables that a configuration takes as `${oc.env:NAME}`: `mask` replaces their values from now on.

    `value` is of nested containers before their interpolations were resolved, or a text, and stands at `key`; what is told in every table
    (data, backbone, seed) may come from a variable and be told.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            note_variables(item, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for item in value:
            note_variables(item, key)
    elif isinstance(value, str) and "${oc.env:" in value:
        line = re.match(r"[+~]*([\w.]+)=", value)  # an override
        if not _TOLD.match(line[1] if line else key):
            _noted.update(name for name in _VARIABLE.findall(value) if not _INNOCENT.match(name))


def mask(text: str) -> str:
    """`text` with all replaced that is a secret by its look, by the name before it, or by the variable that holds it.

    That is: passwords in URLs, keys of known forms (ghp_, github_pat_, hf_, sk-, AKIA, xoxb-, glpat-, W&B's), values behind names
    such as `password=`, `api_key:`, `DB_PASS=`, and the values of environment variables with such names or noted ones.
    """
    for value in _values():
        text = text.replace(value, MASK)
    text = _URL_PASSWORD.sub(lambda match: match["head"] + MASK, text)
    text = _KNOWN.sub(MASK, text)
    text = _HEX40.sub(lambda match: match[0] if _OF_A_HASH.search(text[: match.start()][-24:]) else MASK, text)
    text = _QUERY.sub(lambda match: match["head"] + MASK if _hides(match["name"], match["secret"]) else match[0], text)
    return _without_assigned(text)


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
        if value and not value.startswith("${") and _hides(key, value):
            return MASK
        return mask(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and _hides(key, str(value)):
        return MASK
    return value


def mask_logs() -> None:
    """Mask what the handlers of the root logger write from now on; again after logging was configured anew."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(each, _Masked) for each in handler.filters):
            handler.addFilter(_Masked())


class _Masked(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (masked := mask(text)) != text:
            record.msg, record.args = masked, ()
        return True


def is_secret_name(name: str) -> bool:
    """Whether a key or variable of this name holds a secret: `db.password`, `DB_PASS`, `secretKey`; not `author`, `monkey`."""
    return _kind(name) != ""


@functools.lru_cache(maxsize=4096)
def _kind(name: str) -> str:
    """ "strong", "weak" where counts and switches are named so, too, or ""."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    if not words:
        return ""
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    one = last.removesuffix("s")
    of_a_key = one.endswith("key") and _KEYS.fullmatch(one.removesuffix("key") or before)
    if of_a_key or _STRONG.fullmatch(last):
        return "strong"
    return "weak" if _WEAK.fullmatch(last) else ""


def _hides(name: str, value: str) -> bool:
    kind = _kind(name)
    return kind == "strong" or (kind == "weak" and not _COUNT_OR_SWITCH.fullmatch(value))


def _values() -> Iterator[str]:
    """Values of the environment that are secrets, the longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if (name in _noted or is_secret_name(name))
        and len(value) >= LEAST
        and not value.startswith(("/", "~", "./"))
        and not _COUNT_OR_SWITCH.fullmatch(value)
    }
    yield from sorted(found, key=len, reverse=True)


def _without_assigned(text: str) -> str:
    """`text` without values of secret names; what follows another name may hold such a name itself: `error: password=x`."""
    done, place = "", 0
    while match := _ASSIGNMENT.search(text, place):
        name, value = match["name"], match["quoted"] or match["secret"]
        place = match.end("head")
        if _hides(name, value) and not (_kind(name) == "weak" and _is_prose(match)):
            quote = match["quote"] or match["open"]
            done += f"{text[: match.end('head')]}{quote}{MASK}{match['quote'] or ''}"
            text, place = text[match.end() :], 0
    return done + text


def _is_prose(match: re.Match[str]) -> bool:
    """`second pass: 3 images` names no secret; `DB_PASS: x`, `auth=x` and `"auth": x` do."""
    return match["sign"] == ":" and not match["close"] and match["name"].isalpha() and match["name"].islower()
