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

from search.ledger.metric import MetricColumn, metric_columns, metric_named
from search.ledger.record import read_history
from search.report.ablation import AblationTable
from search.report.arms import list_arms
from search.report.reading.load import load_study
from search.report.reading.pool import recipe_folders
from search.report.reading.settings import differing, recipe_settings
from search.report.values import arm_values, has_looks, metric_to_read, phase_to_read
from search.report.words import counted, one_line
from search.stats.ranking import ProxyTrust, proxy_trust

FEWEST_TO_RANK = 3  # two arms have a tau of 1 or -1, whatever the rankings are worth
MOST_OF_THE_BEST = 3
SHARES = (0.5, 0.75)  # of the epochs, after which a pruner would choose
IN_WORDS = {0.5: "half of the epochs", 0.75: "three quarters of the epochs"}
PHASE_NAMES = {"search": "the search phase", "final": "the final re-evaluation", "single": "the single runs"}
EPOCHS = "train.epochs"

Key = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The arms at one budget.

    Attributes:
        name: what it is, in words.
        metric: what the means are of.
        epochs: epochs of training behind a mean: the fewest and the most.
        values: of each arm, by network and recipe, the value on each seed; arms without a finished trial are not in it.
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
        cheap, dear: the two rankings.
        arms: arms that both have.
        trust: how well they agree, over those of them that have a seed in each.
        seeds: seeds behind a mean of the shared arms, the fewest and the most: (cheap, dear).
        divided: seeds that both rankings had. Each went to one of them, since luck that two rankings share looks like
            agreement.
        settings: settings of the recipe that differ, with the value of each.
        left_out: trials that could not be read for it.
    """

    kind: str
    cheap: Ranking
    dear: Ranking
    arms: int
    trust: ProxyTrust
    seeds: tuple[tuple[int, int], tuple[int, int]]
    settings: Mapping[str, list[Any]] = field(default_factory=dict)
    divided: tuple[int, ...] = ()
    left_out: int = 0


def phase_case(frame: pd.DataFrame, metric: MetricColumn) -> TrustCase | None:
    """Compare what the search saw on validation data with what the final re-evaluation found; None where one is missing.

    Args:
        frame: rows of `load_study`.
        metric: of the final phase; the search is ranked by its counterpart on the validation data.
    """
    chose = validation_of(metric)
    if chose is None or has_looks(frame):  # a design with looks chose no arm: both phases are of the same trainings
        return None
    search, final = (frame[frame["phase"] == phase] for phase in ("search", "final"))
    measured = final.loc[final["status"] == "ok", metric.column].notna().any()
    cheap, dear = ranked(search, "search", chose), ranked(final, "final", metric if measured else chose)
    return case("phases", cheap, dear, frame) if cheap.values and dear.values else None


def budget_cases(frame: pd.DataFrame, phase: str, metric: MetricColumn) -> list[TrustCase]:
    """Compare each smaller number of epochs of a phase with the largest one, where nothing else of the recipe differs.

    Args:
        frame: rows of `load_study`, or of `load_pooled`; the settings are read from one trial of each recipe.
        phase: whose trials to read.
        metric: what the arms are ranked by.
    """
    trials = frame[(frame["phase"] == phase) & (frame["status"] == "ok")]
    if trials["epochs_planned"].nunique() < 2 or trials["recipe_hash"].nunique() < 2:
        return []
    alike: dict[str, list[tuple[int, str]]] = {}
    for recipe, settings in settings_of(trials, folder_of(frame)).items():
        if settings is not None and isinstance(settings.get(EPOCHS), int):
            rest = {name: value for name, value in settings.items() if name != EPOCHS}
            alike.setdefault(repr(sorted(rest.items())), []).append((settings[EPOCHS], recipe))
    cases = []
    for recipes in alike.values():
        *fewer, (most, longest) = sorted(recipes)
        for epochs, recipe in fewer:
            cheap, dear = (ranked(trials[trials["recipe_hash"] == each], phase, metric) for each in (recipe, longest))
            if cheap.values and dear.values:
                cases.append(case("budgets", cheap, dear, trials, settings={EPOCHS: [epochs, most]}))
    return cases


def epoch_cases(frame: pd.DataFrame, phase: str, metric: MetricColumn) -> list[TrustCase]:
    """Compare the ranking after half, and after three quarters, of the epochs with the last one: what a pruner trusts.

    Both come from the same trials, those that were trained to their end. Where the arms have several numbers of epochs,
    the number that most arms have is taken. Reads the `history.csv` of each trial.

    Args:
        frame: rows of `load_study`, or of `load_pooled`.
        phase: whose trials to read.
        metric: its counterpart on the validation data is what the history holds.
    """
    shown = validation_of(metric)
    trials = frame[(frame["phase"] == phase) & (frame["status"] == "ok") & frame["epochs_planned"].gt(1)]
    if shown is None or not len(trials):
        return []
    counts = trials.groupby("epochs_planned")["arch_hash"].nunique()
    planned = int(counts.index[int(counts.argmax())])
    trials = trials[trials["epochs_planned"] == planned]
    root = folder_of(frame)
    at = {share: math.ceil(share * planned) for share in SHARES}
    at = {share: epoch for share, epoch in at.items() if epoch < planned}
    read = [history_values(root / place, shown.column, [*at.values(), planned]) for place in trials["run_dir"].tolist()]
    whole = [values is not None for values in read]
    trials = trials[whole]
    values = np.array([each for each in read if each is not None], dtype=float).reshape(-1, len(at) + 1)
    end = f"{PHASE_NAMES[phase]} after the last epoch"
    dear = ranked(trials.assign(**{shown.column: values[:, -1]}), phase, shown, end)
    cases = []
    for column, (share, epoch) in enumerate(at.items()):
        if at.get(0.5) == epoch and share != 0.5:
            continue  # three epochs: half and three quarters are the same one
        early = trials.assign(**{shown.column: values[:, column]})
        cheap = ranked(early, phase, shown, f"{PHASE_NAMES[phase]} after {IN_WORDS[share]}", (epoch, epoch))
        if cheap.values:
            cases.append(case("epochs", cheap, dear, trials, left_out=whole.count(False)))
    return cases


def study_case(
    cheap: str | os.PathLike[str], dear: str | os.PathLike[str], metric: str | None = None, phase: str | None = None
) -> TrustCase:
    """Compare the rankings of two studies, by network; their recipes may differ, and the case says in what.

    Args:
        cheap, dear: folders of the studies.
        metric: of both; by default the one the dear study is judged by, and its counterpart on the validation data for a
            cheap one that has no test scores.
        phase: of both; by default, for each, the one whose numbers are worth the most.

    Raises:
        ValueError: a study cannot be loaded, or the metric is not on record.
    """
    frames = [load_study(path) for path in (cheap, dear)]
    phases = [phase_to_read(frame, phase) for frame in frames]
    trials = [frame[frame["phase"] == each] for frame, each in zip(frames, phases, strict=True)]
    wanted = metric_to_read(trials[1], phases[1], metric)
    has = trials[0].loc[trials[0]["status"] == "ok", wanted.column].notna().any()
    other = wanted if has or metric is not None else validation_of(wanted)
    if other is None or not (has or metric is None):
        raise ValueError(f"no finished trial of {cheap}, phase '{phases[0]}', has {wanted.column}; choose --metric")
    sides = [
        ranked(rows, each, by, f"{path}, {PHASE_NAMES[each]}")
        for rows, each, by, path in zip(trials, phases, (other, wanted), (cheap, dear), strict=True)
    ]
    read = [
        next((found for found in settings_of(rows, Path(path)).values() if found is not None), None)
        for rows, path in zip(trials, (cheap, dear), strict=True)
    ]
    known = [settings for settings in read if settings is not None]
    settings = differing(known) if len(known) == 2 else {}
    return case("studies", sides[0], sides[1], pd.concat(trials), settings=settings)


def case(
    kind: str,
    cheap: Ranking,
    dear: Ranking,
    trials: pd.DataFrame,
    settings: Mapping[str, list[Any]] | None = None,
    left_out: int = 0,
) -> TrustCase:
    """Match the arms of two rankings, and compare them.

    Arms match by network and recipe; where no recipe is in both rankings (they differ by their budget), by network,
    where it has one recipe in each. No seed stands behind both rankings.
    """
    by_recipe = kind in ("phases", "epochs") and bool(cheap.values.keys() & dear.values.keys())
    found: list[dict[Any, Mapping[int, float]]] = []
    for side in (cheap, dear):
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
    n_arms = len(shared)
    shared = [key for key in shared if all(side[key] for side in kept)]
    names = names_of(trials, shared)
    series = [pd.Series([np.mean(side[key]) for key in shared], index=names, dtype=float) for side in kept]
    counts = [[len(side[key]) for key in shared] or [0] for side in kept]
    k = min(MOST_OF_THE_BEST, max(len(shared) // 2, 1))  # of all arms, the best k are always the same
    return TrustCase(
        kind=kind,
        cheap=cheap,
        dear=dear,
        arms=n_arms,
        trust=proxy_trust(*series, k=k, higher_is_better=dear.metric.higher_is_better),
        seeds=((min(counts[0]), max(counts[0])), (min(counts[1]), max(counts[1]))),
        settings=settings or {},
        divided=divided,
        left_out=left_out,
    )


def divide(cheap: set[int], dear: set[int]) -> tuple[tuple[set[int], set[int]], tuple[int, ...]]:
    """Give each seed that both rankings have to the one that has fewer; return both, and the seeds in question."""
    own, both = (cheap - dear, dear - cheap), tuple(sorted(cheap & dear))
    for seed in both:
        min(own, key=len).add(seed)
    return own, both


def ranked(
    trials: pd.DataFrame,
    phase: str,
    metric: MetricColumn,
    name: str | None = None,
    epochs: tuple[int, int] | None = None,
) -> Ranking:
    """Read the finished trials of each arm of one phase."""
    arms = list_arms(trials)
    values: dict[Key, Mapping[int, float]] = {}
    for arm, measured in zip(arms, arm_values(arms, metric.column), strict=True):
        if arm.arch_hash is not None and len(measured.values):
            found = zip(measured.seeds.tolist(), measured.values.tolist(), strict=True)
            values[arm.arch_hash, arm.recipe_hash] = dict(found)
    planned = trials.loc[trials["status"] == "ok", "epochs_planned"].dropna()
    if epochs is None and len(planned):
        epochs = (int(planned.min()), int(planned.max()))
    return Ranking(name=name or PHASE_NAMES[phase], metric=metric, epochs=epochs, values=values)


def names_of(trials: pd.DataFrame, keys: Sequence[Any]) -> list[str]:
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
    return metric_columns().get(f"val_{metric.name}")


def folder_of(frame: pd.DataFrame) -> Path:
    """Return what the frame's `run_dir` is relative to."""
    path = Path(str(frame.attrs.get("path", "")))
    return path if path.is_dir() else Path()  # a pooled frame's are relative to the working folder


def settings_of(trials: pd.DataFrame, root: Path) -> dict[str, dict[str, Any] | None]:
    """Read the settings of each recipe from the first trial that has it."""
    return {recipe: recipe_settings(folder) for recipe, folder in recipe_folders(root, trials).items()}


def history_values(folder: Path, column: str, epochs: Sequence[int]) -> list[float] | None:
    """Read a metric after some epochs; None where the history is not whole."""
    rows = read_history(folder)
    if len(rows) < max(epochs):
        return None
    try:
        values = [float(rows[epoch - 1][column]) for epoch in epochs]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


TRUST_COLUMNS: dict[str, str] = {
    "kind": "string",  # phases | budgets | epochs | studies
    "cheap": "string",
    "dear": "string",
    "metric_cheap": "string",
    "metric_dear": "string",
    "epochs_cheap": "Int64",  # the most, where the arms have several
    "epochs_dear": "Int64",
    "seeds_cheap": "Int64",  # behind the mean of the arm that has the fewest
    "seeds_dear": "Int64",
    "n": "Int64",  # arms that both rankings have
    "tau": "Float64",
    "tau_low": "Float64",  # 95%
    "tau_high": "Float64",
    "p_value": "Float64",
    "k": "Int64",
    "overlap": "Float64",  # share of the best k
    "overlap_by_chance": "Float64",
    "overlap_p": "Float64",
    "regret": "Float64",  # in the unit of metric_dear
    "top_k": "string",
    "note": "string",
}
"""Name and dtype of each column of `TrustReport.data`; docs/tables.md says what they mean."""

SCALE = (
    "Kendall's tau is 1 where two rankings order every pair of arms alike, 0 where they have nothing in common, -1 where one "
    "is the other reversed; seed noise in the means lowers it, so a low tau alone does not say that the cheap ranking is wrong."
)
OF_THE_KIND = {
    "phases": "The re-evaluation has only arms that the search found good, and the baseline: arms that lie close together "
    "are harder to order, which lowers tau too.",
}
SETTINGS_SHOWN = 6


@dataclass(frozen=True, kw_only=True)
class TrustReport:
    """What `trust_report` found: the cases, the text to print, and one row a case with the columns `TRUST_COLUMNS`."""

    cases: list[TrustCase]
    text: str
    data: pd.DataFrame


def trust_notes(frame: pd.DataFrame, table: AblationTable) -> list[str]:
    """Write what stands under a table: the search against the re-evaluation, and smaller budgets against the largest.

    Args:
        frame: every trial of the study, as `load_study` gives them.
        table: the table made of it.

    Returns:
        A sentence for each pair of rankings that share three arms or more, and what to be careful about; empty where
        there is no such pair. No file but the settings of the recipes is read for it.
    """
    cases = [phase_case(frame, table.metric)] if table.phase == "final" else []
    if table.metric.column != "train_seconds":
        cases += budget_cases(frame, table.phase, table.metric)
    known = [case for case in cases if case is not None and case.arms >= FEWEST_TO_RANK]
    return [f"Proxy trust: {sentence(case)}" for case in known] + cautions(known)


def trust_report(
    paths: Sequence[str | os.PathLike[str]], metric: str | None = None, phase: str | None = None
) -> TrustReport:
    """Say how far a cheap ranking may stand for a dear one.

    Args:
        paths: one study: its search against its re-evaluation, its smaller budgets against the largest, and the ranking
            after half and three quarters of the epochs against the last; the latter reads every `history.csv`. Two
            studies: the first, the cheap one, against the second.
        metric: a name in `metric_columns`; by default the one the dear ranking is judged by.
        phase: whose trials to read; by default each phase of one study, the best of each of two.

    Raises:
        ValueError: no study or more than two, a metric that is a cost, or no two rankings that share an arm.
    """
    if metric is not None and metric_named(metric).split is None:
        worth = ", ".join(name for name, column in metric_columns().items() if column.split is not None)
        raise ValueError(f"{metric} ranks no arm by its worth; choose one of {worth}")
    if len(paths) == 2:
        cases = [study_case(paths[0], paths[1], metric, phase)]
        if not cases[0].arms:
            raise ValueError(
                f"{paths[0]} and {paths[1]} have no network in common whose trials finished, so there is nothing to rank twice"
            )
    elif len(paths) == 1:
        cases = cases_of(paths[0], metric, phase)
    else:
        raise ValueError(f"--trust takes one study, or a cheap and a dear one: {len(paths)} given")
    lines = [sentence(case, full=True) for case in cases]
    rows = [row_of(case) for case in cases]
    data = pd.DataFrame(
        {name: pd.array([row[name] for row in rows], dtype=dtype) for name, dtype in TRUST_COLUMNS.items()}  # type: ignore[call-overload]
    )
    return TrustReport(cases=cases, text="\n\n".join([*lines, *cautions(cases)]) + "\n", data=data)


def cases_of(path: str | os.PathLike[str], metric: str | None, phase: str | None) -> list[TrustCase]:
    """Find every pair of rankings in one study."""
    frame = load_study(path)
    phases = [name for name in ("final", "search", "single") if (frame["phase"] == name).any()]
    chosen = [phase_to_read(frame, phase)] if phase is not None else phases
    cases: list[TrustCase | None] = []
    if phase is None and {"search", "final"} <= set(phases):
        cases.append(phase_case(frame, metric_to_read(frame[frame["phase"] == "final"], "final", metric)))
    read = {name: frame[frame["phase"] == name] for name in chosen}
    for name, trials in read.items():
        has = trials[trials["status"] == "ok"].notna().any()
        if metric is None or has.get(metric, False):
            cases += budget_cases(frame, name, metric_to_read(trials, name, metric))
    for name in chosen:
        cases += epoch_cases(frame, name, metric_named(metric) if metric else metric_to_read(read[name], name, None))
    known = [case for case in cases if case is not None and case.arms >= FEWEST_TO_RANK]
    if not known:
        raise ValueError(
            f"{path} has no {FEWEST_TO_RANK} arms that are ranked twice: that needs a search with a re-evaluation of as many "
            "arms, arms trained for several numbers of epochs, or finished trials of two epochs or more with their "
            "history.csv; or compare two studies: --trust CHEAP DEAR"
        )
    return known


def sentence(case: TrustCase, full: bool = False) -> str:
    """Say one comparison in one sentence; `full` names the arms that are among the best of both."""
    trust, unit = case.trust, case.dear.metric
    cheap, dear = (side_words(*each) for each in zip((case.cheap, case.dear), case.seeds, strict=True))
    said = f"{cheap if case.kind == 'studies' else cheap[0].upper() + cheap[1:]} against {dear}: "
    if why := too_few(case):
        return f"{said}they cannot be compared: {why}."
    if trust.tau is None or trust.overlap is None or trust.overlap_by_chance is None or trust.regret is None:
        return f"{said}they cannot be compared, {trust.note}."
    interval = (
        f" (95% interval {trust.low:.2f} to {trust.high:.2f})"
        if trust.low is not None and trust.high is not None
        else ""
    )
    said += f"Kendall's tau {trust.tau:.2f}{interval} over the {counted(trust.n, 'arm')} in both"
    best = "the best one is" if trust.k == 1 else f"of the best {trust.k}"
    shared, by_chance = len(trust.top_k), trust.overlap_by_chance * trust.k
    if trust.k == 1:
        said += f"; {best} {'the same' if shared else 'another'}, where chance makes it the same in {100 / trust.n:.0f}% of cases"
    else:
        said += f"; {best}, {shared} {'is' if shared == 1 else 'are'} the same, where chance gives {by_chance:.1f}"
    if full and shared:
        said += f" ({'; '.join(one_line(name, 100) for name in trust.top_k)})"
    said += "; the first one's winner " + (
        "is the best of the second"
        if trust.regret == 0
        else f"is {trust.regret:.{unit.decimals}f} {unit.unit} {'below' if unit.higher_is_better else 'above'} the best of the "
        "second"
    )
    return said + f"{notes_words(case)}."


def too_few(case: TrustCase) -> str:
    """Say why two rankings have no arms enough to be compared; empty where they have."""
    if case.trust.n >= FEWEST_TO_RANK:
        return ""
    if case.arms >= FEWEST_TO_RANK:
        seeds = ", ".join(map(str, case.divided))
        return f"both rest on seed {seeds}, and luck that they share would look like agreement; add seeds"
    return f"{counted(case.arms, 'arm')} in both, {FEWEST_TO_RANK} are the fewest whose order says anything"


def side_words(ranking: Ranking, seeds: tuple[int, int]) -> str:
    """Say what a ranking is made of."""
    low, high = seeds
    an_arm = f"{counted(low, 'seed')} an arm" if low == high else f"{low} to {high} seeds an arm"
    if ranking.epochs is None:
        return f"{ranking.name} ({ranking.metric.title}, {an_arm})"
    fewest, most = ranking.epochs
    epochs = counted(most, "epoch") if fewest == most else f"{fewest} to {most} epochs"
    return f"{ranking.name} ({ranking.metric.title}, {epochs}, {an_arm})"


def notes_words(case: TrustCase) -> str:
    """Say what to be careful about in one comparison."""
    notes = [case.trust.note] if case.trust.note else []
    if case.divided:
        notes.append(f"{counted(len(case.divided), 'seed')} of both divided between them, so that they share no luck")
    if case.left_out:
        notes.append(f"{counted(case.left_out, 'trial')} without a whole history.csv left out")
    if case.kind == "studies":
        shown = [f"{name} {values[0]} against {values[1]}" for name, values in case.settings.items()]
        more = f" and {len(shown) - SETTINGS_SHOWN} more" if len(shown) > SETTINGS_SHOWN else ""
        notes.append(
            f"settings that differ: {one_line(', '.join(shown[:SETTINGS_SHOWN]), 400)}{more}"
            if shown
            else "no setting of the recipe on record differs"
        )
        for side, what in ((case.cheap, "first"), (case.dear, "second")):
            if only := len(side.values) - case.arms:
                notes.append(f"{counted(only, 'arm')} only in the {what}")
    return f" ({'; '.join(notes)})" if notes else ""


def cautions(cases: Sequence[TrustCase]) -> list[str]:
    """Say what to be careful about in all of them."""
    if not cases:
        return []
    kinds = [OF_THE_KIND[kind] for kind in OF_THE_KIND if any(case.kind == kind for case in cases)]
    return [" ".join([SCALE, *kinds])]


def row_of(case: TrustCase) -> dict[str, Any]:
    """Return one comparison by the names of `TRUST_COLUMNS`."""
    trust = case.trust
    return {
        "kind": case.kind,
        "cheap": case.cheap.name,
        "dear": case.dear.name,
        "metric_cheap": case.cheap.metric.column,
        "metric_dear": case.dear.metric.column,
        "epochs_cheap": case.cheap.epochs[1] if case.cheap.epochs else None,
        "epochs_dear": case.dear.epochs[1] if case.dear.epochs else None,
        "seeds_cheap": case.seeds[0][0],
        "seeds_dear": case.seeds[1][0],
        "n": trust.n,
        "tau": trust.tau,
        "tau_low": trust.low,
        "tau_high": trust.high,
        "p_value": trust.p_value,
        "k": trust.k,
        "overlap": trust.overlap,
        "overlap_by_chance": trust.overlap_by_chance,
        "overlap_p": trust.overlap_p,
        "regret": trust.regret,
        "top_k": "; ".join(trust.top_k) or None,
        "note": too_few(case) or trust.note or None,
    }
