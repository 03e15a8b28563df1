"""Rows are judged together as `row_statistics` judges them, and verdict, interval and conclusion never contradict."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from search.ledger.metric import metric_named
from search.report.ablation import DATA_COLUMNS, AblationTable, ablation_table
from search.report.conclusion import conclusion
from search.report.judging import JUDGED, Judging, judged, row_verdict
from search.report.reading.load import load_study
from search.report.render import render_text
from search.stats.inference import Correction, seeds_needed
from search.stats.nested import differences
from search.stats.paired import ALPHA, BETTER, WORSE, ArmValues

from ..stats.rows import RowOptions, row_statistics
from .conftest import Add

CORRECTIONS: tuple[Correction, ...] = ("holm", "bonferroni", "bh", "none")
NOISE = {
    "clear": [2.9, 3.1, 3.0, 3.2, 2.8],
    "alone": [0.3, 1.1, 0.9, 0.2, 1.4],  # p = 0.029 alone
    "noise": [0.6, -0.7, 0.5, -0.4, 0.1],
    "still": [0.02, -0.01, 0.01, -0.02, 0.03],
    "worse": [-2.0, -2.2, -1.9, -2.1, -1.8],
}


def values_of(shifts: list[list[float]]) -> list[ArmValues]:
    base = [60.0, 61.0, 62.0, 59.0, 60.5, 61.5][: len(shifts[0])]
    seeds = np.arange(len(base))
    rows = [base, *([b + d for b, d in zip(base, shift, strict=True)] for shift in shifts)]
    return [
        ArmValues(
            values=np.array(row),
            seeds=seeds,
            failed=seeds[:0],
            all_seeds=seeds,
            statuses=["ok"] * len(base),
            params=None,
            macs=None,
            latency_ms=None,
            latency_fused_ms=None,
            latency_exclusive=None,
        )
        for row in rows
    ]


def judged_rows(shifts: list[list[float]], judging: Judging) -> list[dict[str, Any]]:
    arms = values_of(shifts)
    results = differences(arms, arms[0])
    return judged(arms, arms[0], [None, *results[1:]], judging)[1:]


@pytest.mark.slow
@pytest.mark.parametrize("correction", CORRECTIONS)
def test_agrees_with_row_statistics(correction: Correction) -> None:
    shifts = list(NOISE.values())
    facts = judged_rows(shifts, Judging(correction=correction, margin=0.5, test="wilcoxon", interval="bootstrap"))
    arms = {str(n): pd.Series(a.values, index=a.seeds) for n, a in enumerate(values_of(shifts))}
    expected = row_statistics(arms, "0", RowOptions(correction=correction, margin=0.5, wilcoxon=True))
    for fact, row in zip(facts, expected.itertuples(), strict=True):
        for name, theirs in {
            "p_corrected": row.p_adjusted,
            "g_z": row.g_z,
            "mdd": row.mdd,
            "seeds_needed": row.seeds_needed,
            "wilcoxon_p": row.wilcoxon_p,
            "wilcoxon_p_corrected": row.wilcoxon_p_adjusted,
            "boot_low": row.boot_low,
            "boot_high": row.boot_high,
            "equivalence_p": row.equivalence_p,
            "equivalence_p_corrected": row.equivalence_p_adjusted,
        }.items():
            assert (fact[name] is None) == pd.isna(theirs), name
            assert fact[name] is None or fact[name] == pytest.approx(theirs, rel=1e-6), name
    assert set(facts[0]) == set(JUDGED)


def test_nothing_is_computed_that_was_not_asked_for() -> None:
    (fact,) = judged_rows([NOISE["clear"]], Judging())
    assert fact["seeds_needed"] is None  # it is decided
    assert {name for name, value in fact.items() if value is not None} == {
        *("p_corrected", "g_z", "mdd", "power", "exaggeration")
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"margin": 0}, "margin: 0 is no number above zero; give the smallest difference that matters"),
        ({"margin": float("nan")}, "margin: nan is no number above zero"),
        ({"margin": True}, "margin: True is no number"),
        ({"correction": "holms"}, r"correction: 'holms' is not one of holm, .* Did you mean holm\?"),
        ({"test": "sign"}, "test: 'sign' is not one of t, wilcoxon"),
        ({"interval": "boot"}, r"interval: 'boot' is not one of t, bootstrap. Did you mean bootstrap\?"),
    ],
)
def test_what_is_not_offered_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Judging(**given)


@pytest.mark.slow
@given(
    st.lists(st.lists(st.integers(-30, 30).map(lambda x: x / 10), min_size=4, max_size=4), min_size=1, max_size=7),
    st.sampled_from(CORRECTIONS),
    st.sampled_from([None, 0.5, 3.0]),
)
@settings(max_examples=25)
def test_interval_verdict_and_conclusion_never_contradict(
    shifts: list[list[float]], correction: Correction, margin: float | None
) -> None:
    judging = Judging(correction=correction, margin=margin)
    arms = values_of(shifts)
    results = differences(arms, arms[0])
    facts = judged(arms, arms[0], [None, *results[1:]], judging)
    metric = metric_named("test_top1")
    rows: list[dict[str, Any]] = [dict.fromkeys(DATA_COLUMNS) | {"arm": "plain", "is_baseline": True, "n": 4}]
    for number, (result, fact) in enumerate(zip(results[1:], facts[1:], strict=True)):
        words = row_verdict(result, fact, judging, metric)
        excludes_zero = result.low is not None and result.high is not None and (result.low > 0 or result.high < 0)
        found = words.startswith((BETTER, WORSE))
        assert found == (excludes_zero and fact["p_corrected"] <= ALPHA)
        assert not found or words.startswith(BETTER) == (result.mean > 0)  # type: ignore[operator]
        assert ("after correction" in words) <= excludes_zero
        rows.append(
            fact
            | {"arm": f"<{number}>", "is_baseline": False, "n": 4, "n_paired": result.n, "diff": result.mean}
            | {"ci_low": result.low, "ci_high": result.high, "p_value": result.p_value, "verdict": words}
        )
    data = pd.DataFrame({n: pd.array([row.get(n) for row in rows], dtype=t) for n, t in DATA_COLUMNS.items()})  # type: ignore[call-overload]
    said = conclusion(data, metric, "final", judging)
    assert "nan" not in said
    verdicts = Counter("found" if v.startswith((BETTER, WORSE)) else v for v in data["verdict"].dropna())
    assert (" better than the baseline" in said) == any(v.startswith(BETTER) for v in data["verdict"].dropna())
    tells_of_error = "false findings on average" in said
    assert tells_of_error == (
        correction == "none" and len(set(data["p_value"].dropna().index)) > 1 and verdicts["found"] > 0
    )
    assert ("equivalent to the baseline (plain) within" in said) == any(
        "equivalent" in v for v in verdicts | Counter(data["verdict"].dropna())
    )
    if verdicts["cannot be told from seed noise"] == len(shifts):
        assert "be told from the baseline (plain)." in said


@pytest.fixture
def filled(study: Path, add: Add) -> Path:
    for seed, base in enumerate([60.0, 61.0, 62.0, 59.0, 60.5]):
        add("plain", seed, test_top1=base)
        for arm, shifts in NOISE.items():
            add(arm, seed, test_top1=base + shifts[seed])
    return study


def made(study: Path, **options: Any) -> AblationTable:
    return ablation_table(load_study(study), judging=Judging(**options))


def test_a_row_that_correction_takes_back_is_said_to_be_no_finding(filled: Path) -> None:
    table = made(filled)
    row = table.data.set_index("arm").loc["alone"]
    assert row["ci_low"] > 0
    assert row["p_value"] < 0.05 < row["p_corrected"]
    assert row["verdict"] == "not told from seed noise after correction"
    assert "alone (+0.78 points" in table.conclusion
    assert "cannot be told from the baseline (plain) after correction, though its interval" in table.conclusion
    uncorrected = made(filled, correction="none")
    assert uncorrected.data.set_index("arm").loc["alone", "verdict"] == BETTER
    assert "5 comparisons at 5% give 0.25 false findings" in uncorrected.conclusion


@pytest.mark.slow
def test_seeds_are_told_for_undecided_rows_and_a_margin_alone(filled: Path) -> None:
    columns = ["seeds_needed", "seeds_low", "seeds_high"]
    table = made(filled)
    assert table.data[columns].isna().all(axis=None)
    assert "5 seeds find a true difference of" in table.conclusion
    assert "takes" not in table.conclusion
    data = made(filled, margin=0.5).data.set_index("arm")
    assert data.loc[["clear", "worse"], columns].isna().all(axis=None)
    for arm in ("alone", "noise"):
        low, needed, high = (data.loc[arm, name] for name in ("seeds_low", "seeds_needed", "seeds_high"))
        assert low < needed < high
        deltas = pd.Series(NOISE[arm][:5])
        ends = deltas.std() * np.sqrt(4 / stats.chi2.ppf([0.975, 0.025], 4))
        assert [low, high] == seeds_needed(0.5 / ends, alpha=0.05 / 5)


@pytest.mark.slow
def test_a_finding_of_low_power_says_by_how_much_such_findings_exaggerate(study: Path, add: Add) -> None:
    shifts = [0.5, 0.8, 1.1, 1.4, 0.2]  # the t of stage 2 in docs/results/paper_stage_placement at five seeds
    for seed in range(5):
        add("plain", seed, test_top1=60.0 + seed)
        add("stage3", seed, test_top1=60.0 + seed + shifts[seed])
        add("stage4", seed, test_top1=70.0 + seed + 0.1 * shifts[seed])
    table = ablation_table(load_study(study))
    data = table.data.set_index("arm")
    assert data.loc["stage4", "exaggeration"] == pytest.approx(1, abs=0.001)
    low = data.loc["stage3"]
    assert (low["power"], low["exaggeration"]) == pytest.approx((0.62, 1.09), abs=0.02)
    assert "Power is low for stage3: " in table.conclusion
    assert f"on average {low['exaggeration']:.1f} times too large" in table.conclusion
    half = made(study, margin=0.4).data.set_index("arm").loc["stage3"]  # were the truth the margin
    assert half["exaggeration"] > low["exaggeration"] + 0.2


def test_what_pairing_bought_stands_in_the_table(study: Path, add: Add) -> None:
    rng = np.random.default_rng(0)
    base, own = rng.normal(60, 2, 8), rng.normal(0, 0.5, 8)
    for seed in range(8):
        add("plain", seed, test_top1=base[seed])
        add("stage3", seed, test_top1=base[seed] + own[seed])
    row = ablation_table(load_study(study)).data.set_index("arm").loc["stage3"]
    assert row["correlation"] == pytest.approx(np.corrcoef(base, base + own)[0, 1])
    assert row["variance_ratio"] == pytest.approx((base.var() + (base + own).var()) / own.var())


@pytest.mark.slow
def test_equivalence_is_a_finding(filled: Path) -> None:
    table = made(filled, margin=0.5)
    verdicts = table.data.set_index("arm")["verdict"]
    assert verdicts["still"] == "equivalent within ±0.5 points"
    assert "still is equivalent to the baseline (plain) within ±0.5 points (two one-sided t tests, corrected p" in (
        table.conclusion
    )
    assert "To find 0.5 points with that power takes" in table.conclusion
    assert made(filled, margin=5).data.set_index("arm").loc["clear", "verdict"] == (
        "better than the baseline, yet equivalent within ±5 points"
    )
    assert "No arm was shown to be equivalent" in made(filled, margin=0.001).conclusion


@pytest.mark.slow
def test_second_opinions_are_named_with_what_they_cannot_do(filled: Path) -> None:
    table = made(filled, test="wilcoxon", interval="bootstrap")
    notes = "\n".join(table.notes)
    assert "The smallest p that Wilcoxon's test can give, uncorrected, is 0.0625 with 5 seeds." in notes
    assert "Below 20 seeds a bootstrap interval covers the truth less often than 95%." in notes
    assert (table.data["verdict"].dropna() == made(filled).data["verdict"].dropna()).all()
    text = render_text(table)
    assert "Wilcoxon p = 0.31, bootstrap interval [+2." in text
    assert max(map(len, text.splitlines())) <= 120
