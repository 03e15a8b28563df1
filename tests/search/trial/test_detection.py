"""Trials of detection and instance segmentation, whole: trained, judged, measured, stopped, continued and started from others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from search.config import config_folder, typed
from search.ledger.result import read_result, write_result
from search.trial.check import check_network, check_trial, network_facts
from search.trial.refuse import check_values
from search.trial.start import root_of
from search.trial.state import load_checkpoint
from search.trial.untrained import prepare

from .conftest import Small
from .test_state import Halting, curve, stop, train

SCENES = (
    *("data.name=digit_scenes", "data.image_size=64", "data.train_size=24", "data.val_size=6", "data.test_size=5"),
    *("data.batch_size=4", "data.eval_batch_size=4", "data.flip=true", "train.opt=adamw", "train.lr=0.001"),
    *("train.clip_grad=5", "train.ema_decay=null", "checkpoint=always", "measure.latency_batch=1"),
)
COLUMNS = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100"]


@pytest.fixture(scope="module")
def scenes(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A config of a small trial on digits in photographs."""
    root = tmp_path_factory.mktemp("scenes")
    heads = OmegaConf.load(config_folder() / "detector/small.yaml")

    def make(task: str, *overrides: str) -> DictConfig:
        config = OmegaConf.merge(
            small(f"task={task}", *SCENES, f"data.root={root}", f"objectives=[val_{NAMED[task]}_ap]"),
            {"detector": heads},
            OmegaConf.from_dotlist(list(overrides)),
        )
        assert isinstance(config, DictConfig)
        return config

    return make


def assert_equal_trials(one: Path, other: Path) -> None:
    weights, others = (load_checkpoint(folder / "checkpoint.pt") for folder in (one, other))
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []
    assert curve(one) == curve(other)
    assert (one / "predictions.json").read_text() == (other / "predictions.json").read_text()
    assert read_result(one / "result.json").metrics == read_result(other / "result.json").metrics


def final() -> Halting:
    channel = Halting()
    channel.phase = "final"
    return channel


NAMED = {"detection": "box", "instance_segmentation": "mask"}


@pytest.mark.parametrize("task", NAMED)
def test_a_trial_is_trained_judged_fused_and_measured(scenes: Small, tmp_path: Path, task: str) -> None:
    result = train(scenes(task, "placement.policy=stage3"), tmp_path)
    kinds = ("box", "mask") if task == "instance_segmentation" else ("box",)
    assert {name for name in result.metrics if name.startswith("val_")} == {
        f"val_{kind}_{column}" for kind in kinds for column in COLUMNS
    }
    assert result.metrics["val_box_ap_large"] is None  # in 64 pixels nothing is
    assert result.arm == "stage3: conv+pssa"
    assert (result.val_images, result.test_images) == (6, None)
    assert None not in (result.latency_ms, result.latency_fused_ms, result.dose, result.fuse_error)
    body, whole = result.latency_body_ms, result.latency_ms
    assert None not in (body, whole, result.latency_body_fused_ms)
    assert 0 < body < whole
    assert result.macs > 100 * result.params  # heads over a fixed number of boxes
    found = json.loads((tmp_path / "predictions.json").read_text())
    assert {"image_id", "category_id", "bbox", "score"} <= set(found[0])
    assert ("segmentation" in found[0]) == (task == "instance_segmentation")
    with Image.open(tmp_path / "predictions.png") as sheet:
        assert min(sheet.size) > 500


def test_the_final_phase_reads_the_test_pictures(scenes: Small, tmp_path: Path) -> None:
    result = train(scenes("detection"), tmp_path, final())
    assert result.test_images == 5
    assert result.metrics["test_box_ap"] is not None
    assert (tmp_path / "predictions_test.json").is_file()


def test_what_is_stopped_goes_on_bit_by_bit(scenes: Small, tmp_path: Path) -> None:
    config = scenes("instance_segmentation", "train.epochs=2", "placement.policy=stage3", "train.accumulate=2")
    train(config, tmp_path / "whole")
    stop(config, tmp_path / "stopped", Halting(9))
    train(config, tmp_path / "again", Halting(attempt=2, resume_from=str(tmp_path / "stopped")))
    assert_equal_trials(tmp_path / "whole", tmp_path / "again")


@pytest.mark.slow
def test_two_ranks_are_one_bit_by_bit(scenes: Small, tmp_path: Path) -> None:
    config = ("instance_segmentation", "placement.policy=stage3", "train.accumulate=2")
    train(scenes(*config), tmp_path / "one")
    train(scenes(*config, "ranks=2"), tmp_path / "two")
    assert_equal_trials(tmp_path / "one", tmp_path / "two")


def test_a_trained_detector_is_gone_on_with_by_graft_and_by_fork(scenes: Small, tmp_path: Path) -> None:
    train(scenes("instance_segmentation", "train.epochs=2", "start.stop_epoch=1"), tmp_path / "trunk")
    for kind in ("shared", "fork"):
        start = (f"start.kind={kind}", f"start.root={tmp_path / 'trunk'}", "train.epochs=2")
        config = scenes("instance_segmentation", *start, "placement.policy=stage3")
        made = prepare(typed(config))
        assert root_of(made.config, None) is not None
        result = train(config, tmp_path / kind)  # which asserts that it begins as the function of its root
        assert (result.start, result.epochs) == (kind, 2)


def test_a_classifiers_weights_begin_a_detectors_backbone(scenes: Small, small: Small, tmp_path: Path) -> None:
    train(small("data.channels=3", "checkpoint=always"), tmp_path / "classifier")
    weights = f"backbone.weights={tmp_path / 'classifier/checkpoint.pt'}"
    made = prepare(typed(scenes("detection", weights, "placement.policy=stage3")))
    scratch = prepare(typed(scenes("detection")))
    name = "backbone.body.conv1.weight"
    assert not made.model.state_dict()[name].equal(scratch.model.state_dict()[name])
    assert made.content.code["weights"]


BLOCKS = ("placement.policy=stage3", "branch.options.pssa.embed_ratio=0.5")


@pytest.fixture(scope="module")
def classifier(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with one trial of classification that has X-volution at stage 3."""
    study = tmp_path_factory.mktemp("classifiers")
    train(small("data.channels=3", "checkpoint=always", "branch.gamma=0.5", *BLOCKS), study / "single/0000-s0")
    return study


@pytest.mark.parametrize("norms", ["learned", "frozen"])
def test_a_classifier_with_its_blocks_begins_a_detectors_backbone_bit_by_bit(
    scenes: Small, classifier: Path, norms: str
) -> None:
    given = (f"detector.freeze_norms={norms == 'frozen'}", *BLOCKS)
    kept = load_checkpoint(classifier / "single/0000-s0/checkpoint.pt")
    made = [
        prepare(typed(scenes("detection", *given, f"backbone.checkpoint={place}")))
        for place in (classifier, classifier / "single/0000-s0", classifier / "single/0000-s0/checkpoint.pt")
    ]
    body = made[0].model.backbone.body.state_dict()
    assert any(".branches.pssa." in name for name in body)
    assert [name for name, value in body.items() if not torch.equal(value, kept[name])] == []
    scratch = prepare(typed(scenes("detection", *given))).model.state_dict()
    head = "roi_heads.box_head.fc6.weight"
    assert torch.equal(made[0].model.state_dict()[head], scratch[head])
    assert len({each.content.digest for each in made}) == 1  # it counts by what is in it
    assert made[0].content.code["checkpoint"]
    assert made[0].config.is_continued


@pytest.mark.parametrize(
    ("place", "overrides", "message"),
    [
        (
            "single/0000-s0",
            ["placement.policy=stage2"],
            r"stands .*stage3: .*here .*stage2: .*tensors do not fit, such as layer2",
        ),
        (
            "single/0000-s0",
            ["placement.policy=none"],
            r"here xvol_proxy_resnet with plain; .* such as layer3\.0\.conv1\.weight",
        ),
        (
            "",
            ["placement.policy=none"],
            r"no finished trial .* with plain; those that kept their weights are .*stage3: ",
        ),
        (
            "single/0000-s0/checkpoint.pt",
            ["backbone.kwargs={channels: [8, 16, 32, 48]}"],
            r"tensors do not fit, such as ",
        ),
    ],
)
def test_a_classifier_of_another_placement_is_told(
    scenes: Small, classifier: Path, place: str, overrides: list[str], message: str
) -> None:
    begun = f"backbone.checkpoint={classifier / place}"
    with pytest.raises(ValueError, match=message):
        prepare(typed(scenes("detection", *BLOCKS, begun, *overrides)))


def test_of_a_study_the_trial_of_the_same_seed_begins(scenes: Small, classifier: Path, tmp_path: Path) -> None:
    first, study = classifier / "single/0000-s0", tmp_path / "study"
    for seed in (3, 4):
        folder = study / f"final/{seed:04d}-s{seed}"
        folder.mkdir(parents=True)
        state = {name: value + seed for name, value in load_checkpoint(first / "checkpoint.pt").items()}
        torch.save(state, folder / "checkpoint.pt")
        result = read_result(first / "result.json")
        result.seed = seed
        write_result(folder, result)
    config = ("detection", *BLOCKS, f"backbone.checkpoint={study}")
    body = prepare(typed(scenes(*config, "seed=4"))).model.backbone.body
    assert torch.equal(body.conv1.weight, load_checkpoint(study / "final/0004-s4/checkpoint.pt")["conv1.weight"])
    with pytest.raises(ValueError, match=r"2 trials below it have .*, none of seed 5: "):
        prepare(typed(scenes(*config, "seed=5")))
    (study / "final/0003-s3/checkpoint.pt").unlink()
    prepare(typed(scenes(*config, "seed=5")))  # from the only one
    with pytest.raises(ValueError, match="the trial kept no weights"):
        prepare(typed(scenes(*config, f"backbone.checkpoint={study / 'final/0003-s3'}")))


def test_a_classifier_begins_another_and_its_head_is_initialised(small: Small, classifier: Path) -> None:
    given = ("data.channels=3", *BLOCKS)
    model = prepare(typed(small(*given, f"backbone.checkpoint={classifier}"))).model
    kept = load_checkpoint(classifier / "single/0000-s0/checkpoint.pt")
    assert torch.equal(model.fc.weight, prepare(typed(small(*given))).model.fc.weight)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items() if name[:3] != "fc.")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["backbone.checkpoint=.", "start.kind=shared", "start.root=."],
            r"start\.kind=shared both say what to start from",
        ),
        (["backbone.checkpoint=.", "train.whiten=true"], "is trained already"),
        (["train.mixup=0.2"], r"train\.mixup=0\.2 is of task=classify"),
        (["measure.zero_cost=[naswot]"], r"measure\.zero_cost=\['naswot'\] is of task=classify"),
        (["detector.head=yolo"], r"detector\.head=yolo: allowed are rcnn, fcos, retinanet"),
        (["detector.head=fcos"], r"detector\.head=fcos has no masks"),
        (["detector.max_size=32"], r"detector\.max_size=32: .*at least 64"),
        (["detector.train_sizes=[48]"], r"ascending to data\.image_size=64"),
        (["placement.at.stage3=none|conv+pssa", "train.accumulate=2"], r"supernets"),
    ],
)
def test_what_a_detector_cannot_be_is_told(scenes: Small, overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(typed(scenes("instance_segmentation", *overrides)))


def test_a_detectors_keys_mean_nothing_to_a_classifier(small: Small) -> None:
    with pytest.raises(ValueError, match=r"detector\.\* is of task=detection and instance_segmentation"):
        check_values(typed(small("detector.proposals=3")))


def test_a_study_is_told_what_it_would_train(scenes: Small) -> None:
    facts = check_trial(scenes("detection", "placement.policy=stage3"))
    assert facts["senses"] == {"val_box_ap": "maximize"}
    assert facts["arm"] == "stage3: conv+pssa"


def test_a_trial_is_taken_over_with_what_it_found_though_nothing_large_was_there(scenes: Small, tmp_path: Path) -> None:
    config = scenes("detection")
    first = train(config, tmp_path / "first")
    source = str(tmp_path / "first/result.json")
    channel = Halting()
    channel.admit = lambda fingerprint, facts: source  # type: ignore[method-assign]
    again = train(config, tmp_path / "again", channel)
    assert again.reused_from is not None
    assert again.metrics == first.metrics
    assert (tmp_path / "again/matches.npz").read_bytes() == (tmp_path / "first/matches.npz").read_bytes()


def test_a_classifiers_blocks_are_no_matter_to_what_sites_there_are(scenes: Small, classifier: Path) -> None:
    config = scenes("detection", *BLOCKS, f"backbone.checkpoint={classifier}")
    facts = network_facts(config)
    assert set(facts["chosen"]) < set(facts["sites"])
    check_network(typed(config))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_detector_learns_in_a_minute(composed: Any, tmp_path: Path) -> None:
    """As `make demo TASK=instance` trains it, one network of it: chance is 0."""
    config = composed("experiment=proxy/scenes_demo", f"data.root={tmp_path}", "tracker=disabled")
    result = train(config, tmp_path / "trial")
    assert result.metrics["val_box_ap"] > 8
    assert result.metrics["val_mask_ap"] > 3
