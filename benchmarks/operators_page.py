"""The tables of `operators.py` as Markdown."""

from __future__ import annotations

from typing import Any

__all__ = ["KINDS", "page"]

KINDS = ("inference", "forward", "forward+backward")

Row = dict[str, Any]


def verdict(row: Row) -> str:
    """Whether the target is met, on the unrounded ratio, or by how much it is missed; empty without a target."""
    if row["target"] is None:
        return ""
    short = row["ratio"] - row["target"]
    if short <= 0:
        return f"<= {row['target']:.2f} met"
    within = ", less than the spread" if short < row.get("spread", 0.0) else ""
    return f"<= {row['target']:.2f} NOT met, by {short:.4f}{within}"


def speed_table(rows: list[Row]) -> list[str]:
    """One line for each form and kind, in its better memory format: the median ratio, that of the minima, the spread, the target."""
    lines = [
        "| shape | form | what | ratio | of minima | spread | ms | in | other format, ms | target |",
        "|---" * 10 + "|",
    ]
    for row in rows:
        other = ", ".join(f"{ms:.1f}" for ms in row["other_ms"].values())
        lines.append(
            f"| {row.get('shape', '224x224')} | {row['name']} | {row['kind']} | {row['ratio']:.2f} "
            f"| {row['ratio_of_minima']:.2f} | {row['spread']:.2f} | {row['ms']:.1f} | {row['format']} | {other} "
            f"| {verdict(row)} |"
        )
    return lines


def summary_table(rows: list[Row]) -> list[str]:
    """Forms down, shapes across: inference / forward / forward+backward."""
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    ratios = {(row["name"], row["shape"], row["kind"]): row["ratio"] for row in rows}
    lines = [f"| {' / '.join(KINDS)} | {' | '.join(shapes)} |", "|---" * (len(shapes) + 1) + "|"]
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = (" / ".join(f"{ratios[name, shape, kind]:.2f}" for kind in KINDS) for shape in shapes)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def memory_table(rows: list[Row]) -> list[str]:
    """One line for each form: MiB kept for the backward pass, and the ratio."""
    lines = ["| shape | form | mode | MiB | ratio | target |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['shape']} | {row['name']} | {row['mode']} | {row['mib']:.2f} | {row['ratio']:.2f} | {verdict(row)} |"
        for row in rows
    ]
    return lines


def page(results: Row) -> str:
    """All tables as Markdown, with the machine."""
    facts = results["machine"]
    head = [
        "# Operators: ratios to conv3x3 + BN of the same shape",
        "",
        "Written by `benchmarks/operators.py`; benchmarks/README.md says what is measured and how.",
        "",
        ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None and key != "versions"),
        "",
        ", ".join(f"{key} {value}" for key, value in facts["versions"].items() if value),
    ]
    wanted = [row for row in results["speed"] if row["target"] is not None]
    sections = {
        "Against the targets": speed_table(wanted + results["resnet50"] + results["onnx"]),
        "Saved activations": memory_table(results["memory"]),
        "All forms": summary_table(results["speed"]),
        "All measurements": speed_table(results["speed"]),
    }
    body = [line for title, lines in sections.items() for line in ("", f"## {title}", "", *lines)]
    return "\n".join([*head, *body, ""])
