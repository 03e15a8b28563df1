"""Write docs/surgery.md and docs/results/timm_surgery.csv from the lines of the timm sweep."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

__all__ = ["render"]

Row = dict[str, Any]

COLUMNS = ("model", "family", "params", "status", "size", "sites", "depthwise", "stages", "converted", "forward_ok")
MORE = (
    "eval_equal",
    "train_equal",
    "eval_after_equal",
    "fused_error_64",
    "fused_error_32",
    "felt",
    "refused",
    "seconds",
)
CLOSE = 1e-9  # of the largest logit, in float64
MARK, END = "<!-- sweep -->", "<!-- end of sweep -->"


def render(rows: dict[str, Row], survey: dict[str, Row], root: Path) -> None:
    """Write both files; of the page only what stands between its marks.

    Args:
        rows: by model, of the sweep.
        survey: by model, of all that timm has.
        root: of the repository.
    """
    ordered = sorted(rows.values(), key=lambda row: row["model"])
    with (root / "docs" / "results" / "timm_surgery.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, *MORE))
        for row in ordered:
            writer.writerow([_cell(row.get(column, "")) for column in (*COLUMNS, *MORE)])
    page = root / "docs" / "surgery.md"
    text = page.read_text() if page.exists() else f"# Surgery on timm models\n\n{MARK}\n{END}\n"
    head, rest = text.split(MARK)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{MARK}\n{_summary(ordered, survey)}\n{END}{tail}")


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return "; ".join(f"{count}x {reason}" for reason, count in value.items())
    return f"{value:.1e}" if isinstance(value, float) and abs(value) < 0.01 else value


def _summary(rows: list[Row], survey: dict[str, Row]) -> str:
    wanted = [row for row in survey.values() if row["convolutional"]]
    listed = [row for row in rows if row["model"] in survey and survey[row["model"]]["convolutional"]]
    ran = [row for row in listed if not row["status"].startswith("skipped")]
    kinds = Counter(_kind(row) for row in listed)
    with_sites = [row for row in ran if row.get("sites")]
    lines = [
        f"timm has {len(survey)} models here; {len(wanted)} are convolutional, of which **{len(ran)} were run** "
        f"(in order of parameters).",
        "",
        "| outcome | models |",
        "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in kinds.most_common()),
        "",
        f"Sites in all: {sum(row['sites'] for row in with_sites)}, of which depthwise "
        f"{sum(row.get('depthwise', 0) for row in with_sites)}; converted "
        f"{sum(row.get('converted', 0) for row in with_sites)}. Logits bitwise equal in eval mode: "
        f"{sum(bool(row.get('eval_equal')) for row in with_sites)} of {len(with_sites)} models with sites; in train "
        f"mode: {sum(bool(row.get('train_equal')) for row in with_sites)}; in eval mode after that step: "
        f"{sum(bool(row.get('eval_after_equal')) for row in with_sites)}. Fused within {CLOSE:g} of the largest logit "
        f"in float64: {sum(_close(row) for row in with_sites)}.",
        "",
        "## By family (timm's file)",
        "",
        "| family | models | with sites | sites | bitwise equal, eval / train | fused equal | failed or skipped |",
        "|---|---|---|---|---|---|---|",
        *_families(listed),
        "",
        "## Why convolutions are refused",
        "",
        "| reason | convolutions | models |",
        "|---|---|---|",
        *_reasons(ran),
        "",
        "Each model is a row of [results/timm_surgery.csv](results/timm_surgery.csv).",
    ]
    return "\n".join(lines)


def _kind(row: Row) -> str:
    status = str(row["status"])
    if status == "ok":
        good = row["eval_equal"] and row["train_equal"] and row["eval_after_equal"] and _close(row)
        return "converted, bitwise equal, fused equal" if good else "converted, but something is not equal"
    if status == "no sites":
        refused = "every spatial convolution of the stages is refused, with its reason"
        return f"no sites: {refused if row['refused'] else 'no spatial convolution was found inside a stage'}"
    return status.split(":")[0]


def _close(row: Row) -> bool:
    """An error below the limit, where the branches are felt at all."""
    return 0 <= row.get("fused_error_64", 1) < CLOSE < row.get("felt", 0)


def _families(rows: list[Row]) -> list[str]:
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    lines = []
    for family, members in sorted(families.items()):
        hosts = [row for row in members if row.get("sites")]
        equal = " / ".join(str(sum(bool(row.get(key)) for row in hosts)) for key in ("eval_equal", "train_equal"))
        lost = sum(row["status"] not in ("ok", "no sites") for row in members)
        lines.append(
            f"| {family} | {len(members)} | {len(hosts)} | {sum(row['sites'] for row in hosts)} | {equal} "
            f"| {sum(map(_close, hosts))} | {lost} |"
        )
    return lines


def _reasons(rows: list[Row]) -> list[str]:
    convs: Counter[str] = Counter()
    models: Counter[str] = Counter()
    for row in rows:
        for reason, count in (row.get("refused") or {}).items():
            convs[reason] += count
            models[reason] += 1
    return [f"| {reason} | {count} | {models[reason]} |" for reason, count in convs.most_common()]
