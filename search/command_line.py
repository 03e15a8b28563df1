"""What the words of a command line show to be wrong, before Hydra reads them: it would fail, or take them in silence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from search.ledger.secrets import find_secret

__all__ = ["refuse_wrong_words"]

_SHOWS = re.compile(r"(--cfg|-c|--info|-i|--shell-completion|-sc)(=.*)?")


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
    shows = [word for word in words if _SHOWS.fullmatch(word)]
    if shows and {"-m", "--multirun"}.intersection(words):
        raise ValueError(
            f"-m and {shows[0]} are both given: {shows[0]} shows a configuration, -m runs a study; leave one of them out "
            "(a study's own settings: --cfg hydra)"
        )
    if "--resolve" in words and not shows and not {"--help", "-h"}.intersection(words):
        raise ValueError("--resolve goes with --cfg or --help alone, e.g. --cfg job --resolve")


def _refuse_deletion(word: str, groups: Path) -> None:
    """A group's file or a setting that is left out gives way to a default of the code, which nobody asked for."""
    from search.trial.config import OPEN_KEYS

    key = word.lstrip("~").partition("=")[0].partition("@")[0]
    if key.startswith(("hydra.", "hydra/", *(f"{name}." for name in OPEN_KEYS))):
        return
    name = key.partition(".")[0]
    options = sorted(path.stem for path in (groups / name).glob("*.yaml")) if name.isidentifier() else []
    choose = f"choose one of {name}={', '.join(options)}" if options else "set a value with key=value"
    raise ValueError(f"{word}: nothing can be taken out of the configuration but what was put in; {choose}")
