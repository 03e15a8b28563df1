"""What a paper says of a study: its figures as LaTeX commands, the paragraph on methods, and what the ledger answers of two checklists.

Everything is computed from the ledger when it is written. What the ledger does not know is marked, never invented.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from search.ledger.record import recipe_settings
from search.report.ablation import AblationTable, ablation_table, digits_of
from search.report.judging import corrected_over
from search.report.naming import in_words
from search.report.notes import disagreement
from search.report.provenance import parsed, versions_of
from search.report.reading.load import load_study
from search.report.reading.rows import recipe_folders
from search.report.references import DATA, DATA_TITLES, OPTIMISERS, PACKAGES, XVOLUTION, bibtex
from search.report.render.latex import latex
from search.report.render.latex_float import to_float
from search.report.starts import estimand, is_continued
from search.report.values import read_arms
from search.report.words import counted_range, int_ranges, joined, p_shown, signed
from search.report.write import paper_grid

DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
SETTINGS = {
    "train.lr": "learning rate",
    "train.schedule": "schedule",
    "train.weight_decay": "weight decay",
    "data.batch_size": "batch size",
    "train.loss": "loss",
}
DRAWN = {
    "train.label_smoothing": "label smoothing",
    "train.mixup": "mixup",
    "train.cutmix": "CutMix",
    "train.reprob": "random erasing",
    "train.aa": "policy",
    "data.flip": "horizontal flips",
    "data.crop_padding": "crops after padding by",
}
UNKNOWN = r"\providecommand{\xvolunknown}[1]{\textbf{[unknown: #1]}}"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a study.

    Attributes:
        table: of its arms. trials: those it is of. frame: all of the study.
        settings: what its arms' recipes set, by dotted key; several values where they do not agree; empty without configs.
        versions: of Python and packages, several joined.
        numbers: figures by the name of their command, as text.
        how: what the differences are of, where arms went on from trained networks; else "".
    """

    table: AblationTable
    frame: pd.DataFrame
    trials: pd.DataFrame
    settings: Mapping[str, list[Any]]
    versions: Mapping[str, str]
    numbers: Mapping[str, str]
    how: str


def manuscript(study: Path, metric: str | None = None, baseline: str | None = None) -> dict[str, str]:
    """Return the files of a paper, by name; paper.tex has them all and compiles."""
    frame = load_study(study, cache=False)
    facts = _facts(study, frame, metric, baseline)
    grid = paper_grid(frame, facts.table)
    if grid is None:
        raise ValueError(f"{study}: no trial got as far as a network, so there is nothing to write of")
    keys = [XVOLUTION, *(DATA[name] for name in _values(facts, "data.name") if name in DATA)]
    keys += [OPTIMISERS[name] for name in _values(facts, "train.opt") if name in OPTIMISERS]
    keys += [PACKAGES[name] for name in facts.versions if name in PACKAGES]
    versions = {PACKAGES[name]: version for name, version in facts.versions.items() if name in PACKAGES}
    numbers = [rf"\newcommand{{\xvol{name}}}{{{_number(text)}}}" for name, text in facts.numbers.items()]
    head = rf"\documentclass{{article}}\usepackage{{booktabs,siunitx,tabularx,url}}{UNKNOWN}"
    body = [rf"\input{{{part}}}" for part in ("numbers", "methods", "table", "checklists")]
    cite = [r"\bibliographystyle{plain}", r"\bibliography{references}", r"\end{document}", ""]
    return {
        "numbers.tex": "\n".join([UNKNOWN, *numbers, ""]),
        "methods.tex": _methods(facts),
        "checklists.tex": _checklists(facts),
        "table.tex": to_float(grid, label="tab:xvol", comments=grid.beside[1]),
        "references.bib": bibtex(keys, versions),
        "paper.tex": "\n".join([head, r"\begin{document}", *body, *cite]),
    }


def _number(text: str) -> str:
    return rf"\ensuremath{{{text}}}" if re.fullmatch(r"[+-][0-9.]+", text) else latex(text)


def _facts(study: Path, frame: pd.DataFrame, metric: str | None, baseline: str | None) -> Facts:
    table, read = ablation_table(frame, metric, baseline), read_arms(frame, None, metric, baseline)
    trials = pd.concat([arm.trials for arm in read.arms]) if read.arms else frame.iloc[:0]
    recipes = {arm.recipe_hash for arm in read.arms}
    folders = recipe_folders(frame.attrs["path"], frame)
    known = [recipe_settings(place) for recipe, place in folders.items() if recipe in recipes]
    settings: dict[str, list[Any]] = {}
    for each in known:
        for name, value in (each or {}).items():
            if value not in settings.setdefault(name, []):
                settings[name].append(value)
    found: dict[str, list[str]] = {}
    for text in trials["provenance"].dropna().unique():
        for name, version in versions_of(parsed(text)).items():
            if version is not None and str(version) not in found.setdefault(name, []):
                found[name].append(str(version))
    return Facts(
        table=table,
        frame=frame,
        trials=trials,
        settings=settings,
        versions={name: joined(sorted(values)) for name, values in found.items()},
        numbers=_numbers(table, frame, trials),
        how=estimand(read) if is_continued(read) else "",
    )


def _numbers(table: AblationTable, frame: pd.DataFrame, trials: pd.DataFrame) -> dict[str, str]:
    """Every figure of the study and of each row, as text, by the name of its command without the prefix."""
    digits, finer = digits_of(table.data, table.metric)
    rows: list[Any] = list(table.data.itertuples(index=False))
    ours = frame[frame["reused_from"].isna()]
    compared = [row for row in rows if not row.is_baseline]
    numbers = {
        "Arms": str(len(rows)),
        "Comparisons": str(sum(pd.notna(row.p_value) for row in compared)),
        "Seeds": counted_range(min(row.n for row in rows), max(row.n for row in rows), "seed") if rows else "0 seeds",
        "SeedList": int_ranges(int(seed) for seed in trials["seed"].dropna()),
        "Trainings": str(int((frame["status"] == "ok").sum())),
        "Failed": str(int((trials["status"] == "failed").sum())),
        "TrainingHours": f"{ours['train_seconds'].fillna(0).sum() / 3600:.2f}",
    }
    words, _ = in_words(table.arms)
    for row in rows:
        name = _letters(words[row.arm], numbers)
        shown = {
            "Name": words[row.arm],
            "Mean": None if pd.isna(row.mean) else f"{row.mean:.{digits}f}",
            "Sd": None if pd.isna(row.sd) else f"{row.sd:.{digits}f}",
            "N": str(row.n),
            "Params": None if pd.isna(row.params) else f"{row.params:,}",
            "Macs": None if pd.isna(row.macs) else f"{row.macs:,}",
            "Diff": None if pd.isna(row.diff) else signed(row.diff, finer),
            "Low": None if pd.isna(row.ci_low) else signed(row.ci_low, finer),
            "High": None if pd.isna(row.ci_high) else signed(row.ci_high, finer),
            "P": None if pd.isna(row.p_corrected) else p_shown(row.p_corrected),
            "Verdict": None if pd.isna(row.verdict) else row.verdict,
        }
        numbers |= {f"{name}{what}": text for what, text in shown.items() if text is not None}
    return numbers


def _letters(name: str, taken: Mapping[str, str]) -> str:
    """The name of an arm in the letters that a command may have, different from the names before: XvolutionStageThree."""
    words = re.findall(r"[A-Za-z]+|[0-9]", name)
    made = "".join(DIGITS[int(word)] if word.isdigit() else word[0].upper() + word[1:] for word in words) or "Arm"
    while f"{made}Name" in taken:
        made += "Too"
    return made


def _values(facts: Facts, key: str) -> list[str]:
    return [str(value) for value in facts.settings.get(key, []) if value is not None]


def _said(facts: Facts, key: str, what: str = "") -> str:
    """A setting as LaTeX, or the mark of what is unknown."""
    values = _values(facts, key)
    return latex(joined(values)) if values else rf"\xvolunknown{{{latex(what or key)}}}"


def _cited(facts: Facts, key: str, works: Mapping[str, str], titles: Mapping[str, str] | None = None) -> str:
    values = _values(facts, key)
    if not values:
        return rf"\xvolunknown{{{latex(key)}}}"
    named = [latex((titles or {}).get(name, name)) for name in values]
    cites = [rf"~\cite{{{works[name]}}}" if name in works else r"~\xvolunknown{reference}" for name in values]
    return joined([name + cite for name, cite in zip(named, cites, strict=True)])


def _column(trials: pd.DataFrame, name: str) -> str:
    values = [str(value) for value in trials[name].dropna().unique()]
    return latex(joined(values)) if values else rf"\xvolunknown{{{latex(name)}}}"


def _methods(facts: Facts) -> str:
    data, final = _cited(facts, "data.name", DATA, DATA_TITLES), facts.table.phase == "final"
    unit, tested = "root" if "roots" in facts.table.data else "seed", int(facts.numbers["Comparisons"])
    corrected = latex(corrected_over(facts.table.judging.correction, tested)) if tested else "where there is one"
    images = rf"{_said(facts, 'data.train_size', 'number of training images')} images train, {_column(facts.trials, 'val_images')} validate"
    images += (
        f" and {_column(facts.trials, 'test_images')} test, which the final trainings alone read, once."
        if final
        else "; none test."
    )
    settings = [f"{words} {_said(facts, key)}" for key, words in SETTINGS.items()]
    settings += [
        f"{words} {_said(facts, key)}".removesuffix(" True")
        for key, words in DRAWN.items()
        if set(_values(facts, key)) - {"0", "0.0", "False"}
    ]
    packages = [
        rf"{latex(name)} {latex(facts.versions[name])}~\cite{{{key}}}"
        for name, key in PACKAGES.items()
        if name in facts.versions
    ]
    how = f"differences are those of {latex(facts.how)}" if facts.how else "each is trained from scratch"
    shared = "the trained network they go on from" if facts.how else "the initial weights of the backbone"
    lines = [
        rf"We compare \xvolArms{{}} networks on {data}, all made of {_column(facts.trials, 'backbone')}, in the manner of",
        rf"X-volution~\cite{{{XVOLUTION}}}; {how}.",
        images,
        rf"A training takes {_column(facts.trials, 'epochs_planned')} epochs of {_cited(facts, 'train.opt', OPTIMISERS)}:",
        f"{joined(settings)}.",
        rf"Every network is trained on \xvolSeeds{{}} (\xvolSeedList{{}}); trainings of one seed share {shared},",
        "the order of the images and their augmentation, so that differences are paired.",
        rf"We report means of {latex(facts.table.metric.title)} and judge each difference by a two-sided t test of the paired differences",
        rf"of {unit}s, {corrected}; intervals are 95\% t intervals.",
        r"Trainings that failed: \xvolFailed{}; such a network is not called better.",
        rf"The study took \xvolTrainingHours{{}} hours of training on {_machine(facts)}, with",
        f"{joined(packages)}." if packages else r"\xvolunknown{packages}.",
        f"The code is commit {_made(facts, 'commit')}.",
    ]
    return "\n".join([*lines, ""])


def _made(facts: Facts, name: str) -> str:
    """What provenance says of a machine or the code, as LaTeX."""
    values = {str(parsed(text).get(name)) for text in facts.trials["provenance"].dropna().unique()} - {"None", ""}
    return latex(joined(sorted(values))) if values else rf"\xvolunknown{{{name}}}"


def _machine(facts: Facts) -> str:
    return f"{_made(facts, 'device')} ({_made(facts, 'processor')}, {_made(facts, 'cores')} cores)"


def _checklists(facts: Facts) -> str:
    """What the ledger answers of the NeurIPS paper checklist and of the NAS best-practice checklist (Lindauer and Hutter 2020)."""
    seeds = [set(facts.frame.loc[facts.frame["phase"] == phase, "seed"].dropna()) for phase in ("search", "final")]
    apart = (
        "No: both have seeds"
        if seeds[0] & seeds[1]
        else "Yes"
        if all(seeds)
        else r"\xvolunknown{search and re-evaluation}"
    )
    recipes = sorted({arm.recipe_hash for arm in facts.table.arms if arm.recipe_hash})
    one = (
        f"Yes: one recipe ({recipes[0]})"
        if len(recipes) == 1
        else f"No: {len(recipes)} recipes (the legend of the table says why)"
    )
    odd = disagreement(facts.trials)
    agree = "Yes: all trainings agree in versions and processor" if facts.versions else r"\xvolunknown{versions}"
    several = "Yes" if facts.table.data["n"].gt(1).all() else "No: some network has one training"
    compute = rf"\xvolTrainings{{}} trainings, \xvolTrainingHours{{}} hours in all, on {_machine(facts)}"
    configs = "the config of each training is on record" if facts.settings else r"\xvolunknown{settings}"
    code = rf"commit {_made(facts, 'commit')}; \xvolunknown{{where it is published}}"
    tests = r"paired t tests over \xvolSeeds{}, 95\% intervals, corrected over \xvolComparisons{} comparisons"
    asked = {
        "NeurIPS checklist": {
            "Experimental result reproducibility": rf"seeds \xvolSeedList{{}}; {configs}; code: {code}",
            "Open access to data and code": rf"data: {_column(facts.trials, 'data_source')}; code: {code}",
            "Experimental setting/details": f"the paragraph on methods; {configs}",
            "Experiment statistical significance": f"Yes: {tests}"
            if int(facts.numbers["Comparisons"])
            else "No: nothing was compared",
            "Experiments compute resources": compute,
            "Licenses for existing assets": r"\xvolunknown{licenses of data and pretrained weights}",
        },
        "NAS best practices": {
            "Code of the training pipeline": code,
            "Hyperparameters and seeds of the final trainings": rf"seeds \xvolSeedList{{}}; {configs}",
            "Same data, space and pipeline for all that is compared": one,
            "Confounding factors (hardware, versions)": latex(odd[0]) if odd else agree,
            "Several runs": rf"{several}: \xvolSeeds{{}}",
            "Search and final trainings on seeds of their own": apart,
            "Same evaluation protocol": rf"Yes: {latex(facts.table.metric.title)} after the last epoch",
            "Comparison with random search": r"\xvolunknown{whether one was made}",
            "Time of the whole experiment": compute,
        },
    }
    lists = []
    for title, items in asked.items():
        lists += [rf"\paragraph{{{title}.}}", r"\begin{description}\raggedright"]
        lists += [rf"  \item[{name}] {answer}." for name, answer in items.items()]
        lists += [r"\end{description}", "The ledger has no answer to the other items."]
    return "\n".join([*lists, ""])
