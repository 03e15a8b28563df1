from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# all that is needed to read results, and to answer a wrong command line
LIGHT = """
import importlib, pkgutil, sys
names = ["search.config", "search.app", "search.command_line", "search.__main__", "search.channel", "search.study.options"]
for room in ("search.report", "search.ledger", "search.space"):
    names += [room, *(module.name for module in pkgutil.walk_packages(importlib.import_module(room).__path__, room + "."))]
for name in names:
    importlib.import_module(name)
print(len(names), *sorted({"torch", "timm", "torchvision", "wandb", "optuna"} & sys.modules.keys()))
"""


def test_the_rooms_import_as_the_contracts_say() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_reading_results_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    count, *heavy = done.stdout.split()
    assert int(count) > 20
    assert heavy == []
