"""The placement that is chosen, and what is said of it, on a library that can be added up by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from search.report.placing import PLACEMENT_COLUMNS, placing_table, without_options
from search.report.reading.load import load_study
from search.report.render import RENDERERS
from search.report.table import Table

from .conftest import Add
from .test_library import LOSSES, P, X, fill


def table_of(study: Path, **budgets: float) -> Table:
    return placing_table(load_study(study), "val_loss", budgets)


def test_without_a_budget_all_that_helps_is_taken(study: Path, add: Add) -> None:
    fill(add)
    table = table_of(study)
    first = table.data.iloc[0]
    assert first["placement"] == f"stage1: {X}; stage2: {X}"
    assert first["gain"] == pytest.approx(0.15 + 0.03)
    assert (first["params"], first["macs"]) == (1020, 6200)
    # two roots, gains 0.14 and 0.22: t with one degree of freedom
    assert (first["gain_low"], first["gain_high"]) == (
        pytest.approx(0.18 - 12.7062 * 0.04, 1e-4),
        pytest.approx(0.18 + 12.7062 * 0.04, 1e-4),
    )
    assert first["share"] == 1.0
    assert table.data["gain"].is_monotonic_decreasing
    assert table.data.dtypes.astype(str).to_dict() == {
        name: kind.replace("string", str(table.data["placement"].dtype)) for name, kind in PLACEMENT_COLUMNS.items()
    }
    override = OverridesParser.create().parse_override(first["override"])
    assert override.value() == {"stage1": "conv+pssa", "stage2": "conv+pssa"}
    assert f"'{first['override']}'" in table.conclusion
    assert "trained on for 1 epoch" in table.notes[0]


def test_another_budget_solves_anew(study: Path, add: Add) -> None:
    fill(add)
    assert table_of(study, macs=5900).data["placement"][0] == f"stage1: {X}"
    assert table_of(study, macs=5899).data["placement"][0] == f"stage1: {X}; stage3: {P}"  # which pays for it
    assert table_of(study, macs=5820).data["placement"][0] == f"stage1: {X}; stage3: {P}"
    assert table_of(study, macs=5819).data["placement"][0] == f"stage2: {X}"
    assert table_of(study, macs=5819, params=1000).data["placement"][0] == "plain"
    plain = table_of(study, params=1000)
    assert plain.data["override"].tolist() == ["placement.policy=none"]
    assert len(plain.rows) == 1


def test_an_impossible_budget_says_what_the_plain_network_costs(study: Path, add: Add) -> None:
    fill(add)
    with pytest.raises(ValueError, match=r"plain network has 5,000 MACs.*comes to, by each alone, is 4,520 MACs"):
        table_of(study, macs=4519)
    assert table_of(study, macs=4520).data["placement"].tolist() == [f"stage1: {P}; stage3: {P}"]


def test_a_choice_that_changes_with_the_roots_is_called_noise(study: Path, add: Add) -> None:
    gains = {f"stage1: {X}": (0.3, 0.0, 0.0), f"stage1: {P}": (0.0, 0.31, 0.0), "stage1: acmix": (0.0, 0.0, 0.32)}
    for root in range(3):
        for arm in ("plain", *gains):
            loss = 1.0 - (gains[arm][root] if arm in gains else 0.0)
            sites = [] if arm == "plain" else ["a"]
            add(
                arm,
                100 + root,
                val_loss=loss,
                sites=sites,
                params=10,
                macs=10,
                start="shared",
                root_seed=root,
                root=f"final/{root}",
            )
    table = table_of(study)
    assert table.data["placement"][0] == "stage1: acmix"
    assert table.data["share"][0] < 0.5
    assert "the choice is noise between roots" in table.conclusion


def test_from_one_root_nothing_is_said_of_stability(study: Path, add: Add) -> None:
    for arm in ("plain", *LOSSES):
        sites = [] if arm == "plain" else [arm[:6]]
        add(
            arm,
            100,
            val_loss=1.0 if arm == "plain" else 0.9,
            sites=sites,
            params=10,
            macs=10,
            start="shared",
            root="root.pth",
        )
    table = table_of(study)
    assert table.data["share"].isna().all()
    assert table.data["gain_low"].isna().all()
    assert "From one order nobody can tell" in table.conclusion
    assert any("root.pth" in note for note in table.notes)


def test_latencies_add_up_approximately(study: Path, add: Add) -> None:
    for seed in (0, 1):
        add("plain", seed, val_loss=1.0, params=10, macs=10, latency_ms=2.0, latency_exclusive=False)
        for at, ms in enumerate((2.5, 2.25), 1):
            add(
                f"stage{at}: {X}",
                seed,
                val_loss=0.9 - at / 100,
                sites=[str(at)],
                params=10,
                macs=10,
                latency_ms=ms,
                latency_exclusive=False,
            )
    table = table_of(study, latency_ms=2.5)
    assert table.data["placement"][0] == f"stage2: {X}"
    assert table_of(study, latency_ms=2.75).data["latency_ms"][0] == pytest.approx(2.75)
    assert "2.250?" in RENDERERS["txt"](table)
    assert any("latency only approximately" in note for note in table.notes)


@pytest.mark.parametrize("form", RENDERERS)
def test_every_form_takes_it(study: Path, add: Add, form: str) -> None:
    fill(add)
    of_root = {"start": "shared", "root_seed": 0, "root": "final/0"}
    add(f"stage1+stage2: {X} gamma=0.3", 100, val_loss=0.8, sites=["a.0", "a.1", "b.0"], **of_root)
    frame = load_study(study)
    text = RENDERERS[form](placing_table(frame, "val_loss", {"macs": 5900}, check=frame))
    assert "stage1" in text


def test_branches_without_their_options() -> None:
    assert without_options("conv(kernel=5)+pssa(rank=2, shift=1)") == "conv+pssa"
