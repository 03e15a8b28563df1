"""What a study writes on its trials as user attributes. Nobody else spells these names."""

from __future__ import annotations

__all__ = [
    "AWAITS",
    "BASELINE",
    "CELL",
    "FOLDER",
    "FORGOTTEN",
    "INTERRUPTED",
    "LOOKED_AT",
    "OVERRIDES",
    "REASON",
    "RETRY_OF",
    "RUNS",
    "SEEDS",
    "SKIPPED",
    "TRIES",
    "WORKER",
]

WORKER = "worker"  # {"host", "lock"} of the worker that runs it
INTERRUPTED = "interrupted"  # it could not finish, and another trial takes its place
FORGOTTEN = "forgotten"  # a SKIPPED trial: its storage had lost it, and it holds its number
SKIPPED = "skipped"  # why it needed no training: it does not count towards the budget
RETRY_OF = "retry_of"  # number of the trial that this one runs again
TRIES = "tries"  # how often it has been tried, this time included
RUNS = "runs"  # fingerprint -> run folder, for each run of the trial
AWAITS = "awaits"  # [fingerprint, place] of a run that is trained elsewhere, while the trial waits to take it over
SEEDS = "seeds"  # seed -> values and whether they were taken over, of a trial that has several
FOLDER = "run_dir"  # below the study's folder
REASON = "reason"
CELL, OVERRIDES, BASELINE = "cell", "overrides", "is_baseline"  # of a trial that was written down beforehand
LOOKED_AT = "looked_at"  # of a final trial of a design with looks: folder of the trial whose network it reads on test
