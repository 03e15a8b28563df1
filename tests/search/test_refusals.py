from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.errors import CompactHydraException

from search.recipe import check_objectives
from search.refusals import RefusedError, is_users, told_compactly
from search.space.architecture import digest

# somebody's own application under our sweeper, launcher and task
OWN_APP = """
import hydra
from search.app import application
from search.config import config_folder, register

register()

@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
def main(config):
    return application(config)

main()
"""


def caught(action: Callable[[], object]) -> BaseException:
    with pytest.raises(Exception) as found:  # noqa: PT011
        action()
    return found.value


def test_a_fault_of_ours_keeps_its_trace_and_a_users_does_not(tmp_path: Path) -> None:
    assert is_users(caught(lambda: check_objectives(["accuracy"])))
    assert is_users(caught((tmp_path / "missing").read_text))
    assert not is_users(caught(lambda: digest(float("nan"))))  # raised inside of json: no message for a user
    assert not is_users(caught(lambda: check_objectives(None)))  # type: ignore[arg-type]
    assert not is_users(ValueError("from nowhere"))


def test_what_tells_the_user_something_becomes_compact_and_all_else_passes() -> None:
    def refuse() -> None:
        with told_compactly():
            check_objectives(["accuracy"])

    error = caught(refuse)
    assert isinstance(error, CompactHydraException)
    assert isinstance(error, ValueError)
    assert "accuracy" in str(error)
    with pytest.raises(ZeroDivisionError), told_compactly():
        _ = 1 / 0
    with pytest.raises(RefusedError) as again, told_compactly():
        raise error
    assert again.value is error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.epochs=0"], "train.epochs=0: at least 1"),
        (["-m", "train.lr=0.1,0.2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: at least 1"),
        (["-m", "train.lr=-2,-1"], "must be above 0"),
    ],
)
def test_an_own_application_shows_a_refusal_without_frames(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "app.py").write_text(OWN_APP)
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    done = subprocess.run(
        [sys.executable, "app.py", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert message in done.stderr
    assert 'File "' not in done.stderr
    assert "Traceback" not in done.stderr
