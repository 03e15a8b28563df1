from pathlib import Path

import numpy as np
import pytest

from search.ledger.samples import NAMES, SAMPLES_FILE, Samples, read_samples, samples_below, write_samples

ARRAYS = {
    "index": np.array([4, 9, 11]),
    "part": np.array(["val", "train", "test"]),
    "target": np.array([1, 0, 1]),
    "logits": np.array([[0.5, -2], [1, 2], [-65504, 65504]], dtype=np.float16),
}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    for name in ("trials/0001-s0", "trials/0000-s0", "aside/0002-s0"):
        (tmp_path / name).mkdir(parents=True)
        write_samples(tmp_path / name, ARRAYS)
    found = list(samples_below(tmp_path))
    assert [each.run.name for each in found] == ["0000-s0", "0001-s0"]
    for name, array in ARRAYS.items():
        assert getattr(found[0], name).dtype == array.dtype
        np.testing.assert_array_equal(getattr(found[0], name), array)
    first, second = (each.run / SAMPLES_FILE for each in found)
    assert first.read_bytes() == second.read_bytes()
    assert [entry.name for entry in first.parent.iterdir()] == [SAMPLES_FILE]


def test_a_run_that_kept_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.probe_size"):
        read_samples(tmp_path)
    assert list(samples_below(tmp_path)) == []


@pytest.mark.parametrize("keep", [0, 30, -40])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_samples(tmp_path, ARRAYS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"samples\.npz cannot be read"):
        read_samples(tmp_path)


def test_no_flipped_byte_changes_a_value(tmp_path: Path) -> None:
    path = write_samples(tmp_path, ARRAYS)
    content = path.read_bytes()
    refused = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        try:
            samples = read_samples(tmp_path)
        except ValueError:
            refused += 1
        else:
            assert all(np.array_equal(getattr(samples, name), array) for name, array in ARRAYS.items()), at
    assert refused > len(content) / 2


@pytest.mark.parametrize(
    "changes", [{"logits": np.zeros((2, 2))}, {"logits": np.zeros(3)}, {"index": np.array([1, None, 2])}]
)
def test_what_does_not_fit_is_neither_written_nor_read(tmp_path: Path, changes: dict[str, np.ndarray]) -> None:
    def there_and_back() -> Samples:
        return read_samples(write_samples(tmp_path, ARRAYS | changes).parent)

    with pytest.raises(ValueError, match=r"do not fit|[Oo]bject arrays"):
        there_and_back()


def test_of_another_task(tmp_path: Path) -> None:
    write_samples(tmp_path, {name: ARRAYS[name] for name in NAMES[:-1]})
    with pytest.raises(ValueError, match=r"cannot be read.*logits"):
        read_samples(tmp_path)
