"""What comes back from a job's process, in words where it cannot come back as it is."""

import pickle
import threading

import pytest
from hydra.core.utils import JobReturn, JobStatus

from search.study.launching.job_child import _packed, failed, progress


class OddError(Exception):
    def __init__(self, left: str, right: str) -> None:
        super().__init__(f"{left} {right}")


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize("error", [ValueError("no luck"), OddError("no", "luck")], ids=lambda e: type(e).__name__)
def test_an_error_comes_back_with_its_trace(error: Exception) -> None:
    job = pickle.loads(_packed(failed(raised(error), ["x=1"])))
    assert job.overrides == ["x=1"]
    with pytest.raises((ValueError, RuntimeError), match="no luck") as caught:
        _ = job.return_value
    assert "raise error" in caught.value.__notes__[0]


def test_a_value_that_cannot_travel_is_told() -> None:
    job = JobReturn(overrides=["x=1"], status=JobStatus.COMPLETED)
    job.return_value = threading.Lock()
    with pytest.raises(RuntimeError, match="return value cannot be sent to the launcher"):
        _ = pickle.loads(_packed(job)).return_value


def test_values_of_classes_that_only_the_process_knows() -> None:
    class Here:
        x = 3

    job = JobReturn(status=JobStatus.COMPLETED)
    job.return_value = Here()
    assert pickle.loads(_packed(job)).return_value.x == 3


def test_progress_elsewhere_does_nothing() -> None:
    progress()
