"""What is released: a wheel and a source archive that work outside of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("data=digits", "train.epochs=1", "data.train_size=256", "tracker=disabled", "measure.latency_repeats=0")


def test_the_licence_is_named_alike_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == "Apache-2.0"
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "Apache License\n" in (ROOT / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.network  # hatchling comes from the registry
def test_wheel_and_source_archive_work_outside_of_the_repository(tmp_path: Path) -> None:
    built, site = tmp_path / "dist", tmp_path / "site"
    python = [sys.executable, "-m"]
    done = subprocess.run(  # the wheel is made of what is in the source archive
        [*python, "build", "--outdir", str(built), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {"search/py.typed", "xvol/py.typed", "search/conf/config.yaml"} <= inside
    tracked = subprocess.run(
        ["git", "ls-files", "search", "xvol"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(tracked.stdout.split()) - inside == set()
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "tests/test_release.py"} <= names

    subprocess.run([*python, "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*words: str) -> str:
        ran = subprocess.run(
            [*python, *words], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
        return ran.stdout

    assert run("search.cli.table", "--help").startswith("usage: ")
    study = ("-m", "placement.policy=choice(none,stage3)", "hydra.sweeper.study_name=small", "hydra.sweeper.n_trials=2")
    final = ("hydra.sweeper.final.top_k=1", "hydra.sweeper.final.seeds=2", "hydra.launcher.device=cpu")
    run("search", *study, *final, *SMALL)
    assert "plain (baseline)" in run("search.cli.table", "runs/small")
    where = "import search, xvol; print(search.__file__, xvol.__file__)"
    shown = subprocess.run(
        [sys.executable, "-c", where], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert shown.stdout.count(str(site)) == 2, shown.stderr
