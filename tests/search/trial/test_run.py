from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from search.channel import Channel, Infeasible, InFlight, Pruned, opened
from search.ledger.record import read_history
from search.ledger.result import Phase, TrialResult, read_result
from search.ledger.samples import read_samples, samples_below
from search.ledger.study_files import STATE_FILE
from search.ledger.tracker import Tracker
from search.tasks import classify
from search.trial import run as module
from search.trial.reuse import LATENCY
from search.trial.run import run_trial
from search.trial.train import Diverged, Trainer

from .conftest import Small

SECRET = "hunter2horse"
VARYING = {"run_dir", "started_at", "finished_at", "train_seconds", *LATENCY, "wandb_id"}


class Listening(Channel):
    """A channel that keeps what a trial reports, and prunes where it is told to."""

    def __init__(self, prune_after: int | None = None, **facts: Any) -> None:
        super().__init__(study="demo", **facts)
        self.reports: list[tuple[int, float]] = []
        self.prune_after = prune_after

    def report(self, step: int, value: float) -> None:
        self.reports.append((step, value))

    def should_prune(self) -> bool:
        return self.prune_after is not None and len(self.reports) >= self.prune_after


def result_of(folder: Path) -> TrialResult:
    return read_result(folder / "result.json")


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_a_trial_writes_down_all_of_itself(small: Small, tmp_path: Path) -> None:
    study = tmp_path / "demo"
    folder = study / "trials" / "0007-s3"
    channel = Listening(phase="search", number=7, study_dir=str(study))
    with opened(channel):
        value = run_trial(
            small("placement.policy=stage3", "seed=3", "train.epochs=2"), folder, ["seed=3", "api_key=abcdef"]
        )
    result = result_of(folder)
    assert (result.study, result.trial, result.phase, result.status) == ("demo", 7, "search", "ok")
    assert (result.reason, result.seed, result.run_dir) == (None, 3, "trials/0007-s3")
    assert result.metrics.get("val_top1") == value
    assert (result.epochs, result.epochs_planned, result.latency_batch) == (2, 2, 4)
    assert result.arm == "stage3: conv+pssa"
    assert result.branches == ["conv", "pssa"]
    assert all(site.startswith("layer3.") for site in result.sites)
    assert (result.backbone, result.wandb_id, result.is_baseline) == ("xvol_proxy_resnet", None, False)
    assert result.overrides == ["seed=3", "api_key=***"]
    assert "scikit-learn" in (result.data_source or "")
    assert (result.classes, result.val_images) == (10, 100)
    assert 9 <= (result.metrics.get("chance_top1") or 0) <= 12
    losses = [float(row["train_loss"]) for row in read_history(folder)]
    assert [result.train_loss_first, result.train_loss] == pytest.approx(losses, rel=1e-4)
    assert list(result.doses) == result.sites
    assert 0.1 < (result.dose or 0) < 10  # both halves of a block that starts as the paper's
    assert result.metrics.keys() == {"val_top1", "val_loss", "chance_top1"}
    unmeasured = {name for name, item in asdict(result).items() if item is None}
    assert unmeasured == {
        *("latency_body_ms", "latency_body_fused_ms"),  # of detectors
        *("reason", "wandb_id", "test_images", "peak_memory_mb", "train_memory_mb"),
        *("reused_from", "resumed_from", "root", "root_seed"),
    }
    assert (len(result.fingerprint or ""), result.attempt, result.zero_cost) == (21, 1, {})
    assert result.provenance["device"] == "cpu"
    assert not (folder / STATE_FILE).exists()
    assert channel.notes == {"arm": result.arm, "arch_hash": result.arch_hash}
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[-1]["val_top1"]) == pytest.approx(result.metrics.get("val_top1"))
    assert [(step, round(value, 3)) for step, value in channel.reports] == [
        (step, round(float(row["val_top1"]), 3)) for step, row in enumerate(rows, start=1)
    ]
    assert not (folder / "error.txt").exists()
    assert not (folder / "wandb").exists()


@pytest.mark.parametrize("phase", ["single", "search", "final"])
def test_only_the_final_re_evaluation_reads_test_images(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: Any
) -> None:
    asked: list[bool] = []
    original = classify.load_data

    def watched(*args: Any, with_test: bool) -> Any:
        asked.append(with_test)
        return original(*args, with_test=with_test)

    monkeypatch.setattr(classify, "load_data", watched)
    with opened(Channel(phase=phase, is_baseline=True)):
        run_trial(small(), tmp_path)
    result = result_of(tmp_path)
    assert asked == [phase == "final"]
    assert ({"test_top1", "test_loss"} <= result.metrics.keys(), result.has_test_scores) == (phase == "final",) * 2
    assert (result.phase, result.is_baseline, result.arm) == (phase, True, "plain")


@pytest.mark.parametrize("phase", ["search", "final"])
def test_what_it_puts_out_for_each_image_is_kept_where_that_is_asked_for(
    small: Small, tmp_path: Path, phase: Any
) -> None:
    kept = ("data.train_size=200", "data.probe_size=150")
    for name, overrides in (("plain", kept[:1]), ("kept", kept)):
        with opened(Channel(phase=phase)):
            run_trial(small(*overrides), tmp_path / name)
    plain, result = result_of(tmp_path / "plain"), result_of(tmp_path / "kept")
    assert (result.metrics, result.fingerprint) == (plain.metrics, plain.fingerprint)
    (samples,) = samples_below(tmp_path)
    assert samples.run == tmp_path / "kept"
    right = samples.logits.argmax(1) == samples.target
    assert samples.logits.shape == (230 if phase == "final" else 150, 10)
    counts = {part: int((samples.part == part).sum()) for part in ("val", "train", "test")}
    assert counts == {"val": 100, "train": 50, "test": 80 if phase == "final" else 0}
    for part in ("val", "test") if phase == "final" else ("val",):
        assert 100 * right[samples.part == part].mean() == pytest.approx(result.metrics[f"{part}_top1"])


@pytest.mark.parametrize(
    ("override", "expected"), [("branch.use=pssa", None), ("branch.gamma=0", pytest.approx(0, abs=0.2))]
)
def test_the_dose_of_a_branch_is_written_down(small: Small, tmp_path: Path, override: str, expected: Any) -> None:
    run_trial(small("placement.policy=stage3", override), tmp_path)
    result = result_of(tmp_path)
    assert result.dose == expected
    assert all(dose == expected for dose in result.doses.values())


def test_no_config_key_opens_the_test_images(small: Small) -> None:
    keys = json.dumps(list(_keys(small())))
    assert "phase" not in keys
    assert "with_test" not in keys


def _keys(node: Any, prefix: str = "") -> Any:
    for name in node:
        yield f"{prefix}{name}"
        if hasattr(node[name], "keys"):
            yield from _keys(node[name], f"{prefix}{name}.")


def test_several_objectives_are_returned_in_their_order(small: Small, tmp_path: Path) -> None:
    channel = Listening()
    with opened(channel):
        values = run_trial(small("objectives=[params_fused,val_loss]"), tmp_path)
    result = result_of(tmp_path)
    assert values == (float(result.params_fused or 0), result.metrics.get("val_loss"))
    assert channel.reports == []  # params are known from the start


@pytest.mark.parametrize(
    ("overrides", "error", "reason"),
    [
        (["branch.use=psa"], ValueError, "ValueError: branch.use=psa: no branch is named 'psa'"),
        (["train.epochs=0"], ValueError, "ValueError: train.epochs=0"),
        (["device=nowhere"], ValueError, "ValueError: device=nowhere: allowed are auto, cpu"),
        (["train.lr=1e9", "train.epochs=10", "train.schedule=constant"], Diverged, "Diverged: diverged: "),
    ],
)
def test_a_failed_trial_has_its_reason(
    small: Small, tmp_path: Path, overrides: list[str], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error):
        run_trial(small(*overrides), tmp_path)
    result = result_of(tmp_path)
    assert result.status == "failed"
    assert (result.reason or "").startswith(reason)
    assert "Traceback" in (tmp_path / "error.txt").read_text()
    assert (result.params is not None, result.latency_ms) == (error is Diverged, None)  # known once it is built


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_a_trial_without_memory_says_so(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Trainer, "_step", raising(error))
    with pytest.raises(type(error)):
        run_trial(small(), tmp_path)
    result = result_of(tmp_path)
    assert result.status == "failed"
    assert (result.reason or "").startswith("out of memory: ")
    assert "\n" not in (result.reason or "")
    assert "in every arm take data.batch_size=32 or train.amp=true" in (result.reason or "")


def test_the_error_of_torchs_own_allocator_is_known(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_step", lambda *_: torch.empty(1 << 55))
    with pytest.raises(RuntimeError):
        run_trial(small("data.batch_size=1", "train.amp=true"), tmp_path)
    reason = result_of(tmp_path).reason or ""
    assert reason.startswith("out of memory: RuntimeError: ")
    assert "take a smaller network or data.image_size" in reason


@pytest.mark.parametrize(("phase", "level"), [("single", "INFO"), ("search", "DEBUG")])
def test_epochs_of_a_study_are_told_where_they_are_asked_for(
    small: Small, tmp_path: Path, caplog: pytest.LogCaptureFixture, phase: Phase, level: str
) -> None:
    caplog.set_level("DEBUG", "xvol")
    with opened(Listening(phase=phase)):
        run_trial(small("measure.latency_repeats=0"), tmp_path)
    told = [record.levelname for record in caplog.records if "epoch 1/1" in record.getMessage()]
    assert told == [level]


def test_a_pruned_trial_keeps_what_it_had(small: Small, tmp_path: Path) -> None:
    channel = Listening(prune_after=1, phase="search")
    with opened(channel), pytest.raises(Pruned, match="pruned after epoch 1 of 3 at val_top1"):
        run_trial(small("train.epochs=3", "data.probe_size=100"), tmp_path)
    result, samples = result_of(tmp_path), read_samples(tmp_path)
    assert (result.status, result.epochs, result.epochs_planned) == ("pruned", 1, 3)
    assert 100 * (samples.logits.argmax(1) == samples.target).mean() == pytest.approx(channel.reports[0][1])
    assert (result.reason or "").startswith("pruned after epoch 1 of 3")
    assert result.metrics.get("val_top1") == channel.reports[0][1]
    assert (result.params or 0) > 0
    assert (result.fuse_error, result.latency_ms) == (None, None)
    assert not (tmp_path / "error.txt").exists()


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Infeasible("params 77858 is above 1000"), "infeasible"),
        (InFlight("trial 3 is training the same network now"), "duplicate"),
        (Pruned("the same network was pruned as trial 2"), "pruned"),
    ],
)
def test_a_trial_that_is_not_admitted_is_not_trained(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception, status: str
) -> None:
    monkeypatch.setattr(module, "Trainer", raising(AssertionError("it was trained")))
    monkeypatch.setattr(module, "tracked", raising(AssertionError("it was logged")))
    monkeypatch.setattr(Listening, "admit", raising(refusal))
    with opened(Listening()), pytest.raises(type(refusal)):
        run_trial(small("placement.policy=stage3"), tmp_path)
    result = result_of(tmp_path)
    assert (result.status, result.reason) == (status, str(refusal))
    assert (result.arm, result.epochs, result.metrics.get("val_top1")) == ("stage3: conv+pssa", 0, None)
    assert all((result.params, result.params_fused, result.macs, result.macs_fused, result.fingerprint))
    assert not (tmp_path / "error.txt").exists()


def test_a_study_is_told_of_the_costs_it_asks_for(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(Listening, "admit", lambda self, *facts: asked.append(facts))
    costs = ("params", "latency_ms", "latency_fused_ms", "train_memory_mb", "zero_cost.synflow")
    with opened(Listening(costs=costs)):
        run_trial(small("measure.zero_cost=[snip,synflow]", "placement.policy=stage3"), tmp_path)
    result = result_of(tmp_path)
    ((fingerprint, facts),) = asked
    assert fingerprint == result.fingerprint
    always = {"arch_hash", "arm", "params", "params_fused", "macs", "macs_fused"}
    assert facts.keys() == always | set(costs)
    assert facts.pop("zero_cost.synflow") == result.zero_cost["synflow"]
    assert facts == {name: getattr(result, name) for name in facts}  # what was judged is what stands in the ledger
    assert set(result.zero_cost) == {"snip", "synflow"}
    assert result.fuse_error is not None


def test_asking_for_costs_changes_no_result(small: Small, tmp_path: Path) -> None:
    overrides = ("placement.policy=stage3", "train.epochs=2", "backbone.kwargs.drop_rate=0.2")
    with opened(Listening()):
        run_trial(small(*overrides), tmp_path / "plain")
    with opened(Listening(costs=("train_memory_mb", "latency_ms"))):
        run_trial(small(*overrides, "measure.zero_cost=[synflow,naswot,zen,jacob_cov]"), tmp_path / "asked")
    rows = [(tmp_path / name / "history.csv").read_text().splitlines() for name in ("plain", "asked")]
    assert [line.rpartition(",")[0] for line in rows[0]] == [line.rpartition(",")[0] for line in rows[1]]
    one, other = result_of(tmp_path / "plain"), result_of(tmp_path / "asked")
    assert (one.metrics.get("val_loss"), one.fingerprint, one.recipe_hash) == (
        other.metrics.get("val_loss"),
        other.fingerprint,
        other.recipe_hash,
    )


def test_a_cost_that_nobody_can_measure_is_refused_with_what_there_is(small: Small, tmp_path: Path) -> None:
    with opened(Listening(costs=("train_memory",))), pytest.raises(ValueError, match="did you mean train_memory_mb"):
        run_trial(small(), tmp_path)
    with opened(Listening(costs=("latency_ms",))), pytest.raises(ValueError, match="latency_repeats=0"):
        run_trial(small("measure.latency_repeats=0"), tmp_path)


def test_cheap_costs_can_be_objectives(small: Small, tmp_path: Path) -> None:
    names = "objectives=[val_loss,train_memory_mb,zero_cost.snip]"
    values = run_trial(small(names, "measure.zero_cost=[snip]"), tmp_path)
    result = result_of(tmp_path)
    assert values == (result.metrics.get("val_loss"), result.train_memory_mb, result.zero_cost["snip"])


def test_nobody_is_pruned_after_the_last_epoch(small: Small, tmp_path: Path) -> None:
    with opened(Listening(prune_after=1)):
        run_trial(small("objectives=[val_loss]"), tmp_path)
    assert result_of(tmp_path).status == "ok"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_trial_keeps_its_finished_epochs(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(Listening, "report", raising(error))
    with opened(Listening()), pytest.raises(type(error)):
        run_trial(small("train.epochs=2"), tmp_path)
    result = result_of(tmp_path)
    assert (result.status, result.epochs) == ("interrupted", 1)
    assert result.metrics.get("val_top1") is not None
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")])
def test_the_ledger_does_not_wait_for_the_tracker(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(Tracker, "finish", raising(error))
    with pytest.raises(type(error)):
        run_trial(small(), tmp_path)
    assert result_of(tmp_path).status == "ok"
    assert result_of(tmp_path).fuse_error is not None


def test_a_fused_form_that_is_another_network_fails_the_trial(small: Small, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="fuse_tolerance"):
        run_trial(small("placement.policy=all", "branch.gamma=1", "measure.fuse_tolerance=1e-12"), tmp_path)
    result = result_of(tmp_path)
    assert result.status == "failed"
    assert result.metrics.get("val_top1") is not None  # what was reached before


def test_secrets_reach_neither_the_ledger_nor_the_trace(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "prepare", raising(RuntimeError(f"cannot open postgresql://me:{SECRET}@host/x")))
    with pytest.raises(RuntimeError):
        run_trial(small(), tmp_path, [f"tracker.entity='postgresql://me:{SECRET}@host/x'"])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not [path for path in files if SECRET in path.read_text()]
    assert "postgresql://me:***@host/x" in (result_of(tmp_path).reason or "")


def test_an_error_whose_text_is_not_unicode_is_recorded_as_itself(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a file's name in Latin-1
    monkeypatch.setattr(classify, "load_data", raising(ValueError("cannot read b\udce9.png")))
    with pytest.raises(ValueError, match="cannot read"):
        run_trial(small(), tmp_path)
    assert result_of(tmp_path).status == "failed"


def test_the_ledger_is_the_same_with_and_without_a_tracker(small: Small, tmp_path: Path, read_wandb: Any) -> None:
    rows = {}
    for mode in ("disabled", "offline"):
        with opened(Listening(phase="final", number=1)):
            run_trial(small(f"tracker.mode={mode}", "placement.policy=stage3"), tmp_path / mode)
        rows[mode] = asdict(result_of(tmp_path / mode))
    assert {key for key in rows["offline"] if rows["offline"][key] != rows["disabled"][key]} <= VARYING
    run = read_wandb(tmp_path / "offline")
    offline = rows["offline"] | rows["offline"]["metrics"]
    assert run.facts["id"] == offline["wandb_id"]
    assert (run.facts["group"], run.exit_code) == ("demo", 0)
    assert run.config["train"]["lr"] == 0.1
    assert run.config["placement"]["policy"] == "stage3"
    assert [row["epoch"] for row in run.history] == [1]
    for name in ("arch_hash", "test_top1", "params", "macs_fused", "sites", "status"):
        assert run.summary[name] == offline[name], name
    for name in ("arm", "phase", "params", "macs", "sites", "branches", "is_baseline", "data_digest", "study", "seed"):
        assert run.config[name] == offline[name], name
    assert run.summary["val_top1"] == {"max": offline["val_top1"], "last": offline["val_top1"]}
    assert (run.job_type, list(run.artifacts.values())) == ("final", [("model", {"checkpoint.pt"})])
    assert len(run.history[-1]["predictions/captions"]) == 8


def test_a_failed_trial_finishes_its_run_of_wandb(
    small: Small, tmp_path: Path, read_wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "measure", raising(RuntimeError("no luck")))
    with pytest.raises(RuntimeError, match="no luck"):
        run_trial(small("tracker.mode=offline"), tmp_path)
    run = read_wandb(tmp_path)
    assert (run.exit_code, run.summary["status"], run.summary["reason"]) == (1, "failed", "RuntimeError: no luck")
    assert len(run.history) == 1


def test_pictures_that_are_decoded_on_the_way_give_the_same_trial_with_any_number_of_workers(
    small: Small, tmp_path: Path
) -> None:
    for number in range(60):
        place = tmp_path / "pictures" / ("light" if number % 2 else "dark")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 24), (120 * (number % 2) + number,) * 3).save(place / f"{number}.jpg")
    data = ("name=folder", f"path={tmp_path / 'pictures'}", "image_size=16", "batch_size=8", "in_memory_mb=0")
    sizes = ("train_size=null", "val_size=20", "test_size=10", "crop_padding=1")
    scores = []
    for workers in (0, 2):
        words = [f"data.{word}" for word in (*data, *sizes, f"workers={workers}")]
        run_trial(small(*words, "train.aa=rand-m5", "train.epochs=2", "train.repeats=2"), tmp_path / str(workers))
        result = result_of(tmp_path / str(workers))
        scores.append((result.train_loss, result.metrics, result.recipe_hash, result.data_digest))
    assert scores[0] == scores[1]
    assert result.data_source == "60 pictures in the folder pictures"
