import gzip
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search.data import fashion_mnist
from search.data.config import DataConfig
from search.data.fetch import FetchFailedError
from search.data.images import ImageSet, load_data

SMALL = replace(fashion_mnist.FASHION_MNIST, train_per_class=6, test_per_class=2)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "FASHION_MNIST", SMALL)

    def no_network(*_: object) -> Path:
        raise FetchFailedError("no network in tests")

    monkeypatch.setattr(fashion_mnist, "registry_download", no_network)
    monkeypatch.setattr(fashion_mnist, "torchvision_download", no_network)


def content() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (80, 28, 28), dtype=np.uint8)
    labels = np.concatenate([random.permutation(np.arange(60) % 10), random.permutation(np.arange(20) % 10)])
    return images, labels.astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_files(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = content()
    parts = (images[:60], labels[:60], images[60:], labels[60:])
    for name, part in zip(fashion_mnist.FILES, parts, strict=True):
        (folder / name).write_bytes(gzip.compress(idx(part)))
    return folder


def load(root: Path, download: bool) -> ImageSet:
    return fashion_mnist.load(DataConfig(name="fashion_mnist", root=str(root), download=download))


def assert_whole(images: ImageSet, source: str) -> None:
    expected_images, expected_labels = content()
    assert torch.equal(images.images, torch.from_numpy(expected_images[:, None]))
    assert torch.equal(images.labels, torch.from_numpy(expected_labels).long())
    assert images.source == source
    assert images.official_test == 20


def test_files_at_hand_and_then_the_cache(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "fashion_mnist")
    assert_whole(load(tmp_path, download=False), f"files in {folder}")
    for name in fashion_mnist.FILES:
        (folder / name).unlink()
    assert_whole(load(tmp_path, download=False), f"files in {folder}")


def test_torchvision_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, folder: Path, md5: str) -> Path:
        asked.append((url.rsplit("/", 1)[-1], len(md5)))
        write_files(folder)
        return folder

    monkeypatch.setattr(fashion_mnist, "torchvision_download", download)
    assert_whole(load(tmp_path, download=True), "torchvision's downloader")
    assert sorted(asked) == sorted((name, 32) for name in fashion_mnist.FILES)


def test_the_debian_package_when_the_site_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def apt(command: list[str], folder: Path, pattern: str) -> Path:
        package = folder / "dataset-fashion-mnist_1.0-1_all.deb"
        if command == ["apt-get", "download", "dataset-fashion-mnist"]:
            package.touch()
            return package
        assert command == ["dpkg-deb", "-x", str(package), "."]
        return write_files(folder / pattern)

    monkeypatch.setattr(fashion_mnist, "registry_download", apt)
    assert_whole(load(tmp_path, download=True), "Debian package dataset-fashion-mnist 1.0-1")


def test_nothing_works(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(1\) torchvision.*\(2\) apt-get download .*no network.*apt-get update"):
        load(tmp_path, download=True)
    with pytest.raises(ValueError, match=r"data\.download=false.*Put "):
        load(tmp_path, download=False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (write_files(tmp_path / "fashion_mnist") / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte\.gz is missing"):
        load(tmp_path, download=False)


@pytest.mark.parametrize("keep", [0, 5, 2000])
def test_a_truncated_gzip_is_named(tmp_path: Path, keep: int) -> None:
    file = write_files(tmp_path) / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is (truncated|not an idx)"):
        SMALL.read_files(tmp_path, "x")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: raw[:-1], "says .60, 28, 28. and holds 47039 bytes"),
        (lambda raw: raw + b"x", "holds 47041 bytes"),
        (lambda raw: b"\1" + raw[1:], "not an idx file"),
        (lambda raw: raw[:2] + b"\x0d" + raw[3:], "not an idx file"),
        (lambda raw: raw[:3] + b"\xff" + raw[4:], "not an idx file"),
        (lambda raw: raw[:6], "not an idx file"),
        (lambda raw: b"", "not an idx file"),
    ],
)
def test_idx_that_lies_is_told(tmp_path: Path, spoil, message: str) -> None:
    file = write_files(tmp_path) / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(spoil(gzip.decompress(file.read_bytes()))))
    with pytest.raises(ValueError, match=message):
        fashion_mnist.read_idx(file)


def test_wrong_counts_of_a_class_are_told(tmp_path: Path) -> None:
    _, labels = content()
    labels[60] = (labels[60] + 1) % 10
    (write_files(tmp_path) / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[60:])))
    with pytest.raises(ValueError, match=r"the test part holds .*not 2 of each"):
        SMALL.read_files(tmp_path, "x")


def test_fewer_images_are_told(tmp_path: Path) -> None:
    images, _ = content()
    (write_files(tmp_path) / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[60:79])))
    with pytest.raises(ValueError, match=r"shape \(79, 1, 28, 28\).*not \(80, 1, 28, 28\)"):
        SMALL.read_files(tmp_path, "x")


@pytest.mark.network
def test_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not installed")
    monkeypatch.undo()
    config = DataConfig(name="fashion_mnist", root=str(tmp_path), val_size=5000, test_size=2000)
    data = load_data(config, with_test=True)
    assert data.test is not None
    assert [len(pair.labels) for pair in (data.train, data.val, data.test)] == [55_000, 5000, 2000]
