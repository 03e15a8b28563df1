"""What a row may claim where a training failed on some of its seeds: for the survivors alone, and in the worst case.

Seeds on which an arm diverged are not missing at random: the arm is at fault, and the survivors flatter it. So it is never called
better, whatever its survivors show. The worst case counts a failed seed as the worst value that the metric can have: no
number between, such as chance or the worst of the survivors, is a bound, since a run that ended without a value has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.stats.paired import ArmValues

__all__ = ["Survivors", "survivors"]


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """Which seeds of a pair came through.

    Attributes:
        tried: seeds that both have, and on which each finished or failed.
        lost: those of them on which the arm or the baseline failed.
        by_arm: those on which the arm did.
        by_baseline: those on which the baseline did.
        worst: mean difference over the pairs and the seeds that the arm lost and the baseline finished, where the arm's
            value there is the worst there is; None where it lost none, or the metric has no worst value.
    """

    tried: int
    lost: int
    by_arm: int
    by_baseline: int
    worst: float | None

    def on_which(self) -> str:
        """Say on which seeds a verdict rests: "on the 4 of 5 seeds it survived"; "" where none was lost."""
        if not self.lost:
            return ""
        who = "it" if not self.by_baseline else "both" if self.by_arm else "the baseline"
        return f"on the {self.tried - self.lost} of {self.tried} seeds {who} survived"


def survivors(arm: ArmValues, baseline: ArmValues, worst_value: float | None) -> Survivors:
    """Count the seeds of an arm and the baseline by whether they came through.

    Args:
        arm, baseline: their numbers.
        worst_value: the worst that the metric can be, e.g. 0 for a top-1 in percent; None where there is no such.
    """
    alike = np.array_equal(arm.seeds, baseline.seeds)  # of thousands of arms nearly all: set operations are slow
    paired = arm.seeds if alike else np.intersect1d(arm.seeds, baseline.seeds, assume_unique=True)
    if not len(arm.failed) and not len(baseline.failed):
        return Survivors(tried=len(paired), lost=0, by_arm=0, by_baseline=0, worst=None)
    by_arm = np.intersect1d(arm.failed, np.union1d(baseline.seeds, baseline.failed))
    by_baseline = np.intersect1d(baseline.failed, np.union1d(arm.seeds, arm.failed))
    lost = len(np.union1d(by_arm, by_baseline))
    alone = np.intersect1d(by_arm, baseline.seeds)
    worst = None
    if len(alone) and worst_value is not None:
        differences = [
            arm.values[np.isin(arm.seeds, paired)] - baseline.values[np.isin(baseline.seeds, paired)],
            worst_value - baseline.values[np.isin(baseline.seeds, alone)],
        ]
        worst = float(np.concatenate(differences).mean())
    return Survivors(tried=len(paired) + lost, lost=lost, by_arm=len(by_arm), by_baseline=len(by_baseline), worst=worst)
