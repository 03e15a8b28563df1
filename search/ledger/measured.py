"""What a metric is, and a column of the ledger: values that say how a number is read and told. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

CLASSIFY = "classify"
SPLITS = MappingProxyType({"test": "test images", "val": "validation images"})  # in words; the last phase's first
SAMPLE_SPLITS = MappingProxyType(
    {**SPLITS, "probe": "images of the probe set, validation and such of training as no arm trained on"}
)
_TEST_ONCE = "; test images are read once, by the final phase"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What is measured, and how it is told.

    Attributes:
        name: a lower-case identifier, e.g. "top1".
        title: what tables call it, with its unit, e.g. "top-1 %".
        unit: unit of a difference, as said in a sentence, e.g. "points".
        higher_is_better: which direction is an improvement.
        decimals: digits after the point where no spread says how many are worth showing.
        meaning: one sentence for the notes under a table.
        worst: the worst value there is, which a failed training counts as in a worst case; None where there is none.
        from_samples: no trial writes it down: tables compute it from what trials kept of each image (`data.probe_size`).
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    decimals: int = 2
    meaning: str = ""
    worst: float | None = None
    from_samples: bool = False


@dataclass(frozen=True, kw_only=True)
class MetricColumn(Measured):
    """How one column of the ledger is read: of a split, "val" or "test" ("probe" of samples alone), or None for what is of the trial as a
    whole; no table is judged by a cost.
    """

    split: str | None = None
    is_cost: bool = False

    @property
    def column(self) -> str:
        """Name of the column in the ledger, e.g. "val_top1"."""
        return self.name if self.split is None else f"{self.split}_{self.name}"


@dataclass(frozen=True, kw_only=True)
class Metric(Measured):
    """What an evaluator computes on each split that is read; in `meaning` `{images}` stands for the images of the split.

    Attributes:
        splits: of "val" and "test", those that it is computed on; from samples on "probe" too.
        has_chance: it is a percent of images, and `chance_<name>` of a result says what guessing reaches.
        task: whose metric it is.
        evaluator: "module:class" of an evaluator that computes it; None where the task's own does.
    """

    splits: tuple[str, ...] = ("val", "test")
    has_chance: bool = False
    task: str = CLASSIFY
    evaluator: str | None = None

    def __post_init__(self) -> None:
        if not (self.name.isidentifier() and self.name.islower()):
            raise ValueError(f"metric {self.name!r}: give a name of lower-case letters, digits and underscores")
        allowed = SAMPLE_SPLITS if self.from_samples else SPLITS
        if not self.splits or not set(self.splits) <= set(allowed):
            raise ValueError(f"metric {self.name!r}: splits are {self.splits!r}, allowed are {', '.join(allowed)}")

    def on(self, split: str) -> MetricColumn:
        """The column of one split."""
        said: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(Measured)}
        said["title"] = f"{split} {self.title}"
        said["meaning"] = self.meaning.replace("{images}", SAMPLE_SPLITS[split]) + _TEST_ONCE * (split == "test")
        return MetricColumn(**said, split=split)

    @property
    def told(self) -> tuple[str, str, bool, float | None]:
        """What tasks must agree in that have a metric of one name."""
        return self.title, self.unit, self.higher_is_better, self.worst

    @property
    def chance(self) -> str:
        """The column of what guessing reaches on the validation images, where the metric has a chance level."""
        return f"chance_{self.name}"

    @property
    def columns(self) -> tuple[MetricColumn, ...]:
        """All of its columns, test data first."""
        return tuple(self.on(split) for split in SAMPLE_SPLITS if split in self.splits)
