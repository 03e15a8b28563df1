"""Which rankings of the same arms stand beside each other: phases, budgets, studies, and the epochs of one training."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn, metric_columns
from search.ledger.record import read_history, recipe_settings
from search.report.arms import compared_trials, list_arms
from search.report.reading.load import load_study
from search.report.reading.rows import differing, folder_of, recipe_folders
from search.report.reading.scored import kept_nothing, with_scores
from search.report.values import arm_values, has_looks, metric_to_read, phase_to_read
from search.stats.ranking import ProxyTrust, proxy_trust

FEWEST_TO_RANK = 3  # two arms have a tau of 1 or -1, whatever the rankings are worth
MOST_OF_THE_BEST = 3
SHARES = (0.5, 0.75)  # of the epochs, after which a pruner would choose
IN_WORDS = {0.5: "half of the epochs", 0.75: "three quarters of the epochs"}
PHASE_NAMES = {"search": "the search phase", "final": "the final re-evaluation", "single": "the single runs"}
EPOCHS = "train.epochs"
Key = tuple[str, str | None]
Folder = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The arms at one budget: what it is, in words, what the means are of, and the fewest and the most epochs behind one.

    `values` has, by network and recipe, the value on each seed; arms without a finished trial are not in it.
    """

    name: str
    metric: MetricColumn
    epochs: tuple[int, int] | None
    values: Mapping[Key, Mapping[int, float]] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class TrustCase:
    """Two rankings of the same arms, and how well they agree.

    Attributes:
        kind: "phases", "budgets", "epochs" or "studies".
        arms: arms that both have; `trust` is over those of them that have a seed in each.
        seeds: seeds behind a mean of the shared arms, the fewest and the most: (cheap, expensive).
        divided: seeds that both rankings had. Each went to one of them, since luck that two rankings share looks like
            agreement.
        means: what `trust` compares: columns cheap and expensive, float64, by the arm's name.
        settings: settings of the recipe that differ, with the value of each.
        left_out: trials that could not be read for it.
    """

    kind: str
    cheap: Ranking
    expensive: Ranking
    arms: int
    trust: ProxyTrust
    seeds: tuple[tuple[int, int], tuple[int, int]]
    means: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)
    settings: Mapping[str, list[Any]] = field(default_factory=dict)
    divided: tuple[int, ...] = ()
    left_out: int = 0


def scored(frame: pd.DataFrame, metric: str | None) -> pd.DataFrame:
    """Add to a frame what a ranking by `metric` takes: the metric, and what the search is ranked by in its place."""
    known = metric_columns()
    twin = validation_of(known[metric]) if metric in known else None
    return with_scores(frame, [metric, twin.column if twin else None])


def phase_case(frame: pd.DataFrame, metric: MetricColumn) -> TrustCase | None:
    """Compare what the search saw on validation data with what the final re-evaluation found; None where one is missing.

    `metric` is of the final phase; the search is ranked by its counterpart on the validation data.
    """
    chose = validation_of(metric)
    if chose is None or has_looks(frame):  # a design with looks chose no arm: both phases are of the same trainings
        return None
    search, final = (frame[frame["phase"] == phase] for phase in ("search", "final"))
    measured = final.loc[final["status"] == "ok", metric.column].notna().any()
    cheap, expensive = _ranked(search, "search", chose), _ranked(final, "final", metric if measured else chose)
    return case("phases", cheap, expensive, frame) if cheap.values and expensive.values else None


def budget_cases(frame: pd.DataFrame, phase: str, metric: MetricColumn) -> list[TrustCase]:
    """Compare each smaller number of epochs of a phase with the largest one, where nothing else of the recipe differs.

    The settings are read from one trial of each recipe.
    """
    trials = frame[(frame["phase"] == phase) & (frame["status"] == "ok")]
    if trials["epochs_planned"].nunique() < 2 or trials["recipe_hash"].nunique() < 2:
        return []
    alike: dict[str, list[tuple[int, str]]] = {}
    for recipe, settings in _settings_of(trials, folder_of(frame)).items():
        if settings is not None and isinstance(settings.get(EPOCHS), int):
            rest = {name: value for name, value in settings.items() if name != EPOCHS}
            alike.setdefault(repr(sorted(rest.items())), []).append((settings[EPOCHS], recipe))
    cases = []
    for recipes in alike.values():
        *fewer, (most, longest) = sorted(recipes)
        for epochs, recipe in fewer:
            cheap, expensive = (
                _ranked(trials[trials["recipe_hash"] == each], phase, metric) for each in (recipe, longest)
            )
            if cheap.values and expensive.values:
                cases.append(case("budgets", cheap, expensive, trials, settings={EPOCHS: [epochs, most]}))
    return cases


def epoch_cases(frame: pd.DataFrame, phase: str, metric: MetricColumn) -> list[TrustCase]:
    """Compare the ranking after half, and after three quarters, of the epochs with the last one: what a pruner trusts.

    Both come from the same trials, those that were trained to their end. Where the arms have several numbers of epochs,
    the number that most arms have is taken. Reads the `history.csv` of each trial, which holds the counterpart of `metric` on
    the validation data.
    """
    shown = validation_of(metric)
    trials = frame[(frame["phase"] == phase) & (frame["status"] == "ok") & frame["epochs_planned"].gt(1)]
    if shown is None or shown.from_samples or not len(trials):  # samples are of the end alone
        return []
    counts = trials.groupby("epochs_planned")["arch_hash"].nunique()
    planned = int(counts.index[int(counts.argmax())])
    trials = trials[trials["epochs_planned"] == planned]
    root = folder_of(frame)
    at = {share: epoch for share in SHARES if (epoch := math.ceil(share * planned)) < planned}
    read = [
        _history_values(root / place, shown.column, [*at.values(), planned]) for place in trials["run_dir"].tolist()
    ]
    whole = [values is not None for values in read]
    trials = trials[whole]
    values = np.array([each for each in read if each is not None], dtype=float).reshape(-1, len(at) + 1)
    end = f"{PHASE_NAMES[phase]} after the last epoch"
    expensive = _ranked(trials.assign(**{shown.column: values[:, -1]}), phase, shown, end)
    cases = []
    for column, (share, epoch) in enumerate(at.items()):
        early = trials.assign(**{shown.column: values[:, column]})
        cheap = _ranked(early, phase, shown, f"{PHASE_NAMES[phase]} after {IN_WORDS[share]}", (epoch, epoch))
        if cheap.values:
            cases.append(case("epochs", cheap, expensive, trials, left_out=whole.count(False)))
    return cases


def study_case(cheap: Folder, expensive: Folder, metric: str | None = None, phase: str | None = None) -> TrustCase:
    """Compare the rankings of two studies, by network; their recipes may differ, and the case says in what.

    `metric` and `phase` are of both. By default the metric is the one the expensive study is judged by, and its counterpart on the
    validation data for a cheap one that has no test scores; the phase of each is the one whose numbers are worth the most.
    """
    frames = [scored(load_study(path), metric) for path in (cheap, expensive)]
    phases = [phase_to_read(frame, phase) for frame in frames]
    trials = [frame[frame["phase"] == each] for frame, each in zip(frames, phases, strict=True)]
    wanted = metric_to_read(trials[1], phases[1], metric)
    has = trials[0].loc[trials[0]["status"] == "ok", wanted.column].notna().any()
    other = wanted if has or metric is not None else validation_of(wanted)
    if other is None or not (has or metric is None):
        raise ValueError(
            f"no finished trial of {cheap}, phase '{phases[0]}', has {wanted.column}; choose --metric{kept_nothing(wanted)}"
        )
    sides = [
        _ranked(rows, each, by, f"{path}, {PHASE_NAMES[each]}")
        for rows, each, by, path in zip(trials, phases, (other, wanted), (cheap, expensive), strict=True)
    ]
    known = []
    for rows, path in zip(trials, (cheap, expensive), strict=True):
        known += [found for found in _settings_of(rows, Path(path)).values() if found is not None][:1]
    settings = differing(known) if len(known) == 2 else {}
    return case("studies", sides[0], sides[1], pd.concat(trials), settings=settings)


def case(
    kind: str,
    cheap: Ranking,
    expensive: Ranking,
    trials: pd.DataFrame,
    settings: Mapping[str, list[Any]] | None = None,
    left_out: int = 0,
) -> TrustCase:
    """Match the arms of two rankings, and compare them.

    Arms match by network and recipe; where no recipe is in both rankings (they differ by their budget), by network,
    where it has one recipe in each. No seed stands behind both rankings.
    """
    by_recipe = kind in ("phases", "epochs") and bool(cheap.values.keys() & expensive.values.keys())
    found: list[dict[Any, Mapping[int, float]]] = []
    for side in (cheap, expensive):
        keys = list(side.values)
        networks = [arch for arch, _ in keys]
        known = {key if by_recipe else key[0]: key for key in keys if by_recipe or networks.count(key[0]) == 1}
        found.append({name: side.values[key] for name, key in known.items()})
    shared = sorted(found[0].keys() & found[1].keys(), key=str)
    own, divided = divide(*({seed for key in shared for seed in side[key]} for side in found))
    kept = [
        {key: [value for seed, value in side[key].items() if seed in seeds] for key in shared}
        for side, seeds in zip(found, own, strict=True)
    ]
    ranked_twice = [key for key in shared if all(side[key] for side in kept)]
    names = _names_of(trials, ranked_twice)
    series = [pd.Series([np.mean(side[key]) for key in ranked_twice], index=names, dtype=float) for side in kept]
    counts = [[len(side[key]) for key in ranked_twice] or [0] for side in kept]
    k = min(MOST_OF_THE_BEST, max(len(ranked_twice) // 2, 1))  # of all arms, the best k are always the same
    return TrustCase(
        kind=kind,
        cheap=cheap,
        expensive=expensive,
        arms=len(shared),
        trust=proxy_trust(*series, k=k, higher_is_better=expensive.metric.higher_is_better),
        means=pd.DataFrame(dict(zip(("cheap", "expensive"), series, strict=True))),
        seeds=((min(counts[0]), max(counts[0])), (min(counts[1]), max(counts[1]))),
        settings=settings or {},
        divided=divided,
        left_out=left_out,
    )


def divide(cheap: set[int], expensive: set[int]) -> tuple[tuple[set[int], set[int]], tuple[int, ...]]:
    """Give each seed that both rankings have to the one that has fewer; return both, and the seeds in question."""
    own, both = (cheap - expensive, expensive - cheap), tuple(sorted(cheap & expensive))
    for seed in both:
        min(own, key=len).add(seed)
    return own, both


def _ranked(
    trials: pd.DataFrame,
    phase: str,
    metric: MetricColumn,
    name: str | None = None,
    epochs: tuple[int, int] | None = None,
) -> Ranking:
    arms = list_arms(compared_trials(trials))
    values: dict[Key, Mapping[int, float]] = {}
    for arm, measured in zip(arms, arm_values(arms, metric.column), strict=True):
        if arm.arch_hash is not None and len(measured.values):
            found = zip(measured.seeds.tolist(), measured.values.tolist(), strict=True)
            values[arm.arch_hash, arm.recipe_hash] = dict(found)
    planned = trials.loc[trials["status"] == "ok", "epochs_planned"].dropna()
    if epochs is None and len(planned):
        epochs = (int(planned.min()), int(planned.max()))
    return Ranking(name=name or PHASE_NAMES[phase], metric=metric, epochs=epochs, values=values)


def _names_of(trials: pd.DataFrame, keys: Sequence[Any]) -> list[str]:
    """Name networks, with hashes behind a name that several share."""
    named = trials.dropna(subset=["arm", "arch_hash"]).drop_duplicates("arch_hash")
    label = dict(zip(named["arch_hash"], named["arm"], strict=True))
    parts = [key if isinstance(key, tuple) else (key,) for key in keys]
    names = [str(label.get(each[0], each[0])) for each in parts]
    return [
        name if names.count(name) == 1 else f"{name} [{', '.join(map(str, each))}]"
        for name, each in zip(names, parts, strict=True)
    ]


def validation_of(metric: MetricColumn) -> MetricColumn | None:
    """Return what a search can be ranked by in place of a metric of the test data; None for a cost."""
    return metric if metric.split == "probe" else metric_columns().get(f"val_{metric.name}")


def _settings_of(trials: pd.DataFrame, root: Path) -> dict[str, dict[str, Any] | None]:
    return {recipe: recipe_settings(folder) for recipe, folder in recipe_folders(root, trials).items()}


def _history_values(folder: Path, column: str, epochs: Sequence[int]) -> list[float] | None:
    """Read a metric after some epochs; None where the history is not whole."""
    rows = read_history(folder)
    if len(rows) < max(epochs):
        return None
    try:
        values = [float(rows[epoch - 1][column]) for epoch in epochs]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None
