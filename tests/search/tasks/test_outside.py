"""A data set, a task and metrics of a package that is not ours: one file each, one entry point each, and they are all there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.ledger.record import read_history
from search.ledger.result import RESULT_FILE, read_result

pytestmark = pytest.mark.slow

STRIPES = '''
import torch

from search.data.images import ImageSet


def load(config):
    """240 noisy pictures of one to four bright rows."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (240, 1, 8, 8), generator=draw, dtype=torch.uint8)
    labels = torch.arange(240) % 4
    for image, label in zip(images, labels):
        image[0, : 2 * int(label) + 2 : 2] = 250
    return ImageSet(images, labels, classes=("one", "two", "three", "four"), source="stripes")
'''
METRICS = """
from search.ledger.metric import Metric

MAE = Metric(name="mae", title="error", unit="stripes", higher_is_better=False, task="counting", meaning="mean error on {images}")
EXACT = Metric(
    name="exact", title="exact %", unit="points", higher_is_better=True, task="counting", evaluator="their_exact:Exact"
)
METRICS = (MAE, EXACT)  # judged by the first
"""
EXACT = '''
class Exact:
    """Percent of images whose count is right when it is rounded: a metric that was added to a task that knows nothing of it."""

    def __init__(self):
        self.right = self.total = 0

    def update(self, output, target):
        self.right += int((output.squeeze(1).round() == target).sum())
        self.total += len(target)

    def compute(self, distributed=False):
        return {"exact": 100 * self.right / self.total}
'''
COUNTING = '''
import torch
import torch.nn.functional as F

import xvol
from timm.task import TrainingTask

from search.data.images import load_data
from search.data.loaders import image_loaders
from search.tasks.model import build


class Training(TrainingTask):
    def __init__(self, model):
        super().__init__(verbose=False)
        self.trainable_module = model

    def forward(self, input, target):
        output = self.trainable_module(input)
        return {"loss": F.mse_loss(output.squeeze(1), target.float()), "output": output}


class MeanError:
    def __init__(self):
        self.error = self.total = 0

    def update(self, output, target):
        self.error += float((output.squeeze(1) - target).abs().sum())
        self.total += len(target)

    def compute(self, distributed=False):
        return {"mae": self.error / self.total}


class Counting:
    """How many stripes, as a number: no classes, no cross-entropy, no top-1."""

    def data(self, config, splits, device, rank=0, world=1):
        data = load_data(config.data, with_test="test" in splits)
        return image_loaders(data, config.data, seed=config.seed, device=device, rank=rank, world=world)

    def model(self, config, info):
        return build(config, info.channels, 1, info.image_size)

    def training(self, model, recipe):
        return Training(model)

    def evaluator(self, config, device):
        return MeanError()

    def probe_input(self, info):
        return info.channels, info.image_size, info.image_size
'''
ENTRY_POINTS = """
[xvol.data]
stripes = their_stripes
[xvol.tasks]
counting = their_counting:Counting
[xvol.metrics]
counting = their_metrics:METRICS
"""
MODULES = {"their_stripes": STRIPES, "their_metrics": METRICS, "their_exact": EXACT, "their_counting": COUNTING}
DATA = ["data.name=stripes", "data.image_size=8", "data.channels=1"]
SIZES = ["data.val_size=60", "data.test_size=60", "data.batch_size=20"]
SHORT = ["tracker=disabled", "train.epochs=6", "train.lr=0.02", "measure.latency_repeats=1", "device=cpu"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder of installed packages with theirs in it."""
    folder = tmp_path / "installed"
    (folder / "theirs-1.0.dist-info").mkdir(parents=True)
    (folder / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (folder / "theirs-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
        os.utime(folder / f"{name}.py", (1e9, 1e9))  # older than the process that is to read it
    return folder


def run(package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=package.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_task_a_data_set_and_metrics_from_outside_are_trained_searched_and_tabled(package: Path) -> None:
    study = ["placement=none,stage3", "objectives=[val_mae]", "hydra.sweeper.direction=minimize", "seed=0"]
    final = ["hydra.sweeper.n_trials=2", "hydra.sweeper.final.top_k=1", "hydra.sweeper.final.seeds=2"]
    words = ["task=counting", *DATA, *SIZES, *SHORT, *study, *final, "sampler=grid", "hydra.launcher.workers=1"]
    done = run(package, "search", "-m", *words, "hydra.sweeper.study_name=theirs")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "val error" in done.stdout + done.stderr
    folder = package.parent / "runs" / "theirs"
    results = [read_result(path) for path in sorted(folder.glob(f"final/*/{RESULT_FILE}"))]
    assert len(results) == 4
    for result in results:
        assert (result.task, result.status, result.data_source) == ("counting", "ok", "stripes")
        assert result.metrics.keys() == {"val_mae", "test_mae", "val_exact", "test_exact"}
        assert 0 < (result.metrics["test_mae"] or 0) < 1.0, "who guesses the middle is 1 off"
    history = read_history(next(folder.glob("final/*")))
    assert list(history[0]) == ["epoch", "train_loss", "val_exact", "val_mae", "lr", "seconds"]
    assert (folder / "tables" / "ablation.csv").read_text().count("\n") == 3  # plain and stage3
    assert "<figure" in (folder / "tables" / "report.html").read_text()
    table = run(package, "search.cli.table", str(folder), "--metric", "test_exact")
    assert table.returncode == 0, table.stdout + table.stderr
    assert "test exact %" in table.stdout


def test_wrong_names_say_what_there_is(package: Path) -> None:
    for words, message in (
        (["task=countin"], "instance_segmentation, counting; did you mean counting?"),
        (["data.name=stripe"], "digit_scenes, stripes"),
        (
            ["task=counting", "objectives=[val_top1]", *DATA, *SIZES],
            "objectives: unknown metric 'val_top1'; allowed are val_mae, val_exact",
        ),
        (["data.name=stripes", "data.image_size=null"], "data.name=stripes needs data.image_size"),
    ):
        done = run(package, "search", *words)
        assert done.returncode != 0
        assert message in done.stderr, done.stderr


def test_a_change_of_their_task_is_another_content(package: Path) -> None:
    code = (
        "from search.config import Config; from search.data.config import DataConfig; import search.trial.untrained as u;"
        "c = Config(task='counting', data=DataConfig('stripes', image_size=8, channels=1, batch_size=20));"
        "print(u.prepare(c).content.digest)"
    )
    before = _digest(package, code)
    for name, changed in (("their_counting", True), ("their_exact", True), ("their_metrics", False)):
        path = package / f"{name}.py"
        source = path.read_text()
        path.write_text(source + "\nMORE = 1\n")
        os.utime(path, (1e9, 1e9))
        assert (_digest(package, code) != before) == changed, name
        path.write_text(source)
        os.utime(path, (1e9, 1e9))


def _digest(package: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout
