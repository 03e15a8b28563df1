"""`xvol-check runs/<study>`: whether a study's storage, results, weights and tables agree; `--repair` mends them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.study.check.study import Finding

EPILOG = """\
Nothing that could be a result is deleted: what is damaged is moved below aside/ in the study's folder. What was lost
for good is trained again by the study's own command, which --repair prepares.

Exit status: 0 where nothing is wrong, or all of it was mended; 1 where something is wrong; 2 where nothing could be checked.
"""
MAX_ROUNDS = 6  # what is mended may bring to light what lay behind it: journal, storage, trials, tables


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-check",
        description="Hold the storage, results, histories, weights and tables of a study against each other.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("study", help="folder of a study, e.g. runs/digits")
    command.add_argument("--repair", action="store_true", help="mend what can be mended; not while the study runs")
    command.add_argument("--storage", metavar="URL", help="the study's storage (default: the one its config names)")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    root = Path(options.study).absolute()
    from search.study.check.study import check_study, refuse_running  # optuna, pandas: not for --help

    try:
        if options.repair:
            refuse_running(root)
            return _repaired(root, lambda: check_study(root, options.storage))
        found = check_study(root, options.storage)
    except (ValueError, OSError) as error:
        print(f"xvol-check: {error}", file=sys.stderr)
        return 2
    wrong = [finding for finding in found if not finding.note]
    for finding in wrong:
        print(f"wrong: {finding.what}. --repair: {finding.mend or 'nothing can be done'}")
    for finding in found:
        if finding.note:
            print(f"note: {finding.what}")
    print(f"{options.study}: {f'{len(wrong)} thing(s) wrong' if wrong else 'nothing wrong'}")
    return 1 if wrong else 0


def _repaired(root: Path, check: Callable[[], list[Finding]]) -> int:
    mended = 0
    for _ in range(MAX_ROUNDS):
        found = check()
        todo = [finding for finding in found if finding.repair is not None and not finding.note]
        if not todo:
            break
        for finding in todo:
            assert finding.repair is not None
            finding.repair()
            mended += 1
            print(f"mended: {finding.what}: {finding.mend}")
    left = [finding for finding in found if not finding.note]
    for finding in found:
        print(f"{'note' if finding.note else 'left'}: {finding.what}")
    print(f"{root}: {mended} thing(s) mended, {len(left)} left")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
