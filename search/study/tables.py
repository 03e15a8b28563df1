"""The tables that end a study: written into its folder, and printed."""

from __future__ import annotations

from pathlib import Path

from search.ledger.objectives_file import OBJECTIVES_FILE

__all__ = ["print_front", "write_study_tables"]


def print_front(study_dir: Path) -> None:
    """Print the Pareto front of a search with several objectives; nothing where there is one."""
    if not (study_dir / OBJECTIVES_FILE).exists():
        return
    from search.report.front import front_text, fronts_of
    from search.report.reading.load import load_study

    for front in fronts_of(load_study(study_dir), ("search",)):
        print(f"\n{front_text(front)}\n", flush=True)


def write_study_tables(study_dir: Path) -> None:
    """Write and print the ablation table, and the verdicts of a design with looks; then send the table to W&B.

    Nothing is done for a task of another application, which keeps no ledger.
    """
    if not any(study_dir.glob("*/*/result.json")):
        return
    from search.report.export import render_text
    from search.report.mirror import mirror_study
    from search.report.sequential_table import LOOKS_FILE
    from search.report.write import write_tables

    table = write_tables(study_dir)
    print(f"\n{render_text(table)}", flush=True)
    if (study_dir / LOOKS_FILE).exists():
        from search.report.sequential_table import render_sequential, write_sequential

        verdicts = write_sequential(study_dir)
        if verdicts is not None:
            print(f"\n{render_sequential(verdicts)}", flush=True)
    print(f"\nRun folder: {study_dir}\nTables:     {study_dir / 'tables'}", flush=True)
    mirror_study(study_dir, table)  # last: what it waits for, nobody else waits for
