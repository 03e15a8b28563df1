"""Do the gains of single places add up? A library of blocks held against a study that trained combinations of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from search.ledger.metric import MetricColumn
from search.report.library import Library, Parts, few, read_parts, same_seeds
from search.report.starts import is_continued
from search.report.table import Column, Table, rows_of, value_of, with_dtypes
from search.report.values import Reading
from search.report.words import counted, int_ranges, joined, signed
from search.stats.placing import additivity, tau_interval
from search.stats.ranking import BY_CHANCE, FEWEST_ARMS, proxy_trust, than_chance

CHECK_COLUMNS: dict[str, str] = {
    "arms": "Int64",  # that are sums of the library's places
    "several": "Int64",  # of those, of two places or more
    "error_mean": "Float64",  # predicted less measured gain, over those of several places
    "error_sd": "Float64",
    "error_by_noise": "Float64",  # the sd that noise alone would bring
    "tau": "Float64",  # Kendall's tau-b of predicted and measured gains
    "tau_low": "Float64",  # 95%, over arms
    "tau_high": "Float64",
    "tau_seeds_low": "Float64",  # 95%, over arms, and the seeds or roots of both studies
    "tau_seeds_high": "Float64",
    "regret": "Float64",  # measured gain of the best arm less that of the one predicted best
}
"""Name and dtype of each column of the `data` of `check_table`."""
HUGE = 1e6


def check_table(frame: pd.DataFrame, library: Library) -> Table:
    """Hold the sums of a library against a study that trained combinations of its places.

    ValueError where no arm of that study is such a combination.
    """
    read, parts = read_parts(frame, library)
    if not parts.arms:
        raise ValueError(
            f"{read.studies}: no finished arm is a combination of the library's places "
            f"({joined([option.words for option in library.options[:3]])}, ...); arms there: {few(parts.left_out) or 'none'}"
        )
    row = _checked(library, parts)
    data = with_dtypes([row], CHECK_COLUMNS)
    metric = library.read.metric
    digits = metric.decimals

    def between(low: str, high: str) -> Any:
        return lambda line: (
            "-" if pd.isna(getattr(line, low)) else f"{getattr(line, low):.2f} to {getattr(line, high):.2f}"
        )

    columns = [
        Column("arms", "arms"),
        Column("several", "of several places", width=10),
        Column(
            "error_mean",
            f"predicted less measured, {metric.unit}",
            "math",
            width=16,
            show=value_of("error_mean", lambda v: _sized(v, digits, sign=True)),
        ),
        Column("error_sd", "sd", "math", show=value_of("error_sd", lambda v: _sized(v, digits))),
        Column(
            "error_by_noise",
            "sd by noise alone",
            "math",
            width=10,
            show=value_of("error_by_noise", lambda v: _sized(v, digits)),
        ),
        Column("tau", "tau", "math", show=value_of("tau", "{:.2f}".format)),
        Column("tau_arms", "95% over arms", "math", width=14, show=between("tau_low", "tau_high")),
        Column(
            "tau_seeds", "95% over arms and seeds", "math", width=14, show=between("tau_seeds_low", "tau_seeds_high")
        ),
        Column("regret", "winner behind", width=8, show=value_of("regret", lambda v: _sized(v, digits))),
    ]
    return Table(
        name="placement_check",
        title=f"Sums of gains against {read.studies}",
        columns=columns,
        rows=rows_of(columns, data.itertuples(index=False)),
        data=data,
        conclusion=_check_conclusion(row, metric, digits),
        notes=_check_notes(library, read, parts),
    )


def _checked(library: Library, parts: Parts) -> dict[str, Any]:
    """The columns `CHECK_COLUMNS`."""
    taken = np.array(parts.taken, dtype=bool)
    error = additivity(library.gains, taken, parts.measured)
    names = [arm.label for arm in parts.arms]
    predicted = pd.Series(taken.astype(float) @ library.gains.mean(axis=0), index=names)
    trust = proxy_trust(
        predicted, pd.Series(np.nanmean(parts.measured, axis=0).astype(float), index=names, dtype=float), k=1
    )
    several = min(len(library.gains), len(parts.measured)) > 1
    both = tau_interval(library.gains, taken, parts.measured) if several and trust.n >= FEWEST_ARMS else None
    return {
        "arms": trust.n,
        "several": error.n,
        "error_mean": error.mean,
        "error_sd": error.sd,
        "error_by_noise": error.by_noise,
        "tau": trust.tau,
        "tau_low": trust.low,
        "tau_high": trust.high,
        "tau_seeds_low": both and both[0],
        "tau_seeds_high": both and both[1],
        "regret": trust.regret,
    }


def _sized(value: float, digits: int, *, sign: bool = False) -> str:
    """In so many decimals; the loss of a network that puts out huge logits takes a power of ten."""
    if abs(value) < HUGE:
        return signed(value, digits) if sign else f"{value:.{digits}f}"
    return f"{value:+.2g}" if sign else f"{value:.2g}"


def _check_conclusion(row: Mapping[str, Any], metric: MetricColumn, digits: int) -> str:
    said = []
    if row["error_sd"] is not None:
        noise = (
            ""
            if row["error_by_noise"] is None
            else f"; noise alone would bring an sd of {_sized(row['error_by_noise'], digits)}"
        )
        said.append(
            f"Additivity: over {counted(row['several'], 'arm')} of two places or more the sum of gains less what was measured is "
            f"{_sized(row['error_mean'], digits, sign=True)} {metric.unit} on average, sd {_sized(row['error_sd'], digits)}{noise}."
        )
    else:
        said.append(
            f"Additivity: {counted(row['several'], 'arm')} of two places or more, too few to say how far sums miss."
        )
    if row["tau"] is None:
        return " ".join([*said, f"Ranking: {counted(row['arms'], 'arm')} give no order to compare."])
    by_seeds = row["tau_seeds_low"] is not None
    low, high = ((row[f"tau_{'seeds_' if by_seeds else ''}{end}"]) for end in ("low", "high"))
    verdict = "; no interval could be had, so that nothing is shown by it"
    if low is not None:
        said_of = [than_chance(low, high), than_chance(row["tau_low"], row["tau_high"])]
        over = "over arms and seeds" if by_seeds else "over arms"
        verdict = f" (95% interval {low:.2f} to {high:.2f} {over}): {BY_CHANCE if BY_CHANCE in said_of else said_of[0]}"
    return " ".join([*said, f"Ranking: Kendall's tau {row['tau']:.2f} over {counted(row['arms'], 'arm')}{verdict}."])


def _check_notes(library: Library, read: Reading, parts: Parts) -> list[str]:
    notes = []
    if shared := same_seeds(library.read, read):
        notes.append(f"Both studies have seeds {int_ranges(shared)}: luck that they share looks like agreement.")
    if parts.left_out:
        what = f"{counted(len(parts.left_out), 'arm')} left out, no combination of the library's places as most arms have them"
        notes.append(f"{what}: {few(parts.left_out)}.")
    settings = [one for one in (library.read, read) if is_continued(one)]
    if len(settings) == 1:
        notes.append(
            "One of the studies went on from trained networks, the other did not: they measure different gains."
        )
    return notes
