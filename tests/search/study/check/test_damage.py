"""Kinds of damage to a study that has ended: each is found, and mended or said to be beyond mending."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from search.cli.check import main
from search.ledger.record import HISTORY_FILE
from search.ledger.result import RESULT_FILE, checksum_of
from search.ledger.study_files import CHECKPOINT_FILE, JOURNAL, STATE_FILE
from search.study.liveness import host_id
from search.study.storage.waiting import FileLock

from ..conftest import ENDED, Toy

FINAL = "final/0002-s1001"


@dataclass(frozen=True)
class Damage:
    """What is done to the study's folder, what is said of it, and how many trials its command then trains."""

    do: Callable[[Path], object]
    said: str
    trained: int = 0
    mended: bool = True


def _edit(name: str, place: str = FINAL, **values: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / place / name
        row = json.loads(path.read_text()) | values
        path.write_text(json.dumps(row | {"checksum": checksum_of(row)}))

    return change


def _cut(name: str, keep: float) -> Callable[[Path], None]:
    def cut(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(len(content) * keep)])

    return cut


def _journal_lines(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    def rewrite(root: Path) -> None:
        lines = (root / JOURNAL).read_bytes().splitlines(keepends=True)
        (root / JOURNAL).write_bytes(b"".join(change(lines)))

    return rewrite


def _half(lines: list[bytes]) -> int:
    return len(lines) // 2


def _before_the_re_evaluation(root: Path) -> None:
    _journal_lines(lambda lines: lines[: next(n for n, line in enumerate(lines) if b"toy.final" in line)])(root)


def _of_another_study(root: Path) -> None:
    text = (root / JOURNAL).read_text().replace('"study_name":"toy', '"study_name":"elsewhere')
    (root / JOURNAL).write_text(text)


def _swap(root: Path) -> None:
    shutil.copy(root / "final" / "0003-s1001" / RESULT_FILE, root / FINAL / RESULT_FILE)


def _edited_accuracy(root: Path) -> None:
    path = root / FINAL / RESULT_FILE
    path.write_text(path.read_text().replace('"test_top1": -', '"test_top1": '))


def _unknown_folder(root: Path) -> None:
    shutil.copytree(root / FINAL, root / "final" / "0002-s1001.2")


def _foreign_folder(root: Path) -> None:
    shutil.copytree(root / FINAL, root / "final" / "0001-s1009")
    _edit(RESULT_FILE, "final/0001-s1009", study="elsewhere")(root)


def _interrupted_without_result(root: Path) -> None:
    """As a recovery of an earlier version left it when it was killed: told to the study, not to the ledger."""
    lines = (root / JOURNAL).read_text().splitlines()
    writer = json.loads(lines[-1])["worker_id"]
    study = [json.loads(line).get("study_name") for line in lines if json.loads(line)["op_code"] == 0]
    number = list(dict.fromkeys(study)).index("toy.final")
    trial = {
        "op_code": 4,
        "worker_id": writer,
        "study_id": number,
        "datetime_start": "2026-11-29T10:00:00+00:00",
        "datetime_complete": "2026-11-29T10:00:01+00:00",
        "state": 3,
        "value": None,
        "values": None,
        "params": {},
        "user_attrs": {
            "interrupted": True,
            "reason": "its worker died",
            "run_dir": "final/0006-s1000",
            "cell": "baseline/1000",
            "overrides": ["x=1", "seed=1000"],
            "is_baseline": True,
        },
        "distributions": {},
        "system_attrs": {},
        "intermediate_values": {},
    }
    with (root / JOURNAL).open("a") as file:
        file.write(json.dumps(trial) + "\n")
    (root / "final" / "0006-s1000").mkdir()


def _touch(name: str, content: bytes = b"") -> Callable[[Path], None]:
    return lambda root: ((root / name).write_bytes(content), None)[1]


DEAD = f"workers/{host_id()}-999999-abcdef.lock"
HEX = "0123456789abcdef" * 2
DAMAGES: dict[str, Damage] = {
    "journal torn": Damage(_cut(JOURNAL, 0.999), "was not written to its end"),
    "garbage in the journal": Damage(
        _journal_lines(lambda lines: [*lines[: _half(lines)], b"\0\0garbage\n", *lines[_half(lines) :]]),
        "it is no record",
    ),
    "garbage at the journal's end": Damage(_journal_lines(lambda lines: [*lines, b"garbage\n"]), "it is no record"),
    "journal truncated": Damage(_journal_lines(lambda lines: lines[: _half(lines)]), "the storage does not know of"),
    "journal without the re-evaluation": Damage(
        lambda root: _before_the_re_evaluation(root),
        "the storage does not know toy.final",
    ),
    "journal gone": Damage(lambda root: (root / JOURNAL).unlink(), "study.journal is gone"),
    "journal empty": Damage(_touch(JOURNAL), "the storage does not know toy"),
    "journal of another study": Damage(_of_another_study, "is that of elsewhere, not of toy"),
    "journal of a later Optuna": Damage(
        _journal_lines(lambda lines: [*lines, b'{"op_code":42,"worker_id":"w"}\n']), "of a newer Optuna", mended=False
    ),
    "journal cut, a result edited": Damage(
        lambda root: (_before_the_re_evaluation(root), _edited_accuracy(root)), "the storage does not know toy.final", 1
    ),
    "token gone": Damage(lambda root: (root / ".study-token").unlink(), ".study-token"),
    "result gone": Damage(lambda root: (root / FINAL / RESULT_FILE).unlink(), "its result is gone", 1),
    "result empty": Damage(_touch(f"{FINAL}/{RESULT_FILE}"), "its result is damaged", 1),
    "result truncated": Damage(_cut(f"{FINAL}/{RESULT_FILE}", 0.5), "its result is damaged", 1),
    "result binary": Damage(_touch(f"{FINAL}/{RESULT_FILE}", bytes(range(256))), "its result is damaged", 1),
    "result of another schema": Damage(_edit(RESULT_FILE, schema=0), "expected a result of schema 1 or 2, found 0", 1),
    "result of a later schema": Damage(_edit(RESULT_FILE, schema=3), "newer version of xvol", mended=False),
    "accuracy edited": Damage(_edited_accuracy, "its checksum does not fit", 1),
    "result of another run": Damage(_edit(RESULT_FILE, fingerprint="0123456789"), "is of another run", 1),
    "result of another trial": Damage(_swap, "is that of toy, final trial 3", 1),
    "history gone": Damage(lambda root: (root / FINAL / HISTORY_FILE).unlink(), "its history holds 0 of 2 epochs", 1),
    "history short": Damage(_cut(f"{FINAL}/{HISTORY_FILE}", 0.97), "its history holds 1 of 2 epochs", 1),
    "history of another form": Damage(_touch(f"{FINAL}/{HISTORY_FILE}", b"a,b\n1,2\n"), "its history holds 0 of", 1),
    "weights gone": Damage(lambda root: (root / FINAL / CHECKPOINT_FILE).unlink(), "its weights are gone", 1),
    "weights truncated": Damage(_cut(f"{FINAL}/{CHECKPOINT_FILE}", 0.5), "its weights are truncated", 1),
    "state truncated": Damage(_touch(f"{FINAL}/{STATE_FILE}", b"PK"), "its saved state is truncated"),
    "table edited": Damage(
        lambda root: (root / "tables/ablation.csv").write_text(
            (root / "tables/ablation.csv").read_text().replace(",3,", ",30,")
        ),
        "not what the ledger makes now",
    ),
    "table of a later version": Damage(
        _touch("tables/ablation.provenance.json", b'{"schema": 2}'), "newer version of xvol", mended=False
    ),
    "lock of a dead worker": Damage(_touch(DEAD), "the lock of a worker that is dead"),
    "temporary file": Damage(_touch(f"{FINAL}/.{HEX}.{RESULT_FILE}", b"{"), "never finished"),
    "temporary file of an earlier version": Damage(_touch(f"tables/.ablation.md.{HEX}"), "never finished"),
    "folder gone": Damage(lambda root: shutil.rmtree(root / FINAL), "its folder is gone", 1),
    "folder of the search gone": Damage(lambda root: shutil.rmtree(root / "trials/0001-s0"), "its folder is gone", 1),
    "folder of another study": Damage(_foreign_folder, "belongs to no trial of this study"),
    "attempt without a result": Damage(
        _interrupted_without_result, "final/0006-s1000 (final trial 6): its result is gone"
    ),
}


def _table(toy: Toy) -> str:
    return (toy.study_dir() / "tables" / "ablation.csv").read_text()


def _results(root: Path) -> set[bytes]:
    return {path.read_bytes() for path in root.rglob(RESULT_FILE)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_each_damage_is_found_and_mended_or_said_to_be_beyond_it(
    ended: Toy, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, root = DAMAGES[kind], ended.study_dir()
    table, traced = _table(ended), len(ended.trace)
    damage.do(root)
    before = _results(root)
    assert main([str(root)]) == 1
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if damage.said in line]
    assert line.startswith("wrong: ")
    assert ("nothing can be done" not in line) == damage.mended
    assert main([str(root), "--repair"]) == (0 if damage.mended else 1)
    assert before <= _results(root), "nothing that could be a result is deleted"
    if damage.mended:
        capsys.readouterr()
        assert main([str(root)]) == 0, capsys.readouterr().out
        done = ended.run(*ENDED)
        assert done.returncode == 0, done.stdout + done.stderr
        assert _table(ended) == table
        assert len(ended.trace) == traced + damage.trained
        assert main([str(root)]) == 0, capsys.readouterr().out


@pytest.mark.slow
def test_a_sound_study_is_left_as_it_is(ended: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    root = ended.study_dir()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert main([str(root)]) == 0
    assert main([str(root), "--repair"]) == 0
    assert "nothing wrong" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_trial_that_the_storage_has_forgotten_is_kept_and_told(
    ended: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    _unknown_folder(ended.study_dir())
    assert main([str(ended.study_dir())]) == 0
    assert "note: final/0002-s1001.2: a trial that the storage has forgotten" in capsys.readouterr().out


def test_nothing_is_mended_while_the_study_runs(ended: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(ended.study_dir() / "workers" / f"{host_id()}-{os.getpid()}-abcdef.lock"):
        assert main([str(ended.study_dir()), "--repair"]) == 2
    assert "the study is running (1 worker(s))" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_sqlite_that_was_lost_is_written_anew(toy: Toy, given: bool, capsys: pytest.CaptureFixture[str]) -> None:
    database = toy.folder / "study.db"
    command = [*ENDED, f"hydra.sweeper.storage=sqlite:///{database}"]
    assert toy.run(*command).returncode == 0
    table, traced, root = _table(toy), len(toy.trace), toy.study_dir()
    arguments = [str(root), *(["--storage", f"sqlite:///{database}"] if given else [])]
    assert main(arguments) == 0
    database.unlink()
    sqlite3.connect(database).close()
    assert main(arguments) == 1
    assert "the storage does not know toy and toy.final" in capsys.readouterr().out
    assert main([*arguments, "--repair"]) == 0
    done = toy.run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (_table(toy), len(toy.trace)) == (table, traced)


@pytest.mark.parametrize("arguments", [["nowhere"], ["."]])
def test_a_folder_that_is_no_study_is_told(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "give runs/<study>" in capsys.readouterr().err
