"""Who lives: a worker's heartbeat, how others see that it stopped, and whether all hosts look at one folder.

A worker is judged by its lock file in the study's folder, `workers/<host id>-<pid>-<hex>.lock`:

1. On the worker's own machine (same `host_id`) by the file's lock, which the kernel frees when the process ends: at once.
2. From another machine by the file's time, which the worker sets every `BEAT_SECONDS`. It is compared with the time of a
   file written just now to the same folder, so both times come from the clock of the machine that holds the disk. Older
   than `GRACE_SECONDS` (four missed beats): dead. A process that is stopped, or a disk that hangs, for longer than that
   looks dead, too.
3. Without the file, by the trial's heartbeat in the database, where there is one: older than `GRACE_SECONDS`: dead.
4. With neither: dead once this has been so for `GRACE_SECONDS` as seen from here, since a shared disk may show a new file
   late.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage

from search.ledger.files import refuse_newer, write_atomic
from search.ledger.study_files import WORKERS
from search.study.storage.waiting import FileLock, is_held, study_lock

log = logging.getLogger("xvol")
BEAT_SECONDS = 15.0
GRACE_SECONDS = 60.0
TOKEN_FILE = ".study-token"
LAYOUT = 1  # of what a study keeps in its storage; to be raised when an older version would misread it
STUDY_FOLDER = "folder"  # study user attribute, as `folder_of` writes it
_unseen: dict[str, float] = {}  # lock files that are not there -> since when this process has known


@functools.cache
def host_id() -> str:
    """A name for this machine, fit for a file name: its host name and a digest of what tells two of one name apart.

    That is the kernel's boot id: two containers of one name on two machines differ in it, and on one machine they may as
    well be one host, since they share the kernel that keeps the locks. It changes when the machine starts anew, after
    which no old worker lives.
    """
    node = platform.node() or "host"
    digest = hashlib.blake2b(f"{node}\0{_boot_id()}".encode(), digest_size=4).hexdigest()
    plain = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in node)
    return f"{plain[:60]}-{digest}"


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return ""


class Heartbeat:
    """Held by a worker for its life, so that others see that it lives; two threads of its own beat.

    An outage of the disk or of the database costs beats and nothing else, and leaving never waits for them.

    Args:
        storage: the study's.
        study_dir: the study's folder.
        name: of the lock file, `{host_id()}-{pid}-{hex}.lock`.
        interval: seconds between two beats.
    """

    def __init__(self, storage: BaseStorage, study_dir: Path, name: str, interval: float = BEAT_SECONDS) -> None:
        self._storage, self._interval = storage, interval
        self._lock = FileLock(study_dir / WORKERS / name)
        self._trial: int | None = None
        self._over, self._changed = threading.Event(), threading.Event()

    def trial(self, trial_id: int | None) -> None:
        """Say which trial this worker runs now (Optuna's trial id); None for none."""
        self._trial = trial_id
        self._changed.set()

    def __enter__(self) -> Heartbeat:
        self._lock.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except OSError as error:
            raise ValueError(
                f"{self._lock.path}: cannot be locked ({error.strerror}); the study's folder must lie on a disk with file locks"
            ) from None
        threading.Thread(target=self._beat, daemon=True, name="xvol-heartbeat").start()
        if _keeps_heartbeats(self._storage):
            threading.Thread(target=self._record, daemon=True, name="xvol-heartbeat").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._changed.set()
        with contextlib.suppress(OSError):  # the lock is freed all the same
            self._lock.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._lock.release()

    def _beat(self) -> None:
        while not self._over.wait(self._interval):
            with contextlib.suppress(OSError):  # a disk that is away: the next beat may reach it
                self._lock.touch()

    def _record(self) -> None:
        while not self._over.is_set():
            self._changed.clear()
            trial = self._trial
            if trial is not None:
                try:
                    self._storage.record_heartbeat(trial)  # type: ignore[attr-defined]
                except Exception as error:  # no heartbeat is worth a trial
                    log.debug("heartbeat of trial id %d: %s", trial, error)
            self._changed.wait(self._interval)


def _keeps_heartbeats(storage: BaseStorage) -> bool:
    interval = getattr(storage, "get_heartbeat_interval", None)
    return interval is not None and interval() is not None


def is_alive(
    storage: BaseStorage | None, study_dir: Path, worker: Mapping[str, str], trial_id: int | None = None
) -> bool:
    """Whether the worker that claimed a trial still lives, by the rule at the top of this file.

    Args:
        storage: the study's; None where it is another study's, and the lock file alone is asked.
        study_dir: the study's folder.
        worker: "host" (`host_id()` there) and "lock" (name of its lock file).
        trial_id: Optuna's id of the trial it claimed.

    Raises:
        OSError: the study's folder cannot be read or written.
    """
    path = study_dir / WORKERS / worker["lock"]
    if worker["host"] == host_id():
        return is_held(path)
    try:
        silence = _now_on_disk(path.parent) - _modified(path)
    except FileNotFoundError:
        return _lives_unseen(storage, worker["lock"], trial_id)
    _unseen.pop(worker["lock"], None)
    return silence <= GRACE_SECONDS


def clear_dead(study_dir: Path) -> None:
    """Remove the lock files of workers of this machine that could not do so themselves, since they were killed.

    A file that nobody holds is a dead worker's, or that of one which has created it and not yet locked it: so its process must
    be gone, too, or the file be older than `GRACE_SECONDS` (another process may have the number of the dead one by now).
    """
    for path in (study_dir / WORKERS).glob(f"{host_id()}-*-*.lock"):
        with contextlib.suppress(OSError):  # another has removed it; or it is in nobody's way
            if not is_held(path) and (not _runs(path) or _now_on_disk(path.parent) - _modified(path) > GRACE_SECONDS):
                path.unlink()


def _runs(lock: Path) -> bool:
    """Whether there is a process, or a dead one that nobody has waited for, of the number in a lock file's name."""
    number = lock.stem.rsplit("-", 2)[1]
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):  # no number; or it is another user's
        return True
    return True


def _lives_unseen(storage: BaseStorage | None, name: str, trial_id: int | None) -> bool:
    heartbeat_age = getattr(storage, "heartbeat_age", None)
    if heartbeat_age is not None and (age := heartbeat_age(trial_id)) is not None:
        return bool(age.total_seconds() <= GRACE_SECONDS)
    now = time.monotonic()
    return now - _unseen.setdefault(name, now) <= GRACE_SECONDS


def _modified(path: Path) -> float:
    handle = os.open(path, os.O_RDONLY)  # opening asks a file server anew, where `stat` may be answered from a cache
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def _now_on_disk(folder: Path) -> float:
    probe = folder / f".probe-{host_id()}-{os.getpid()}-{threading.get_ident()}"
    handle = os.open(probe, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.utime(handle)
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        probe.unlink(missing_ok=True)


def check_shared_folder(study: optuna.Study, study_dir: Path) -> None:
    """Make sure that whoever works on `study` does so in one folder, which all hosts see.

    The first to come writes a random token into `study_dir/.study-token` and into the study. Takes the study's lock: do
    not hold it.

    Raises:
        ValueError: the study was created in another folder; or this folder belongs to a study that the storage does not
            know, so that its trials would be mixed up with new ones of the same numbers.
    """
    study_dir.mkdir(parents=True, exist_ok=True)
    with study_lock(study._storage, study_dir, study.study_name):
        file, here = study_dir / TOKEN_FILE, read_token(study_dir)
        there = study.user_attrs.get(STUDY_FOLDER)
        refuse_newer(study_dir, "layout", (there or {}).get("layout"), LAYOUT)
        if there is None and here is not None and study.study_name in here["studies"]:
            raise ValueError(
                f"{study_dir} holds the study {study.study_name!r}, but the storage does not know it: it is another storage, or "
                "it lost its data. Give the storage the study was started with, or start again under another "
                "hydra.sweeper.study_name"
            )
        if there is not None and (here is None or here["token"] != there["token"]):
            raise ValueError(
                f"the storage knows the study {study.study_name!r} in another folder: {there['path']} on {there['host']}, and "
                f"{study_dir} is not that folder. All hosts of a study share one: start them on a shared disk "
                "(hydra.sweep.dir), or take another hydra.sweeper.study_name"
            )
        if here is None:  # in this order a death in between leaves nothing that is refused later
            here = {"token": secrets.token_hex(8), "studies": []}
            write_atomic(file, json.dumps(here))
        if there is None:
            study.set_user_attr(STUDY_FOLDER, folder_of(here["token"], study_dir))
        if study.study_name not in here["studies"]:
            write_atomic(file, json.dumps({**here, "studies": [*here["studies"], study.study_name]}))


def folder_of(token: str, study_dir: Path) -> dict[str, Any]:
    """What a study says of its folder: the token in it, and where it was when the study was created."""
    return {"token": token, "host": platform.node(), "path": str(study_dir), "layout": LAYOUT}


def read_token(study_dir: Path) -> dict[str, Any] | None:
    """What the study's folder holds of its token; None where it holds none. ValueError where the file is damaged."""
    file = study_dir / TOKEN_FILE
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(
            f"{file} is damaged ({error}); it holds this study's token: restore it, or copy the folder"
        ) from None
    return found if isinstance(found, dict) else None
