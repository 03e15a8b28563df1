"""Hundreds of short trials under random SIGKILLs of workers, of the parent and of all at once; then an audit.

    python benchmarks/soak.py --trials 300 --kills 40 --json docs/results/soak.json          # journal and sqlite
    python benchmarks/soak.py --app training --trials 120 --kills 100 --workers 2 --json docs/results/soak.json
    SOAK_POSTGRES=postgresql+psycopg://me:secret@host/name python benchmarks/soak.py --storages postgres

The trials of `--app toy` sleep (soak_app.py); those of `--app training` train small networks on the digits, are saved after
each epoch, and go on from there, and the best are trained again (soak_training_app.py, audited by soak_ledger.py).
The same command is started again whenever it has died, until the study is done, as a user would. The audit
(soak_audit.py) holds the study, read with Optuna alone, against what the trials wrote down themselves. It ends with
status 1 where anything was lost, counted twice, left running, or ran beyond the budget. Processes that outlive a killed
parent are faults of our launcher; joblib's own workers do so for minutes, idle, and are only counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_measure import complete_tree
from soak_audit import Audit, Snapshot, audit, executions, line, snapshot
from soak_ledger import audit_ledger, resumed_alike

from search.ledger.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
APPS = ("toy", "training")
TRAINING = (
    *("data=digits", "data.image_size=8", "data.crop_padding=0", "data.train_size=256", "data.val_size=64"),
    *("data.test_size=64", "train=short", "train.epochs=4", "train.ema_decay=null", "train.state_every_seconds=0"),
    *("backbone=proxy_resnet", "branch=xvolution", "tracker=disabled", "measure.latency_repeats=0"),
)
SPACE = ("placement.policy=choice(none,stage1,stage2,stage3,stage4)", "seed=range(0,60)")
RESUMED = 5  # of the trainings that were resumed, how many are done again undisturbed
STORAGES = ("journal", "sqlite", "postgres")
POSTGRES = "SOAK_POSTGRES"
RUN = ("app", "storage", "launcher", "seed")  # what tells two rows of the page apart
STUCK_SECONDS = 120.0  # without a new trial, while the command lives
MAX_ERRORS = 3  # times that the command may die of itself


@dataclass
class Soak:
    """One study under fire.

    Attributes:
        folder: everything of it lies here.
        url: Optuna's URL of the storage; None for the journal.
        chance: decides whom to kill and when.
    """

    folder: Path
    url: str | None
    trials: int
    workers: int
    launcher: str
    chance: random.Random
    name: str
    app: str
    kills: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    errors: list[str] = field(default_factory=list)
    seen: list[Snapshot] = field(default_factory=list)

    @property
    def trace(self) -> Path:
        """What the trials wrote down themselves."""
        return self.folder / "trace"

    @property
    def sweep(self) -> Path:
        """The study's folder."""
        return self.folder / "sweep"

    def command(self) -> list[str]:
        """The one command that is given again and again."""
        storage = [] if self.url is None else [f"hydra.sweeper.storage={self.url}"]
        if self.url and not self.url.startswith("sqlite:"):
            storage = [f"hydra.sweeper.storage=${{oc.env:{POSTGRES}}}"]  # it may hold a password
        launcher = [f"hydra/launcher={self.launcher}"]
        key = {"joblib": "n_jobs", "local": "workers"}.get(self.launcher)  # else no more workers than there are cores
        launcher += [f"hydra.launcher.{key}={self.workers}"] if key else []
        swept: tuple[str, ...] = ("soak_app.py", "-m", "hydra/sweeper=xvol", "x=interval(0,1)", f"trace={self.trace}")
        if self.app == "training":
            swept = ("soak_training_app.py", "-m", *TRAINING, *SPACE, "hydra.sweeper.max_retries=100")
            swept += ("hydra.sweeper.final.top_k=2", "hydra.sweeper.final.seeds=3")
        return [
            *(sys.executable, str(ROOT / "benchmarks" / swept[0]), *swept[1:]),
            *(f"hydra.sweep.dir={self.sweep}", f"hydra.sweeper.study_name={self.name}"),
            *(f"hydra.sweeper.n_trials={self.trials}", f"hydra.sweeper.n_jobs={self.workers}"),
            *("hydra.sweeper.sampler={_target_:optuna.samplers.RandomSampler}", *launcher, *storage),
        ]

    def run(self, kills: int) -> Audit:
        """Kill `kills` times while the study is run to its end; return the audit."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        while True:
            process, before = self._start(), self.kills.total()
            self._shoot(process, kills)
            code = self._wait(process, shot=self.kills.total() > before)
            self.seen.append(snapshot(self.sweep, self.url, self.name))
            if code == 0:
                return self._audit()
            if len(self.errors) >= MAX_ERRORS:
                raise RuntimeError(f"the command died {MAX_ERRORS} times of itself; the last time:\n{self.errors[-1]}")

    def _start(self) -> subprocess.Popen[bytes]:
        self.commands += 1
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "SOAK_TRACE": str(self.trace)}
        with (self.folder / f"log{self.commands}").open("w") as out:
            return subprocess.Popen(
                self.command(), env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _shoot(self, process: subprocess.Popen[bytes], kills: int) -> None:
        """Kill someone each time a few more trials have begun, until the command has died or `kills` are spent."""
        while self.kills.total() < kills and process.poll() is None:
            if not self._progress(process, self.chance.randint(1, max(1, 7 * self.trials // (4 * kills)))):
                return
            time.sleep(self.chance.uniform(0.0, 0.3 if self.app == "toy" else 1.5))
            self._kill(process, self.chance.choices(["worker", "parent", "all"], [6, 2, 1])[0])
            time.sleep(0.3)  # for the parent to notice

    def _progress(self, process: subprocess.Popen[bytes], more: int) -> bool:
        """Wait until `more` further executions have begun; False where the command ends before."""
        goal, last, at = len(executions(self.trace)) + more, -1, time.monotonic()
        while process.poll() is None:
            now = len(executions(self.trace))
            if now >= goal:
                return True
            if now != last:
                last, at = now, time.monotonic()
            if time.monotonic() - at > STUCK_SECONDS:
                self._stuck(process)
            time.sleep(0.02)
        return False

    def _kill(self, process: subprocess.Popen[bytes], whom: str) -> None:
        below = set(descendants(os.getpid()))
        workers = [pid for pid in {e.pid for e in executions(self.trace)} if pid in below]
        if whom == "worker" and workers:
            victims = [self.chance.choice(sorted(workers))]
        elif whom == "parent" and process.poll() is None:
            victims = [process.pid]
        else:
            whom, victims = "all", sorted(below)
        for pid in victims:
            kill(pid)
        self.kills[whom] += 1

    def _wait(self, process: subprocess.Popen[bytes], shot: bool) -> int:
        """Wait for the command's end; keep what it printed where it died although nobody was killed under it."""
        while process.poll() is None:
            if not self._progress(process, 1):
                break
        code = process.wait()
        reap()
        text = (self.folder / f"log{self.commands}").read_text(errors="replace")
        if code not in (0, -signal.SIGKILL) and (not shot or not self._blame(text)):
            self.errors.append(f"command {self.commands} ended with {code}:\n{text[-3000:]}")
        return code

    def _blame(self, text: str) -> bool:
        """Whether what the command printed at its end names the death of a worker."""
        words = ("TerminatedWorker", "SIGKILL", "was killed", "killed by", "died", "BrokenProcessPool")
        return any(word in text[-4000:] for word in words)

    def _stuck(self, process: subprocess.Popen[bytes]) -> None:
        text = (self.folder / f"log{self.commands}").read_text(errors="replace")
        self.errors.append(f"command {self.commands} began no trial for {STUCK_SECONDS:g} s:\n{text[-3000:]}")
        for pid in [process.pid, *descendants(os.getpid())]:
            kill(pid)
        process.wait()

    def _audit(self) -> Audit:
        end = time.monotonic() + 30
        while descendants(os.getpid()) and time.monotonic() < end:
            reap()
            time.sleep(0.1)
        left = {pid: _command_line(pid) for pid in descendants(os.getpid())}
        for pid in left:
            kill(pid)
        reap()
        judge = audit if self.app == "toy" else audit_ledger
        found = judge(self.sweep, self.url, self.name, self.trace, self.trials, self.seen)
        if self.app == "training":
            found.repeated, differ = resumed_alike(self.sweep, TRAINING, RESUMED, self.folder)
            found.lost += len(differ)
            found.remarks += differ
        found.orphans = len(left)
        found.remarks += [f"process {pid} outlived the command: {words}" for pid, words in left.items()]
        return found


def descendants(root: int) -> list[int]:
    """Living processes below `root`, from /proc; zombies are not alive."""
    parents: dict[int, list[int]] = {}
    for pid, parent in _processes():
        parents.setdefault(parent, []).append(pid)
    found, todo = [], [root]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def _processes() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                yield int(entry.name), int(parent)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:160]
    except OSError:
        return "(gone)"


def kill(pid: int) -> None:
    """SIGKILL, whether it still lives or not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def reap() -> None:
    """Collect orphans that have ended: they are handed to this process."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main() -> None:
    """Soak each storage that is asked for, write the figures down, and end with 1 where an audit found a fault."""
    args = _arguments()
    if not complete_tree():
        raise SystemExit("soak.py needs Linux: it adopts orphans and reads /proc to find whom to kill")
    with tempfile.TemporaryDirectory(prefix="soak-", dir=args.work) as work:
        rows = [_one(storage, args, Path(args.keep or work) / storage) for storage in args.storages.split(",")]
    if args.json:
        _write(rows, args.json)
    print("\n".join(["", *line(None), *(text for row in rows for text in line(row))]))
    sys.exit(any(row["faults"] for row in rows))


def _one(storage: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    url = {"journal": None, "sqlite": f"sqlite:///{folder / 'study.db'}", "postgres": os.environ.get(POSTGRES)}[storage]
    name = f"soak_{args.app}_{time.strftime('%m%d_%H%M%S')}_{args.seed}"
    soak = Soak(folder, url, args.trials, args.workers, args.launcher, random.Random(args.seed), name, args.app)
    start = time.monotonic()
    found = soak.run(args.kills)
    row = {
        "app": args.app,
        "storage": storage,
        "launcher": args.launcher,
        "trials": args.trials,
        "workers": args.workers,
        "seed": args.seed,
        "kills": dict(soak.kills),
        "resumes": soak.commands - 1,
        "seconds": round(time.monotonic() - start, 1),
        "errors": soak.errors,
        **vars(found),
        "faults": found.faults() + len(soak.errors) + (0 if args.launcher == "joblib" else found.orphans),
    }
    print(f"{storage}: " + json.dumps({key: value for key, value in row.items() if key != "errors"}), flush=True)
    for text in (*soak.errors, *found.remarks):
        print(f"  {text}", flush=True)
    return row


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the rows as JSON, and as Markdown beside it; rows of other runs that are there are kept."""
    facts = {key: provenance()[key] for key in ("commit", "processor", "cores", "platform", "python", "versions")}
    there = json.loads(path.read_text())["rows"] if path.exists() else []
    new = {tuple(row[key] for key in RUN) for row in rows}
    rows = [
        *(row for row in there if tuple(row[key] for key in RUN) not in new),
        *({**row, **facts} for row in rows),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    head = [
        "# Random kills",
        "",
        "What each column counts is said in benchmarks/soak_audit.py; made with benchmarks/soak.py.",
        "",
    ]
    taken = [
        f"{r['app']}, {r['storage']}: commit {r['commit']}, {r['processor']}, {r['cores']} cores, seed {r['seed']}."
        for r in rows
    ]
    table = [*line(None), *(text for row in rows for text in line(row))]
    path.with_suffix(".md").write_text("\n".join([*head, *table, "", *taken]) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storages", default="journal,sqlite", help=f"joined by commas: {', '.join(STORAGES)}")
    parser.add_argument("--app", choices=APPS, default="toy", help="what a trial does: sleep, or train a network")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--launcher", default="local", help="local or joblib")
    parser.add_argument("--seed", type=int, default=0, help="of the kills; processes take their own turns")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--work", type=Path, help="where temporary folders go")
    parser.add_argument("--keep", type=Path, help="keep the studies in this folder")
    args = parser.parse_args()
    unknown = [name for name in args.storages.split(",") if name not in STORAGES]
    if unknown:
        parser.error(f"--storages {args.storages}: no storage {', '.join(unknown)}; there are {', '.join(STORAGES)}")
    if "postgres" in args.storages.split(",") and not os.environ.get(POSTGRES):
        parser.error(f"--storages postgres: put the database's URL into the environment variable {POSTGRES}")
    return args


if __name__ == "__main__":
    main()
