"""Runs of other people's scripts are compared as ours are, and what else differs between their arms is found; nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.cli.table import main
from search.report.confounds import confounds, read_runs, runs_table
from search.report.judging import Judging

# a training script as anybody writes it: no line of this project in it
SCRIPT = """
import os, random, sys, wandb
folder, planted = sys.argv[1], sys.argv[2] == "planted"
for model, gain in (("resnet", 0.0), ("mixer", 2.0)):
    for seed in range(3):
        config = {"model": model, "seed": seed, "optim": {"lr": 0.1, "name": "sgd"}, "data_seed": seed + 7, "out": f"{model}-{seed}"}
        epochs = 4
        if planted and model == "mixer":
            config["optim"]["lr"], epochs = 0.05, 6
        run = wandb.init(project="theirs", dir=folder, config=config, mode="offline")
        draw = random.Random(seed)
        base = 70 + draw.random()
        if planted and model == "mixer":
            run.define_metric("val_acc", summary="max")
        for epoch in range(epochs):
            acc = base + gain + 0.3 * epoch + draw.random() - (1.0 if epoch == epochs - 1 else 0.0)
            run.log({"epoch": epoch, "val_acc": acc, "train_loss": 1 / (1 + epoch)})
        run.finish(exit_code=1 if planted and (model, seed) == ("resnet", 2) else 0)
"""
ASKED: dict[str, Any] = {"arm": "config.model", "seed": "config.seed", "metric": "val_acc", "baseline": "resnet"}
OPTIONS = ["--arm", "config.model", "--seed", "config.seed", "--metric", "val_acc", "--baseline", "resnet"]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of real offline runs: a clean comparison, and one with planted confounds and a run that failed."""
    root = tmp_path_factory.mktemp("theirs")
    (root / "train.py").write_text(SCRIPT)
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"WANDB_SILENT": "true", "WANDB_CONSOLE": "off", "WANDB__DISABLE_STATS": "true"}
    for name in ("clean", "planted"):
        (root / name).mkdir()
        subprocess.run([sys.executable, "train.py", str(root / name), name], cwd=root, env=env, check=True, timeout=300)
    return {name: root / name for name in ("clean", "planted")}


def test_a_clean_set_is_not_accused(offline: dict[str, Path]) -> None:
    found, table, _ = runs_table(str(offline["clean"]), **ASKED, judging=Judging())
    assert len(found) == 1
    assert found[0].startswith("No confound found: beside config.model, 3 settings")
    assert table.conclusion.startswith(found[0])
    rows = table.data.set_index("arm")
    assert rows.loc["mixer", "n_paired"] == 3
    assert rows.loc["mixer", "diff"] == pytest.approx(2.0)


def test_planted_confounds_are_found(offline: dict[str, Path]) -> None:
    found, table, _ = runs_table(str(offline["planted"]), **ASKED, judging=Judging())
    said = " ".join(found)
    assert said.startswith(
        "CONFOUNDED. Beside config.model, the arms differ in config.optim.lr (resnet: 0.1; mixer: 0.05)"
    )
    assert "config.out" not in said
    assert "data_seed" not in said
    assert "unlike checkpoints (the best of mixer and the last of resnet)" in said
    assert "unequally often (resnet 4 and mixer 6 times)" in said
    assert "unequal last epochs (resnet 3 and mixer 5)" in said
    rows = table.data.set_index("arm")
    assert rows.loc["resnet", "missing"] == "1 failed"
    assert rows.loc["mixer", "verdict"].startswith(("too few", "cannot", "ahead"))


def test_values_are_picked_as_asked(offline: dict[str, Path]) -> None:
    frames = {
        pick: read_runs(str(offline["planted"]), "val_acc", pick).set_index("run")
        for pick in ("summary", "best", "last")
    }
    best, last, summary = (frames[pick]["val_acc"] for pick in ("best", "last", "summary"))
    assert (best >= last).all()
    mixer = frames["best"]["config.model"] == "mixer"
    pd.testing.assert_series_equal(summary[mixer], best[mixer])
    pd.testing.assert_series_equal(summary[~mixer], last[~mixer])
    lowest = read_runs(str(offline["planted"]), "val_acc", "best", higher_is_better=False).set_index("run")["val_acc"]
    assert (lowest <= last).all()
    said = confounds(frames["best"].reset_index(), **ASKED, pick="best")
    assert "looks too good" in said[-1]
    assert not any("unlike checkpoints" in line for line in said)
    clean = confounds(read_runs(str(offline["clean"]), "val_acc", "best"), **ASKED, pick="best")
    assert clean[0].startswith("No confound found")
    assert "looks too good" in clean[1]


def test_a_killed_run_is_read_up_to_its_end_and_not_averaged(offline: dict[str, Path], tmp_path: Path) -> None:
    for file in offline["clean"].rglob("*.wandb"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    cut = min(tmp_path.glob("*.wandb"))
    cut.write_bytes(cut.read_bytes()[:-60])
    frame = read_runs(str(tmp_path), "val_acc", "last")
    assert sorted(frame["state"]) == ["finished"] * 5 + ["running"]
    _, table, _ = runs_table(str(tmp_path), **ASKED, judging=Judging())
    assert "1 unfinished" in table.data["missing"].dropna().tolist()


def test_the_command_writes_every_form(
    offline: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(offline["planted"]), *OPTIONS, "--last", "--margin", "0.5", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("CONFOUNDED. Beside config.model")
    for form in ("md", "tex", "csv", "html", "parquet"):
        assert (tmp_path / f"comparison.{form}").stat().st_size
    assert "CONFOUNDED" in (tmp_path / "comparison.md").read_text()
    assert r"\begin{table}" in (tmp_path / "comparison_paper.tex").read_text()


def csv(tmp_path: Path, **columns: Any) -> str:
    rows = {"model": ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 2, "acc": [70.0, 71.0, 70.5, 71.2, 72.5, 71.4]}
    pd.DataFrame(rows | columns).to_csv(tmp_path / "runs.csv", index=False)
    return f"csv:{tmp_path / 'runs.csv'}"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "No confound found"),
        (
            {"State": ["finished"] * 6, "Name": list("uvwxyz"), "Runtime": [100, 101, 99, 103, 98, 100]},
            "No confound found",
        ),
        ({"train_loss": [0.31, 0.32, 0.33, 0.21, 0.22, 0.23], "order": [3, 4, 5] * 2}, "No confound found"),
        ({"lr": [0.1] * 3 + [0.2] * 3}, "lr (a: 0.1; b: 0.2)"),
        ({"lr": [0.1] * 5 + [0.2]}, "lr (a: 0.1; b: 0.1 and 0.2)"),
        ({"aug": ["x", None, "x"] + ["x"] * 3}, "aug (a: x and absent; b: x)"),
        ({"seed": [0, 1, 2, 0, 1, 3]}, "not the same seeds (a 0-2 and b 0-1, 3)"),
        ({"Runtime": [100, 101, 99, 203, 198, 200]}, "unequal times (a 100 s and b 200 s, medians)"),
    ],
)
def test_confounds_of_a_csv(tmp_path: Path, columns: dict[str, Any], said: str) -> None:
    found, *_ = runs_table(
        csv(tmp_path, **columns), arm="model", seed="seed", metric="acc", baseline="a", judging=Judging()
    )
    assert said in " ".join(found)


def test_a_server_s_runs(monkeypatch: pytest.MonkeyPatch, offline: dict[str, Path]) -> None:
    """What W&B's public API gives of a project becomes the frame that its files give."""
    files = read_runs(str(offline["planted"]), "val_acc", "summary")

    class Stub:
        def runs(self, path: str) -> list[Any]:
            assert path == "me/theirs"
            return [self.run(row) for row in files.to_dict("records")]

        def run(self, row: dict[str, Any]) -> Any:
            config = {name.removeprefix("config."): value for name, value in row.items() if name.startswith("config.")}
            history = [
                {"val_acc": row["(best)"], "epoch": 0},
                {"val_acc": row["(last)"], "epoch": row["epochs logged"]},
            ]
            summary = {"val_acc": row["val_acc"], "_wandb": {"runtime": 3}}
            return types.SimpleNamespace(
                id=row["run"],
                state=row["state"],
                config=config | {"_wandb": {}},
                summary=summary,
                scan_history=lambda: history,
            )

    monkeypatch.setattr("wandb.Api", Stub)
    online = read_runs("wandb:me/theirs", "val_acc", "summary")
    same = [name for name in files if name.startswith("config.")] + [
        "state",
        "val_acc",
        "(best)",
        "(last)",
        "epochs logged",
    ]
    pd.testing.assert_frame_equal(online[same], files[same])
    assert online["run"].tolist() == [f"me/theirs/{run}" for run in files["run"]]


def test_a_server_that_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise ValueError("no such project")

    monkeypatch.setattr("wandb.Api", refuse)
    with pytest.raises(ValueError, match="wandb:me/none cannot be read: no such project"):
        read_runs("wandb:me/none", "acc", "summary")


MLFLOW = """
import random, sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
experiment = client.create_experiment("vit")
client.create_experiment("empty")
for model, gain in (("resnet", 0.0), ("mixer", 2.0)):
    for seed in (0, 1, 2):
        run = client.create_run(experiment).info.run_id
        for name, value in (("model", model), ("seed", seed), ("lr", 0.1 if model == "resnet" else 0.2)):
            client.log_param(run, name, value)
        for epoch in range(3):
            client.log_metric(run, "epoch", epoch, step=epoch)
            client.log_metric(run, "val_acc", 70 + gain + epoch + random.Random(seed).random(), step=epoch)
        client.set_terminated(run, "FAILED" if (model, seed) == ("mixer", 2) else "FINISHED")
"""


@pytest.mark.slow
def test_runs_of_mlflow(tmp_path: Path) -> None:
    """By its own client, from a store on disk that another process wrote."""
    (tmp_path / "log.py").write_text(MLFLOW)
    env = os.environ | {"MLFLOW_ALLOW_FILE_STORE": "true"}
    uri = (tmp_path / "store").as_uri()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)

    logged = run("log.py", uri)
    assert logged.returncode == 0, logged.stderr
    done = run("-m", "search.cli.table", f"mlflow:{uri}#vit", *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "config.lr (resnet: 0.1; mixer: 0.2)" in done.stdout
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith(("resnet", "mixer"))}
    assert (rows["resnet"][2], rows["mixer"][1]) == ("3", "2")  # one failed
    for place, said in ((f"{uri}#vgg", "has no experiment 'vgg'; it has"), (f"{uri}#empty", "holds no run")):
        refused = run("-m", "search.cli.table", f"mlflow:{place}", *OPTIONS)
        assert refused.returncode == 2
        assert said in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["csv:none.csv", *OPTIONS], "cannot be read as CSV"),
        (["csv:runs.csv", *OPTIONS, "--best"], "picks from the history"),
        (["neptune:here", *OPTIONS], "runs are read from wandb:entity/project"),
        (["csv:runs.csv", "--arm", "model"], "it needs --seed, --metric, --baseline too"),
        (["csv:runs.csv"], "say which column or key is what with --arm and --seed"),
        (["runs/a", "--best"], "is of runs that are not ours"),
        (["runs/a", *OPTIONS, "--rows", "where"], "does not go with --rows"),
        (["runs/a", "runs/b", *OPTIONS], "one source of runs"),
        ([".", *OPTIONS], "holds no .wandb file"),
    ],
)
def test_what_cannot_be_read_is_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_none_of_wandb_s(tmp_path: Path) -> None:
    (tmp_path / "x.wandb").write_bytes(b"something else")
    with pytest.raises(ValueError, match="no file of W&B's"):
        read_runs(str(tmp_path), "acc", "summary")
