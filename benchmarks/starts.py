"""What a shared start or a fork buys: the compute that the same certainty takes, against trainings from scratch of the same study.

    python -m search -m experiment=paper/stage_placement_shared
    python benchmarks/starts.py runs/paper_stage_placement_shared      # studies that were read before stay on the page
    python benchmarks/starts.py                                        # the page anew, from docs/results/starts.json

A study with roots holds both: the known control from its roots, beside the plain network that goes on; and the same control from
scratch on the roots' seeds, beside the roots themselves (of a fork: beside the plain network that goes on in their order).
Compute is counted in epochs, which other work on the machine does not change. From roots it holds what goes on, in two arms,
and the root: whole, as if there were no other arm, or divided by the arms that this study has, as the plain network is on either side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from search.report.reading.load import load_study
from search.report.reading.scored import with_scores

RESULTS = Path(__file__).resolve().parent.parent / "docs/results"
METRICS = ("test_top1", "test_p_true", "test_nll")
RESAMPLES, SEED = 10_000, 0
LEVEL = 0.90
FROM_SCRATCH, FROM_ROOTS = "paper_stage_placement", "paper_stage_placement_shared"  # the same arms, on the same images


def by_seed(trials: pd.DataFrame, metric: str) -> pd.Series[float]:
    """The metric of finished trials by their seed."""
    return trials.dropna(subset=[metric]).drop_duplicates("seed").set_index("seed")[metric].astype(float)


def paired(arm: pd.DataFrame, base: pd.DataFrame, metric: str) -> pd.Series[float]:
    """Arm minus base on the seeds that both have."""
    return (by_seed(arm, metric) - by_seed(base, metric)).dropna()


def study(folder: Path) -> dict[str, Any]:
    """The differences of the known control, by root and from scratch, and what a pair of them takes."""
    frame = with_scores(load_study(folder), METRICS)
    ok = frame[(frame["status"] == "ok") & (frame["phase"] == "final")]
    is_null = ok["overrides"].str.contains("start.init_stream=", regex=False)
    nulls = ok[is_null]
    on, begun = ok[~is_null & (ok["start"] != "scratch")], ok[ok["start"] == "scratch"]
    base = on[on["is_baseline"]]
    plain = base["arch_hash"].iloc[0]
    arch = begun[begun["arch_hash"] != plain]["arch_hash"].iloc[0]
    scratch, roots = begun[begun["arch_hash"] == arch], begun[begun["arch_hash"] == plain]
    known = on[on["arch_hash"] == arch]
    forked = bool((on["start"] == "fork").all())
    beside = base[base["seed"] == base["root_seed"]] if forked else roots
    arms = on[~on["is_baseline"]]["arch_hash"].nunique()
    epochs = {"root": int(roots["epochs"].iloc[0]), "scratch": int(scratch["epochs"].iloc[0])}
    epochs["on"] = int(known["epochs"].iloc[0]) - (epochs["root"] if forked else 0)
    found: dict[str, Any] = {
        "study": folder.name,
        "start": str(on["start"].iloc[0]),
        "arm": str(known["arm"].iloc[0]),
        "arms": int(arms),
        "epochs": epochs,
        "seconds": {
            name: float(part["train_seconds"].astype(float).median())
            for name, part in (("root", roots), ("on", known), ("scratch", scratch))
        },
        "commit": str(json.loads(ok["provenance"].iloc[0]).get("commit")),
        "train_images": int(next(iter(_train_images(ok)), 0)),
        "metrics": {},
    }
    root_of = base.drop_duplicates("seed").set_index("seed")["root_seed"]
    for metric in METRICS:
        if metric not in ok or ok[metric].isna().all():
            continue
        pairs, of_null = paired(known, base, metric), paired(nulls, base, metric)
        found["metrics"][metric] = {
            "from_roots": _plain(pairs.groupby(root_of.reindex(pairs.index)).mean()),
            "orders": float(pairs.groupby(root_of.reindex(pairs.index)).size().mean()),
            "from_scratch": _plain(paired(scratch, beside, metric)),
            "null": float(of_null.abs().max()) if len(of_null) else None,
        }
    return found


def _plain(values: pd.Series[float]) -> dict[str, float]:
    return {str(seed): float(value) for seed, value in values.items()}


def _train_images(frame: pd.DataFrame) -> Sequence[int]:
    lines = frame["overrides"].str.extract(r"data\.train_size=(\d+)")[0].dropna()
    return [int(each) for each in lines.unique()]


def costs(found: dict[str, Any], orders: float) -> dict[str, float]:
    """How many times the epochs of one arm's difference on a root fit into those of one on a seed from scratch.

    "alone": the arm pays for the plain network, and for the root; "shared": its share of them among the study's arms.
    """
    epochs = found["epochs"]
    return {
        name: epochs["scratch"] * (1 + share) / (orders * epochs["on"] * (1 + share) + epochs["root"] * share)
        for name, share in (("alone", 1.0), ("shared", 1 / found["arms"]))
    }


def certainty(values: np.ndarray) -> np.ndarray:
    """(mean / sd)^2 of each row of (..., n)."""
    return np.asarray((values.mean(axis=-1) / values.std(axis=-1, ddof=1)) ** 2)


def precision(values: np.ndarray) -> np.ndarray:
    """1 / variance of each row: of a null effect, where the size of the difference says nothing."""
    return np.asarray(1 / values.var(axis=-1, ddof=1))


def ratio(one: np.ndarray, other: np.ndarray, of: Callable[[np.ndarray], np.ndarray], cost: float) -> list[float]:
    """How many times less compute: estimate and `LEVEL` interval, roots and seeds drawn anew (percentiles)."""
    draw = np.random.default_rng(SEED)
    many, few = (each[draw.integers(len(each), size=(RESAMPLES, len(each)))] for each in (one, other))
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = of(many) / of(few) * cost
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(of(one) / of(other)) * cost, float(low), float(high)]


def rows(found: dict[str, Any]) -> list[str]:
    """A line of the page for each metric of a study."""
    lines = []
    for metric, each in found["metrics"].items():
        on, begun = (np.array(list(each[name].values())) for name in ("from_roots", "from_scratch"))
        if min(len(on), len(begun)) < 3:
            continue
        cost = costs(found, each["orders"])
        said = [f"{values.mean():+.2f} ± {values.std(ddof=1):.2f} ({len(values)})" for values in (on, begun)]
        for name in ("alone", "shared"):
            for of in (certainty, precision):
                times, low, high = ratio(on, begun, of, cost[name])
                said.append(f"{times:.1f} [{low:.1f}, {high:.1f}]")
        lines.append(
            f"| {found['study']} | {found['start']} | {found['arm']} | {metric} | {' | '.join(said)} | {each['null']:g} |"
        )
    return lines


def page(studies: Sequence[dict[str, Any]]) -> str:
    """The page of results."""
    head = [
        *(
            "study",
            "start",
            "known control",
            "metric",
            "from roots: mean ± sd (roots)",
            "from scratch: mean ± sd (seeds)",
        ),
        *(
            "same certainty, one arm",
            "same spread, one arm",
            "same certainty, this study",
            "same spread, this study",
            "null",
        ),
    ]
    lines = [
        "# What a shared start buys",
        "",
        "Made by `benchmarks/starts.py` from starts.json. How many times less compute (epochs) the known control takes from roots",
        f"than from scratch, with a {LEVEL:.0%} bootstrap interval over roots and seeds. *Same certainty*: (mean / sd)^2 an epoch, so",
        "that the larger or smaller effect of the other estimand counts. *Same spread*: 1 / variance an epoch alone. *One arm* counts",
        "the whole root and the whole plain network, *this study* their share among its arms. *null*: the largest difference that the",
        "null control showed anywhere.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for found in studies:
        lines += rows(found)
    lines += [
        "",
        "| study | arms | epochs of root, on, scratch | training images | commit |",
        "|---|---:|---|---:|---|",
    ]
    for found in studies:
        epochs = ", ".join(str(found["epochs"][name]) for name in ("root", "on", "scratch"))
        images = found["train_images"] or "as the experiment says"
        lines.append(f"| {found['study']} | {found['arms']} | {epochs} | {images} | {found['commit']} |")
    return "\n".join([*lines, *of_small_effects()]) + "\n"


def pooled(name: str, metric: str = "test_top1") -> tuple[float, int]:
    """Variance of a pair, and its degrees of freedom, pooled over the arms of a committed study that keep their convolution.

    Of arms that go on from roots these are the means of each root's pairs.
    """
    frame = load_study(RESULTS / name / "trials.csv")
    ok = frame[(frame["status"] == "ok") & ~frame["overrides"].str.contains("start.init_stream=", regex=False)]
    on = ok[ok["start"] != "scratch"] if (ok["start"] != "scratch").any() else ok
    base = on[on["is_baseline"]].drop_duplicates("seed").set_index("seed", drop=False)
    root_of = base["root_seed"].fillna(base["seed"])
    squares, degrees = 0.0, 0
    for arm, trials in on[~on["is_baseline"]].groupby("arm"):
        if ": conv+" in str(arm):
            pairs = paired(trials, base, metric)
            means = pairs.groupby(root_of.reindex(pairs.index)).mean()
            squares, degrees = squares + float(means.var(ddof=1)) * (len(means) - 1), degrees + len(means) - 1
    return squares / degrees, degrees


def of_small_effects() -> list[str]:
    """The section on arms whose effect is near zero: those that keep their convolution, from scratch and from roots."""
    (begun, few), (on, many) = pooled(FROM_SCRATCH), pooled(FROM_ROOTS)
    low, high = (begun / on / stats.f.ppf(share, few, many) for share in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
    return [
        "",
        "## Arms that hardly differ",
        "",
        "Variance of a paired difference in test top-1, pooled over the arms that keep their convolution, of the same network on the",
        f"same images: {begun:.2f} from scratch ({FROM_SCRATCH}, {few} degrees of freedom), {on:.2f} from roots",
        f"({FROM_ROOTS}, {many}): {begun / on:.1f} times as much [{low:.1f}, {high:.1f}], {LEVEL:.0%} by the F",
        "distribution as if arms were independent, which those of one study are not. A pair from a root takes 3 epochs twice beside the",
        "root, one from scratch 4 twice.",
    ]


def main() -> None:
    """Read studies, or what was read before, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path, help="folders of studies with start=shared or fork")
    parser.add_argument("--json", type=Path, default=RESULTS / "starts.json")
    given = parser.parse_args()
    if given.studies:
        before = json.loads(given.json.read_text(encoding="utf-8")) if given.json.is_file() else []
        known = {each["study"]: each for each in before} | {each["study"]: each for each in map(study, given.studies)}
        given.json.write_text(json.dumps(list(known.values()), indent=1) + "\n", encoding="utf-8")
    text = page(json.loads(given.json.read_text(encoding="utf-8")))
    given.json.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
