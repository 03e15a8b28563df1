"""A trial whose result is known is not trained, and says where its figures come from."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from search.channel import Channel, opened
from search.ledger.index import Index
from search.ledger.result import TrialResult, read_result
from search.ledger.samples import SAMPLES_FILE, read_samples
from search.trial import run as module
from search.trial.run import run_trial

from .conftest import Small

OWN = {"study", "trial", "run_dir", "reused_from", "started_at", "finished_at", "wandb_id", "is_baseline", "attempt"}
OVERRIDES = ("placement.policy=stage3", "train.epochs=2")


class Knowing(Channel):
    """A study that knows of an earlier result, or looks for one in an index."""

    def __init__(self, known: Path | Index | None = None, **facts: Any) -> None:
        super().__init__(**facts)
        self.known = known
        self.reports: list[int] = []

    def admit(self, fingerprint: str, facts: Any) -> str | None:
        found = self.known
        if isinstance(found, Index):
            found = found.find(fingerprint, needs_test=self.phase == "final")
        return None if found is None else str(found)

    def report(self, step: int, value: float) -> None:
        self.reports.append(step)


def run(config: DictConfig, folder: Path, channel: Channel) -> Any:
    with opened(channel):
        return run_trial(config, folder)


def result_of(folder: Path) -> TrialResult:
    return read_result(folder / "result.json")


@pytest.fixture(scope="module")
def runs(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a study of two trained trials of one network: a search's, and a final one."""
    runs = tmp_path_factory.mktemp("work") / "runs"
    for phase, place in (("search", "trials/0003-s0"), ("final", "final/0001-s0")):
        channel = Channel(study="old", phase=phase, study_dir=str(runs / "old"))  # type: ignore[arg-type]
        run(small(*OVERRIDES), runs / "old" / place, channel)
    return runs


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails."""

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was trained")

    monkeypatch.setattr(module, "Trainer", fail)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(("phase", "source"), [("search", "old/trials/0003-s0"), ("final", "old/final/0001-s0")])
def test_a_known_result_is_taken_over(
    small: Small, runs: Path, phase: Any, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "xvol")
    study = runs / f"new-{phase}"
    folder = study / ("trials" if phase == "search" else "final") / "0000-s0"
    channel = Knowing(
        Index(runs), study="new", number=0, phase=phase, study_dir=str(study), is_baseline=True, attempt=2
    )
    value = run(small(*OVERRIDES, "tracker.mode=offline"), folder, channel)
    earlier, result = result_of(runs / source), result_of(folder)
    assert value == earlier.metrics.get("val_top1")
    assert (result.status, result.reused_from, result.study, result.trial) == ("ok", source, "new", 0)
    assert (result.is_baseline, result.attempt, result.resumed_from) == (True, 2, None)
    assert result.run_dir == folder.relative_to(study).as_posix()
    same = asdict(earlier).keys() - OWN
    assert {name: asdict(result)[name] for name in same} == {name: asdict(earlier)[name] for name in same}
    assert (result.metrics.get("test_top1") is not None) == (phase == "final")
    assert (folder / "history.csv").read_bytes() == (runs / source / "history.csv").read_bytes()
    assert (folder / "checkpoint.pt").exists() == (phase == "final")
    assert (result.wandb_id, (folder / "wandb").exists()) == (None, False)
    number = "trial 3" if phase == "search" else "final trial 1"
    assert any(
        f"seed 0: nothing trained, taken over from {number} of study old: val" in line for line in caplog.messages
    )
    assert Index(runs).find(result.fingerprint or "", needs_test=False) == runs / source / "result.json"
    shutil.rmtree(study)


def test_a_source_elsewhere_is_named_by_its_whole_path(small: Small, runs: Path, tmp_path: Path) -> None:
    source = runs / "old/trials/0003-s0/result.json"
    study = tmp_path / "runs" / "new"
    for folder, directory in ((study / "trials/0000-s0", str(study)), (tmp_path / "alone", None)):
        run(small(*OVERRIDES), folder, Knowing(source, phase="search", study_dir=directory))
        assert result_of(folder).reused_from == str(source.parent)


def changed(runs: Path, tmp_path: Path, place: str, **values: Any) -> Path:
    """The path of a copy of an earlier trial, with other values in its result."""
    folder = tmp_path / "earlier"
    shutil.copytree(runs / "old" / place, folder)
    row = json.loads((folder / "result.json").read_text())
    del row["checksum"]
    (folder / "result.json").write_text(json.dumps(row | values))
    return folder / "result.json"


UNFIT: dict[str, tuple[str, dict[str, Any], str]] = {
    "another run": ("trials/0003-s0", {"fingerprint": "0123456789"}, "its fingerprint is 0123456789"),
    "failed": ("trials/0003-s0", {"status": "failed"}, "its status is failed"),
    "without the objective": ("trials/0003-s0", {"metrics": {"val_loss": 1.0}}, "it has no val_top1"),
    "epochs missing": ("trials/0003-s0", {"epochs": 3}, "its history holds 2 of 3 epochs"),
    "of a later version": ("trials/0003-s0", {"schema": 99}, "newer version"),
    "edited": ("trials/0003-s0", {"val_top1": 99.0, "checksum": "0123456789abcdef"}, "its checksum does not fit"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_result_that_does_not_fit_is_not_taken(
    small: Small, runs: Path, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    place, values, reason = UNFIT[case]
    channel = Knowing(changed(runs, tmp_path, place, **values), phase="search")
    with caplog.at_level(logging.WARNING, "xvol"):
        run(small(*OVERRIDES), tmp_path / "new", channel)
    result = result_of(tmp_path / "new")
    assert (result.status, result.reused_from) == ("ok", None)
    assert channel.reports == [1, 2]
    (line,) = [text for text in caplog.messages if "cannot stand for this trial" in text]
    assert reason in line


@pytest.mark.usefixtures("untrained")
def test_a_copy_stands_too_and_names_what_was_trained(
    small: Small, runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "xvol")
    copy = changed(runs, tmp_path, "trials/0003-s0", reused_from="new/trials/0001-s0")
    run(small(*OVERRIDES), tmp_path / "new", Knowing(copy, phase="search", study_dir=str(tmp_path / "new")))
    assert result_of(tmp_path / "new").reused_from == "new/trials/0001-s0"
    assert any("taken over from trial 1: val" in line for line in caplog.messages)


@pytest.mark.usefixtures("untrained")
def test_where_one_result_does_not_stand_the_next_is_tried(small: Small, runs: Path, tmp_path: Path) -> None:
    unfit = changed(runs, tmp_path, "trials/0003-s0", status="failed")

    class Several(Knowing):
        def unfit(self, source: str) -> str | None:
            assert source == str(unfit)
            return str(runs / "old/trials/0003-s0/result.json")

    run(small(*OVERRIDES), tmp_path / "new", Several(unfit, phase="search"))
    assert result_of(tmp_path / "new").reused_from == str(runs / "old/trials/0003-s0")


def test_a_search_never_lends_its_result_to_a_final_trial(small: Small, runs: Path, tmp_path: Path) -> None:
    search = runs / "old/trials/0003-s0/result.json"
    faked = changed(runs, tmp_path, "final/0001-s0", metrics={"val_top1": 50.0, "val_loss": 1.0})
    for number, source in enumerate((search, faked)):
        channel = Knowing(source, phase="final")
        run(small(*OVERRIDES), tmp_path / str(number), channel)
        result = result_of(tmp_path / str(number))
        assert result.reused_from is None
        assert result.metrics.get("test_top1") is not None
        assert channel.reports == [1, 2]


def test_weights_that_are_asked_for_and_were_not_kept_are_trained(small: Small, runs: Path, tmp_path: Path) -> None:
    source = runs / "old/trials/0003-s0/result.json"
    run(small(*OVERRIDES, "checkpoint=always"), tmp_path / "new", Knowing(source, phase="search"))
    assert result_of(tmp_path / "new").reused_from is None
    assert (tmp_path / "new" / "checkpoint.pt").exists()


def test_outputs_of_each_image_are_taken_over_or_the_trial_is_trained(small: Small, runs: Path, tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    kept = (*OVERRIDES, "data.probe_size=50")
    run(small(*kept), first, Knowing(runs / "old/trials/0003-s0/result.json", phase="search"))
    run(small(*kept), again, Knowing(first / "result.json", phase="search"))
    run(small(*OVERRIDES, "data.probe_size=60"), other, Knowing(first / "result.json", phase="search"))
    assert [result_of(each).reused_from is None for each in (first, again, other)] == [True, False, True]
    assert (first / SAMPLES_FILE).read_bytes() == (again / SAMPLES_FILE).read_bytes()
    assert len(read_samples(other).index) == 60


def test_a_score_that_the_earlier_trial_has_not_is_taken_afresh(small: Small, runs: Path, tmp_path: Path) -> None:
    source = runs / "old/trials/0003-s0/result.json"
    overrides = ("measure.zero_cost=[snip]", "objectives=[val_top1,zero_cost.snip,train_memory_mb]")
    values = run(small(*OVERRIDES, *overrides), tmp_path / "new", Knowing(source, phase="search"))
    result, earlier = result_of(tmp_path / "new"), result_of(source.parent)
    assert result.reused_from is not None
    assert values == (earlier.metrics.get("val_top1"), result.zero_cost["snip"], result.train_memory_mb)


def test_a_figure_of_another_machine_is_no_objective(small: Small, runs: Path, tmp_path: Path) -> None:
    source = runs / "old/trials/0003-s0/result.json"
    provenance = result_of(source.parent).provenance | {"processor": "a slower one"}
    other = changed(runs, tmp_path, "trials/0003-s0", provenance=provenance)
    config = small(*OVERRIDES, "objectives=[val_top1,train_seconds]")
    run(config, tmp_path / "here", Knowing(source, phase="search"))
    assert result_of(tmp_path / "here").train_seconds == result_of(source.parent).train_seconds
    run(config, tmp_path / "elsewhere", Knowing(other, phase="search"))
    assert result_of(tmp_path / "elsewhere").reused_from is None
    run(small(*OVERRIDES), tmp_path / "accuracy", Knowing(other, phase="search"))
    assert result_of(tmp_path / "accuracy").reused_from is not None


@pytest.mark.parametrize("how", ["objective", "constraint"])
def test_a_latency_that_is_judged_is_measured_here_and_one_that_is_not_brings_its_mark(
    small: Small, runs: Path, tmp_path: Path, how: str
) -> None:
    facts = {"latency_ms": 1e6, "latency_fused_ms": 1e6, "latency_cpu_ms": 7.0, "latency_exclusive": False}
    source = changed(runs, tmp_path, "trials/0003-s0", **facts)
    run(small(*OVERRIDES), tmp_path / "shown", Knowing(source, phase="search"))
    shown = result_of(tmp_path / "shown")
    assert {name: getattr(shown, name) for name in facts} == facts
    objectives = "[val_top1,latency_ms]" if how == "objective" else "[val_top1]"
    costs = ("latency_fused_ms",) if how == "constraint" else ()
    run(small(*OVERRIDES, f"objectives={objectives}"), tmp_path / how, Knowing(source, phase="search", costs=costs))
    judged = result_of(tmp_path / how)
    assert judged.reused_from is not None
    assert judged.latency_exclusive is True
    assert max(judged.latency_ms or 1e6, judged.latency_fused_ms or 1e6) < 1e6
    assert judged.latency_cpu_ms != 7.0


def test_what_has_changed_since_a_result_is_said_where_it_is_not_taken(
    small: Small, runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = result_of(runs / "old/trials/0003-s0").provenance
    code = made["code"] | {"branch pssa": "0123456789"}
    other = changed(
        runs, tmp_path, "trials/0003-s0", fingerprint="0123456789-0123456789", provenance=made | {"code": code}
    )
    channel = Knowing(phase="search")
    channel.outdated = lambda: str(other)  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "xvol"):
        run(small(*OVERRIDES), tmp_path / "new", channel)
    assert result_of(tmp_path / "new").reused_from is None
    assert any(
        line.endswith("cannot stand for this trial (code of branch pssa changed since)") for line in caplog.messages
    )
    caplog.clear()
    channel.known = Knowing(other, phase="search").known  # offered all the same
    with caplog.at_level(logging.WARNING, "xvol"):
        run(small(*OVERRIDES), tmp_path / "offered", channel)
    assert any("cannot stand for this trial (code of branch pssa changed since)" in line for line in caplog.messages)
