"""What a study may optimise or limit, and which way is better: scores of the validation images, costs, zero-cost scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from search.ledger.metric import CLASSIFY, SCORE_PREFIX, chosen_by, metrics_of
from xvol.allowed import meant

ZERO_COST = ("synflow", "naswot", "jacob_cov", "grad_norm", "snip", "zen")
MAXIMIZE, MINIMIZE = "maximize", "minimize"
KNOWN_COSTS = ("params", "params_fused", "macs", "macs_fused")  # of every network, before it is trained
CHEAP_COSTS = ("latency_ms", "latency_fused_ms", "train_memory_mb")  # measured before training on request
COSTS = (*KNOWN_COSTS, *CHEAP_COSTS, *(f"{SCORE_PREFIX}{name}" for name in ZERO_COST))


def check_scores(names: Iterable[str], where: str) -> None:
    """Raise ValueError where there is no zero-cost score of that name."""
    for name in names:
        if name not in ZERO_COST:
            raise ValueError(
                f"{where}: unknown score {name!r}; allowed are {', '.join(ZERO_COST)}{meant(name, ZERO_COST)}"
            )
    check_once(names, where)


def check_once(names: Iterable[str], where: str) -> None:
    """Raise ValueError where something is named twice."""
    for name, times in Counter(names).items():
        if times > 1:
            raise ValueError(f"{where}: {name} is named twice; name it once")


def check_costs(names: Iterable[str]) -> None:
    """Raise ValueError where a cost cannot be measured before training."""
    for name in names:
        if name not in COSTS:
            raise ValueError(
                f"cost {name!r} is not known before training; allowed are {', '.join(COSTS)}{meant(name, COSTS)}"
            )


def senses(task: str = CLASSIFY) -> dict[str, str]:
    """What a study may optimise and which way is better, beside `zero_cost.NAME`: never anything of the test split."""
    scores = {metric.on("val").column: metric.higher_is_better for metric in metrics_of(task) if "val" in metric.splits}
    costs = dict.fromkeys((*KNOWN_COSTS, *CHEAP_COSTS, "train_seconds"), MINIMIZE)
    return {name: MAXIMIZE if higher else MINIMIZE for name, higher in scores.items()} | costs


def sense_of(name: str, task: str = CLASSIFY) -> str:
    """Which way an objective is better: "maximize" or "minimize". The papers of the zero-cost scores maximise them."""
    return senses(task).get(name, MAXIMIZE)


def check_objectives(names: list[str], scores: Iterable[str] = (), task: str = CLASSIFY) -> None:
    """Raise ValueError where an objective is unknown, is not measured, or would choose on test data.

    Args:
        scores: the zero-cost scores that are measured, `measure.zero_cost`.
    """
    allowed = senses(task)
    for name in names:
        if name.startswith("test_"):
            raise ValueError(
                f"objectives: {name} would choose on test data; test is read by the final re-evaluation alone"
            )
        if name.startswith(SCORE_PREFIX):
            score = name.removeprefix(SCORE_PREFIX)
            check_scores([score], f"objectives: {name}")
            if score not in scores:
                raise ValueError(f"objectives: {name} is not measured; add it, e.g. measure.zero_cost=[{score}]")
        elif name not in allowed:
            raise ValueError(
                f"objectives: unknown metric {name!r}; allowed are {', '.join(allowed)}, and {SCORE_PREFIX}NAME for "
                f"each NAME in measure.zero_cost{meant(name, allowed)}"
            )
    check_once(names, "objectives")
    if not names:
        raise ValueError(f"objectives: give at least one, e.g. objectives=[{chosen_by(task)}]")
