"""Trials that the ledger holds and the storage has lost, written into the storage again under their numbers."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from yaml import YAMLError

from search.ledger.metric import CLASSIFY, chosen_by
from search.ledger.record import seed_of
from search.ledger.result import RESULT_FILE, Phase, TrialResult, sound_result
from search.ledger.secrets import MASK
from search.ledger.study_files import LOOKS_FILE, read_design, trial_subdir
from search.space.parameters import Parameter, Space, parse_space
from search.study.interim import ATTRIBUTE as LOOKS
from search.study.liveness import TOKEN_FILE
from search.study.recovery import runs_of
from search.study.spec import resolved
from search.study.trials import BASELINE, CELL, FOLDER, FORGOTTEN, OVERRIDES, REASON, RUNS, SKIPPED, TRIES

CONFIG = "multirun.yaml"
FINAL = ".final"  # ends the name of the study that holds the re-evaluation, or a design


@dataclass(frozen=True)
class Recipe:
    """What the study's config says of its trials; see `SweeperOptions`.

    Attributes:
        objectives: the names of what a trial returns, as in its result.
        sampled: whether the trials of the search are made up by a sampler, which then skips what was taken over.
        custom: whether a function of the user's varies more than `space`.
    """

    directions: tuple[str, ...]
    space: Space
    objectives: tuple[str, ...]
    seeds_per_trial: int = 1
    seed_key: str = "seed"
    sampled: bool = True
    custom: bool = False


def read_recipe(root: Path) -> Recipe:
    """Read `multirun.yaml`.

    Raises:
        ValueError: it is gone or damaged, or holds no study.
    """
    config = _config(root)
    try:
        sweeper, overrides = config["hydra"]["sweeper"], config["hydra"]["overrides"]["task"]
        direction = sweeper["direction"]
        sampler = str((sweeper.get("sampler") or {}).get("_target_"))
        return Recipe(
            directions=(direction,) if isinstance(direction, str) else tuple(direction),
            space=parse_space(overrides, sweeper.get("params") or {}),
            objectives=_objectives(config),
            seeds_per_trial=int(sweeper.get("seeds_per_trial") or 1),
            seed_key=str(sweeper["final"]["seed_key"]),
            sampled=not sampler.endswith(("GridSampler", "BruteForceSampler")),
            custom=bool(sweeper.get("custom_search_space")),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{root / CONFIG} is no study's config ({type(error).__name__}: {error})") from None


def _objectives(config: dict[str, Any]) -> tuple[str, ...]:
    """Their names, where `${judged_by:${task}}`, the default, stands for what the task is judged by."""
    default = chosen_by(str(config.get("task", CLASSIFY)))
    named = [default if str(each).startswith("${judged_by:") else str(each) for each in config.get("objectives") or []]
    return tuple(named) or (default,)


def storage_in(root: Path) -> str | None:
    """The storage that the study's config names, its environment variables filled in; None for the folder's journal.

    Raises:
        ValueError: its password is not written down, or an environment variable is not set.
    """
    try:
        spec = _config(root)["hydra"]["sweeper"].get("storage")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if spec is not None and MASK in str(spec):
        raise ValueError(f"{root / CONFIG} does not hold the password of {spec}; give --storage URL")
    return None if spec is None else resolved(str(spec))


def named_in(root: Path) -> str:
    """The study's name: as the folder's token says, else its config, else the folder."""
    try:
        names = json.loads((root / TOKEN_FILE).read_text(encoding="utf-8"))["studies"]
        return str(names[0]).removesuffix(FINAL)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass
    try:
        return str(_config(root)["hydra"]["sweeper"]["study_name"])
    except (ValueError, KeyError, TypeError):
        return root.name


def _config(root: Path) -> dict[str, Any]:
    try:
        config = OmegaConf.to_container(OmegaConf.load(root / CONFIG), resolve=False)
    except (OSError, OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{root / CONFIG} cannot be read ({type(error).__name__})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{root / CONFIG} is no config")
    return config  # type: ignore[return-value]


_STATES = {"ok": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


def unknown_folders(trials: Sequence[FrozenTrial], study_dir: Path, phase: Phase) -> dict[int, list[Path]]:
    """Folders of a phase that none of its trials names, by the number in their name."""
    known = {study_dir / subdir for trial in trials for subdir in runs_of(trial)}
    found: dict[int, list[Path]] = defaultdict(list)
    for folder in sorted((study_dir / trial_subdir(phase, 0, 0)).parent.glob("*-s*")):
        number = folder.name.partition("-")[0]
        if folder.is_dir() and number.isdecimal() and seed_of(folder) is not None and folder not in known:
            found[int(number)].append(folder)
    return dict(found)


def rebuild(study: optuna.Study, storage: BaseStorage, root: Path, name: str, phase: Phase, recipe: Recipe) -> int:
    """Write into `study` the trials behind folders that it does not know; return how many came to their end.

    A trial that waits or runs in the storage, and has come to its end in the ledger, is told so. One whose number the
    study has not given yet is added; a number without a sound result gets a placeholder, so that every other keeps
    its own.

    Args:
        root, name, phase: the study's folder and name, and which of its phases this is.
    """
    trials = study.get_trials(deepcopy=False)
    unknown = unknown_folders(trials, root, phase)
    cells = _cells(root)
    ended = 0
    for number in sorted({*unknown, *range(len(trials), max(unknown, default=-1) + 1)}):
        folders = unknown.get(number, [])
        sound = filter(None, (sound_result(folder / RESULT_FILE) for folder in folders))
        found = [each for each in sound if (each.study, each.phase, each.trial) == (name, phase, number)]
        trial = _rebuilt(found, root, recipe, cells, folders)
        if number >= len(trials):
            study.add_trial(trial)
        elif trials[number].state.is_finished() or not _counts(trial):
            continue
        else:
            _tell(storage, trials[number], trial)
        ended += _counts(trial)
    looks = root / LOOKS_FILE
    if LOOKS not in study.user_attrs and phase == "final" and looks.is_file():
        study.set_user_attr(LOOKS, json.loads(looks.read_text(encoding="utf-8")))
    return ended


def _counts(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(SKIPPED) != FORGOTTEN


def _tell(storage: BaseStorage, there: FrozenTrial, rebuilt: FrozenTrial) -> None:
    """Let a trial that has not ended in the storage end as its result says."""
    trial_id = there._trial_id
    if there.state == TrialState.WAITING:
        storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    for name, distribution in rebuilt.distributions.items():
        if name not in there.params:
            storage.set_trial_param(trial_id, name, distribution.to_internal_repr(rebuilt.params[name]), distribution)
    for name, value in rebuilt.user_attrs.items():
        if name not in there.user_attrs or name in (FOLDER, RUNS):
            storage.set_trial_user_attr(trial_id, name, value)
    storage.set_trial_state_values(trial_id, rebuilt.state, rebuilt.values)


def _rebuilt(
    results: Sequence[TrialResult],
    root: Path,
    recipe: Recipe,
    cells: Mapping[tuple[str, ...], str],
    folders: Sequence[Path],
) -> FrozenTrial:
    attributes: dict[str, Any] = {}
    if folders:
        attributes[FOLDER] = folders[-1].relative_to(root).as_posix()
    if not results:
        return _placeholder(attributes, "the storage has lost it, and there is no sound result of it")
    last = results[-1]
    runs = {r.fingerprint: r.run_dir for r in results if r.fingerprint is not None and r.run_dir is not None}
    facts = {"arm": last.arm, "arch_hash": last.arch_hash, REASON: last.reason, RUNS: runs or None}
    attributes |= {name: value for name, value in facts.items() if value is not None} | {TRIES: last.attempt}
    search = last.phase == "search"
    params: dict[str, Any] | None = {}
    if search:
        params = None if recipe.custom else _params(recipe.space, last.overrides)
    else:
        attributes |= _cell(last, recipe, cells)
    if params is None:
        return _placeholder(attributes, "the storage has lost it, and its result does not tell its parameters")
    whole = len(results) >= (recipe.seeds_per_trial if search else 1)
    values = _values([r for r in results if r.status == "ok"], recipe.objectives)
    if last.status == "interrupted" or (last.status == "ok" and not whole):
        return _placeholder(attributes, last.reason or "not all of its runs were kept")
    if last.status == "ok" and values is None:
        return _placeholder(attributes, f"its result does not hold {' and '.join(recipe.objectives)}")
    if search and recipe.sampled and all(r.reused_from is not None for r in results):
        attributes[SKIPPED] = "reused"
    if last.status in ("infeasible", "duplicate"):
        attributes[SKIPPED] = last.status
    state = _STATES.get(last.status, TrialState.FAIL)
    return create_trial(
        state=state,
        values=values if state == TrialState.COMPLETE else None,
        params=params,
        distributions={p.name: p.distribution for p in recipe.space.parameters if p.name in params},
        user_attrs=attributes,
    )


def _placeholder(attributes: Mapping[str, Any], reason: str) -> FrozenTrial:
    """A trial that counts for nothing and is not run again: a cell is written down anew where it is wanted."""
    kept = {name: value for name, value in attributes.items() if name in (FOLDER, RUNS, TRIES)}
    return create_trial(state=TrialState.FAIL, user_attrs={**kept, SKIPPED: FORGOTTEN, REASON: reason})


def _cells(study_dir: Path) -> dict[tuple[str, ...], str]:
    """The names of the cells of a design by their overrides; nothing for a search."""
    design = read_design(study_dir)
    return {} if design is None else {cell.overrides: cell.name for cell in (*design.cells, *design.beside)}


def _cell(result: TrialResult, recipe: Recipe, cells: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    lines = tuple(line for line in result.overrides if line != f"{recipe.seed_key}={result.seed}")
    name = cells.get(lines) or ("baseline" if result.is_baseline else result.arch_hash)
    return {CELL: f"{name}/{result.seed}", OVERRIDES: list(result.overrides), BASELINE: result.is_baseline}


def _values(results: Sequence[TrialResult], objectives: Sequence[str]) -> list[float] | None:
    """The mean over the runs of each objective; None where one is not on record."""
    columns: list[list[Any]] = [[result.value(name) for result in results] for name in objectives]
    if any(not column or None in column for column in columns):
        return None
    return [statistics.fmean(column) for column in columns]


def _params(space: Space, overrides: Sequence[str]) -> dict[str, Any] | None:
    """What the overrides of a trial say of each parameter; None where they are silent on one."""
    given = {line.partition("=")[0].lstrip("+"): line.partition("=")[2] for line in overrides}
    try:
        return {each.name: _value(each, given[each.name]) for each in space.parameters}
    except (KeyError, ValueError):
        return None


def _value(parameter: Parameter, text: str) -> Any:
    """The value that is written so; KeyError or ValueError where the parameter takes none of that text."""
    if parameter.texts:
        return {written: choice for choice, written in parameter.texts}[text]
    number = int(text) if isinstance(parameter.low, int) else float(text)
    if not parameter.low <= number <= parameter.high:
        raise ValueError(text)
    return number
