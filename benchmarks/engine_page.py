"""The results of benchmarks/engine.py as Markdown, with the targets beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["render"]

Row = dict[str, Any]


def render(found: Row) -> str:
    """The whole page; sections that were not run are left out, rivals that are missing are named."""
    sections = found["sections"]
    machine = found["machine"]
    lines = [
        "# What the search engine costs",
        "",
        f"{machine['processor']}, {machine['cores']} cores; Python {machine['python']}; {machine['platform']}.",
        "",
    ]
    lines += [f"- {name}: {_versions(packages)}" for name, packages in found["versions"].items()]
    lines += [f"- {name}: missing. {reason.splitlines()[0]}" for name, reason in found["missing"].items()]
    for name, table in _TABLES.items():
        if name in sections:
            lines += ["", *table(sections[name]["rows"]), "", _taken(sections[name])]
    return "\n".join(lines) + "\n"


def _cpu(rows: Sequence[Row]) -> list[str]:
    ours = rows[0]
    rivals = rows[1:]
    lines = [
        f"## CPU of a no-op trial, {ours['trials']} trials, {ours['workers']} workers, random sampler",
        "",
        "Goal: at least 2.5 times less than each rival at its best batch, in the same run. User and system time of all",
        "processes; the start is the same command with one trial a worker. The official sweeper hands its launcher batches: as",
        "many trials as workers, or (one batch) all of them at once.",
        "",
        "| engine | CPU s a trial | over ours | start, CPU s | CPU s a trial, start taken off | over ours | wall s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        whole, net = row["cpu_a_trial"], row["cpu_a_trial_without_start"]
        lines.append(
            f"| {row['engine']} | {whole:.4f} | {whole / ours['cpu_a_trial']:.1f} | {row['start_cpu']:.2f} | {net:.4f} | "
            f"{net / ours['cpu_a_trial_without_start']:.1f} | {row['wall']:.1f} |"
        )
    least = min((row["cpu_a_trial"] / ours["cpu_a_trial"] for row in rivals), default=None)
    met = least is not None and least >= 2.5
    nearest = "no rival was run" if least is None else f"the nearest rival takes {least:.1f} times as much"
    return [*lines, "", f"{_verdict(met)}: {ours['cpu_a_trial']:.4f} s a trial, start included; {nearest}."]


def _growth(rows: Sequence[Row]) -> list[str]:
    lines = [
        "## Growth of one study, random sampler, journal",
        "",
        "Goal: a late trial costs at most 1.5 times an early one. Early: trials 50 to 149 of a study of 200 trials, which",
        "is then grown; late: the 100 that end 50 before the last. Mean CPU ms in the worker from one trial to its next.",
        "",
        "| engine | trials | early | 100 trials at 250, in the large study | late | late/early | of medians | journal MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['engine']} | {row['trials']} | {1000 * row['early_cpu']:.1f} | {1000 * row['early_in_large_study_cpu']:.1f} | "
            f"{1000 * row['late_cpu']:.1f} | {row['ratio']:.2f} | {row['ratio_of_medians']:.2f} | {row['storage_mb']:.1f} |"
        )
    return [*lines, "", f"{_verdict(rows[0]['ratio'] <= 1.5)}: {rows[0]['ratio']:.2f}."]


def _stored(rows: Sequence[Row]) -> list[str]:
    row = rows[0]
    lines = [
        "## Stored trials",
        "",
        "Goal: a trial beside 50,000 stored ones costs at most 1.2 times one beside 500. So many stand in the study itself, as",
        "complete trials of its journal with their folders, and as many again in ten studies below the same `runs/`. A trial asks",
        "whether it was trained before, reports an epoch, asks how the study stands and writes its result; random sampler, one",
        "worker. CPU ms in the worker from one trial to its next, median; seconds from the command to the first new trial, and",
        "the same where the index of all runs was deleted.",
        "",
        "| engine | stored in the study, and beside it | CPU ms a trial | s to the first trial | s without index |",
        "|---|---|---|---|---|",
    ]
    for each in row["rows"]:
        lines.append(
            f"| {row['engine']} | {each['stored']} | {1000 * each['cpu']:.1f} | {each['to_first_trial']:.1f} | "
            f"{each['to_first_trial_without_index']:.1f} |"
        )
    return [*lines, "", f"{_verdict(row['ratio'] <= 1.2)}: {row['ratio']:.2f}."]


def _resume(rows: Sequence[Row]) -> list[str]:
    lines = [
        "## Resume",
        "",
        "Goal: at most 3 s from the command to the start of the first new trial.",
        "",
        "| engine | trials in the study | seconds, median | fastest | CPU s of the command |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['engine']} | {row['trials']} | {row['seconds']:.2f} | {row['fastest']:.2f} | {row['cpu']:.2f} |"
        )
    return [*lines, "", f"{_verdict(rows[0]['seconds'] <= 3)}: {rows[0]['seconds']:.2f} s."]


def _busy(rows: Sequence[Row]) -> list[str]:
    lines = [
        "## Busy workers, trials of 0.5 to 4 s",
        "",
        "Goal: at least 97 % of the workers' wall time inside trials, from the moment each worker has a trial to the",
        "moment the last trial starts (the tail is left out). Trial n lasts as long under one engine as under another.",
        "A batch waits for its longest trial. In one batch of all trials none waits, and the wall time is ours; but then each",
        "point is proposed before the first result is known, so a sampler learns nothing.",
        "",
        "| workers | engine | trials | busy % | wall s | s to the first trial |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['workers']} | {row['engine']} | {row['trials']} | {100 * row['busy']:.1f} | {row['wall']:.1f} | "
            f"{row['to_first_trial']:.1f} |"
        )
    ours = [row["busy"] for row in rows if row["engine"].startswith("ours")]
    return [*lines, "", f"{_verdict(min(ours) >= 0.97)}: at least {100 * min(ours):.1f} % in ours."]


def _command(rows: Sequence[Row]) -> list[str]:
    lines = [
        "## The command line",
        "",
        "Goal: at most 1.0 s for `--help` and for mistakes.",
        "",
        "| command | case | seconds, median | fastest | CPU s |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['command']} | {row['case']} | {row['seconds']:.2f} | {row['fastest']:.2f} | {row['cpu']:.2f} |"
        )
    slowest = max(row["seconds"] for row in rows if row["command"] == "python -m search")
    return [*lines, "", f"{_verdict(slowest <= 1.0)}: at most {slowest:.2f} s in `python -m search`."]


_TABLES: dict[str, Callable[[Sequence[Row]], list[str]]] = {
    "cpu": _cpu,
    "growth": _growth,
    "stored": _stored,
    "resume": _resume,
    "busy": _busy,
    "command": _command,
}


def _verdict(met: bool) -> str:
    return "**Met**" if met else "**Not met**"


def _versions(packages: Row) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items() if version)


def _taken(section: Row) -> str:
    return (
        f"Commit {section['commit']}, {section['date']} UTC, {section['seconds']:.0f} s; load of the machine "
        f"{section['load_before']} before, {section['load_after']} after."
    )
