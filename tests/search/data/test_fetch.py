import io
import os
import socket
import stat
import tarfile
from pathlib import Path

import pytest

from search.data import fetch
from search.data.fetch import FetchFailedError, registry_download

NPM = ["npm", "pack", "thing"]


def client(folder: Path, name: str, script: str) -> None:
    """Put a program of our own under a package manager's name."""
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")
    return folder


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def test_npm_leaves_one_archive(clients: Path, scratch: Path) -> None:
    client(clients, "npm", 'test "$1 $2" = "pack thing" && echo x > thing-1.0.tgz')
    assert registry_download(NPM, scratch, "*.tgz").name == "thing-1.0.tgz"


def test_a_client_that_leaves_nothing(clients: Path, scratch: Path) -> None:
    client(clients, "npm", "true")
    with pytest.raises(FetchFailedError, match="left 0 files"):
        registry_download(NPM, scratch, "*.tgz")


def test_a_client_that_fails_is_quoted_without_passwords(clients: Path, scratch: Path) -> None:
    client(clients, "npm", "echo 'npm error 404 https://me:secret@registry.example/thing' >&2; exit 7")
    with pytest.raises(FetchFailedError, match=r"ended with code 7.*404") as caught:
        registry_download(NPM, scratch, "*.tgz")
    assert "secret" not in str(caught.value)


def test_a_client_that_hangs(clients: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(clients, "npm", "exec sleep 60")
    monkeypatch.setattr(fetch, "CLIENT_TIMEOUT_S", 0.2)
    with pytest.raises(FetchFailedError, match="took longer"):
        registry_download(NPM, scratch, "*.tgz")


def test_a_client_that_is_not_there(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(scratch))
    with pytest.raises(FetchFailedError, match="npm is not installed"):
        registry_download(NPM, scratch, "*.tgz")


def test_a_whole_archive_is_unpacked(tmp_path: Path) -> None:
    archive = tar(tmp_path / "x.tgz", {"./a/one.txt": b"1", "a/two.txt": b"2"})
    folder = fetch.unpack(archive, tmp_path / "deep" / "out")
    assert {file.name: file.read_text() for file in (folder / "a").iterdir()} == {"one.txt": "1", "two.txt": "2"}


def test_nothing_is_unpacked_beside_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.tgz .*Delete it"):
        fetch.unpack(tar(tmp_path / "x.tgz", {"../evil.txt": b"!"}), tmp_path / "out")
    with tarfile.open(tmp_path / "y.tar", "w") as archive:
        info = tarfile.TarInfo("one.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(info)
    with pytest.raises(ValueError, match=r"y\.tar .*Delete it"):
        fetch.unpack(tmp_path / "y.tar", tmp_path / "out")
    assert not list(tmp_path.rglob("*.txt"))


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("keep", [0, 10, 3000])
def test_a_truncated_archive_is_told(tmp_path: Path, mode: str, keep: int) -> None:
    archive = tar(tmp_path / "x.tgz", {"one.bin": os.urandom(9000), "two.bin": os.urandom(9000)}, mode)
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"x\.tgz is truncated.*Delete it"):
        fetch.unpack(archive, tmp_path / "out")


def test_torchvision_does_not_wait_for_ever(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SITE_TIMEOUT_S", 0.2)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.gz"
        with pytest.raises(FetchFailedError, match=r"x\.gz did not come"):
            fetch.torchvision_download(url, scratch, "0" * 32)
    assert socket.getdefaulttimeout() is None
