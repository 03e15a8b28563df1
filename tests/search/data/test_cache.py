import json
import logging
import multiprocessing
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from search.data.cache import Decoded, cached


def decoded(source: str = "a test") -> Decoded:
    images = np.arange(5 * 3 * 4 * 4).reshape(5, 3, 4, 4).astype(np.uint8)
    return Decoded(images, np.arange(5), source)


def never(scratch: Path) -> Decoded:
    raise AssertionError("built again")


def test_built_once_then_read(tmp_path: Path) -> None:
    first = cached(tmp_path / "x", lambda _: decoded())
    again = cached(tmp_path / "x", never)
    for found in (first, again):
        np.testing.assert_array_equal(found.images, decoded().images)
        np.testing.assert_array_equal(found.labels, decoded().labels)
        assert found.source == "a test"
        assert found.crc32 == (zlib.crc32(decoded().images.tobytes()), zlib.crc32(decoded().labels.tobytes()))
    assert sorted(entry.name for entry in (tmp_path / "x").iterdir()) == [".lock", "decoded"]


def test_what_one_reader_writes_stays_its_own(tmp_path: Path) -> None:
    cached(tmp_path, lambda _: decoded()).images[:] = 0
    assert cached(tmp_path, never).images.any()


def truncate(place: Path) -> None:
    file = place / "images.npy"
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_bit(place: Path) -> None:
    content = bytearray((place / "images.npy").read_bytes())
    content[-1] ^= 1
    (place / "images.npy").write_bytes(content)


def spoil_manifest(place: Path) -> None:
    (place / "manifest.json").write_text('{"format": 1, "sour')


def older_format(place: Path) -> None:
    (place / "manifest.json").write_text(json.dumps({"format": 0}))


def remove_labels(place: Path) -> None:
    (place / "labels.npy").unlink()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, spoil_manifest, older_format, remove_labels])
def test_a_damaged_cache_is_made_again_and_says_so(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    cached(tmp_path, lambda _: decoded())
    damage(tmp_path / "decoded")
    with caplog.at_level(logging.WARNING):
        assert cached(tmp_path, lambda _: decoded("the second time")).source == "the second time"
    assert "are damaged" in caplog.text
    assert "Making them again" in caplog.text
    assert cached(tmp_path, never).source == "the second time"


@pytest.mark.parametrize("error", [ValueError("no way works"), KeyboardInterrupt()])
def test_a_build_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def build(scratch: Path) -> Decoded:
        (scratch / "half.png").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        cached(tmp_path, build)
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_the_rest_of_a_killed_process_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".partial-abc").mkdir()
    (tmp_path / ".partial-abc" / "half.png").write_bytes(b"half")
    cached(tmp_path, lambda _: decoded())
    assert not list(tmp_path.glob(".partial-*"))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot be written.*Set data\.root"):
        cached(tmp_path / "file" / "x", never)


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    def build(scratch: Path) -> Decoded:
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match=r"No space left on device.*data\.root"):
        cached(tmp_path, build)


def _slow_build(scratch: Path) -> Decoded:
    with open(scratch.parent / "builds.txt", "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.5)
    return decoded()


def _load(folder: Path, start, results) -> None:
    start.wait()
    found = cached(folder, _slow_build)
    results.put((os.getpid(), int(found.images.sum())))


def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=_load, args=(tmp_path, start, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    time.sleep(0.1)
    start.set()
    got = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    assert {total for _, total in got} == {int(decoded().images.sum())}
    assert len({pid for pid, _ in got}) == 2
    assert len((tmp_path / "builds.txt").read_text().split()) == 1
