"""Every registered branch passes the suite that `xvol.testing` offers for branches of one's own."""

from typing import Any

import pytest

from xvol import branch_names, testing

# Values that each option is tried at beside its default; a new branch's options are tried at their defaults alone.
VALUES: dict[str, list[Any]] = {
    "kernel": [1, 5],
    "width_ratio": [0.25],
    "rank": [3],
    "embed_ratio": [0.25],
    "shift": [2, 3],
    "directions": [4, 9],
    "border": ["replicate", "reflect"],
    "q_bias": [True],
    "heads": [2, None],
    "qkv_bias": [True],
    "block_size": [4],
    "halo_size": [1],
    "qk_ratio": [0.5],
    "feat_size": [8],
    "window": [3],
    "reduction": [2],
    "group_chs": [4],
    "mix_kernel": [3],
    "norm": ["none"],
    "value_ratio": [0.5],
    "position": [True],
    "kv_size": [2],
    "levels": [1],
    "band": [5],
    "share": [0.3],
    "qk_chs": [4],
    "small": [1],
}
VARIANTS = [(name, options) for name in branch_names() for options in testing.variants(name, VALUES)]
CASES = [(name, *case) for name in branch_names() for case in testing.cases(name, VALUES)]

every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
every_case = pytest.mark.parametrize(("name", "options", "shape"), CASES, ids=str)
every_branch = pytest.mark.parametrize("name", branch_names())


@every_branch
@pytest.mark.parametrize(
    "check",
    [
        testing.check_geometries,
        testing.check_options,
        testing.check_unknown_argument,
        testing.check_costs,
        testing.check_in_a_block,
        testing.check_beside_a_frozen_norm,
    ],
)
def test_branch(check: Any, name: str) -> None:
    check(name)


@every_variant
@pytest.mark.parametrize(
    "check", [testing.check_gradients, testing.check_training, testing.check_copies, testing.check_reset]
)
def test_variant(check: Any, name: str, options: dict[str, Any]) -> None:
    check(name, options)


@every_case
@pytest.mark.parametrize("check", [testing.check_shape, testing.check_fold, testing.check_kernels])
def test_case(check: Any, name: str, options: dict[str, Any], shape: dict[str, int]) -> None:
    check(name, options, shape)
