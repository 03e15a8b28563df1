import subprocess
import sys

import pytest

from search.data.sources import check_fits


def test_it_needs_no_torch() -> None:
    code = "import search.data.sources, sys; raise SystemExit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("detection", "cifar10", r"task=detection .* data\.name=cifar10 .* no boxes.*data=coco, data=garment_scenes"),
        ("instance_segmentation", "folder", r"data\.name=folder"),
        ("classify", "coco", r"data\.name=coco .* several objects.*task=detection or task=instance_segmentation"),
        ("classify", "digit_scenes", r"data\.name=digit_scenes"),
    ],
)
def test_a_task_and_data_that_do_not_fit_are_refused(task: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_fits(task, name)


@pytest.mark.parametrize(
    ("task", "name"),
    [("detection", "coco"), ("instance_segmentation", "digit_scenes"), ("classify", "digits"), ("theirs", "coco")],
)
def test_others_fit(task: str, name: str) -> None:
    check_fits(task, name)
