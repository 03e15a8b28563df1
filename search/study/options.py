"""What a user may say about a study: the configuration of the sweeper. Free of Optuna and torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from search.design.options import DesignOptions, check_design
from xvol.allowed import check_choice, check_number, meant

DIRECTIONS = ("minimize", "maximize")
REUSE = ("all", "study", "none")
LONGEST_NAME = 200  # bytes; file systems take 255, and files beside the folder are named after it


@dataclass
class FinalOptions:
    """The re-evaluation that ends a study: the best arms and the baseline, trained again on fresh seeds.

    Attributes:
        top_k: how many distinct architectures of the search are trained again beside the baseline; 0 for no re-evaluation.
        seeds: how many fresh seeds each of them and the baseline get; seed i of one arm is paired with seed i of another.
        first_seed: the first of them; null for seeds of the study's own, by its name. Seeds that the search trains on are
            refused.
        seed_key: the config key that takes the seed.
        baseline: overrides that make the baseline out of the study's fixed overrides.
        overrides: further overrides of every final trial, e.g. a longer training.
    """

    top_k: int = 0
    seeds: int = 5
    first_seed: int | None = None
    seed_key: str = "seed"
    baseline: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)


@dataclass
class WarmStartOptions:
    """Points that a search tries first, chosen by a score of the untrained network. Never on by itself.

    Attributes:
        score: a zero-cost score, e.g. "synflow" or "naswot"; null for no warm start. Give branches a voice for it:
            with `branch.gamma=0` an untrained network scores as the plain one does.
        candidates: random points that are scored.
        top: how many of them, the highest first, are the first trials.
    """

    score: str | None = None
    candidates: int = 64
    top: int = 8


@dataclass
class SweeperOptions:
    """Keys of `hydra.sweeper`. Those of Hydra's official Optuna sweeper keep their names and their meaning.

    Attributes:
        sampler: `_target_: optuna.samplers.<Name>` and its arguments.
        pruner: `_target_: optuna.pruners.<Name>` and its arguments; null, or a `_target_` of null, never prunes.
        direction: "minimize" or "maximize", or a list of them for several objectives.
        storage: null for a journal file in the study's folder, or an Optuna URL such as `sqlite:///study.db`. Write a
            password as `${oc.env:NAME}`.
        study_name: names the study and its folder.
        n_trials: finished trials the search comes to, however often it is interrupted and resumed.
        n_jobs: workers, for launchers that do not say it themselves as `local` does (hydra.launcher.workers).
        max_failure_rate: share of `n_trials` that may fail before the study stops.
        max_retries: how often a trial is run again that died with its worker, or a cell of a design that failed.
        max_skips: proposals in a row that need no training (reused, infeasible) after which the search ends early.
        trial_minutes: time limit of one run; null for none.
        patience_minutes: how long workers wait for a storage that went away.
        seeds_per_trial: runs of each trial on consecutive seeds, whose mean the sampler is told. With more than one the
            pruner compares trials seed by seed (Wilcoxon is made for that), not epoch by epoch.
        reuse: a proposal that was already trained with the same recipe, seed and budget takes that result: of any
            study beside this one ("all"), of this one ("study"), or never ("none").
        constraints: limits on costs that are known before training, e.g. {params: "<=1.2e6", latency_ms: "<=8"}.
        warm_start: the first points of a search by a zero-cost score.
        old_values: for an existing study that takes a new parameter: the value that all its trials had until now.
        params: what varies: config key -> text in Hydra's sweep grammar.
        custom_search_space: dotted path of a function `(config, trial)` that suggests further parameters.
        final: the re-evaluation on fresh seeds.
        design: the cells of an ablation, in place of a search; every cell is trained on every seed and read on test.
    """

    _target_: str = "hydra_plugins.xvol_sweeper.XvolSweeper"
    _recursive_: bool = False
    sampler: Any = None
    pruner: Any = None
    direction: Any = "minimize"
    storage: str | None = None
    study_name: str | None = None
    n_trials: int = 20
    n_jobs: int = 2
    max_failure_rate: float = 0.5
    max_retries: int = 2
    max_skips: int = 200
    trial_minutes: float | None = None
    patience_minutes: float = 10.0
    seeds_per_trial: int = 1
    reuse: str = "all"
    constraints: Any = None
    warm_start: WarmStartOptions = field(default_factory=WarmStartOptions)
    old_values: Any = None
    params: dict[str, Any] | None = None
    custom_search_space: str | None = None
    final: FinalOptions = field(default_factory=FinalOptions)
    design: DesignOptions = field(default_factory=DesignOptions)


def directions_of(options: SweeperOptions) -> list[str]:
    """The directions as a list, one for each objective.

    Raises:
        ValueError: a direction is neither "minimize" nor "maximize".
    """
    one = isinstance(options.direction, str) or not isinstance(options.direction, Sequence)
    given = [options.direction] if one else list(options.direction)
    for name in given:
        check_choice("hydra.sweeper.direction", name, DIRECTIONS)
    if not given:
        raise ValueError("hydra.sweeper.direction=[]: give one direction for each objective")
    return given


def read_options(options: Mapping[str, Any]) -> SweeperOptions:
    """`options` under the types of `SweeperOptions`; a pruner whose `_target_` is null is none, whatever stands beside it.

    Raises:
        omegaconf.errors.OmegaConfBaseException: a key that is none of them, or a value of another type.
    """
    merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SweeperOptions), dict(options)))
    assert isinstance(merged, SweeperOptions)
    if isinstance(merged.pruner, Mapping) and merged.pruner.get("_target_", "") is None:
        merged.pruner = None  # an experiment's arguments for the pruner that pruner=none took away
    return merged


def check_options(options: SweeperOptions) -> None:
    """Raise ValueError where a value is out of its range."""
    directions_of(options)
    check_design(options.design)
    if options.design.kind is not None:
        _check_beside_design(options)
    _check_numbers(options)
    check_choice("hydra.sweeper.reuse", options.reuse, REUSE)
    for key in ("sampler", "pruner"):
        given = getattr(options, key)
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(
                f"hydra.sweeper.{key}={given}: choose {key}={given}, or give {{_target_: optuna.{key}s.NAME}}"
            )
    for key in ("old_values", "constraints"):
        given = getattr(options, key)
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"hydra.sweeper.{key}={given}: give names and values, e.g. {{NAME: VALUE}}")
    for key in ("baseline", "overrides"):
        for line in getattr(options.final, key):
            if line.lstrip("+~").partition("=")[0] == options.final.seed_key:
                raise ValueError(
                    f"hydra.sweeper.final.{key}: {line} has no effect, for each arm is trained on hydra.sweeper.final.seeds seeds "
                    "from first_seed on; leave it out"
                )
    name = options.study_name
    if not name or set(name) & set("/\\") or name in (".", "..") or not name.isprintable() or name != name.strip():
        raise ValueError(
            f"hydra.sweeper.study_name={name!r}: it names a folder below runs/, so give a plain name "
            "without slashes, e.g. hydra.sweeper.study_name=my_stages"
        )
    if len(name.encode()) > LONGEST_NAME:
        raise ValueError(f"hydra.sweeper.study_name={name}: {len(name.encode())} bytes, allowed are {LONGEST_NAME}")


def _check_numbers(options: SweeperOptions) -> None:
    for key, low in (("n_trials", 1), ("n_jobs", 1), ("max_retries", 0), ("max_skips", 1), ("seeds_per_trial", 1)):
        check_number(f"hydra.sweeper.{key}", getattr(options, key), low=low)
    check_number("hydra.sweeper.trial_minutes", options.trial_minutes, above=0, null="no limit")
    check_number("hydra.sweeper.patience_minutes", options.patience_minutes, low=0)
    check_number("hydra.sweeper.max_failure_rate", options.max_failure_rate, low=0, high=1)
    check_number("hydra.sweeper.warm_start.top", options.warm_start.top, low=1, high=options.warm_start.candidates)
    for key, low in (("top_k", 0), ("seeds", 1), ("first_seed", 0)):
        check_number(f"hydra.sweeper.final.{key}", getattr(options.final, key), low=low, null="the default")


def _check_beside_design(options: SweeperOptions) -> None:
    """Raise ValueError for what a design would pass over in silence."""
    if options.pruner:
        raise ValueError("hydra.sweeper.design: every cell is trained to its end; take pruner=none")
    if options.custom_search_space:
        raise ValueError("hydra.sweeper.design takes no custom_search_space; write its factors down")
    if options.seeds_per_trial > 1:
        raise ValueError("hydra.sweeper.seeds_per_trial is for searches; a design has hydra.sweeper.design.seeds")
    if options.warm_start.score:
        raise ValueError("hydra.sweeper.warm_start is for searches; a design trains all of its cells")


_FORM = re.compile(r"\s*(<=|>=)?\s*((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")


@dataclass(frozen=True)
class Constraint:
    """One limit, both ends included.

    Attributes:
        name: a cost that trials state before they train, e.g. "params", "macs_fused", "latency_ms".
        upper: whether `limit` is the most, else the least that is allowed.
    """

    name: str
    upper: bool
    limit: float

    def violation(self, costs: Mapping[str, Any]) -> str | None:
        """Why `costs` break the limit, or None where they keep it.

        Raises:
            ValueError: the cost was not stated.
        """
        value = costs.get(self.name)
        if value is None:
            raise ValueError(f"hydra.sweeper.constraints.{self.name}: the trial did not state it before training")
        if (value <= self.limit) if self.upper else (value >= self.limit):
            return None
        return f"{self.name} {value:g} is {'above' if self.upper else 'below'} {self.limit:g}"


def parse_constraints(given: Mapping[str, Any] | None, known: tuple[str, ...] | None) -> tuple[Constraint, ...]:
    """Read `hydra.sweeper.constraints`: name -> "<=1e6", ">=10", or a bare number, which is an upper limit.

    Args:
        known: names that the task can state; None where it does not say.

    Raises:
        ValueError: an unknown name, or a limit that is no number.
    """
    found = []
    for name, text in (given or {}).items():
        if known is not None and name not in known:
            raise ValueError(f"hydra.sweeper.constraints.{name}: allowed are {', '.join(known)}{meant(name, known)}")
        match = _FORM.fullmatch(str(text))
        if match is None:
            raise ValueError(
                f"hydra.sweeper.constraints.{name}={text}: give a limit such as '<=1.2e6', '>=10', or a number, which is the most"
            )
        found.append(Constraint(str(name), match[1] != ">=", float(match[2])))
    return tuple(found)
