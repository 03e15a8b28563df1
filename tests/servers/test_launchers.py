"""A study on Slurm and one on Ray, as a user starts them: four trials on two workers; on Slurm also with its jobs killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from search.ledger.result import read_result
from search.study.storage.opening import open_storage

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]
APP = Path(__file__).parents[1] / "search" / "study" / "toy" / "app.py"
SLURM = Path(__file__).parent / "slurm.sh"
STUDY = ["x=range(0,7)", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2"]
ON_SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=main", "hydra.launcher.timeout_min=10"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """A running Slurm; one that we started is ended, one that was there stays."""
    pytest.importorskip(
        "hydra_plugins.hydra_submitit_launcher", reason="the launcher is not installed: pip install 'xvol[slurm]'"
    )
    path = os.environ["PATH"] + ":/usr/sbin"
    missing = [
        tool for tool in ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd") if not shutil.which(tool, path=path)
    ]
    if missing:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}): see the head of tests/servers/slurm.sh")
    if os.geteuid() != 0:
        pytest.skip("tests/servers/slurm.sh starts Slurm's daemons, which only root can")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        patch.setenv("SLURM_CONF", "/var/tmp/xvol-slurm/slurm.conf")
        was_there = subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0
        started = subprocess.run([SLURM, "start"], capture_output=True, text=True, check=False)
        assert started.returncode == 0, started.stdout + started.stderr
        yield
        if not was_there:
            subprocess.run([SLURM, "stop"], check=True)


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(APP), "-m", f"trace={folder / 'trace'}", *STUDY, *overrides],
        env={**os.environ, "TOY_RUNS": str(folder / "runs"), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials that count."""
    study = optuna.load_study(study_name="toy", storage=open_storage(None, folder / "runs" / "toy"))
    return [trial for trial in study.trials if not trial.user_attrs.get("interrupted")]


def test_four_trials_on_slurm(slurm: None, tmp_path: Path) -> None:
    process = start(tmp_path, *ON_SLURM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert [trial.state for trial in ended(tmp_path)] == [TrialState.COMPLETE] * 4
    assert len((tmp_path / "trace").read_text().splitlines()) == 4


def test_killed_jobs_on_slurm_are_reported_and_resumed(slurm: None, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    process = start(tmp_path, *ON_SLURM, "seconds=2")
    end = time.monotonic() + 60
    while not trace.exists() or len(trace.read_text().splitlines()) < 3:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.1)
    jobs = subprocess.run(["squeue", "-h", "-o", "%A", "--name=app"], capture_output=True, text=True, check=True)
    subprocess.run(["scancel", "--full", "--signal=KILL", *set(jobs.stdout.split())], check=True)
    out, _ = process.communicate(timeout=180)  # with accounting, submitit sees it and does not wait for ever
    again = start(tmp_path, *ON_SLURM, "seconds=2")
    more, _ = again.communicate(timeout=120)
    assert again.returncode == 0, out + more
    assert [trial.state for trial in ended(tmp_path)] == [TrialState.COMPLETE] * 4
    assert sorted({trial.number for trial in ended(tmp_path)}) == [trial.number for trial in ended(tmp_path)]


def test_trials_of_two_ranks_on_slurm(slurm: None, tmp_path: Path) -> None:
    """One task a trial; the trial starts its other rank by itself."""
    study = tmp_path / "ranks"
    words = ["data=digits", "placement.policy=choice(none,stage3)", "train.epochs=1", "measure.latency_repeats=0"]
    words += ["device=cpu", "ranks=2", "train.accumulate=2", "tracker=disabled", f"hydra.sweep.dir={study}"]
    words += ["hydra.sweeper.study_name=ranks", "hydra.sweeper.n_trials=2", "sampler=grid"]
    words += ["hydra.sweeper.final.top_k=0", *ON_SLURM, "hydra.launcher.cpus_per_task=2"]
    done = subprocess.run(
        [sys.executable, "-m", "search", "-m", *words], capture_output=True, text=True, timeout=360, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [read_result(path) for path in sorted(study.glob("trials/*/result.json"))]
    assert [(result.status, result.provenance["ranks"]) for result in results] == [("ok", 2)] * 2


def test_four_trials_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'xvol[ray]'")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install --no-deps hydra-ray-launcher==1.2.2")
    process = start(tmp_path, "hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2")
    out, _ = process.communicate(timeout=180)
    assert process.returncode == 0, out
    assert [trial.state for trial in ended(tmp_path)] == [TrialState.COMPLETE] * 4
