"""A full disk: told from other errors, and waited for as a storage is."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.ledger.files import is_disk_full, is_temporary, move, try_room, write_atomic, write_whole
from search.study.storage.waiting import Patience, StorageGone

from ...tmpfs import tmpfs


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


def caught(raise_it: object) -> BaseException:
    try:
        raise_it()  # type: ignore[operator]
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def fill(path: str = "/dev/full") -> None:
    with open(path, "wb") as file:
        file.write(b"x")


def test_what_says_that_a_disk_is_full() -> None:
    def behind(cause: bool) -> None:
        try:
            fill()
        except OSError as error:
            if cause:
                raise RuntimeError("torch's words") from error
            raise ValueError("something else is wrong") from None

    assert is_disk_full(caught(fill))
    assert is_disk_full(caught(lambda: behind(True)))
    assert not is_disk_full(caught(lambda: behind(False)))
    assert is_disk_full(OSError(errno.EDQUOT, "quota"))
    assert not is_disk_full(OSError(errno.ENOENT, "no file"))
    assert not is_disk_full(ValueError("no"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "small", mebibytes=3) as folder:
        yield folder


def test_room_is_there_or_not(small: Path) -> None:
    try_room(small)
    assert list(small.iterdir()) == []
    (small / "filler").write_bytes(bytes(5 << 19))
    with pytest.raises(OSError, match="No space left") as caught:
        try_room(small)
    assert is_disk_full(caught.value)
    assert [path.name for path in small.iterdir()] == ["filler"]


def test_room_is_waited_for_as_for_a_storage(small: Path) -> None:
    (small / "filler").write_bytes(bytes(5 << 19))
    began = time.monotonic()
    with pytest.raises(StorageGone, match="the disk"):
        Patience("the disk", 0.3).call(try_room, small)
    assert time.monotonic() - began >= 0.3
    threading.Timer(0.5, (small / "filler").unlink).start()
    Patience("the disk", 60).call(try_room, small)


def test_a_folder_that_is_not_there_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        Patience("the disk", 60).call(try_room, tmp_path / "nowhere")
    assert not is_disk_full(caught.value)
