"""Help that Hydra would print, sooner."""

import subprocess
import sys

import pytest

from search.help import is_plain_help


def help_of(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "search", *arguments], capture_output=True, text=True, check=False)


def test_it_is_hydras() -> None:
    ours, hydras = help_of("--help", "data=cifar10"), help_of("--help", "data=cifar10", "--config-name=config")
    assert ours.stdout == hydras.stdout
    assert "name: cifar10" in ours.stdout
    assert ours.returncode == hydras.returncode == 0


def test_an_override_that_does_not_fit_is_told() -> None:
    done = help_of("--help", "placement=stge3")
    assert done.returncode == 1
    assert "stage3" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], True),
        (["-h", "a=b"], True),
        (["--help", "--config-dir=x"], False),
        (["--hydra-help"], False),
        ([], False),
    ],
)
def test_flags_beside_it_are_left_to_hydra(arguments: list[str], expected: bool) -> None:
    assert is_plain_help(arguments) is expected
