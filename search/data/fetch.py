"""Fetching published data: torchvision's downloader and package managers' own clients, one after the other."""

import gzip
import logging
import os
import re
import shutil
import socket
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from types import ModuleType

from search.data.cache import Decoded

log = logging.getLogger(__name__)

SITE_TIMEOUT_S = 10.0
CLIENT_TIMEOUT_S = 900.0


class FetchFailedError(Exception):
    """One way to the data failed; the next may succeed."""


def first_that_works(name: str, ways: Mapping[str, Callable[[], Decoded]], mend: str) -> Decoded:
    """Go through the ways to a data set and return what the first good one brings.

    Args:
        name: The data set, for messages.
        ways: From a way in words to a function that raises FetchFailedError or ValueError if it does not bring all.
        mend: What the user can do if none works.

    Raises:
        ValueError: If no way works: what was tried, how each failed, and how to mend it.
    """
    failures = []
    for way, run in ways.items():
        log.info("%s: trying %s.", name, way)
        try:
            return run()
        except (FetchFailedError, ValueError) as error:
            log.info("%s: %s did not work: %s", name, way, error)
            failures.append(f"{way}: {error}")
    tried = "; ".join(f"({number}) {failure}" for number, failure in enumerate(failures, 1))
    raise ValueError(f"data.name={name} could not be fetched. Tried {tried}. {mend}")


def torchvision_datasets() -> ModuleType:
    """Import torchvision.datasets, which knows where data sets lie; mended first, or it fails beside a CPU torch.

    Raises:
        FetchFailedError: If torchvision cannot be imported.
    """
    from xvol.torchvision_ops import mend

    mend()
    try:
        import torchvision.datasets
    except (ImportError, OSError, RuntimeError) as error:
        raise FetchFailedError(f"torchvision cannot be imported ({error})") from error
    return torchvision.datasets


def torchvision_download(url: str, folder: Path, md5: str) -> Path:
    """Fetch one file with torchvision's downloader, which compares the checksum.

    Raises:
        FetchFailedError: If the site does not answer within SITE_TIMEOUT_S, or the file is not the right one.
    """
    datasets = torchvision_datasets()
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SITE_TIMEOUT_S)  # torchvision sets none and could wait for ever
    try:
        datasets.utils.download_url(url, str(folder), md5=md5)
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        raise FetchFailedError(f"{url.rsplit('/', 1)[-1]} did not come ({error})") from error
    finally:
        socket.setdefaulttimeout(timeout)
    return folder / url.rsplit("/", 1)[-1]


def npm_pack(package: str, folder: Path) -> Path:
    """Fetch a package's archive from the user's npm registry into `folder`; runs none of its scripts.

    Raises:
        FetchFailedError: If npm is absent, fails or takes too long.
    """
    options = ["--ignore-scripts", "--no-update-notifier", "--fetch-retries=2"]
    pace = ["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000", f"--cache={folder / 'npm-cache'}"]
    _run_client(["npm", "pack", package, *options, *pace], folder)
    return _only_file(folder, "*.tgz")


def apt_download(package: str, folder: Path) -> Path:
    """Fetch a Debian package into `folder` without installing it, and unwrap it to a plain tar file.

    Raises:
        FetchFailedError: If apt-get or dpkg-deb is absent, fails or takes too long.
    """
    _run_client(["apt-get", "download", package], folder)
    tar = folder / f"{package}.tar"
    with open(tar, "wb") as out:
        _run_client(["dpkg-deb", "--fsys-tarfile", str(_only_file(folder, "*.deb"))], folder, out.fileno())
    return tar


def _run_client(command: list[str], folder: Path, stdout: int = subprocess.DEVNULL) -> None:
    if shutil.which(command[0]) is None:
        raise FetchFailedError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=CLIENT_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise FetchFailedError(f"`{' '.join(command[:3])}` took longer than {CLIENT_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        said = " / ".join(done.stderr.decode(errors="replace").strip().splitlines()[-3:])
        said = re.sub(r"//[^/@\s]+@", "//***@", said)  # a private registry's address may hold a password
        raise FetchFailedError(f"`{' '.join(command[:3])}` ended with code {done.returncode} ({said})")


def _only_file(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise FetchFailedError(f"the client left {len(found)} files {pattern}, not one")
    return found[0]


def take_members(archive: Path, members: Iterable[str], folder: Path) -> Path:
    """Copy the named regular files of a tar archive, and nothing else, flat into `folder`.

    Args:
        archive: Tar file, compressed or not.
        members: Full names within the archive, without a leading `./`.
        folder: Made if absent.

    Returns:
        The folder.

    Raises:
        ValueError: If the archive is truncated, is no archive or lacks a member.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = set(members)
    try:
        with tarfile.open(archive) as tar:
            for info in tar:
                name = info.name.removeprefix("./")
                content = tar.extractfile(info) if name in missing and info.isfile() else None
                if content is not None:
                    with open(folder / Path(name).name, "wb") as out:
                        shutil.copyfileobj(content, out)
                    missing.discard(name)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(
            f"{archive} is truncated or is not an archive ({reason}). Delete it and start again to fetch it anew."
        ) from error
    if missing:
        raise ValueError(f"{archive} lacks {', '.join(sorted(missing))}. Delete it and start again to fetch it anew.")
    return folder
