"""Judges cheap rankings of arms on a truth table: 37 arms that differ, each trained on the same 8 seeds.

    python -m search -m experiment=proxy/truth                                          # docs/results/truth.md has all commands
    python benchmarks/truth.py --truth runs/proxy_truth --proxy "a quarter of the images=runs/proxy_truth_fewer" ...
    python benchmarks/truth.py                                                          # the page anew, from what is committed
    python benchmarks/replay.py docs/results/truth/trials.parquet --json docs/results/truth_replay.json --repeats 50

The first command writes docs/results/truth/trials.parquet, one row a training: which ranking it belongs to (`ranking`, empty for the
truth), the arm's name, its point in the space that samplers are replayed on (`placement.at.stage1` to `stage4`, `branch`; none for
arms outside of it), seed, scores, `val_top1_after_1` and so on for each epoch, costs, zero-cost scores, `commit`.

An arm's truth is the mean of its test top-1 over all seeds. F, reliability: two-way analysis of variance of arms and seeds, ICC(3, k)
of Shrout and Fleiss 1979 with its exact interval. A proxy is its arms' mean of validation top-1, or of another score, over its own
seeds; Kendall's tau-b between both has a percentile interval over arms. A training from scratch on one seed is held against the mean
of the other seeds. Cost: pixels that an arm's trainings pass, with its share of roots or of the supernet, over those of one training
of the truth; seconds would tell what else the machine did.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from truth_page import page

from search.ledger.result import RESULT_FILE, read_result
from search.ledger.study_files import CONTROL, NULL
from search.report.reading.load import load_study
from search.report.reading.scored import with_scores
from search.stats.ranking import proxy_trust

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
TABLE = RESULTS / "truth" / "trials.parquet"
IMAGES, SIZE = 5000, 32  # of a training of the truth, and of the supernet
NO_EPOCHS: dict[str, list[float]] = {"epoch": [], "val_top1": []}
STAGES = ("stage1", "stage2", "stage3", "stage4")
ZERO_COST = ("synflow", "naswot", "jacob_cov", "grad_norm", "snip", "zen")
SOFT = "val_p_true"
KEPT = (
    *("arch_hash", "seed", "root_seed", "start", "val_top1", "val_loss", "test_top1", "test_loss", "params", "macs"),
    *("epochs", "train_seconds", "recipe_hash"),
)
PLAIN, ROOT = "plain", "(root)"
KINDS = ("X-volution ", "PSSA alone ")
RESAMPLES, SEED, LEVEL = 2000, 0, 0.95
TOP = 3

Row = dict[str, Any]


def arms_of(folder: Path) -> dict[str, str]:
    """The arm's name by the overrides of its trials, seed and root left out; the null control has none."""
    cells = json.loads((folder / "design.json").read_text(encoding="utf-8"))["cells"]
    named = {}
    for cell in cells:
        if cell["factors"].get(CONTROL) != NULL:
            named[_key(cell["overrides"])] = cell["factors"]["arm"]
    return named


def _key(overrides: Sequence[str]) -> str:
    left_out = ("seed=", "start.root=", "hydra.")
    return "; ".join(line for line in overrides if not line.startswith(left_out))


def read(folder: Path, ranking: str) -> pd.DataFrame:
    """The finished trials of a study, roots among them, as rows of the table."""
    frame = load_study(folder)
    frame = with_scores(frame[frame["status"] == "ok"], [SOFT])
    names = arms_of(folder)
    rows = []
    for _, trial in frame.iterrows():
        lines = [line.strip() for line in str(trial["overrides"]).split(";")]
        name = names.get(_key(lines))
        is_root = name is None and trial["start"] == "scratch" and trial["arm"] == PLAIN
        doses = [line for line in lines if line.startswith("branch.gamma=")]
        if (name is None and not is_root) or len(set(doses)) > 1:
            continue  # a control, or an arm whose dose the start took from it
        row: Row = {"ranking": ranking, "arm": ROOT if is_root else name, **_point(lines, name)}
        row |= {column: trial[column] for column in KEPT} | {SOFT: trial.get(SOFT), "passes": _passes(lines, trial)}
        row |= {name: trial[f"zero_cost.{name}"] for name in ZERO_COST if f"zero_cost.{name}" in frame}
        history = (
            pd.read_csv(folder / str(trial["run_dir"]) / "history.csv") if trial["epochs"] else pd.DataFrame(NO_EPOCHS)
        )
        row |= {
            f"val_top1_after_{epoch}": score for epoch, score in zip(history["epoch"], history["val_top1"], strict=True)
        }
        rows.append(row | {"commit": json.loads(trial["provenance"])["commit"]})
    table = pd.DataFrame(rows)
    trunk = table.loc[table["arm"] == ROOT, "passes"]
    if len(trunk) and (table["start"] == "fork").any():  # whose epochs count those of their trunk
        table.loc[table["start"] == "fork", "passes"] -= trunk.iloc[0]
    for supernet in frame.loc[frame["start"] == "path", "root"].unique():
        its = read_result(Path(str(supernet)) / RESULT_FILE)
        passes = (its.epochs or 0) * IMAGES
        table.loc[len(table)] = {
            "ranking": ranking,
            "arm": ROOT,
            "passes": passes,
            "seed": its.seed,
            "commit": its.provenance["commit"],
        }
    return table


def _passes(lines: Sequence[str], trial: pd.Series[Any]) -> float:
    """Images that a training passes, counted as of the truth's size."""
    given = dict(line.split("=", 1) for line in lines if "=" in line)
    images = int(given.get("data.train_size", IMAGES))
    return float(trial["epochs"] or 0) * images * (int(given.get("data.image_size", SIZE)) / SIZE) ** 2


def _point(lines: Sequence[str], name: str | None) -> dict[str, str | None]:
    """The point of the space: which stages have the block, and which block; none for arms that another override makes."""
    given = dict(line.split("=", 1) for line in lines if "=" in line)
    inside = name is not None and (name == PLAIN or name.startswith(KINDS))
    inside = inside and {"branch.gamma", "branch.options.conv.kernel"}.isdisjoint(given)
    if not inside:
        return dict.fromkeys([*(f"placement.at.{stage}" for stage in STAGES), "branch"])
    chosen = given.get("placement.policy", "none").split("+")
    point: dict[str, str | None] = {f"placement.at.{stage}": "block" if stage in chosen else "none" for stage in STAGES}
    return point | {"branch": given["branch"] if name != PLAIN else ""}


def matrix(trials: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Arms by seeds; arms that did not finish on every seed are left out."""
    values = trials.pivot_table(index="arm", columns="seed", values=metric, sort=False).astype(float).dropna()
    if len(values) < TOP or values.shape[1] < 2:
        raise SystemExit(f"truth.py: {len(values)} arms finished on all of {values.shape[1]} seeds: finish the study")
    return values


def spread(values: pd.DataFrame) -> Row:
    """F of the arms, the reliability of their means, and how far two halves of the seeds rank alike."""
    arms, seeds = values.shape
    grid = values.to_numpy()
    of_arms = seeds * grid.mean(axis=1).var(ddof=1)
    left = grid - grid.mean(axis=1, keepdims=True) - grid.mean(axis=0, keepdims=True) + grid.mean()
    residual = float((left**2).sum() / ((arms - 1) * (seeds - 1)))
    degrees = (arms - 1, (arms - 1) * (seeds - 1))
    f = float(of_arms / residual)
    bounds = [1 - stats.f.ppf((1 + LEVEL) / 2, *degrees) / f, 1 - stats.f.ppf((1 - LEVEL) / 2, *degrees) / f]
    halves = [list(half) for half in combinations(range(seeds), seeds // 2) if 0 in half]
    others = [[seed for seed in range(seeds) if seed not in half] for half in halves]
    draw = np.random.default_rng(SEED)
    drawn = [draw.integers(arms, size=arms) for _ in range(RESAMPLES // 10)]
    pairs = [(grid[:, one].mean(axis=1), grid[:, two].mean(axis=1)) for one, two in zip(halves, others, strict=True)]
    taus = [_mean([_tau(one[at], two[at]) for one, two in pairs]) for at in drawn]
    return {
        "arms": arms,
        "seeds": seeds,
        "best": str(values.mean(axis=1).idxmax()),
        "highest": float(values.mean(axis=1).max()),
        "lowest": float(values.mean(axis=1).min()),
        "sd_of_means": float(values.mean(axis=1).std(ddof=1)),
        "noise": residual**0.5,
        "f": f,
        "p": float(stats.f.sf(f, *degrees)),
        "degrees": degrees,
        "reliability": [1 - 1 / f, *bounds],
        "split_tau": [float(np.mean([_tau(*pair) for pair in pairs])), *np.nanquantile(taus, [0.025, 0.975]).tolist()],
    }


def _tau(one: np.ndarray, two: np.ndarray) -> float:
    return float(stats.kendalltau(one, two).statistic)


def _mean(values: Sequence[float]) -> float:
    """Of those that are defined: a resample of few arms may be one tie."""
    there = [value for value in values if np.isfinite(value)]
    return float(np.mean(there)) if there else float("nan")


def one_seed(cheap: pd.DataFrame, truth: pd.DataFrame) -> Row:
    """Of a score of the truth's own trainings: the tau of one seed against the mean of the others, on average, with its interval."""
    draw = np.random.default_rng(SEED)
    grid, goal = cheap.to_numpy(), truth.to_numpy()
    rest = [np.delete(goal, seed, axis=1).mean(axis=1) for seed in range(goal.shape[1])]

    def tau(at: np.ndarray) -> float:
        return _mean([_tau(grid[at, seed], rest[seed][at]) for seed in range(len(rest))])

    everyone = np.arange(len(grid))
    drawn = [tau(draw.integers(len(grid), size=len(grid))) for _ in range(RESAMPLES // 10)]
    behind = [float(goal.mean(axis=1).max() - goal.mean(axis=1)[grid[:, seed].argmax()]) for seed in range(len(rest))]
    return {
        "n": len(grid),
        "tau": [tau(everyone), *np.nanquantile(drawn, [0.025, 0.975])],
        "regret": float(np.mean(behind)),
    }


def held_against(cheap: pd.Series[float], truth: pd.Series[float]) -> Row:
    """Of a proxy's means: tau, its interval, and how far its winner is behind."""
    found = proxy_trust(cheap, truth[truth.index.isin(cheap.index)], k=TOP, resamples=RESAMPLES, seed=SEED)
    return {"n": found.n, "tau": [found.tau, found.low, found.high], "regret": found.regret}


def biases(table: pd.DataFrame) -> list[Row]:
    """Of each start from trained networks: mean differences to the plain network, beside those from scratch.

    The mean over arms of a kind is one number for each seed of the truth and each root of the start; of their two means, Welch's
    interval.
    """
    scratch = matrix(table[table["ranking"] == ""], "test_top1")
    rows = []
    for ranking, trials in table[table["start"].isin(["shared", "fork"])].groupby("ranking", sort=False):
        started = matrix(trials, "test_top1")
        for kind in KINDS:
            arms = [arm for arm in scratch.index if arm.startswith(kind) and arm in started.index]
            there, here = ((grid.loc[arms] - grid.loc[PLAIN]).mean() for grid in (scratch, started))
            bounds = stats.ttest_ind(here, there, equal_var=False).confidence_interval(LEVEL)
            rows.append(
                {
                    "start": str(ranking),
                    "kind": kind.strip(),
                    "arms": len(arms),
                    "scratch": float(there.mean()),
                    "started": float(here.mean()),
                    "bias": [float(here.mean() - there.mean()), float(bounds.low), float(bounds.high)],
                }
            )
    return rows


def judged(table: pd.DataFrame, arms: Sequence[str]) -> list[Row]:
    """Every cheap ranking of these arms against the truth."""
    served = table[table["arm"] != ROOT].groupby("ranking")["arm"].nunique()  # by the roots of each
    table = table[table["arm"].isin([*arms, ROOT])]
    trained = table[table["ranking"] == ""]
    truth = matrix(trained, "test_top1")
    means, passes = truth.mean(axis=1), float(trained["passes"].mean())
    rows = []
    last = int(trained["epochs"].max())
    for epoch in range(1, last + 1):
        name = "one training" if epoch == last else f"one training, read after {epoch} of {last} epochs"
        row = one_seed(matrix(trained, f"val_top1_after_{epoch}"), truth)
        rows.append({"proxy": name, "score": "val_top1", "seeds": 1, "cost": epoch / last, **row})
    if trained[SOFT].notna().all():
        row = one_seed(matrix(trained, SOFT), truth)
        rows.append({"proxy": "one training", "score": SOFT, "seeds": 1, "cost": 1.0, **row})
    for ranking, trials in table[table["ranking"] != ""].groupby("ranking", sort=False):
        of_arms = trials[trials["arm"] != ROOT]
        roots = trials.loc[trials["arm"] == ROOT, "passes"].sum()
        number, seeds = of_arms["arm"].nunique(), int(of_arms.groupby("arm")["seed"].nunique().min())
        cost = float(of_arms["passes"].sum() / number + roots / served[ranking]) / passes
        for score in ("val_top1", SOFT):
            if of_arms[score].notna().all() and number > TOP:
                row = held_against(of_arms.groupby("arm")[score].mean().astype(float), means)
                rows.append({"proxy": str(ranking), "score": score, "seeds": seeds, "cost": cost, **row})
    free: dict[str, Row] = {
        name: {"score": name, "seeds": 1, **one_seed(matrix(trained, name), truth)}
        for name in ZERO_COST
        if name in trained and trained[name].notna().all()
    }
    for name, column in (("parameters", "params"), ("MACs", "macs")):
        of_arm = trained.groupby("arm")[column].first().astype(float)
        free[name] = {"score": column, "seeds": 0, **held_against(of_arm, means)}
    rows += [{"proxy": name, "cost": 0.0, **row} for name, row in free.items()]
    return rows


def results(table: pd.DataFrame) -> Row:
    """All that the page shows."""
    trained = table[table["ranking"] == ""]
    everyone = list(matrix(trained, "test_top1").index)
    left_out = {
        arm: int(part["seed"].nunique()) for arm, part in trained.groupby("arm", sort=False) if arm not in everyone
    }
    blocks = [arm for arm in everyone if arm == PLAIN or arm.startswith("X-volution ")]
    groups: Mapping[str, Sequence[str]] = {"all arms": everyone, "plain and X-volution": blocks}
    return {
        "spread": {
            name: spread(matrix(trained[trained["arm"].isin(arms)], "test_top1")) for name, arms in groups.items()
        },
        "biases": biases(table),
        "proxies": {name: judged(table, arms) for name, arms in groups.items()},
        "arms": {
            arm: {"mean": float(part["test_top1"].mean()), "sd": float(part["test_top1"].std(ddof=1))}
            for arm, part in trained.groupby("arm", sort=False)
        },
        "left_out": left_out,
        "seconds": float(trained["train_seconds"].mean()),
        "commits": sorted(set(table["commit"])),
    }


def main() -> None:
    """Read studies into the table, or the table that is there, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truth", type=Path, help="folder of the study of experiment=proxy/truth")
    parser.add_argument(
        "--proxy", action="append", default=[], metavar="NAME=FOLDER", help="a cheap ranking of the same arms"
    )
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args()
    if args.truth is not None:
        given = [
            ("", args.truth),
            *((name, Path(folder)) for name, _, folder in (p.partition("=") for p in args.proxy)),
        ]
        args.table.parent.mkdir(parents=True, exist_ok=True)
        pd.concat([read(folder, name) for name, folder in given], ignore_index=True).to_parquet(args.table, index=False)
    elif args.proxy:
        parser.error("--proxy needs --truth: the table is written as a whole")
    found = results(pd.read_parquet(args.table))
    (RESULTS / "truth.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (RESULTS / "truth.md").write_text(page(found), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
