"""Laws of the places for workers, and what is refused."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.study.launching.devices import Gpu
from search.study.launching.slots import LocalLauncherOptions, Slot, slots

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
