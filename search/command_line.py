"""What is said to whoever types a command: what is wrong with its words, its help, and which errors tell something, in which words."""

from __future__ import annotations

import re
import string
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.errors import CompactHydraException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from search.config import OPEN_KEYS, Config, config_folder
from search.ledger.secrets import find_secret
from search.study.launching.slots import LocalLauncherOptions
from search.study.options import SweeperOptions
from xvol.allowed import meant

_MODES = re.compile(r"(--run|-r|--multirun|-m|--cfg|-c|--info|-i|--shell-completion|-sc)(=.*)?")
_BY_NAME = ("hydra.sweeper.sampler", "hydra.sweeper.pruner")  # a class of Optuna's and any of its arguments
_OPTIONS: dict[str, type] = {"": Config, "hydra.sweeper": SweeperOptions, "hydra.launcher": LocalLauncherOptions}
_HERE = Path(__file__).resolve().parents[1]
_OURS = (_HERE / "search", _HERE / "xvol", _HERE / "hydra_plugins")


def refuse_wrong_words(words: Sequence[str], groups: Path) -> None:
    """Raise ValueError where no configuration can come of these arguments, or another than they say; `groups` is the config folder."""
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
    key = word.lstrip("~").partition("=")[0].partition("@")[0]
    if key.startswith(("hydra.", "hydra/", *(f"{name}." for name in OPEN_KEYS))):
        return
    name = key.partition(".")[0]
    options = _options(groups / name) if name.isidentifier() else []
    choose = f"choose one of {name}={', '.join(options)}" if options else "set a value with key=value"
    raise ValueError(f"{word}: nothing can be taken out of the configuration but what was put in; {choose}")


def is_plain_help(arguments: Sequence[str]) -> bool:
    """Whether these arguments ask for help on overrides alone; flags beside it are left to Hydra."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    return flags in (["--help"], ["-h"])


def app_help(overrides: Sequence[str], folder: Path) -> str:
    """The text that `hydra.help.template` makes for a config with these overrides; `folder` must be the application's only one."""
    with initialize_config_dir(str(folder), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
        template = string.Template(config.hydra.help.template)
        with open_dict(config):
            del config["hydra"]
        return template.safe_substitute(APP_CONFIG_GROUPS=_groups(folder), CONFIG=OmegaConf.to_yaml(config))


def _groups(folder: Path) -> str:
    """A line for each group: its options, by the files that hold them."""
    options: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        group = path.parent.relative_to(folder).as_posix()
        if group != ".":
            options.setdefault(group, []).append(path.stem)
    return "".join(f"{group}: {', '.join(names)}\n" for group, names in sorted(options.items()))


class RefusedError(CompactHydraException, ValueError):
    """What a user asked for is refused: Hydra shows its message alone, without frames."""


def is_users(error: BaseException) -> bool:
    """Whether the error tells the user something: raised by Hydra, OmegaConf, or on purpose by our own code; or a file that
    cannot be read or written."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    if isinstance(error, OSError):
        return error.filename is not None
    if not isinstance(error, ValueError | RuntimeError):
        return False
    # of an error that came from another process, that process has said it (search/study/launching/forked_app.py)
    frames = traceback.extract_tb(error.__traceback__)
    place = getattr(error, "raised_in", frames[-1].filename if frames else None)
    return place is not None and any(Path(place).resolve().is_relative_to(folder) for folder in _OURS)


@contextmanager
def told_compactly() -> Iterator[None]:
    """Raise what tells the user something as a RefusedError, which Hydra shows in one message, from it; let all else through."""
    try:
        yield
    except Exception as error:
        if isinstance(error, CompactHydraException) or not is_users(error):
            raise
        raise RefusedError(str(error)) from error


def explain(error: BaseException) -> str:
    """The error's own message, and where it is about a config key, what stands there."""
    if isinstance(error, RefusedError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, given = error.missing_cfg_file.rpartition("/")
        top = config_folder() / group.partition("/")[0]
        if top.is_dir():  # of ours, those in folders below too
            group, given = top.name, error.missing_cfg_file.removeprefix(f"{top.name}/")
        names = _options(top) if top.is_dir() else list(error.options)
        return f"{group}={given}: there is no such option{meant(given, names)}\nAllowed: {', '.join(names)}"
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
    parts = key.split(".")
    above = parts[:2] if parts[0] == "hydra" else []
    node: Any = _OPTIONS.get(".".join(above))
    if node is None:
        return ""  # Hydra's own: nothing of ours stands there
    path = parts[len(above) :] or [""]
    for depth, name in enumerate(path):
        where, chosen = (".".join((*above, *path[:end])) for end in (depth, depth + 1))
        names = [field.name for field in fields(node) if not field.name.startswith("_")]
        if not where:  # what chooses parts of Hydra's configuration is no key of the schema
            groups = {path.parent.name: _options(path.parent) for path in config_folder().glob("*/*.yaml")}
            if name in groups and name not in names:
                return f"{name} is a group without keys of its own: write {name}=NAME, of {', '.join(groups[name])}"
            names += sorted(groups.keys() - set(names))
        if name not in names:
            near = meant(name, names).removeprefix("; did")
            return (
                f"{f'Did{near} ' if near else ''}Allowed {f'in {where}' if where else 'at the top'}: {', '.join(names)}"
            )
        hint = get_type_hints(node)[name]
        if chosen in _BY_NAME and len(path) > depth + 1:
            return f"To give {path[-1]} to what {chosen} names, write +{key}=..."
        if not is_dataclass(hint):
            shown = next(field.default for field in fields(node) if field.name == name)
            plain = isinstance(shown, bool | int | float | str | None)
            return f"{chosen} takes {_type_name(hint)}" + (f"; the default is {shown}" if plain else "")
        node = hint
    return ""


def _type_name(hint: Any) -> str:
    return str(hint).replace("<class '", "").replace("'>", "").replace("None", "null").replace("typing.", "")
