"""Controls: plain networks that cost as much as their arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.design.control import matched_control
from search.design.kinds import (
    Cell,
)
from search.design.options import (
    DesignOptions,
    design_of,
)

CHANNELS, KERNEL, HOSTS = 32, 3, 2


def toy_cost(adds: int) -> Any:
    """Costs of a toy network: two hosts of 3x3 convolutions and a head; the arm's own branches add `adds`."""

    def cost(overrides: Sequence[str]) -> Mapping[str, float]:
        said = {key: value for key, _, value in (line.partition("=") for line in overrides)}
        use = said.get("placement.at", "{s:conv+pssa}").strip("{}").partition(":")[2]
        host = KERNEL**2 * CHANNELS * CHANNELS
        each = host if "conv" in use.split("+") else 0
        if "second_conv" in use:
            kernel = said["branch.options.second_conv.kernel"]
            size = KERNEL if kernel == "null" else int(kernel)
            ratio = said["branch.options.second_conv.width_ratio"]
            middle = max(1, round(float(ratio) * CHANNELS)) if ratio != "null" else None
            each += size**2 * CHANNELS * CHANNELS if middle is None else (size**2 + 1) * CHANNELS * middle
        params = 1000 + HOSTS * each + (adds if "pssa" in use else 0)
        return {"params": params, "macs": 64 * params}

    return cost


@given(st.integers(1, 60_000), st.sampled_from(["params", "macs"]))
def test_a_control_is_within_half_a_channel_of_its_arm(adds: int, match: str) -> None:
    arm = Cell("where=stage3", ("placement=stage3",), {"where": "stage3"})
    control = matched_control(arm, ["s1", "s2"], toy_cost(adds), match)
    scale = 64 if match == "macs" else 1
    assert control.target == scale * (1000 + HOSTS * 9 * 32 * 32 + adds)
    channel = scale * HOSTS * 2 * 32  # of the 1x1 form, which has the finest steps
    assert abs(control.got - control.target) <= max(channel / 2, 0.01 * scale * adds) or adds < channel
    assert control.got == toy_cost(adds)(control.cell.overrides)[match]
    assert control.mismatch == pytest.approx(100 * (control.got - control.target) / control.target)
    assert control.cell.overrides[1] == "placement.at={s1+s2:conv+second_conv}"
    assert control.cell.factors == {"where": "stage3", "control": match}
    assert "%" in str(control)


def test_an_arm_that_costs_less_than_the_plain_network_gets_a_narrow_convolution_alone() -> None:
    def cost(overrides: Sequence[str]) -> Mapping[str, float]:
        found = toy_cost(0)(overrides)
        return found if any("placement.at" in line for line in overrides) else {"params": 8000, "macs": 1}

    control = matched_control(Cell("pssa", ("branch.use=pssa",)), ["s1"], cost)
    assert "placement.at={s1:second_conv}" in control.cell.overrides
    assert abs(control.mismatch) < 4
    with pytest.raises(ValueError, match="allowed are none, params, macs"):
        matched_control(Cell("a", ()), ["s1"], cost, "flops")
    with pytest.raises(ValueError, match="places nothing"):
        matched_control(Cell("a", ()), [], cost)


def test_each_cell_with_blocks_is_followed_by_its_control() -> None:
    def facts(overrides: Sequence[str]) -> Mapping[str, Any]:
        if any("broken" in line for line in overrides):
            raise ValueError("cannot be built")
        chosen = [] if "placement=none" in overrides else ["s1", "s2"]
        return {**toy_cost(5000)(overrides), "chosen": chosen, "sites": ["s1", "s2", "s3"]}

    factors = {"where": ["placement=none", "placement=stage3", "placement=broken"]}
    design = design_of(DesignOptions(kind="one_at_a_time", factors=factors, control="params"), facts=facts)
    names = ["baseline", "where=stage3", "where=stage3 [control: plain, same params]", "where=broken"]
    assert [cell.name for cell in design.cells] == names
    assert len(design.controls) == 1
