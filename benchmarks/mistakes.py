"""Types the wrong command lines of `mistakes.txt` and says what was taken, broke, was told badly, or was told too late.

    OMP_NUM_THREADS=1 python benchmarks/mistakes.py --page docs/results/mistakes.md
    python benchmarks/mistakes.py --only 'train.lr' --show     # what a user reads

Each line runs in a process of its own, forked from this one with the packages loaded that the real command would have
loaded by then (`--real N`: each Nth line is typed once more in a process from scratch, and must be told the same). Asked of each:
exit status above 0, no trace, a message that holds the given pieces, and not one file that is made, changed or removed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no package
from search.ledger.provenance import provenance  # noqa: E402  # of the path above

LIST = Path(__file__).with_suffix(".txt")
FIXTURE = ROOT / "tests" / "search" / "schema1.tar.xz"  # runs/schema1: a small finished study
COMMANDS = {
    "search": ("search.__main__", "-m search"),
    "xvol-table": ("search.cli.table", "-m search.cli.table"),
    "xvol-plan": ("search.cli.plan", "-m search.cli.plan"),
    "xvol-export": ("search.cli.export", "-m search.cli.export"),
    "xvol-place": ("search.cli.place", "-m search.cli.place"),
    "xvol-report": ("search.cli.report", "-m search.cli.report"),
    "xvol-paper": ("search.cli.paper", "-m search.cli.paper"),
    "xvol-wandb": ("search.cli.wandb", "-m search.cli.wandb"),
    "xvol-check": ("search.cli.check", "-m search.cli.check"),
    "xvol-sites": ("xvol.cli", "-m xvol.cli"),
}
# what a stage loads before it forks; a line of an early stage must not load what a later one has
STAGES: dict[str, tuple[str, ...]] = {
    "early": (
        "hydra",
        "search.app",
        "search.cli.plan",
        "search.cli.export",
        "search.cli.table",
        "search.cli.place",
        "search.cli.report",
        "search.cli.paper",
        "search.cli.wandb",
        "hydra_plugins.xvol_sweeper",
    ),
    "table": (
        "pandas",
        "scipy.stats",
        "statsmodels.api",
        "search.report.table",
        "search.report.pivot",
        "search.report.placing",
    ),
    "late": ("optuna", "torch", "xvol", "timm", "search.trial.forecast", "search.study.sweeper"),
}
HEAVY = {"early": ("torch", "optuna", "pandas"), "table": ("torch",), "late": ()}
SECONDS = 30.0  # then a line counts as taken


@dataclass(frozen=True)
class Line:
    """A wrong command line, and pieces of the message that it must be answered with."""

    stage: str
    text: str
    pieces: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """As the program is given them: `\\xff` is that byte."""
        return shlex.split(re.sub(r"\\x([0-9a-f]{2})", lambda match: os.fsdecode(bytes.fromhex(match[1])), self.text))


@dataclass(frozen=True)
class Answer:
    """What came of a line."""

    code: int | None
    said: str
    changed: tuple[str, ...]
    loaded: tuple[str, ...]
    cpu_seconds: float


def read_lines(path: Path = LIST) -> list[Line]:
    """The list: `COMMAND  =>  PIECE | PIECE`, each below the `[stage]` that it belongs to.

    Raises:
        ValueError: a line has another form, or stands there twice.
    """
    stage, found = "early", []
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = raw.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("["):
            stage = text.strip("[]")
            continue
        command, arrow, pieces = text.partition("  =>  ")
        line = Line(stage, command, tuple(piece.strip() for piece in pieces.split(" | ")))
        if not arrow or stage not in STAGES or line.words[0] not in COMMANDS or any(o.text == command for o in found):
            raise ValueError(f"{path}:{number}: {raw!r} is no new COMMAND  =>  PIECE | PIECE")
        found.append(line)
    return found


def place(folder: Path) -> None:
    """What a user has: a finished study, one that is a file, some pictures, and files that are not what is looked for."""
    with tarfile.open(FIXTURE) as packed:
        packed.extractall(folder / "runs", filter="data")
    (folder / "a_file").write_text("text\n")
    (folder / "runs" / "blocked").write_text("a file where a study's folder would be\n")
    (folder / "runs" / "no_tables").mkdir()
    (folder / "runs" / "no_tables" / "tables").write_text("a file where tables would be\n")
    (folder / "empty").mkdir()
    (folder / "bad.yaml").write_text("rows: [arm\n")
    (folder / "wrong.yaml").write_text("row: arm\n")


def prints(folder: Path) -> dict[str, str]:
    """A fingerprint of each file and folder below `folder`."""
    return {
        str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def differing(before: dict[str, str], after: dict[str, str]) -> tuple[str, ...]:
    """What was made, changed or removed."""
    return tuple(sorted(name for name in {*before, *after} if before.get(name) != after.get(name)))


def typed_in_fork(line: Line, folder: Path) -> Answer:
    """Type a line in a copy of this process."""
    module = COMMANDS[line.words[0]][0]

    def child() -> int:
        sys.argv = line.words
        code = import_module(module).main()
        return int(code or 0)

    return _answered(folder, line, lambda out: _forked(child, folder, out, HEAVY[line.stage]))


def typed_for_real(line: Line, folder: Path) -> Answer:
    """Type a line in a process from scratch."""
    command = [sys.executable, *COMMANDS[line.words[0]][1].split(), *line.words[1:]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(out: int) -> tuple[int | None, float]:
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            code = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                timeout=SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = None
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        return code, end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime

    return _answered(folder, line, run)


def _answered(folder: Path, line: Line, run: Callable[[int], tuple[int | None, float]]) -> Answer:
    before = prints(folder)
    with tempfile.TemporaryFile() as out:
        code, cpu = run(out.fileno())
        out.seek(0)
        said = out.read().decode("utf-8", "backslashreplace")
    said, _, loaded = said.partition("\x00loaded ")
    return Answer(code, said.strip(), differing(before, prints(folder)), tuple(loaded.split()), cpu)


def _forked(child: Callable[[], int], folder: Path, out: int, heavy: Iterable[str]) -> tuple[int | None, float]:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(folder)
        code = 70
        try:
            code = child()
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.write(2, f"\x00loaded {' '.join(name for name in heavy if name in sys.modules)}".encode())
            os._exit(code & 0xFF)
    deadline = time.monotonic() + SECONDS
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            return None, SECONDS
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # workers that it has left
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def faults(line: Line, answer: Answer) -> Iterator[str]:
    """What is wrong with an answer."""
    if answer.code is None:
        yield "taken: it ran on"
    elif answer.code == 0:
        yield "taken: exit status 0"
    if "Traceback (most recent call last)" in answer.said or '  File "' in answer.said:
        yield "a trace"
    missing = [piece for piece in line.pieces if piece not in answer.said]
    if missing:
        yield f"told without {' and '.join(map(repr, missing))}"
    if answer.changed:
        yield f"written: {', '.join(answer.changed[:3])}"
    if answer.loaded:
        yield f"told late: {', '.join(answer.loaded)} was loaded"


def main() -> int:
    """Type the lines, print what is wrong, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="the lines that hold it")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each Nth line alone")
    parser.add_argument("--real", type=int, default=0, metavar="N", help="type each Nth line in a real process as well")
    parser.add_argument("--show", action="store_true", help="print every answer")
    parser.add_argument("--page", type=Path, help="write the summary there")
    given = parser.parse_args()
    lines = [line for line in read_lines() if given.only in line.text][:: given.every]
    if not lines:
        parser.error(f"--only {given.only}: no line holds it")
    os.environ.pop("HYDRA_FULL_ERROR", None)
    os.environ["WANDB_MODE"] = "offline"
    tally: Counter[str] = Counter()
    cpu: dict[str, list[float]] = {}
    real = wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "place"
        place(folder)
        for stage, modules in STAGES.items():
            due = [line for line in lines if line.stage == stage]
            if not due and not any(
                line.stage == later for later in list(STAGES)[list(STAGES).index(stage) :] for line in lines
            ):
                break
            for module in modules:
                import_module(module)
            for number, line in enumerate(due):
                answer = typed_in_fork(line, folder)
                found = list(faults(line, answer))
                if given.real and number % given.real == 0:
                    if answer.changed:
                        folder = _anew(Path(name), folder)
                    again = typed_for_real(line, folder)
                    real += 1
                    found += [f"in a real process: {fault}" for fault in faults(line, again)]
                    answer = Answer(
                        answer.code, answer.said, answer.changed or again.changed, answer.loaded, again.cpu_seconds
                    )
                tally.update(
                    fault.removeprefix("in a real process: ").partition(":")[0].partition(" without")[0]
                    for fault in found
                )
                wrong += bool(found)
                cpu.setdefault(stage, []).append(answer.cpu_seconds)
                if found or given.show:
                    print(f"{line.text}\n    {answer.code}: " + answer.said.replace("\n", "\n    ")[-1500:])
                    print("".join(f"  * {fault}\n" for fault in found), flush=True)
                if answer.changed:
                    folder = _anew(Path(name), folder)
    words = (
        f"{len(lines)} lines, {real} of them in real processes too; {wrong} answered wrongly: {dict(tally) or 'none'}"
    )
    print(words)
    if given.page:
        given.page.write_text(page(lines, cpu, real, wrong, tally), encoding="utf-8")
    return 1 if wrong else 0


def page(lines: list[Line], cpu: dict[str, list[float]], real: int, wrong: int, tally: Counter[str]) -> str:
    """The summary as Markdown."""
    made = provenance()
    versions = ", ".join(
        f"{name} {made['versions'].get(name)}" for name in ("torch", "timm", "hydra-core", "optuna", "pandas")
    )
    commands = Counter(line.words[0] + (" -m" if "-m" in line.words else "") for line in lines)
    told = {"early": "before torch, Optuna or pandas", "table": "before torch", "late": "with a network or Optuna"}
    rows = [
        f"| {told[stage]} | {len(seconds)} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |"
        for stage, seconds in cpu.items()
    ]
    return "\n".join(
        [
            "# Wrong command lines",
            "",
            f"{len(lines)} wrong command lines ([benchmarks/mistakes.txt](../../benchmarks/mistakes.txt): "
            f"{', '.join(f'{count} {name}' for name, count in commands.items())}); {real} of them were typed in a process from scratch "
            "as well. Asked of each: exit status above 0, no trace, a message that names what was given and what is allowed, and not "
            "one file made, changed or removed.",
            "",
            f"**Answered wrongly: {wrong}**" + "".join(f"; {name}: {count}" for name, count in tally.items()) + ".",
            "",
            "| told | lines | median CPU s | most |",
            "|---|---|---|---|",
            *rows,
            "",
            "CPU seconds are those of the command behind its imports. "
            f"Commit {made['commit']}, Python {made['python']}, {versions}.",
            "",
        ]
    )


def _anew(base: Path, old: Path) -> Path:
    """A fresh place, where a line has left something behind."""
    shutil.rmtree(old, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(dir=base))
    place(fresh)
    return fresh


if __name__ == "__main__":
    sys.exit(main())
