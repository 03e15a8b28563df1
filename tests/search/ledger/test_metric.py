"""Metrics as data: their columns, and those of installed packages."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from search.cli.table import parser
from search.ledger.metric import (
    COSTS,
    DETECTION,
    INSTANCES,
    Metric,
    chosen_by,
    column_named,
    columns_on,
    installed_metrics,
    metric_columns,
    metric_named,
    metrics_of,
)
from search.ledger.record import Record, read_history
from search.ledger.result import TrialResult
from search.objectives import check_objectives, sense_of
from search.report.ablation import ablation_table
from search.report.reading.load import load_study
from search.report.values import metric_to_read
from search.report.write import save_tidy

DOCS = Path(__file__).parents[3] / "docs" / "ledger.md"
PAGES = DOCS.read_text(encoding="utf-8").split("```python\n")[1:]
# what the page tells users to write
TOP5 = next(page.partition("```")[0] for page in PAGES if "import Metric\n" in page)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a package whose module `their_metric`, of the source given, is named by an entry point as that of `TOP5`."""

    def written(source: str) -> None:
        info = tmp_path / "theirs-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[xvol.metrics]\ntop5 = their_metric:TOP5\n")
        (tmp_path / "their_metric.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        forget()

    yield written
    sys.modules.pop("their_metric", None)
    monkeypatch.undo()
    forget()


def forget() -> None:
    for cached in (installed_metrics, metrics_of, metric_columns):
        cached.cache_clear()


def test_columns_are_the_splits_of_the_metrics() -> None:
    own = [name for name, column in metric_columns().items() if not column.from_samples]
    assert own[:6] == ["test_top1", "val_top1", "test_loss", "val_loss", "test_mask_ap", "val_mask_ap"]
    assert own[-3:] == ["test_box_ar100", "val_box_ar100", "train_seconds"]
    top1 = metric_named("test_top1")
    assert (top1.title, top1.unit, top1.higher_is_better, top1.worst) == ("test top-1 %", "points", True, 0.0)
    assert "validation images" in metric_named("val_loss").meaning
    assert not any(column.is_cost for column in metric_columns().values())
    assert all(column_named(name).is_cost for name in COSTS)


def test_detectors_are_judged_by_boxes_and_by_masks_where_they_have_them() -> None:
    kinds = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
    boxes, masks = ([f"{kind}_{name}" for name in kinds] for kind in ("box", "mask"))
    assert [metric.name for metric in metrics_of(DETECTION)] == boxes
    assert [metric.name for metric in metrics_of(INSTANCES)] == masks + boxes
    assert (chosen_by(DETECTION), chosen_by(INSTANCES)) == ("val_box_ap", "val_mask_ap")
    frame = pd.DataFrame({"status": ["ok"], "val_box_ap": [20.0], "val_mask_ap": [19.0]})
    assert metric_to_read(frame, "search", None).title == "val mask AP"
    assert metric_to_read(frame.drop(columns="val_mask_ap"), "search", None).title == "val box AP"


def test_an_unknown_name_has_near_matches() -> None:
    with pytest.raises(ValueError, match=r"metric 'val_top' is not one of test_top1, .*; did you mean val_top1"):
        metric_named("val_top")
    with pytest.raises(ValueError, match=r"metric 'paramz' is not one of .*params, .*; did you mean params"):
        column_named("paramz")


def test_scores_from_samples_are_of_the_probe_set_too() -> None:
    scores = [name for name, column in metric_columns().items() if column.from_samples]
    assert scores[:3] == ["test_p_true", "val_p_true", "probe_p_true"]
    assert len(scores) == 15
    better = {name: column.higher_is_better for name, column in metric_columns().items() if column.split == "probe"}
    assert better == {
        **dict.fromkeys(["probe_p_true", "probe_margin"], True),
        **dict.fromkeys(["probe_nll", "probe_brier", "probe_calibrated_nll"], False),
    }
    assert columns_on("val") == ("val_top1", "val_loss")  # what a trial computes itself
    with pytest.raises(ValueError, match=r"'p_true' .*say on which images: test_p_true or val_p_true or probe_p_true"):
        metric_named("p_true")


def test_a_metric_says_what_it_cannot_be() -> None:
    with pytest.raises(ValueError, match="'Top 5': give a name of lower-case"):
        Metric(name="Top 5", title="top-5 %", unit="points", higher_is_better=True)
    with pytest.raises(ValueError, match=r"'top5': splits are .*, allowed are test, val"):
        Metric(name="top5", title="top-5 %", unit="points", higher_is_better=True, splits=("train",))


def test_a_metric_of_an_installed_package(install: Callable[[str], None]) -> None:
    install(TOP5)
    assert [metric.name for metric in metrics_of("classify")] == ["top1", "loss", "top5"]
    assert metric_named("val_top5").meaning == "percent of validation images whose class is among the first five"
    assert metrics_of("detect") == ()


def test_the_evaluator_of_the_page_counts(install: Callable[[str], None]) -> None:
    install(TOP5)
    import their_metric  # type: ignore[import-not-found]  # as it was installed

    evaluator = their_metric.TopFive()
    evaluator.update(torch.arange(12.0).repeat(3, 1), torch.tensor([11, 7, 6]))
    assert evaluator.compute() == {"top5": pytest.approx(200 / 3)}


def test_a_name_is_declared_once(install: Callable[[str], None]) -> None:
    install(TOP5.replace('name="top5"', 'name="top1"'))
    with pytest.raises(ValueError, match="metric 'top1' is declared already"):
        metrics_of()


def test_no_package_declares_what_tables_compute(install: Callable[[str], None]) -> None:
    install(TOP5.replace('name="top5"', 'name="brier"'))
    with pytest.raises(ValueError, match="metric 'brier' is declared already"):
        metrics_of()


LOSS = """from search.ledger.metric import Metric
TOP5 = Metric(name="loss", task="detect", title="loss", unit="{}", higher_is_better=False)"""


def test_tasks_may_share_a_name_that_means_the_same(install: Callable[[str], None]) -> None:
    install(LOSS.format("nats"))
    assert [metric.task for metric in metrics_of("detect")] == ["detect"]
    assert "loss" in [metric.name for metric in metrics_of(None)]


def test_a_column_means_one_thing_in_all_tasks(install: Callable[[str], None]) -> None:
    install(LOSS.format("pixels"))
    with pytest.raises(
        ValueError, match=r"'loss' of task detect is .*'pixels'.* task classify is .*'nats'.*let them agree"
    ):
        metrics_of("classify")


@pytest.mark.parametrize(
    ("source", "said"), [("TOP5 = 5", "names no Metric, but 5"), ("", "cannot be loaded: module 'their_metric' has no")]
)
def test_a_broken_package_is_named(install: Callable[[str], None], source: str, said: str) -> None:
    install(source)
    with pytest.raises(ValueError, match=rf"entry point 'top5' of xvol.metrics \(their_metric:TOP5\) {said}"):
        metrics_of()


def test_its_names_are_told_and_taken_wherever_metrics_are_named(install: Callable[[str], None]) -> None:
    install(TOP5)
    options = next(action for action in parser()._actions if "--metric" in action.option_strings)
    assert options.help is not None
    assert "val_box_ar100, test_top5, val_top5, train_seconds" in options.help
    check_objectives(["val_top5"])
    assert sense_of("val_top5") == "maximize"
    with pytest.raises(
        ValueError, match=r"unknown metric 'val_top6'; allowed are val_top1, val_loss, val_top5, params"
    ):
        check_objectives(["val_top6"])
    with pytest.raises(ValueError, match="test_top5 would choose on test data"):
        check_objectives(["test_top5"])


def test_its_values_are_recorded_read_and_tabled(install: Callable[[str], None], tmp_path: Path) -> None:
    install(TOP5)
    for number, arm in enumerate(("plain", "stage3")):
        for seed in (0, 1):
            facts = {"arm": arm, "is_baseline": arm == "plain", "arch_hash": arm, "recipe_hash": "r"}
            result = TrialResult(study="s", trial=2 * number + seed, phase="final", status="ok", seed=seed, **facts)
            record = Record(tmp_path / "s" / "final" / f"{result.trial:04d}-s{seed}", result)
            record.epoch({"epoch": 1, "val_top1": 50.0, "val_loss": 1.0, "val_top5": 80.0 + number + seed / 10})
            result.metrics = {
                "val_top1": 50.0,
                "test_top1": 50.0,
                "val_top5": 80.0,
                "test_top5": 90.0 + number + seed / 10,
            }
            record.close()
    (epoch,) = read_history(record.folder)
    assert list(epoch) == ["epoch", "train_loss", "val_loss", "val_top1", "val_top5", "lr", "seconds"]
    assert epoch["val_top5"] == "81.1"
    frame = load_study(tmp_path / "s")
    assert frame["test_top5"].dtype == "Float64"
    assert metric_to_read(frame, "final", None).column == "test_top1"
    table = ablation_table(frame, metric="test_top5")
    assert table.metric.title == "test top-5 %"
    save_tidy(frame, tmp_path / "trials.csv")
    assert load_study(tmp_path / "trials.csv")["test_top5"].tolist() == frame["test_top5"].tolist()
