"""What the paper published, as data, to stand beside our own figures (X-volution, arXiv 2106.02253).

Only what its abstract and public summaries state is here. The number of a table in the paper is None where it is not known
from those: a number nobody has seen is not given. A figure that was not published is not here either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xvol.suggest import nearest

__all__ = ["PAPER", "PaperTable", "paper_table"]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """Published figures of one table.

    Attributes:
        title: what was measured, on what.
        number: the table's number in the paper; None where it is not known.
        columns: headings of the published columns.
        rows: for each level of what was varied (as in the place of an arm's name, or as its branches), a text for
            each column; "-" where nothing was published.
        note: what to know before the published figures are compared with others, as whole sentences; empty where nothing.
    """

    title: str
    number: int | None
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    note: str = ""

    @property
    def source(self) -> str:
        """Say where the figures come from."""
        where = f"Table {self.number}" if self.number is not None else "table number not known here"
        return f"Chen, Wang and Ni 2021, arXiv 2106.02253, {where}: {self.title}"


PAPER: dict[str, PaperTable] = {
    "stage_placement": PaperTable(
        title="ImageNet top-1 points over the plain ResNet, by the stage whose 3x3 convolutions became X-volution",
        number=None,
        columns=("paper ResNet-34", "paper ResNet-50"),
        rows={"stage3": ("+1.2 (best)", "+0.9 (best)"), "stage4": ("-", "worse")},
    ),
    "branch_ablation": PaperTable(
        title="branches of X-volution; no figure is on record, only the order: either branch alone is worse than both",
        number=None,
        columns=("paper",),
        rows={"conv": ("worse than both",), "pssa": ("worse than both",), "conv+pssa": ("best",)},
    ),
    "detection": PaperTable(
        title="COCO detection, Faster R-CNN + FPN, ResNet-50",
        number=None,
        columns=("paper box AP", "AP50", "AP75", "APs", "APm", "APl"),
        rows={
            "conv+softmax_global": ("+1.7 over R50", *("-",) * 5),
            "conv+pssa": ("comparable", *("-",) * 5),
            "X-volution, form not stated": ("42.8", "64.0", "46.4", "26.9", "46.0", "55.0"),
        },
        note="The gain of 1.7 box AP is that of X-volution(SA), global self-attention beside the convolution; the form with "
        "PSSA is called comparable. The training schedule is not stated.",
    ),
    "instance_segmentation": PaperTable(
        title="COCO instance segmentation, Mask R-CNN + FPN, ResNet-50, X-volution(SA)",
        number=None,
        columns=("paper box AP", "mask AP", "APs", "APm", "APl"),
        rows={"conv+softmax_global": ("41.1", "37.2", "19.2", "40.0", "53.1")},
        note="The training schedule is not stated, and a plain Mask R-CNN R50-FPN comes to 38.6 box and 35.2 mask AP at the 1x "
        "schedule, to 41.0 and 37.2 at 3x: these figures alone do not tell the block from a longer training.",
    ),
}
"""The published tables by name."""


def paper_table(name: str) -> PaperTable:
    """Return a published table; ValueError lists the names and the near match."""
    if name in PAPER:
        return PAPER[name]
    near = nearest(name, PAPER)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f"paper table '{name}' is not one of {', '.join(PAPER)}.{hint}")
