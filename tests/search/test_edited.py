"""Code and pictures that change between two studies, or under a trial that was killed: as it happens, in processes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.ledger.result import TrialResult, read_result

REPOSITORY = Path(__file__).parents[2]
ARMS = ("conv", "conv+second_conv", "conv+pssa", "conv+mine")
SMALL = (
    *("data=folder", "data.image_size=16", "data.val_size=8", "data.test_size=8", "data.batch_size=8"),
    *("train.epochs=1", "measure.latency_repeats=0", "placement.policy=stage3", "backbone.kwargs.channels=[4,4,8,8]"),
    *("tracker=disabled", "hydra/launcher=basic", "data.root=decoded", "device=cpu"),
)
BRANCH = """
import torch
from xvol.branches.conv import SecondConv
from xvol.branches import register_branch

from mine_of_test.gain import gain


@register_branch("mine")
class Mine(SecondConv):
    def reset_parameters(self):
        super().reset_parameters()
        with torch.no_grad():
            self.conv.weight[0] *= gain()
"""
ENTRY = "[xvol.branches]\nmine = mine_of_test.branch\n"


class House:
    """A checkout with a user's branch beside it, and studies in `runs/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("xvol", "search", "conf", "hydra_plugins"):
            shutil.copytree(REPOSITORY / name, folder / "house" / name, ignore=shutil.ignore_patterns("__pycache__"))
        git(folder / "house", "init", "-q")
        git(folder / "house", "add", ".")
        git(
            folder / "house",
            "-c",
            "user.name=me",
            "-c",
            "user.email=me@here",
            "commit",
            "-q",
            "--no-gpg-sign",
            "--message=1",
        )
        self.head = git(folder / "house", "rev-parse", "HEAD")[:12]
        files = {
            "mine_of_test/__init__.py": "",
            "mine_of_test/branch.py": BRANCH,
            "mine_of_test/gain.py": "def gain():\n    return 1.0\n",
        }
        info = {"METADATA": "Metadata-Version: 2.1\nName: mine-of-test\nVersion: 0.1\n", "entry_points.txt": ENTRY}
        for name, text in {
            **files,
            **{f"mine_of_test-0.1.dist-info/{name}": text for name, text in info.items()},
        }.items():
            path = folder / "own" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        draw(folder / "pictures", seed=0)

    def edit(self, name: str, old: str, new: str) -> None:
        file = self.folder / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        os.utime(file, (time.time() - 60,) * 2)  # an editor's clock; the next process begins later in any case

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(self.folder / "house"), str(self.folder / "own")])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        return subprocess.Popen(
            [sys.executable, "-m", "search", "-m", *SMALL, *arguments],
            cwd=self.folder / "house",
            env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def study(self, name: str, pictures: str = "pictures") -> tuple[dict[str, TrialResult], str]:
        """Results by what stands at stage 3, and the log."""
        process = self.start(
            "sampler=grid", f"branch.use=choice({','.join(ARMS)})", f"data.path={self.folder / pictures}",
            f"hydra.sweeper.study_name={name}", "hydra.sweeper.n_trials=4", "hydra.sweeper.final.top_k=0",
        )  # fmt: skip
        log, _ = process.communicate(timeout=240)
        assert process.returncode == 0, log
        found = [read_result(path) for path in sorted(self.folder.glob(f"house/runs/{name}/trials/*/result.json"))]
        assert [result.status for result in found] == ["ok"] * 4, log
        return {"+".join(result.branches) or "conv": result for result in found}, log


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def draw(folder: Path, seed: int) -> None:
    """Pictures of three classes that are stored without compression, so that all files have one size."""
    random = np.random.default_rng(seed)
    for name in ("a", "b", "c"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(16):
            Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / name / f"{number}.bmp")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("edited"))


def reused(results: dict[str, TrialResult]) -> set[str]:
    return {arm for arm, result in results.items() if result.reused_from is not None}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_result_is_taken_over_only_where_its_code_and_its_pictures_agree(house: House) -> None:
    first, _ = house.study("first")
    assert first.keys() == {"conv", "conv+second_conv", "conv+pssa", "conv+mine"}
    assert reused(first) == set()
    assert {result.provenance["commit"] for result in first.values()} == {house.head}

    # what changes no result: a comment, a docstring, another place of the pictures, a picture that was merely touched
    house.edit("house/xvol/branches/pssa.py", '"""', '"""Another text. ')
    house.edit("own/mine_of_test/gain.py", "def gain():", "def gain(  ):  # as it was")
    shutil.copytree(house.folder / "pictures", house.folder / "moved")
    second, _ = house.study("second", pictures="moved")
    assert reused(second) == {"conv", "conv+second_conv", "conv+pssa", "conv+mine"}
    assert all(result.data_digest == first["conv"].data_digest for result in second.values())

    # two branches: the arms that do not have them are left alone
    house.edit(
        "house/xvol/branches/pssa.py",
        "def forward(self, x_BCHW: Tensor) -> Tensor:",
        "def forward(self, x_BCHW: Tensor, half: float = 0.5) -> Tensor:",
    )
    house.edit("own/mine_of_test/gain.py", "1.0", "2.0")
    third, log = house.study("third")
    assert reused(third) == {"conv", "conv+second_conv"}
    for arm, part in (("conv+pssa", "branch pssa"), ("conv+mine", "branch mine")):
        assert f"cannot stand for this trial (code of {part} changed since)" in log
        differs = {
            name
            for name, value in third[arm].provenance["code"].items()
            if value != first[arm].provenance["code"][name]
        }
        assert differs == {part}
        assert third[arm].code_digest != first[arm].code_digest
        assert third[arm].provenance["commit"] == f"{house.head}+changes"
    assert third["conv+mine"].metrics.get("val_loss") != first["conv+mine"].metrics.get("val_loss"), (
        "the edit had an effect"
    )

    # one picture, of the same size in bytes and with the same time stamp
    old = house.folder / "pictures" / "a" / "0.bmp"
    stamp, other = old.stat(), house.folder / "pictures" / "b" / "0.bmp"
    shutil.copyfile(other, old)
    os.utime(old, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (old.stat().st_size, old.stat().st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns)
    fourth, log = house.study("fourth")
    assert reused(fourth) == set()
    assert log.count("cannot stand for this trial (images changed since)") == 4
    assert {result.data_digest for result in fourth.values()}.isdisjoint({first["conv"].data_digest})


def killed_trial(house: House, name: str) -> list[str]:
    """Arguments of a study whose only trial was killed after it had saved its state."""
    arguments = [
        "branch.use=choice(conv+mine)", f"data.path={house.folder / 'pictures'}", "train.epochs=60",
        "train.state_every_seconds=0", f"hydra.sweeper.study_name={name}", "hydra.sweeper.n_trials=1",
        "hydra.sweeper.final.top_k=0", "hydra.sweeper.reuse=none",
    ]  # fmt: skip
    process = house.start(*arguments)
    end = time.monotonic() + 120
    while not list(house.folder.glob(f"house/runs/{name}/trials/*/state.pt")) and time.monotonic() < end:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return arguments


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("edited", [False, True], ids=["a comment", "code"])
def test_a_killed_trial_goes_on_only_with_the_code_that_it_began_with(house: House, edited: bool) -> None:
    name = f"killed{edited}"
    arguments = killed_trial(house, name)
    house.edit(
        "own/mine_of_test/gain.py", *(("return", "return 2 *") if edited else ("def gain", "# a comment\ndef gain"))
    )
    process = house.start(*arguments)
    log, _ = process.communicate(timeout=240)
    assert process.returncode == 0, log
    results = [read_result(path) for path in sorted(house.folder.glob(f"house/runs/{name}/trials/*/result.json"))]
    (result,) = [result for result in results if result.status == "ok"]
    assert (result.resumed_from is None) == edited
    refusal = "the saved state of the trial is refused, since code of branch mine changed since: the trial starts anew"
    assert (refusal in log) == edited
