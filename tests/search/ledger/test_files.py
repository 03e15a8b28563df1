from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from search.ledger.files import is_temporary, move, write_atomic, write_whole


@pytest.mark.parametrize("broken", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException
) -> None:
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(type(error)):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_is_respected(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "file.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_text_is_written_whole_in_utf8(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file.txt", "é漢😀\n" * 10_000)
    assert (tmp_path / "file.txt").read_text(encoding="utf-8") == "é漢😀\n" * 10_000


def test_what_fails_halfway_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pt"
    write_whole(path, lambda file: file.write_text("old"))

    def torn(file: Path) -> None:
        file.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, torn)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        write_whole(path, lambda file: file.write_text("new"))
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["weights.pt"]


def test_a_replaced_file_is_synced_and_then_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "file.txt", []
    fsync, replace = os.fsync, os.replace

    def noted(handle: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda *paths: (seen.append("replace"), replace(*paths)))
    write_atomic(path, "text")
    assert seen == ["file", "replace", "folder"]
    (tmp_path / "there").mkdir()
    seen.clear()
    move(path, tmp_path / "there" / "file.txt")
    assert seen == ["replace", "folder", "folder"]


def test_what_a_killed_writer_leaves_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    write_whole(tmp_path / "result.json", lambda temporary: (names.append(temporary.name), temporary.touch()))
    assert is_temporary(names[0])
    assert is_temporary(f".result.json.{'0' * 32}"), "as it was named before"
    assert not any(map(is_temporary, ("result.json", ".study-token", ".hydra", ".table_cache", "state.pt")))
