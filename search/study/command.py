"""What a command asks of a study, read and refused before anything is trained, most of it before Optuna is loaded.

Hydra hands what a sweep varies to the sweeper unread; what is wrong with it would show when the first trial is composed,
or, where something given beside it wins over it, never.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from hydra.errors import ConfigCompositionException, HydraException
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from search.channel import Application
from search.ledger.study_files import Cell, refuse_blocked
from search.report.words import int_ranges
from search.space.parameters import Space, parse_space
from search.study.launching.compose import Composer, as_text, without_hydra
from search.study.launching.launcher import is_local, worker_count
from search.study.launching.slots import ranks_of
from search.study.options import FinalOptions, SweeperOptions, check_options, parse_constraints, read_options
from xvol.allowed import check_choice, meant

OF_A_SEARCH = ("hydra.sweeper.n_trials", "hydra.sweeper.max_skips", "hydra.sweeper.old_values", "hydra.sweeper.final.")


def read_command(
    config: DictConfig,
    arguments: Sequence[str],
    given: Mapping[str, Any],
    composer: Composer,
    task: TaskFunction,
) -> tuple[SweeperOptions, Space]:
    """The options and the search space of a sweep.

    Args:
        config: the composed config of the sweep.
        arguments: the overrides of the sweep, e.g. "placement.policy=choice(none,stage3)".
        given: what stands in `hydra.sweeper`.
        composer: of `config`.
        task: an `Application`, or a plain task function.

    Raises:
        ValueError, HydraException, OmegaConfBaseException: what is wrong, what is allowed, how to mend it.
    """
    app = Application.of(task)
    refuse_unknown_keys(config, arguments)
    options = read_options(given)
    check_options(options)
    _refuse_options_of_a_search(config, options)
    parse_constraints(options.constraints, app.costs)
    _check_ranks(config)
    worker_count(config.hydra.launcher, options.n_jobs)
    refuse_blocked(Path(str(config.hydra.sweep.dir)) / "tables", "hydra.sweep.dir")
    if options.warm_start.score is not None and app.scores:
        check_choice("hydra.sweeper.warm_start.score", options.warm_start.score, app.scores)
    _check_seed_key(config, options)
    space = parse_space(arguments, options.params or {}, composer.loader)
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
    _refuse_overridden_groups(config, space, composer)
    _check_old_values(options, space)
    if options.design.kind is None:
        refuse_seeds_of_the_search(config, space, options.final, options.seeds_per_trial)
    shared = replace(space, fixed=(*space.fixed, *options.design.overrides))
    others = options.design.factors or options.custom_search_space  # they may give a parameter its effect
    refuse_wrong_values(config, shared, composer, app, moot=not others)
    return options, space


def _check_ranks(config: DictConfig) -> None:
    """Refuse GPUs of a trial that would stand idle, since ranks share out the parts of a batch."""
    given, parts = ranks_of(config.hydra.launcher), OmegaConf.select(config, "train.accumulate")
    ranks = config.get("ranks")
    if ranks is None or not isinstance(parts, int):  # of another application
        return
    if ranks not in ("auto", given) and (given > 1 or is_local(config.hydra.launcher)):
        raise ValueError(
            f"ranks={ranks}, and the launcher gives a trial {given} GPU(s) or places on the CPU: leave ranks out, and write "
            f"hydra.launcher.gpus_per_trial={ranks} (on Slurm gpus_per_node, with Ray ray.remote.num_gpus)"
        )
    if parts % given:
        raise ValueError(
            f"the launcher gives a trial {given} GPUs, of which each takes whole parts of the batch of an update, and there are "
            f"train.accumulate={parts}: write train.accumulate={given}, which is another recipe (batch norms see data.batch_size / "
            "train.accumulate images at a time), or give a trial one GPU"
        )


def _check_seed_key(config: DictConfig, options: SweeperOptions) -> None:
    key = options.final.seed_key
    value = OmegaConf.select(config, key)
    if (options.final.top_k or options.design.kind or options.seeds_per_trial > 1) and type(value) is not int:
        raise ValueError(
            f"hydra.sweeper.final.seed_key={key}: it names the key of the config that takes the seed, a whole number, and there "
            f"stands {value!r}{meant(key, [str(name) for name in config])}"
        )


def _refuse_overridden_groups(config: DictConfig, space: Space, composer: Composer) -> None:
    """The choice of a group of which each key that it sets is varied is made in vain."""
    lines = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(lines, list)
    for line in lines:
        group = str(line).partition("=")[0]
        below = [p for p in space.parameters if p.name.startswith(f"{group}.")]
        if not below or line not in space.fixed or not composer.is_group(group):
            continue
        without = tuple(each for each in space.fixed if each != line)
        point = space.variations()[0]
        varied = [
            as_text(_part(composer.compose(s.overrides(point)), group)) for s in (space, replace(space, fixed=without))
        ]
        alone = [as_text(_part(composer.compose(fixed), group)) for fixed in (space.fixed, without)]
        if varied[0] == varied[1] and alone[0] != alone[1]:
            raise ValueError(
                f"{line} has no effect: {below[0].name} is varied, which wins over it; leave it out, or take the parameter out "
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


MAX_CHECKS = 64  # configurations that are looked at before a study starts
_KEY = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)=")  # no group, nothing added, deleted or renamed


def refuse_unknown_keys(config: DictConfig, arguments: Sequence[str]) -> None:
    """Raise what Hydra would raise for a key that its dataclass does not have, whatever groups are chosen."""
    for argument in arguments:
        match = _KEY.match(argument)
        if match is None:
            continue
        path = match[1].split(".")
        for depth, name in enumerate(path):
            node = OmegaConf.select(config, ".".join(path[:depth])) if depth else config
            kind = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
            if kind is None or not is_dataclass(kind):
                break
            if name not in (field.name for field in fields(kind)) and name != "hydra":
                raise ConfigCompositionException(
                    f"Could not override '{match[1]}'.\nKey '{name}' not in '{kind.__name__}'"
                )


def refuse_wrong_values(
    config: DictConfig, space: Space, composer: Composer, app: Application, moot: bool = True
) -> None:
    """Raise what the application says of a level of a parameter, where no other group than the first is chosen for it.

    Hydra, which takes a seventh of a second for each composition, composes once at most. Whatever stands in the way is
    left to the check of all composed configs.

    Args:
        config: the composed config of the sweep.
        moot: whether a parameter that changes nothing in these configs is refused; the application is believed where it
            says so for each choice of the groups, too.
    """
    names = [parameter.name for parameter in space.parameters]
    try:
        configs = list(_quick_configs(config, space, composer))
        for trial in configs:
            app.check_values(trial)
        if not moot:
            return
        try:
            app.refuse_moot(names, configs)
        except ValueError:
            every = (composer.compose(space.overrides(point)) for point in space.variations())
            app.refuse_moot(names, [without_hydra(trial) for trial in every])
    except (HydraException, OmegaConfBaseException):
        return


def refuse_dead_parameters(space: Space, points: Sequence[Mapping[str, Any]], configs: Sequence[DictConfig]) -> None:
    """Raise ValueError for a parameter whose values all come to the same.

    Args:
        points, configs: the first point and those that differ from it in one parameter, and what they are composed to.
    """
    texts = [as_text(config) for config in configs]
    for parameter in space.parameters:
        others = [
            text
            for point, text in zip(points, texts, strict=True)
            if point[parameter.name] != points[0][parameter.name]
        ]
        if len(points) < MAX_CHECKS and others and all(text == texts[0] for text in others):
            raise ValueError(
                f"{parameter.name} has no effect: each of its values gives the same configuration, for what is given beside it "
                f"wins over it ({', '.join(space.fixed) or 'nothing'}); a single key wins over the choice of its group. Leave "
                "one of them out"
            )


def refuse_equal_cells(
    cells: Sequence[Cell], configs: Sequence[DictConfig], fixed: Sequence[str], matched: Collection[str]
) -> None:
    """Raise ValueError where two cells come to the same config; controls, whose names are in `matched`, may come to an arm's."""
    names: dict[str, str] = {}
    for cell, config in zip(cells, configs, strict=True):
        twin = names.setdefault(as_text(config), cell.name)
        if twin != cell.name and cell.name not in matched:
            raise ValueError(
                f"cells {twin} and {cell.name} of the design are the same configuration: what sets them apart "
                f"({', '.join(cell.overrides) or 'nothing'}) is what the config says anyway, or is overridden by what is given "
                f"for all cells ({', '.join(fixed) or 'nothing'}); a single key wins over the choice of its group"
            )


def refuse_seeds_of_the_search(config: DictConfig, space: Space, final: FinalOptions, seeds_per_trial: int) -> None:
    """Raise ValueError where the re-evaluation would train on seeds that the search trains on.

    A seed that helped to choose an arm flatters it: the chosen arms are those that this seed was kind to. Seeds that
    nobody gives are none of the search's: `first_seed_of`.
    """
    if not final.top_k or final.first_seed is None:
        return
    key = final.seed_key
    searched = searched_seeds(config, space, key, seeds_per_trial)
    shared = searched & set(range(final.first_seed, final.first_seed + final.seeds))
    if shared:
        several = "s" * (len(shared) > 1)
        raise ValueError(
            f"hydra.sweeper.final: the re-evaluation would train on seed{several} {int_ranges(shared)}, which the search trains on "
            f"too ({key} {int_ranges(searched)}), so that it would not be on fresh seeds; leave hydra.sweeper.final.first_seed "
            f"out, or write hydra.sweeper.final.first_seed={max(searched) + 1}, or another of {final.seeds} seeds that the search "
            "has not seen"
        )


def searched_seeds(config: DictConfig, space: Space, key: str, seeds_per_trial: int) -> set[int]:
    """The seeds that a search trains on; an empty set where `key` is no number of its config."""
    swept = [parameter for parameter in space.parameters if parameter.name == key]
    given = [line.partition("=")[2] for line in space.fixed if line.lstrip("+").partition("=")[0] == key]
    firsts: Collection[Any] = [*given, OmegaConf.select(config, key)][:1]
    for parameter in swept:
        firsts = parameter.levels() or range(int(parameter.low), int(parameter.high) + 1)
    try:
        starts = [int(first) for first in firsts]
    except (TypeError, ValueError):  # no seed in this application's config, or no number: told by its own check
        return set()
    return {start + turn for start in starts for turn in range(seeds_per_trial)}


def _quick_configs(config: DictConfig, space: Space, composer: Composer) -> Iterator[DictConfig]:
    """A trial's config for the first point, and for each other level of one parameter that is no group."""
    here = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(here, list)
    first, *others = space.variations()[:MAX_CHECKS]
    is_group = {parameter.name: composer.is_group(parameter.name) for parameter in space.parameters}
    points = [first, *(p for p in others if all(p[name] == first[name] for name in first if is_group[name]))]
    base = without_hydra(config.copy())
    late = [line for line in space.fixed if line not in here]  # of hydra.sweeper.params
    for point in points:
        lines = [*late, *(parameter.override(point[parameter.name]) for parameter in space.parameters)]
        quick = None if any(is_group.values()) else composer.put_on(base, lines)
        yield without_hydra(composer.compose(space.overrides(point))) if quick is None else quick


def check_objectives(facts: Mapping[str, Any], directions: Sequence[str]) -> None:
    """Raise ValueError where a study has other directions than the facts of a checked trial, see `Application.check`."""
    expected = len(directions)
    if facts.get("objectives", expected) != expected:
        raise ValueError(
            f"objectives names {facts['objectives']} metric(s), hydra.sweeper.direction {expected}: give one direction for each"
        )
    for (name, sense), direction in zip((facts.get("senses") or {}).items(), directions, strict=False):
        if sense != direction:
            raise ValueError(
                f"hydra.sweeper.direction={direction} for the objective {name}: less would be lost with {sense}; "
                f"give hydra.sweeper.direction={sense}, or a list with one direction for each objective in their order"
            )
