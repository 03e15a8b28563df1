"""How often a test over images calls two trainings of one network different, beside a test over trainings; and a variance budget.

    python -m search -m experiment=paper/stage_placement branch.use=pssa \\
        'hydra.sweeper.design.factors.stage=["placement.policy=none","placement.policy=stage3"]' hydra.sweeper.design.seeds=8 \\
        hydra.sweeper.design.first_seed=7000 hydra.sweeper.study_name=image_tests data.probe_size=20000
    python benchmarks/image_tests.py runs/image_tests      # the page: about 10 seconds
    python benchmarks/image_tests.py                       # the page anew, from docs/results/image_tests.json

No two of these trainings differ in anything but their seed, so that a test at 5 % should call 5 % of pairs different.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from search.ledger.samples import read_samples
from search.report.arms import list_arms
from search.report.budget import budget_table
from search.report.reading.load import load_study
from search.report.reading.scored import images_of
from search.stats.scores import image_scores

RESULTS = Path(__file__).resolve().parent.parent / "docs/results"
SCORES = {"top1": "top-1", "p_true": "p(true)", "nll": "NLL", "brier": "Brier"}
SPLITS = {"test": "10,000 test images", "probe": "20,000 images, of validation and unused ones of training"}
BUDGETS = ("test_top1", "test_p_true", "test_nll", "probe_p_true")
ALPHA = 0.05


def image_test(one: np.ndarray, other: np.ndarray, name: str) -> float:
    """Two-sided p-value over images of two trainings' scores, (images,): McNemar's exact test for top-1, else a paired t test."""
    if name == "top1":
        ahead, behind = int((one > other).sum()), int((one < other).sum())
        return float(stats.binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0
    return float(stats.ttest_rel(one, other).pvalue) if np.any(one != other) else 1.0


def pairs_called_different(scores: np.ndarray, name: str) -> tuple[int, int]:
    """Of the pairs of trainings in scores (trainings, images): how many a test over images calls different, and how many there are."""
    found = [image_test(one, other, name) <= ALPHA for one, other in combinations(scores, 2)]
    return sum(found), len(found)


def halves_called_different(scores: np.ndarray) -> tuple[int, int]:
    """Of the ways to halve the trainings: how many a t test over the trainings' means calls different, and how many there are."""
    means, count = scores.mean(axis=1), len(scores)
    found = []
    for half in combinations(range(count), count // 2):
        if 0 in half:
            rest = [at for at in range(count) if at not in half]
            found.append(float(stats.ttest_ind(means[list(half)], means[rest]).pvalue) <= ALPHA)
    return sum(found), len(found)


def measured(study: Path) -> dict[str, Any]:
    """What the page shows, from the samples of a study's final phase."""
    frame = load_study(study)
    final = frame[(frame["phase"] == "final") & (frame["status"] == "ok")]
    final.attrs = frame.attrs
    rows = []
    for arm in list_arms(final):
        kept = [read_samples(study / place) for place in arm.trials["run_dir"]]
        for split in SPLITS:
            places = images_of(kept[0], split)
            each = [image_scores(one.logits[places], one.target[places], SCORES) for one in kept]
            for name in SCORES:
                scores = np.stack([found[name] for found in each])
                rows.append(
                    {"arm": arm.label, "split": split, "score": name, "trainings": len(scores)}
                    | dict(zip(("different", "pairs"), pairs_called_different(scores, name), strict=True))
                    | dict(zip(("halves_different", "halves"), halves_called_different(scores), strict=True))
                )
    budgets = {name: budget_table(frame, name) for name in BUDGETS}
    made = json.loads(str(final["provenance"].iloc[0]))
    return {
        "made": {name: made.get(name) for name in ("commit", "processor", "python")} | made["versions"],
        "tests": rows,
        "budget": {name: json.loads(table.data.to_json(orient="records"))[0] for name, table in budgets.items()},
        "hour": {name: json.loads(table.below[0].data.to_json(orient="records")) for name, table in budgets.items()},
    }


def share(part: float, whole: float) -> str:
    """A share in percent."""
    return f"{100 * part / whole:.0f} %"


def tests(rows: list[dict[str, Any]]) -> Iterator[str]:
    """All arms together, by split and score."""
    yield "| images | score | pairs of trainings | called different over images | halves of trainings | called different over trainings |"
    yield "|---|---|---:|---:|---:|---:|"
    for split, words in SPLITS.items():
        for name, title in SCORES.items():
            own = [row for row in rows if (row["split"], row["score"]) == (split, name)]
            pairs, different, halves, wrong = (
                sum(row[key] for row in own) for key in ("pairs", "different", "halves", "halves_different")
            )
            yield f"| {words} | {title} | {pairs} | {share(different, pairs)} | {halves} | {share(wrong, halves)} |"


def budgets(budget: Mapping[str, Mapping[str, Any]], hour: Mapping[str, list[dict[str, Any]]]) -> Iterator[str]:
    """The parts of the variance of one training's paired difference, and of the mean's what an hour leaves."""
    yield "| metric | sd of one difference | training luck | images x training | images | left after an hour of seeds | of images |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, row in budget.items():
        parts = " | ".join(share(row[part], row["variance"]) for part in ("root", "image_training", "image"))
        after = {line["what"]: line["variance"] for line in hour[name]}
        now = row["root"] / row["n"] + row["image_training"] / row["n"] + row["image"]
        left = " | ".join(share(after[what], now) if what in after else "-" for what in ("seeds", "images"))
        yield f"| {name} | {row['variance'] ** 0.5:.3f} | {parts} | {left} |"


def page(found: Mapping[str, Any]) -> str:
    """The page, from what `measured` gave."""
    row, made = found["budget"]["test_top1"], found["made"]
    lines = [
        "# Tests over images, and what the noise is made of",
        "",
        "Made by `benchmarks/image_tests.py` from image_tests.json; the script begins with its commands. The proxy of",
        f"conf/train/proxy.yaml on CIFAR-10; {row['n']} seeds of the plain network and of attention alone at stage 3; commit",
        f"{made['commit']}, {made['processor']}, Python {made['python']}, torch {made.get('torch')}.",
        "",
        "## Two trainings of one network",
        "",
        "Nothing but the seed differs, so 5 % is what a test at 5 % should call different. McNemar's exact test for top-1, paired",
        "t tests for the rest; beside them a t test over the trainings' means, of one half of the seeds against the other, in all",
        "ways to halve them. Pairs and halves share trainings: the shares are of one sample of seeds.",
        "",
        *tests(found["tests"]),
        "",
        "A test over images takes the two networks as given and asks whether they differ on other images. They do: luck made them two",
        "networks. It is no answer to whether the arms differ, and no table gives it.",
        "",
        "## What a paired difference's variance is made of",
        "",
        f"Attention alone at stage 3 less the plain network, {row['n']} seeds: `xvol-table runs/image_tests --budget --metric NAME`.",
        "",
        *budgets(found["budget"], found["hour"]),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure a study where one is given; write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "study", nargs="?", type=Path, help="folder of the study; without it the page is made of the JSON"
    )
    options = parser.parse_args()
    path = RESULTS / "image_tests.json"
    if options.study is not None:
        path.write_text(json.dumps(measured(options.study), indent=1) + "\n", encoding="utf-8")
    (RESULTS / "image_tests.md").write_text(page(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
