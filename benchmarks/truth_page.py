"""The results of benchmarks/truth.py as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.stats.ranking import than_chance

Row = dict[str, Any]

COMMANDS = """\
    python -m search -m experiment=proxy/truth
    python -m search experiment=one_shot/supernet                            # another one: seed=27001
    P="python -m search -m experiment=proxy/truth measure.zero_cost=[] hydra.sweeper.study_name"
    D=hydra.sweeper.design
    $P=paths $D.seeds=1 $D.first_seed=24600 start.kind=path start.root=runs/one_shot_supernet/single/0000-s27000 train.epochs=0 $NARROW
    $P=short $D.seeds=2 $D.first_seed=24200 train.epochs=1
    $P=fewer $D.seeds=2 $D.first_seed=24100 data.train_size=1250
    $P=small $D.seeds=2 $D.first_seed=24300 data.image_size=16
    $P=graft $D.seeds=null $D.first_seed=24400 $D.start=shared $D.roots=2 $D.orders=1 $D.graft_epochs=1 $D.gamma=[0.3] $NARROW
    $P=fork $D.seeds=null $D.first_seed=24500 $D.start=fork $D.fork_at=0.5 $D.roots=2 $D.orders=1 $D.gamma=[0.3] $NARROW   # and =[0]
    python benchmarks/truth.py --truth runs/proxy_truth --proxy "NAME=runs/paths" ...

NARROW leaves out what is another network than the root: `~hydra.sweeper.design.factors.arm.channels_50`, `_75` and `_125`.
"""


def page(found: Row) -> str:
    """The results as Markdown."""
    lines = [
        "# A truth table for samplers and proxies",
        "",
        "Made by `benchmarks/truth.py` from truth/trials.parquet, which has every training; `experiment=proxy/truth` trains them.",
        "",
        COMMANDS,
        "| | arms x seeds | test top-1 of the means | sd of means | noise of one training | F | p | reliability of a mean "
        "| tau of two halves of the seeds |",
        "|---|---|---|---:|---:|---:|---:|---|---|",
    ]
    for name, s in found["spread"].items():
        lines.append(
            f"| {name} | {s['arms']} x {s['seeds']} | {s['lowest']:.1f} to {s['highest']:.1f} ({s['best']}) | {s['sd_of_means']:.2f} | "
            f"{s['noise']:.2f} | {s['f']:.2f} | {s['p']:.1g} | {interval(s['reliability'])} | {interval(s['split_tau'])} |"
        )
    for name, rows in found["proxies"].items():
        lines += [
            "",
            f"## Which cheap ranking is like the mean of eight trainings: {name}",
            "",
            "| ranking | by | seeds | cost | arms | tau | winner behind | |",
            "|---|---|---:|---:|---:|---|---:|---|",
        ]
        for row in sorted(rows, key=lambda row: -(row["tau"][0] or 0)):
            lines.append(
                f"| {row['proxy']} | {row['score']} | {row['seeds'] or '-'} | {row['cost']:.2f} | {row['n']} | {interval(row['tau'])} | "
                f"{'-' if row['regret'] is None else format(row['regret'], '.2f')} | {than_chance(*row['tau'][1:])} |"
            )
    lines += [
        "",
        "## What a start from trained networks shows of effects from scratch",
        "",
        "Mean difference to the plain network over all arms of a kind, in points of test top-1.",
        "",
        "| start | kind | arms | from scratch | from the start | bias, 95% interval |",
        "|---|---|---:|---:|---:|---|",
    ]
    for row in found["biases"]:
        lines.append(
            f"| {row['start']} | {row['kind']} | {row['arms']} | {row['scratch']:+.2f} | {row['started']:+.2f} | {interval(row['bias'])} |"
        )
    lines += ["", "## The arms", "", "| arm | test top-1, mean of the seeds | sd |", "|---|---:|---:|"]
    for arm, each in sorted(found["arms"].items(), key=lambda item: -item[1]["mean"]):
        lines.append(f"| {arm} | {each['mean']:.2f} | {each['sd']:.2f} |")
    if found["left_out"]:
        each = ", ".join(f"{arm} (on {seeds})" for arm, seeds in found["left_out"].items())
        lines += ["", f"Left out above, since not all of their trainings finished (the others diverged): {each}."]
    lines += ["", f"{found['seconds']:.0f} s a training; commits {', '.join(found['commits'])}."]
    return "\n".join(lines) + "\n"


def interval(values: Sequence[float | None]) -> str:
    """An estimate with its interval."""
    middle, low, high = values
    if middle is None:
        return "-"
    return f"{middle:.2f}" if low is None or high is None else f"{middle:.2f} [{low:.2f}, {high:.2f}]"
