"""GPUs by a fake nvidia-smi on PATH, as CUDA_VISIBLE_DEVICES allows them; cores by affinity and control groups."""

import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.study.launching import slots as places
from search.study.launching.slots import Gpu, LocalLauncherOptions, Slot, ranks_of, slots, usable_cores, visible_gpus

A, B = "GPU-aaaa1111-0000", "GPU-bbbb2222-0000"
QUERY = f"0, {A}, 70000, 81559\n1, {B}, [N/A], 81559\n"
LIST = f"GPU 0: NVIDIA H100 (UUID: {A})\nGPU 1: NVIDIA H100 (UUID: {B})\n"
MIG = LIST + "  MIG 1g.10gb     Device  0: (UUID: MIG-cccc)\n  MIG 1g.10gb     Device  1: (UUID: MIG-dddd)\n"
Install = Callable[..., dict[str, str]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a script on PATH as nvidia-smi; return an environment without CUDA_VISIBLE_DEVICES."""

    def installed(query: str = QUERY, listing: str = LIST, script: str | None = None) -> dict[str, str]:
        (tmp_path / "query").write_text(query)
        (tmp_path / "list").write_text(listing)
        default = f'case "$1" in -L) cat {tmp_path}/list;; *) cat {tmp_path}/query;; esac'
        fake = tmp_path / "nvidia-smi"
        fake.write_text(f"#!/bin/sh\n{script or default}\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(places, "_device_files", list)
        return {}

    return installed


def names(gpus: list[Gpu]) -> list[str]:
    return [gpu.name for gpu in gpus]


def test_all_gpus_by_uuid_with_their_memory(install: Install) -> None:
    assert visible_gpus(install()) == [Gpu(A, 70000, 81559), Gpu(B, None, 81559)]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", ["1"]),
        ("1,0", ["1", "0"]),
        ("0,-1,1", ["0"]),
        (B, [B]),
        ("GPU-bbbb", ["GPU-bbbb"]),
        (f" 0 , {B}", ["0", B]),
        ("MIG-dddd,MIG-cccc", ["MIG-dddd", "MIG-cccc"]),
        (f"MIG-{A}/1/0", [f"MIG-{A}/1/0"]),
    ],
)
def test_the_users_choice_is_kept_in_the_users_words(install: Install, asked: str, expected: list[str]) -> None:
    install(listing=MIG)
    assert names(visible_gpus({"CUDA_VISIBLE_DEVICES": asked})) == expected


@pytest.mark.parametrize(("asked", "expected"), [("0,7,1", ["0"]), ("GPU-", []), ("0,0", ["0"]), ("x", [])])
def test_a_device_that_is_not_there_ends_the_list_and_is_told(
    install: Install, caplog: pytest.LogCaptureFixture, asked: str, expected: list[str]
) -> None:
    install()
    with caplog.at_level(logging.WARNING):
        assert names(visible_gpus({"CUDA_VISIBLE_DEVICES": asked})) == expected
    assert f"CUDA_VISIBLE_DEVICES={asked}" in caplog.text


def test_a_gpu_that_is_cut_up_gives_its_parts(install: Install) -> None:
    assert visible_gpus(install(listing=MIG)) == [Gpu(A, 70000, 81559), Gpu("MIG-cccc"), Gpu("MIG-dddd")]


BROKEN = {
    "echo 'cannot reach the driver'; exit 9": "ended with 9 (cannot reach the driver)",
    "exec sleep 60": "gave no answer within 0.3 s",
    "echo what": "answered 'what'",
}


@pytest.mark.parametrize(("script", "told"), list(BROKEN.items()))
def test_a_broken_nvidia_smi_without_a_device_is_a_warning(
    install: Install, caplog: pytest.LogCaptureFixture, script: str, told: str
) -> None:
    with caplog.at_level(logging.WARNING):
        assert visible_gpus(install(script=script), timeout=0.3) == []
    assert told in caplog.text
    assert "run on the CPU" in caplog.text


@pytest.mark.parametrize(("script", "told"), list(BROKEN.items()))
def test_a_broken_nvidia_smi_where_there_is_a_device_is_an_error(
    install: Install, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    environ = install(script=script)
    monkeypatch.setattr(places, "_device_files", lambda: [Path("/dev/nvidia0")])
    with pytest.raises(RuntimeError, match=r"hydra\.launcher\.device=cpu") as error:
        visible_gpus(environ, timeout=0.3)
    assert told in str(error.value)


def test_without_a_list_the_users_choice_is_believed(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install(script="exit 1")
    with caplog.at_level(logging.WARNING):
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"}) == [Gpu("2"), Gpu("3")]
    assert "is taken as it stands" in caplog.text


def test_a_machine_without_the_driver_is_no_reason_to_warn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(places, "_device_files", list)
    assert visible_gpus({}) == []
    assert caplog.text == ""


def test_an_empty_choice_does_not_even_ask(install: Install) -> None:
    install(script="exec sleep 60")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, timeout=0.1) == []


def test_cores_are_those_of_the_affinity() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@settings(deadline=None)  # files on a busy disk
@given(outer=st.none() | st.integers(1, 64), inner=st.none() | st.integers(1, 64))
def test_the_tightest_control_group_counts(tmp_path_factory: pytest.TempPathFactory, outer: int, inner: int) -> None:
    root = tmp_path_factory.mktemp("cgroup")
    (root / "a" / "b").mkdir(parents=True)
    (root / "member").write_text("0::/a/b\n")
    for folder, cores in ((root / "a", outer), (root / "a" / "b", inner)):
        (folder / "cpu.max").write_text(f"{'max' if cores is None else cores * 50000} 50000\n")
    limits = [cores for cores in (outer, inner) if cores is not None]
    assert places._quota(root, root / "member") == (min(limits) if limits else 1e9)


def test_the_quota_of_version_1_and_less_than_one_core(tmp_path: Path) -> None:
    (tmp_path / "member").write_text("4:memory:/x\n3:cpu,cpuacct:/docker/1\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert places._quota(tmp_path, tmp_path / "member") == 1.5  # the group's own path is not mounted in a container
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("20000")
    assert places._quota(tmp_path, tmp_path / "member") == 1.0
    assert places._quota(tmp_path, tmp_path / "nothing") == 1e9


AUTO = LocalLauncherOptions()
GPUS = st.integers(0, 6).map(lambda n: [Gpu(f"GPU-{i}", 1000.0 * (i + 1), 80000.0) for i in range(n)])
CORES, PER_GPU, THREADS = st.integers(1, 64), st.integers(1, 5), st.integers(1, 8)


@settings(deadline=None)
@given(gpus=GPUS, cores=CORES, per_gpu=PER_GPU, threads=THREADS)
def test_auto_fills_every_gpu_or_else_every_core(gpus: list[Gpu], cores: int, per_gpu: int, threads: int) -> None:
    made = slots(replace(AUTO, per_gpu=per_gpu, threads=threads), gpus, cores)
    assert [slot.number for slot in made] == list(range(len(made)))
    if gpus:
        assert Counter(slot.device for slot in made) == {gpu.name: per_gpu for gpu in gpus}
    else:
        assert len(made) == max(1, cores // threads)
        assert {slot.device for slot in made} == {None}
    assert all(slot.environment()["OMP_NUM_THREADS"] == str(threads) for slot in made)


@settings(deadline=None)
@given(gpus=GPUS.filter(bool), per_gpu=PER_GPU, data=st.data())
def test_fewer_workers_are_spread_evenly(gpus: list[Gpu], per_gpu: int, data: st.DataObject) -> None:
    workers = data.draw(st.integers(1, len(gpus) * per_gpu))
    loads = Counter(slot.device for slot in slots(replace(AUTO, per_gpu=per_gpu, workers=workers), gpus, 1))
    assert sum(loads.values()) == workers
    assert max(loads.values()) - min(loads[gpu.name] for gpu in gpus) <= 1


@settings(deadline=None)
@given(gpus=GPUS.filter(bool), cores=CORES, need=st.floats(0.1, 20))
def test_packing_by_memory_never_asks_for_more_than_is_free(gpus: list[Gpu], cores: int, need: float) -> None:
    options = replace(AUTO, per_gpu="auto", gpu_memory_gb=need)
    if all((gpu.free_mib or 0) < need * 1024 for gpu in gpus):
        with pytest.raises(ValueError, match="fits on no GPU"):
            slots(options, gpus, cores)
        return
    loads = Counter(slot.device for slot in slots(options, gpus, cores))
    for gpu in gpus:
        assert loads[gpu.name] * need * 1024 <= (gpu.free_mib or 0)
    assert sum(loads.values()) <= max(cores, len(gpus))


def test_every_worker_is_pinned_to_one_gpu() -> None:
    made = slots(replace(AUTO, per_gpu=2), [Gpu("3"), Gpu("GPU-b")], 8)
    assert [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in made] == ["3", "GPU-b", "3", "GPU-b"]


FOUR = [Gpu(str(number), 40960.0, 40960.0) for number in range(4)]


def test_a_trial_of_several_gpus_has_a_group_of_them_to_itself() -> None:
    made = slots(replace(AUTO, gpus_per_trial=2, gpu_memory_gb=8.0), FOUR, 4)
    assert [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in made] == ["0,1", "2,3"]
    assert len(slots(replace(AUTO, gpus_per_trial=4, workers=1), FOUR, 4)) == 1
    assert slots(replace(AUTO, gpus_per_trial=1), FOUR, 4) == slots(AUTO, FOUR, 4)


def test_several_processes_of_a_trial_have_a_core_each() -> None:
    made = slots(replace(AUTO, gpus_per_trial=2, threads=2), [], 9)
    assert [(slot.device, slot.threads) for slot in made] == [(None, 2), (None, 2)]


LOCAL = LocalLauncherOptions._target_
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
RAY = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"


@pytest.mark.parametrize(
    ("launcher", "ranks"),
    [
        ({"_target_": LOCAL}, 1),
        ({"_target_": LOCAL, "gpus_per_trial": 4}, 4),
        ({"_target_": SLURM, "gpus_per_node": 4, "nodes": 1, "tasks_per_node": 1}, 4),
        ({"_target_": SLURM, "gpus_per_node": None, "gpus_per_task": 2}, 2),
        ({"_target_": RAY, "ray": {"remote": {"num_gpus": 2}}}, 2),
        ({"_target_": RAY, "ray": {"remote": {"num_gpus": 0.5}}}, 1),
        ({"_target_": RAY, "ray": {"remote": {}}}, 1),
        ({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}, 1),
    ],
)
def test_a_launcher_says_how_many_gpus_a_trial_gets(launcher: dict[str, Any], ranks: int) -> None:
    assert ranks_of(launcher) == ranks


@pytest.mark.parametrize("key", ["nodes", "tasks_per_node"])
def test_a_trial_on_several_machines_is_refused(key: str) -> None:
    with pytest.raises(
        ValueError, match=rf"hydra\.launcher\.{key}=2: a trial is one task on one machine.*take {key}=1"
    ):
        ranks_of({"_target_": SLURM, key: 2})


def test_the_cpu_on_request_hides_the_gpus() -> None:
    made = slots(replace(AUTO, device="cpu"), [Gpu("0")], 2)
    assert made == [Slot(0, "", 1), Slot(1, "", 1)]
    assert made[0].environment()["CUDA_VISIBLE_DEVICES"] == ""


def test_without_a_gpu_nothing_is_pinned() -> None:
    assert "CUDA_VISIBLE_DEVICES" not in slots(AUTO, [], 1)[0].environment()


def test_any_number_of_workers_on_the_cpu() -> None:
    assert len(slots(replace(AUTO, workers=5), [], 2)) == 5


@pytest.mark.parametrize(
    ("changes", "gpus", "told"),
    [
        ({"workers": 0}, [], "workers=0: allowed is auto, or a whole number from 1"),
        ({"workers": "many"}, [], "workers=many"),
        ({"workers": True}, [], "workers=True"),
        ({"per_gpu": 1.5}, [], r"per_gpu=1\.5"),
        ({"per_gpu": "auto"}, [], "gpu_memory_gb=4"),
        ({"per_gpu": "auto", "gpu_memory_gb": 1.0}, [Gpu("MIG-1")], "does not tell the free memory of MIG-1"),
        ({"per_gpu": 2, "gpu_memory_gb": 8.0}, [Gpu("0", 10240)], r"does not fit on 0, which has 10\.0 GB free"),
        ({"gpu_memory_gb": 0.0}, [], "above 0"),
        ({"workers": 5, "per_gpu": 2}, [Gpu("0"), Gpu("1")], "room for 4 .* raise per_gpu to 3"),
        ({"device": "cuda"}, [], "no GPU can be seen"),
        ({"gpus_per_trial": 0}, [], "gpus_per_trial=0: at least 1"),
        (
            {"gpus_per_trial": 2},
            FOUR[:3],
            r"does not divide the 3 GPU\(s\) that can be seen \(0, 1, 2\): take one of 1, 3",
        ),
        ({"gpus_per_trial": 8}, FOUR, "does not divide the 4 GPU.*: take one of 1, 2, 4"),
        ({"gpus_per_trial": 2, "per_gpu": 2}, FOUR, "gpus_per_trial=2 takes whole GPUs: leave .*per_gpu=2 out"),
        ({"gpus_per_trial": 2, "workers": 3}, FOUR, r"workers=3, but there are 2 group\(s\) of 2 GPUs"),
        ({"gpus_per_trial": 2}, [Gpu("MIG-1"), Gpu("MIG-2")], "one MIG device at most, and there are MIG-1, MIG-2"),
        (
            {"gpus_per_trial": 2, "gpu_memory_gb": 8.0},
            [Gpu("0", 81920), Gpu("1", 4096)],
            r"on 0,1, which has 4\.0 GB free",
        ),
        ({"device": "tpu"}, [], "allowed are auto, cuda, cpu"),
        ({"threads": 0}, [], "threads=0: at least 1"),
        ({"restarts": -1}, [], "restarts=-1: at least 0"),
        ({"stagger_seconds": -1.0}, [], "stagger_seconds"),
        ({"grace_seconds": -1.0}, [], "grace_seconds"),
    ],
)
def test_what_cannot_be_is_refused_in_words(changes: dict[str, Any], gpus: list[Gpu], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        slots(replace(AUTO, **changes), gpus, 4)
