"""What the words of a command line show to be wrong, before Hydra reads them: it would fail, or take them in silence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from search.ledger.secrets import find_secret

__all__ = ["refuse_wrong_words"]

_MODES = re.compile(r"(--run|-r|--multirun|-m|--cfg|-c|--info|-i|--shell-completion|-sc)(=.*)?")


def refuse_wrong_words(words: Sequence[str], groups: Path) -> None:
    """Raise ValueError where no configuration can come of these arguments, or another than they say.

    Args:
        groups: folder of the config groups.
    """
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            shown = word.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            raise ValueError(f"{shown}: holds bytes that are no UTF-8 text; write it in UTF-8")
        if find_secret(word):
            raise ValueError(
                f"{word.split('=', 1)[0]} holds a password or key in plain text. Put it into an environment "
                "variable and write it as '${oc.env:NAME}', e.g. "
                "'hydra.sweeper.storage=postgresql://me:${oc.env:PGPASSWORD}@host/name'; W&B reads WANDB_API_KEY by itself"
            )
        if re.match(r"[+~]*=", word):
            raise ValueError(f"{word}: no key stands before the '='; an override is key=value, e.g. train.epochs=2")
        if word.startswith("~"):
            _refuse_deletion(word, groups)
        else:
            _refuse_group(word, groups)
    modes = [word for word in words if _MODES.fullmatch(word)]
    if len(modes) > 1:
        raise ValueError(
            f"{' and '.join(modes)} are given together: --run trains one architecture, -m runs a study, --cfg shows a "
            "configuration (of a study --cfg hydra); take one of them"
        )
    shows = [word for word in modes if word.startswith(("--cfg", "-c"))]
    for flag in ("--resolve", "--package", "-p"):
        if flag in words and not shows and not (flag == "--resolve" and {"--help", "-h"}.intersection(words)):
            raise ValueError(f"{flag} goes with --cfg, e.g. --cfg job {flag}{' train' if 'p' in flag[:3] else ''}")


def _refuse_group(word: str, groups: Path) -> None:
    """Every group has a choice in the configuration already, and takes one."""
    match = re.fullmatch(r"(\+*)(\w+)=(.*)", word, re.DOTALL)
    if match is None or not (groups / match[2]).is_dir():
        return
    if match[1]:
        raise ValueError(f"{word}: the configuration has {match[2]} already; write {match[2]}={match[3]}, without a +")
    if re.fullmatch(r"\[.*\]|[-+.\d]+|true|false", match[3], re.I | re.DOTALL):
        raise ValueError(f"{word}: {match[2]} takes the name of one option: {', '.join(_options(groups / match[2]))}")


def _options(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def _refuse_deletion(word: str, groups: Path) -> None:
    """A group's file or a setting that is left out gives way to a default of the code, which nobody asked for."""
    from search.config import OPEN_KEYS

    key = word.lstrip("~").partition("=")[0].partition("@")[0]
    if key.startswith(("hydra.", "hydra/", *(f"{name}." for name in OPEN_KEYS))):
        return
    name = key.partition(".")[0]
    options = _options(groups / name) if name.isidentifier() else []
    choose = f"choose one of {name}={', '.join(options)}" if options else "set a value with key=value"
    raise ValueError(f"{word}: nothing can be taken out of the configuration but what was put in; {choose}")
