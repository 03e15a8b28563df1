"""A full disk: told from other errors, and waited for as a storage is."""

import errno
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.ledger.disk import is_disk_full, try_room
from search.study.storage.patience import Patience, StorageGone

from ...tmpfs import tmpfs


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
