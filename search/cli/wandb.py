"""`xvol-wandb runs/<study>`: a workspace and a report of a study in Weights & Biases, saved as code. Light: `--help` loads no W&B."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search import report  # what it hands out is loaded when it is used, so that --help need not wait for it
from search.cli import printed, refused
from search.ledger.secrets import mask
from search.ledger.wandb_start import loaded

EXAMPLES = """\
examples:
  wandb sync runs/digits/wandb/offline-run-* runs/digits/*/*/wandb/offline-run-*     of a study that was logged offline, first
  xvol-wandb runs/digits                        save a workspace and a report, print their addresses
  xvol-wandb runs/digits --project mine --entity team

Both are new each time: W&B keeps what was saved before. docs/dashboards.md says what is in them.
Exit status: 0; 2 where nothing could be saved.
"""
SECONDS = 20  # to wait for the server


class Refusal(ValueError):
    """What was asked for cannot be; the message says why, and how to mend it."""


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command = argparse.ArgumentParser(
        prog="xvol-wandb",
        description="Save a study's dashboards in Weights & Biases: a workspace of its runs, grouped by phase and arm, and a report.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("study", help="folder of a study, e.g. runs/digits")
    command.add_argument("--project", help="W&B project of its runs (default: that of the study's tracker)")
    command.add_argument("--entity", help="user or team (default: that of the study's tracker, else of the account)")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parser().parse_args(arguments)
    try:
        addresses = save(Path(options.study), options.project, options.entity)
    except (ValueError, OSError) as error:
        return refused("xvol-wandb", error)
    printed("".join(f"{name}: {address}\n" for name, address in addresses.items()))
    return 0


def save(study_dir: Path, project: str | None, entity: str | None) -> dict[str, str]:
    """Save both, and return their addresses; ValueError says what is missing, and how to mend it."""
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ValueError("wandb-workspaces is not installed; pip install 'xvol[dashboards]'")
    frame = report.load_study(study_dir)
    tracker = report.study_tracker(study_dir, frame)
    project = project or (tracker.project if tracker else "xvol")
    wandb = loaded()
    try:
        api = wandb.Api(timeout=SECONDS)
        entity = entity or (tracker.entity if tracker else None) or str(api.default_entity)
        own = _runs_of(api, entity, project, str(frame["study"].dropna().iloc[0]), study_dir)
        from search.cli import wandb_pages  # here: wandb-workspaces is an extra, and takes seconds

        shown = wandb_pages.shown_of(frame, entity, project, own)
        saved = {"Workspace": wandb_pages.workspace(shown).save(), "Report": wandb_pages.report(shown).save()}
    except wandb.errors.UsageError as error:
        raise ValueError(f"W&B has no key here ({_said(error)}); `wandb login`, or set WANDB_API_KEY") from None
    except Refusal:
        raise
    except Exception as error:  # W&B's clients raise their own, those of requests, and of pydantic
        raise ValueError(f"W&B did not save it ({_said(error)}); is the server there, and may you write?") from None
    return {name: str(page.url) for name, page in saved.items()}


def _said(error: Exception) -> str:
    return mask(" ".join(str(error).split()))[:300]


def _runs_of(api: Any, entity: str, project: str, study: str, study_dir: Path) -> str | None:
    """Id of the study's own run, where it has one; ValueError where the project has no run of the study."""
    try:
        runs = [(run.id, run.job_type) for run in api.runs(f"{entity}/{project}", {"group": study}, per_page=100)]
    except ValueError as error:  # what W&B says of a project that is not there
        raise Refusal(f"{entity}/{project}: {_said(error)}; give --project and --entity of the runs") from None
    if not runs:
        upload = f"wandb sync {study_dir}/wandb/offline-run-* {study_dir}/*/*/wandb/offline-run-*"
        raise Refusal(f"{entity}/{project} has no run of the study {study}; upload those that are offline: {upload}")
    return next((run for run, job in runs if job == "study"), None)


if __name__ == "__main__":
    sys.exit(main())
