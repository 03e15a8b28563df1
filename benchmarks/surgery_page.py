"""Write docs/surgery.md and docs/results/timm_surgery.csv from the lines of the timm sweep."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

__all__ = ["render"]

Row = dict[str, Any]

COLUMNS = ("model", "family", "params", "status", "size", "sites", "depthwise", "stages", "normed")
EQUAL = ("eval_equal", "train_equal", "eval_after_equal")
FORM = (*EQUAL, "fused_error_64", "felt")
MORE = ("fused_error_32", "refused", "seconds")
FORMS = {"kept": "every norm stays where it is", "taken": "each batch norm behind a host goes into the block"}
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
        header = (*COLUMNS, *(f"{form}_{column}" for form in FORMS for column in FORM), *MORE)
        writer.writerow(header)
        for row in ordered:
            flat = {f"{form}_{column}": value for form in FORMS for column, value in _form(row, form).items()}
            writer.writerow([_cell((row | flat).get(column, "")) for column in header])
    page = root / "docs" / "surgery.md"
    text = page.read_text() if page.exists() else f"# Surgery on timm models\n\n{MARK}\n{END}\n"
    head, rest = text.split(MARK)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{MARK}\n{_summary(ordered, survey)}\n{END}{tail}")


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return "; ".join(f"{count}x {reason}" for reason, count in value.items())
    return f"{value:.1e}" if isinstance(value, float) and abs(value) < 0.01 else value


def _form(row: Row, form: str) -> Row:
    """What was measured of one form of block; nothing where that form has no host."""
    if not row.get("sites") or (form == "taken" and not row["normed"]):
        return {}
    return dict(row["keeps"]) if form == "kept" and row["normed"] else row


def _summary(rows: list[Row], survey: dict[str, Row]) -> str:
    wanted = sum(bool(row["convolutional"]) for row in survey.values())
    listed = [row for row in rows if row["model"] in survey and survey[row["model"]]["convolutional"]]
    ran = [row for row in listed if not row["status"].startswith("skipped")]
    kinds = Counter(_kind(row) for row in listed)
    if wanted > len(listed):
        kinds["not run yet"] = wanted - len(listed)
    hosts = [row for row in ran if row.get("sites")]
    lines = [
        f"timm has {len(survey)} models here; {wanted} are convolutional, of which **{len(ran)} were run** "
        f"(in order of parameters).",
        "",
        "| outcome | models |",
        "|---|---|",
        *(f"| {kind} | {count} |" for kind, count in kinds.most_common()),
        "",
        f"Sites in all: {sum(row['sites'] for row in hosts)}, of which depthwise "
        f"{sum(row.get('depthwise', 0) for row in hosts)}, with a batch norm that a block can take over "
        f"{sum(row['normed'] for row in hosts)}. Every site was converted in both forms:",
        "",
        "| form | models | sites | bitwise equal: eval | train | eval after that step "
        f"| fused within {CLOSE:g} of the largest logit, float64 |",
        "|---|---|---|---|---|---|---|",
        *(_equal(form, [row for row in hosts if _form(row, form)]) for form in FORMS),
        "",
        "## By family (timm's file)",
        "",
        "| family | models | with sites | sites | all equal, norms kept | with batch norms | all equal, norms taken "
        "| failed or skipped |",
        "|---|---|---|---|---|---|---|---|",
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


def _equal(form: str, rows: list[Row]) -> str:
    found = [_form(row, form) for row in rows]
    counts = " | ".join(str(sum(bool(each[key]) for each in found)) for key in EQUAL)
    sites = sum(row["sites"] for row in rows)
    return f"| {FORMS[form]} | {len(rows)} | {sites} | {counts} | {sum(map(_close, found))} |"


def _kind(row: Row) -> str:
    status = str(row["status"])
    if status == "ok":
        good = all(_good(each) for form in FORMS if (each := _form(row, form)))
        return "converted, bitwise equal, fused equal" if good else "converted, but something is not equal"
    if status == "no sites":
        refused = "every spatial convolution of the stages is refused, with its reason"
        return f"no sites: {refused if row['refused'] else 'no spatial convolution was found inside a stage'}"
    return status.split(":")[0]


def _good(found: Row) -> bool:
    return all(found[key] for key in EQUAL) and _close(found)


def _close(found: Row) -> bool:
    """An error below the limit, where the branches are felt at all."""
    return 0 <= found.get("fused_error_64", 1) < CLOSE < found.get("felt", 0)


def _families(rows: list[Row]) -> list[str]:
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    lines = []
    for family, members in sorted(families.items()):
        sites = sum(row["sites"] for row in members if row.get("sites"))
        kept, taken = ([found for row in members if (found := _form(row, form))] for form in FORMS)
        lost = sum(row["status"] not in ("ok", "no sites") for row in members)
        lines.append(
            f"| {family} | {len(members)} | {len(kept)} | {sites} | {sum(map(_good, kept))} | {len(taken)} "
            f"| {sum(map(_good, taken))} | {lost} |"
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
