"""One process of a storage test: `actor.py WHAT SPEC STUDY_DIR ...`; prints what it did, a line for each thing."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from pathlib import Path

import optuna
from optuna.trial import TrialState

from search.study.liveness import Heartbeat
from search.study.storage.opening import open_storage
from search.study.storage.waiting import study_lock

optuna.logging.set_verbosity(optuna.logging.ERROR)
logging.basicConfig(level=logging.WARNING, format="LOG %(message)s", stream=sys.stdout)
warnings.filterwarnings("ignore", message="Heartbeat of storage")


def say(*words: object) -> None:
    print(*words, flush=True)


def claim(study: optuna.Study, folder: Path) -> None:
    """Take and end waiting trials until there is none."""
    storage = study._storage
    while True:
        with study_lock(storage, folder, study.study_name):
            if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                return
            trial = study.ask()
            trial.set_user_attr("pid", os.getpid())
        study.tell(trial, float(trial.number))
        say("told", trial.number)


def count(study: optuna.Study, folder: Path) -> None:
    """Add one to a number in a file, fifty times."""
    number = folder / "number"
    for _ in range(50):
        with study_lock(study._storage, folder, study.study_name):
            value = int(number.read_text())
            time.sleep(0.001)
            number.write_text(str(value + 1))


def work(study: optuna.Study, folder: Path, until: int) -> None:
    """Make and end trials, some time each, until the study has `until` of them."""
    while True:
        with study_lock(study._storage, folder, study.study_name):
            if len(study.get_trials(deepcopy=False)) >= until:
                return
            trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        for step in range(3):
            trial.report(x, step)
            time.sleep(0.02)
        study.tell(trial, x)
        say("told", trial.number, x)


def live(study: optuna.Study, folder: Path, name: str) -> None:
    """Hold a worker's heartbeat, and a trial."""
    with Heartbeat(study._storage, folder, name, interval=0.2) as heartbeat:
        trial = study.ask()
        heartbeat.trial(trial._trial_id)
        say("lives", trial._trial_id)
        time.sleep(60)


def hold(study: optuna.Study, folder: Path) -> None:
    """Hold the study's lock."""
    with study_lock(study._storage, folder, study.study_name):
        say("holds")
        time.sleep(60)


def main(what: str, spec: str, folder: Path, *arguments: str) -> None:
    storage = open_storage(spec or None, folder, patience_seconds=60)
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    if what == "claim":
        claim(study, folder)
    elif what == "count":
        count(study, folder)
    elif what == "work":
        work(study, folder, int(arguments[0]))
    elif what == "live":
        live(study, folder, arguments[0])
    elif what == "hold":
        hold(study, folder)
    else:
        raise ValueError(what)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
