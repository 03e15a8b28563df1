"""The variance budget: what the noise of a paired difference is made of, and what the next hour of training buys where.

It needs what trials kept of each image (`data.probe_size`). No verdict comes from it: verdicts follow the spread between trainings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import SAMPLE_METRICS, MetricColumn
from search.ledger.samples import SAMPLES_FILE, Samples, read_samples
from search.report.arms import Arm, comparable
from search.report.notes import no_baseline, unreadable
from search.report.reading.rows import folder_of
from search.report.reading.scored import HOW_TO_KEEP, images_of
from search.report.starts import is_continued, roots_line
from search.report.table import Column, Table, rows_of, value_of, with_dtypes
from search.report.values import Reading, floats, read_arms, roots_of
from search.report.words import counted, decimals_for, one_line, scaled, signed, significant
from search.stats.budget import Components, Prices, components, next_hour, pooled
from search.stats.inference import sd_interval
from search.stats.scores import image_scores

BUDGET_COLUMNS: dict[str, str] = {
    "arm": "string",  # "all arms" is the mean over them
    "n": "Int64",  # trainings that it and the baseline finished and kept samples of
    "roots": "Int64",  # those they started from; from scratch each training is its own
    "images": "Int64",
    "diff": "Float64",  # mean difference to the baseline over these images
    "variance": "Float64",  # of the difference of one training on so many images, of others than these too
    "root": "Float64",  # parts of it: between roots, or trainings from scratch
    "order": "Float64",  # between orders on one root
    "image": "Float64",  # images, the same in every training
    "image_training": "Float64",  # what images add in single trainings, or in those of one root
}
"""Name and dtype of each column of the `data` of `budget_table`; variances are in squared units of the metric, none below 0."""

ALL = "all arms"
SCORES = {"top1": "top1", "loss": "nll"} | {metric.name: metric.name for metric in SAMPLE_METRICS}


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The parts of one arm's difference, or of all; `roots` and `orders` (mean on a root) are those behind `n` trainings."""

    arm: str
    n: int
    roots: int
    images: int
    diff: float | None
    parts: Components

    @property
    def orders(self) -> float:
        """Trainings a root."""
        return self.n / self.roots

    def row(self) -> dict[str, Any]:
        """The columns `BUDGET_COLUMNS`."""
        parts = self.parts.parts(1, 1, self.images)
        parts["image_training"] = parts.pop("root_image") + parts.pop("order_image")
        kept = {name: getattr(self, name) for name in ("arm", "n", "roots", "images", "diff")}
        return kept | {"variance": sum(parts.values())} | parts


def budget_table(
    frame: pd.DataFrame, metric: str | None = None, baseline: str | None = None, phase: str | None = None
) -> Table:
    """Take apart the variance of each arm's paired difference to the baseline; arguments as `read_arms`.

    The metric is top-1, the loss, or one from samples. `data` has the columns `BUDGET_COLUMNS`: of several arms all first, then each. The
    next hour stands in a table below.

    Raises:
        ValueError: as `read_arms`; no baseline; a metric that is not of single images; no arm that shares two trainings with samples
            of the same images with the baseline.
    """
    read = read_arms(frame, phase, metric, baseline)
    if read.metric.name not in SCORES or read.metric.split is None:
        raise ValueError(
            f"{read.metric.column} is no mean over images that samples are kept of; choose one of {', '.join(SCORES)}, "
            "such as val_p_true"
        )
    if read.reference is None:
        raise ValueError(f"--budget needs a baseline. {no_baseline(read.arms)[0]}")
    noises = _noises_of(read, read.reference)
    if not noises:
        raise ValueError(
            f"no arm shares two trainings with the baseline '{read.reference.label}' that kept {SAMPLES_FILE} of "
            f"{read.metric.split} images: {HOW_TO_KEEP}"
        )
    varied = [noise for noise in noises if noise.row()["variance"] > 0]
    whole = _over_all(varied) if varied else None
    shown = [whole, *noises] if whole and len(noises) > 1 else noises
    data = with_dtypes([noise.row() for noise in shown], BUDGET_COLUMNS)
    columns = _columns_of(data, read.metric)
    below, said = _next_hour(read, shown) if whole else (None, "")
    return Table(
        name="budget",
        title=f"{read.studies or frame.attrs.get('path', 'study')}: variance budget of a paired difference, {read.metric.title}",
        columns=columns,
        rows=rows_of(columns, data.itertuples(index=False)),
        data=data,
        conclusion=said
        or "No image tells an arm from the baseline in any training: there is no variance to take apart.",
        notes=[*_notes_of(shown[0], nested=is_continued(read)), *roots_line(read), *unreadable(read.frame)],
        below=(below,) if below is not None else (),
    )


def _noises_of(read: Reading, reference: Arm) -> list[Noise]:
    """Take apart the difference of each arm that shares two trainings with the baseline, and may be compared with it."""
    root, metric = folder_of(read.frame), read.metric
    first: list[tuple[Samples, np.ndarray]] = []

    def scores_of(arm: Arm) -> dict[int, np.ndarray]:
        """Scores of single images, float64 (images,), by the seed of each finished training that kept samples of the split."""
        found = {}
        ok = arm.trials[(arm.trials["status"] == "ok") & arm.trials["run_dir"].notna()]
        for seed, place in zip(ok["seed"].tolist(), ok["run_dir"].tolist(), strict=True):
            if not (root / place / SAMPLES_FILE).exists():
                continue
            samples = read_samples(root / place)
            images = images_of(samples, str(metric.split))
            first[:] = first or [(samples, samples.index[images])]
            if not np.array_equal(samples.index[images], first[0][1]):
                raise ValueError(
                    f"{samples.run} and {first[0][0].run} kept samples of different images: compare trials of one data.probe_size"
                )
            if len(images) > 1:
                name = SCORES[metric.name]
                found[seed] = image_scores(samples.logits[images], samples.target[images], [name])[name]
        return found

    theirs, noises = scores_of(reference), []
    for arm in read.arms:
        if arm is reference or not comparable(arm, reference):
            continue
        ours = scores_of(arm)
        seeds = sorted(ours.keys() & theirs.keys())
        if len(seeds) < 2:
            continue
        differences = np.stack([ours[seed] - theirs[seed] for seed in seeds])
        roots = _roots_of(arm, seeds)
        noises.append(
            Noise(
                arm=arm.label,
                n=len(seeds),
                roots=len(set(roots.tolist())),
                images=differences.shape[1],
                diff=float(differences.mean()),
                parts=components(differences, roots),
            )
        )
    return noises


def _roots_of(arm: Arm, seeds: Sequence[int]) -> np.ndarray:
    """Number the root of each seed: its own where it was trained from scratch, or where all went on from one."""
    numbers = roots_of(arm.trials)
    if numbers is None:
        return np.arange(len(seeds))
    known = dict(zip(arm.trials["seed"].tolist(), numbers.tolist(), strict=True))
    return np.array([known[seed] for seed in seeds])


def _over_all(noises: Sequence[Noise]) -> Noise:
    """The mean over arms, each weighted by its degrees of freedom."""
    middle = sorted(noises, key=lambda noise: noise.n)[len(noises) // 2]
    parts = pooled([noise.parts for noise in noises], [noise.n - 1 for noise in noises])
    return replace(middle, arm=ALL, diff=None, parts=parts)


def _columns_of(data: pd.DataFrame, metric: MetricColumn) -> list[Column]:
    """Shares are percent of the variance of one training's difference; a part that no arm has is left out."""
    digits = decimals_for(np.sqrt(data["variance"].to_numpy(dtype=float)), metric.decimals)
    nested = bool((data["roots"] < data["n"]).any())

    def trainings(line: Any) -> str:
        return f"{line.n} on {counted(line.roots, 'root')}" if line.roots < line.n else str(line.n)

    def share(name: str) -> Callable[[Any], str]:
        return lambda line: f"{100 * getattr(line, name) / line.variance:.0f} %" if line.variance > 0 else "-"

    titles = {"root": "root" if nested else "training luck"} | ({"order": "order"} if nested else {})
    titles |= {"image_training": "images x training", "image": "images"}
    return [
        Column("arm", "arm", "words", show=lambda line: one_line(line.arm, 400)),
        Column("n", "trainings", show=trainings),
        Column("diff", "diff", "math", show=value_of("diff", partial(signed, decimals=digits))),
        Column("sd", f"sd of one, {metric.unit}", "math", show=lambda line: significant(math.sqrt(line.variance), 2)),
        *(Column(name, title, show=share(name)) for name, title in titles.items()),
    ]


def _next_hour(read: Reading, shown: Sequence[Noise]) -> tuple[Table, str]:
    """How far an hour of one worker, spent on each, narrows the mean difference of each arm; all arms first, where there are several."""
    labels = {noise.arm for noise in shown}
    used = [arm for arm in read.arms if arm is read.reference or arm.label in labels]
    prices = _prices_of(read, used)
    words = {"root": "roots" if is_continued(read) else "seeds", "order": "orders on each root", "image": "images"}
    lines: list[dict[str, Any]] = []
    bought: list[dict[str, Any]] = []
    for noise in shown:
        counts = noise.roots, noise.orders, noise.images
        found = next_hour(noise.parts, *counts, prices)
        lines.append(
            {"arm": noise.arm, "now": noise.parts.of_mean(*counts)}
            | {name: after for name, (_, after) in found.items()}
        )
        bought += [
            {"arm": noise.arm, "what": words[name], "more": more, "variance": after}
            for name, (more, after) in found.items()
        ]

    def error(name: str) -> Callable[[Any], str]:
        return lambda line: significant(math.sqrt(line[name]), 2) if name in line else "-"

    there = [name for name in words if any(name in line for line in lines)]
    columns = [
        Column("arm", "arm", "words", show=lambda line: one_line(line["arm"], 400)),
        Column("now", "now", "math", show=error("now")),
        *(Column(name, f"hour of {words[name]}", "math", show=error(name)) for name in there),
    ]
    table = Table(
        name="next_hour",
        title=f"Standard error of the mean difference, {read.metric.unit}, now and after one more hour of a worker",
        columns=columns,
        rows=rows_of(columns, lines),
        data=pd.DataFrame(bought, columns=["arm", "what", "more", "variance"]),
    )
    amounts = [f"{amount(line['more'])} {line['what']}" for line in bought if line["arm"] == shown[0].arm]
    now = f"{error('now')(lines[0])} {read.metric.unit}"
    said = f"For {shown[0].arm} the mean difference has a standard error of {now}, over other images too."
    if there:
        best = min(there, key=lambda name: lines[0].get(name, math.inf))
        most = f"most on {words[best]}, to {error(best)(lines[0])}"
        said += f" An hour for all {counted(len(used), 'network')} buys {' or '.join(amounts)}: {most}."
    return table, said


def amount(more: float) -> str:
    """Say how many are bought, where it may be a part of one."""
    return scaled(more) if more >= 100 else significant(more, 2)


def _prices_of(read: Reading, arms: Sequence[Arm]) -> Prices:
    """Seconds by what the trials took: their training loops, and the latency of their networks."""

    def mean(trials: pd.DataFrame, column: str) -> float:
        return float(floats(trials.loc[trials["status"] == "ok", column]).mean())

    root: float | None = 0.0
    if is_continued(read):
        begun = read.frame[(read.frame["phase"] == read.phase) & (read.frame["start"] == "scratch")]
        trained = begun[begun["seed"].isin(read.trials["root_seed"].dropna())]
        root = mean(trained, "train_seconds") if len(trained) else None  # a file of the user's own has no price
    image = sum(mean(arm.trials, "latency_ms") / mean(arm.trials, "latency_batch") for arm in arms) / 1000
    return Prices(
        training=sum(mean(arm.trials, "train_seconds") for arm in arms),
        root=root,
        image=image if math.isfinite(image) else None,
    )


def _notes_of(first: Noise, nested: bool) -> list[str]:
    luck = "Root and order are" if nested else "Training luck is"
    notes = [
        f"Percent of the variance of the difference that one training shows on {counted(first.images, 'image')}. {luck} what would be "
        "left on images without end; images x training what finite images add in each training anew; images what they add in all of them "
        "alike, which more seeds do not lower and no interval over seeds contains.",
    ]
    low, high = (float(end[0]) for end in sd_interval(np.ones(1), np.array([first.roots])))
    notes.append(
        f"{counted(first.roots, 'root' if nested else 'training')}: the true sd of their luck lies between {low:.1f} and {high:.1f} times "
        "the one shown (95 %, one arm)."
    )
    notes.append(
        "An hour is by the trials' own training seconds; a seed, root or order is trained for every arm and the baseline. Images cost by "
        "latency, take a checkpoint, and end where the data set does."
    )
    return notes
