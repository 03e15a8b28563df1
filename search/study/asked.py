"""What a command asks of a study, read and refused as far as that takes neither Optuna nor torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from search.allowed import check_choice
from search.ledger.paths import refuse_blocked
from search.space.parameters import Space, parse_space
from search.study.launching.compose import Composer, as_text
from search.study.launching.launcher import worker_count
from search.study.mistakes import refuse_seeds_of_the_search, refuse_unknown_keys, refuse_wrong_values
from search.study.options import SweeperOptions, check_options, read_options
from search.study.sampling.constraints import parse_constraints
from xvol.suggest import meant

__all__ = ["read_command"]

OF_A_SEARCH = ("hydra.sweeper.n_trials", "hydra.sweeper.max_skips", "hydra.sweeper.old_values", "hydra.sweeper.final.")


def read_command(
    config: DictConfig, arguments: Sequence[str], given: Mapping[str, Any], config_loader: Any, task: Any
) -> tuple[SweeperOptions, Space]:
    """The options and the search space of a sweep.

    Args:
        config: the composed config of the sweep.
        arguments: the overrides of the sweep, e.g. "placement.policy=choice(none,stage3)".
        given: what stands in `hydra.sweeper`.
        config_loader: Hydra's.
        task: its attributes are asked where it has them: `check_values`, given a trial's config, and `refuse_moot`, given keys
            and configs of trials, raise ValueError for what is wrong on the face of it; `costs` are names for constraints.

    Raises:
        ValueError, HydraException, OmegaConfBaseException: what is wrong, what is allowed, how to mend it.
    """
    refuse_unknown_keys(config, arguments)
    options = read_options(given)
    check_options(options)
    _refuse_options_of_a_search(config, options)
    parse_constraints(options.constraints, getattr(task, "costs", None))
    worker_count(config.hydra.launcher, options.n_jobs)
    refuse_blocked(Path(str(config.hydra.sweep.dir)) / "tables", "hydra.sweep.dir")
    if options.warm_start.score is not None and hasattr(task, "scores"):
        check_choice("hydra.sweeper.warm_start.score", options.warm_start.score, task.scores)
    _check_seed_key(config, options)
    space = parse_space(arguments, options.params or {}, config_loader)
    if not space.parameters and not options.custom_search_space and options.design.kind is None:
        raise ValueError(
            "there is nothing to search: give at least one parameter, e.g. 'placement.policy=choice(none,stage3,stage4)', "
            "an experiment (experiment=cifar10_stages), or run without -m to train one architecture"
        )
    target = str((options.sampler or {}).get("_target_"))
    if target.endswith(".CmaEsSampler") and space.parameters and all(parameter.texts for parameter in space.parameters):
        names = ", ".join(parameter.name for parameter in space.parameters)
        raise ValueError(
            f"sampler=cmaes is for numbers, and {names} are choices, which it draws at random; take sampler=tpe"
        )
    if options.design.kind is not None and any(p.name == options.final.seed_key for p in space.parameters):
        raise ValueError(
            f"{options.final.seed_key} is varied, and a design trains each of its cells on the same seeds; leave it out, or give "
            "hydra.sweeper.design.seeds and first_seed"
        )
    _refuse_overridden_groups(config, space, config_loader)
    _check_old_values(options, space)
    if options.design.kind is None:
        refuse_seeds_of_the_search(config, space, options.final, options.seeds_per_trial)
    check_values, refuse_moot = getattr(task, "check_values", None), getattr(task, "refuse_moot", None)
    if check_values is not None:
        shared = replace(space, fixed=(*space.fixed, *options.design.overrides))
        others = options.design.factors or options.custom_search_space  # they may give a parameter its effect
        refuse_wrong_values(config, shared, config_loader, check_values, None if others else refuse_moot)
    return options, space


def _check_seed_key(config: DictConfig, options: SweeperOptions) -> None:
    key = options.final.seed_key
    value = OmegaConf.select(config, key)
    if (options.final.top_k or options.design.kind or options.seeds_per_trial > 1) and type(value) is not int:
        raise ValueError(
            f"hydra.sweeper.final.seed_key={key}: it names the key of the config that takes the seed, a whole number, and there "
            f"stands {value!r}{meant(key, [str(name) for name in config])}"
        )


def _refuse_overridden_groups(config: DictConfig, space: Space, config_loader: Any) -> None:
    """The choice of a group of which each key that it sets is varied is made in vain."""
    lines = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(lines, list)
    for line in lines:
        group = str(line).partition("=")[0]
        below = [p for p in space.parameters if p.name.startswith(f"{group}.")]
        if not below or line not in space.fixed or not config_loader.repository.group_exists(group):
            continue
        compose = Composer(config_loader, config).compose
        without = tuple(each for each in space.fixed if each != line)
        point = space.variations()[0]
        varied = [as_text(_part(compose(s.overrides(point)), group)) for s in (space, replace(space, fixed=without))]
        alone = [as_text(_part(compose(fixed), group)) for fixed in (space.fixed, without)]
        if varied[0] == varied[1] and alone[0] != alone[1]:
            raise ValueError(
                f"{line} has no effect: {below[0].name} is varied, which goes over it; leave it out, or take the parameter out "
                f"with '~hydra.sweeper.params.{below[0].name}' or space=none"
            )


def _part(config: DictConfig, group: str) -> DictConfig:
    found = config.get(group)
    return found if isinstance(found, DictConfig) else OmegaConf.create({})


def _check_old_values(options: SweeperOptions, space: Space) -> None:
    names = [parameter.name for parameter in space.parameters]
    for name in options.old_values or {}:
        if name not in names and not options.custom_search_space:
            raise ValueError(
                f"hydra.sweeper.old_values: {name} is no parameter of this study; its parameters: {', '.join(names) or 'none'}"
            )


def _refuse_options_of_a_search(config: DictConfig, options: SweeperOptions) -> None:
    """A design has no search and no re-evaluation: what is asked of them by hand would be passed over in silence."""
    if options.design.kind is None:
        return
    lines = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
    assert isinstance(lines, list)
    for line in lines:
        key = str(line).lstrip("+~").partition("=")[0]
        if key.startswith(OF_A_SEARCH) and key != "hydra.sweeper.final.seed_key":
            raise ValueError(
                f"{line} has no effect: {key} is of a search, and design={options.design.kind} trains each of its cells on "
                "hydra.sweeper.design.seeds seeds; leave it out"
            )
