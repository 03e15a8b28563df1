"""`import xvol` loads nothing heavy, and timm that is imported later, by whomever, is mended and knows our models.

The mend acts where torchvision's operators cannot load, and nowhere else; each case in a process of its own.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from xvol import timm_hook

ROOT = Path(timm_hook.__file__).parents[1]  # holds xvol, where it is not installed

ALONE = f"""
import importlib.util, sys, torch

def operators():
    return sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith("torchvision::"))

spec = importlib.util.spec_from_file_location("timm_hook", {timm_hook.__file__!r})
ops = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ops)
"""

# Does on import what torchvision does: loads its compiled half if it can, then describes the operators to torch.
LIKE_TORCHVISION = """
import torch
for name in ("nms", "qnms"):
    torch.library.register_fake(f"torchvision::{name}")(lambda dets, scores, iou_threshold: dets.new_empty(0))
"""
KNOWN = "print('xvol_resnet50' in timm.list_models(), timm.__spec__.loader is timm.__loader__, timm.__loader__)"


def run(code: str, folder: Path | None = None) -> str:
    """Run code in a fresh interpreter, with `folder` first on the path; warnings are errors there too."""
    path = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", path + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_names_of_branches_are_known_without_torch() -> None:
    out = run(
        "import sys, xvol\n"
        "from xvol.branches import branch_names\n"
        "print('pssa' in branch_names(), *sorted({'torch', 'timm', 'torchvision'} & sys.modules.keys()))"
    )
    assert out == "True"


FIRST = [
    *("import xvol, torchvision, timm", "import xvol.zoo, timm", "import xvol.surgery, timm"),
    *("import xvol.branches.timm_layers, timm", "import xvol.block, timm, xvol.testing, xvol"),
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
        "import xvol.timm_hook as hook; hook.mend(); sys.meta_path.pop(0)\nfor name in [n for n in sys.modules if"
        " n.startswith('xvol')]: del sys.modules[name]\n"
    )
    assert run(f"import sys; {mended}import timm, xvol\n{KNOWN}").startswith("True")


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A folder with a torchvision whose compiled half is no library."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(LIKE_TORCHVISION)
    (package / "_C.so").write_bytes(b"built for another machine")
    return tmp_path


@pytest.mark.slow
def test_installed_torchvision_can_be_imported_after_xvol() -> None:
    out = run("""
        import xvol, torchvision, timm
        from xvol import timm_hook
        print(bool(timm_hook._kept_alive), torchvision.extension._has_ops(), timm_hook.mend())
    """)
    acted, has_ops, again = out.split()
    assert (acted == "True") != (has_ops == "True"), "the mend must act exactly where the operators are absent"
    assert again == "False"


@pytest.mark.slow
def test_broken_torchvision_fails_without_the_mend_and_imports_with_it(fake: Path) -> None:
    out = run(
        ALONE
        + textwrap.dedent("""
        try:
            import torchvision
        except RuntimeError as error:
            print(error)
        print(ops.mend(), operators())
        import torchvision
        print(ops.mend(), operators())
        """),
        fake,
    ).splitlines()
    assert out == [
        "operator torchvision::nms does not exist",
        "True ['torchvision::nms', 'torchvision::qnms']",
        "False ['torchvision::nms', 'torchvision::qnms']",
    ]


@pytest.mark.slow
def test_calling_a_declared_operator_still_fails(fake: Path) -> None:
    out = run(
        ALONE
        + textwrap.dedent("""
        ops.mend()
        try:
            torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        except NotImplementedError as error:
            print("no such kernel")
        """),
        fake,
    )
    assert out == "no such kernel"


@pytest.mark.slow
def test_absent_or_sound_torchvision_is_left_alone(fake: Path) -> None:
    """The sound one is simulated: loading its compiled half registers the operators, as the real library's does."""
    out = run(
        ALONE
        + textwrap.dedent(f"""
        folder = sys.path.pop(0)
        hidden = ops.find_spec
        ops.find_spec = lambda name: None
        print(ops.mend(), operators())
        ops.find_spec = hidden
        sys.path.insert(0, folder)

        kept = []
        def load(path):
            assert path.startswith({str(fake)!r}), path
            kept.append(torch.library.Library("torchvision", "DEF"))
            for name in ("nms", "qnms", "roi_align"):
                kept[0].define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.ops.load_library = load
        print(ops.mend(), len(operators()), len(ops._kept_alive))
        print(ops.mend(), len(operators()), len(kept))
        import torchvision
        """),
        fake,
    ).splitlines()
    assert out == ["False []", "False 3 0", "False 3 1"]
