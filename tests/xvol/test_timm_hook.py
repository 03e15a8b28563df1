"""`import xvol` loads nothing heavy, and timm that is imported later, by whomever, is mended and knows our models."""

import subprocess
import sys

import pytest

KNOWN = "print('xvol_resnet50' in timm.list_models(), timm.__spec__.loader is timm.__loader__, timm.__loader__)"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_names_of_branches_are_known_without_torch() -> None:
    out = run(
        "import sys, xvol\n"
        "from xvol.registry import branch_names\n"
        "print('pssa' in branch_names(), *sorted({'torch', 'timm', 'torchvision'} & sys.modules.keys()))"
    )
    assert out == "True"


FIRST = [
    *("import xvol, torchvision, timm", "import xvol.zoo, timm", "import xvol.surgery, timm"),
    *("import xvol.branches.timm_layers, timm", "import xvol.spec, timm, xvol.testing, xvol"),
    "import xvol; from timm.layers import Conv2dSame; import timm",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    ["import xvol, timm", "import xvol.siting, timm", *(pytest.param(each, marks=pytest.mark.slow) for each in FIRST)],
)
def test_timm_knows_our_models_whatever_wants_it_first(first: str) -> None:
    out = run(f"{first}\n{KNOWN}\nxvol.sites(timm.create_model('xvol_proxy_resnet'), (3, 32, 32))")
    assert out.startswith("True True <")
    assert "xvol" not in out.partition("<")[2]


@pytest.mark.slow
def test_where_timm_was_there_before_the_models_are_registered_at_once() -> None:
    mended = (
        "import xvol.torchvision_ops as ops; ops.mend(); sys.meta_path.pop(0)\nfor name in [n for n in sys.modules if"
    )
    mended += " n.startswith('xvol') and n != 'xvol.torchvision_ops']: del sys.modules[name]\n"
    assert run(f"import sys; {mended}import timm, xvol\n{KNOWN}").startswith("True")
